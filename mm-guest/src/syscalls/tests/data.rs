//! Files of `/data`, on a disk that e2fsprogs makes and checks.

use super::*;
use crate::kernel::StartError;
use crate::options::DataOption;

fn empty() -> Vec<u8> {
    let image = tempfile::NamedTempFile::new().unwrap();
    m1_tests::volume::make_data(image.path(), 16 << 20).unwrap();
    std::fs::read(image.path()).unwrap()
}

fn check(disk: &[u8]) {
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), disk).unwrap();
    m1_tests::volume::check_data(image.path()).unwrap();
}

fn start(disk: Option<Vec<u8>>, data: DataOption) -> Result<Guest, StartError> {
    let mut volume = PLAIN.to_vec();
    volume.resize(volume.len().next_multiple_of(4096), 0);
    let mut machine = Fake::new(4096, volume);
    machine.disk = disk;
    match Kernel::new(machine, Options { data, ..Options::default() }) {
        Ok(mut kernel) => {
            kernel.memory.free_data_orphans().unwrap();
            Ok(Guest::beside(kernel))
        }
        Err((_, error)) => Err(error),
    }
}

fn guest(disk: Vec<u8>) -> Guest {
    start(Some(disk), DataOption::Required).unwrap()
}

/// Ends it and gives the disk, which is clean.
fn end(mut guest: Guest) -> Vec<u8> {
    guest.kernel.finish_data();
    let disk = guest.kernel.memory.machine.disk.take().unwrap();
    check(&disk);
    disk
}

#[test]
fn what_is_written_is_there_after_the_next_start() {
    let mut one = guest(empty());
    assert_eq!(one.write_file("/data/x", b"hello"), Ok(5));
    let [x, d, dx, l, s, tmp] =
        ["/data/x", "/data/d", "/data/d/x", "/data/l", "/data/s", "/tmp/x"].map(|path| one.path(path));
    assert_eq!(one.call(83, &[d, 0o777]), Ok(0));
    assert_eq!(one.call(82, &[x, dx]), Ok(0));
    assert_eq!(one.call(84, &[d]), Err(Errno::NOTEMPTY));
    assert_eq!(one.call(87, &[d]), Err(Errno::ISDIR));
    assert_eq!(one.call(84, &[dx]), Err(Errno::NOTDIR));
    assert_eq!(one.call(82, &[d, dx]), Err(Errno::INVAL), "into itself");
    assert_eq!(one.call(86, &[dx, l]), Ok(0));
    let target = one.path("d/../l");
    assert_eq!(one.call(88, &[target, s]), Ok(0));
    assert_eq!(one.read_file("/data/s"), Ok(b"hello".to_vec()));
    for other in [tmp, one.path("/a/new")] {
        assert_eq!(one.call(82, &[dx, other]), Err(Errno::XDEV));
        assert_eq!(one.call(86, &[dx, other]), Err(if other == tmp { Errno::XDEV } else { Errno::ROFS }));
    }
    assert_eq!(one.call(90, &[dx, 0o600]), Ok(0));
    assert_eq!(one.call(92, &[dx, 7, 8]), Ok(0));
    let up = one.path("/data/d/../../a");
    assert_eq!(one.call(80, &[up]), Ok(0), ".. leads out of it");
    assert_eq!(one.call(162, &[]), Ok(0));
    // The machine stops here, without a word.
    let disk = one.kernel.memory.machine.disk.take().unwrap();
    let mut two = guest(disk);
    assert_eq!(two.names("/data", 400).unwrap(), [".", "..", "lost+found", "l", "d", "s"]);
    assert_eq!(two.stat("/data/d/x").unwrap(), (0o100_600, 2, 5, 8));
    assert_eq!(two.read_file("/data/s"), Ok(b"hello".to_vec()));
    let mounts = two.read_file("/proc/mounts").unwrap();
    assert!(mounts.ends_with(b"/dev/xvdb /data ext3 rw,noatime 0 0\n"));
    let path = two.path("/data");
    assert_eq!(two.call(137, &[path, BUFFER]), Ok(0));
    assert_eq!(two.get(BUFFER, 2), [0x53, 0xef]);
    end(two);
}

#[test]
fn calls_on_open_files_go_as_far_as_in_memory() {
    let mut guest = guest(empty());
    let fd = guest.open("/data/f", 0o302, 0o600).unwrap();
    assert_eq!(guest.open("/data/f", 0o302, 0o600), Err(Errno::EXIST));
    guest.write(fd, b"0123456789").unwrap();
    let append = guest.open("/data/f", 0o2001, 0).unwrap();
    guest.write(append, b"ab").unwrap();
    guest.write(fd, b"cd").unwrap();
    assert_eq!(guest.read_file("/data/f"), Ok(b"0123456789cd".to_vec()));
    assert_eq!(guest.call(18, &[fd, BUFFER, 2, 100_000]), Ok(2));
    assert_eq!(guest.stat("/data/f").unwrap().2, 100_002);
    assert_eq!(guest.call(8, &[fd, 0, 4]), Ok(4096), "the hole");
    assert_eq!(guest.call(8, &[fd, 4096, 3]), Ok(98_304), "data behind it");
    assert_eq!(guest.call(285, &[fd, 0, 0, 200_000]), Ok(0));
    assert_eq!(guest.stat("/data/f").unwrap().2, 200_000);
    assert_eq!(guest.call(285, &[fd, 3, 0, 100_000]), Ok(0));
    assert_eq!(guest.call(285, &[fd, 1, 0, 300_000]), Err(Errno::OPNOTSUPP));
    assert_eq!(guest.call(77, &[fd, 5000]), Ok(0));
    assert_eq!(guest.call(17, &[fd, BUFFER, 12, 0]), Ok(12));
    assert_eq!(guest.get(BUFFER, 12), [0; 12]);
    let flushes = guest.kernel.memory.machine.disk_flushes;
    assert_eq!(guest.call(74, &[fd]), Ok(0));
    assert_eq!(guest.kernel.memory.machine.disk_flushes, flushes + 2);
    assert!(guest.kernel.memory.machine.disk_discarded > 20);
    let durable = guest.open("/data/durable", 0o10_101, 0o600).unwrap();
    let flushes = guest.kernel.memory.machine.disk_flushes;
    guest.write(durable, b"x").unwrap();
    assert_eq!(guest.kernel.memory.machine.disk_flushes, flushes + 2, "O_DSYNC");
    // From the volume to the disk within the kernel.
    let volume = guest.open("/a/size-6", 0, 0).unwrap();
    assert_eq!(guest.call(40, &[durable, volume, 0, 10_000]), Ok(6));
    assert_eq!(guest.call(0, &[fd, BUFFER, 0]), Ok(0));
    assert_eq!(guest.stat("/data/durable").unwrap().2, 7);
    let unnamed = guest.open("/data", 0o20_200_002, 0o600).unwrap();
    guest.write(unnamed, b"secret").unwrap();
    assert_eq!(guest.call(77, &[unnamed, 3]), Ok(0));
    let name = guest.path("/data/named");
    let nothing = guest.path("");
    assert_eq!(guest.call(265, &[unnamed, nothing, 0, name, 0x1000]), Ok(0));
    assert_eq!(guest.read_file("/data/named"), Ok(b"sec".to_vec()));
    end(guest);
}

#[test]
fn an_unlinked_file_goes_with_its_last_user_and_a_mapping_is_one() {
    let mut one = guest(empty());
    let before = one.kernel.memory.with_data(|fs, disk| fs.usage(disk)).unwrap();
    let fd = one.open("/data/f", 0o102, 0o600).unwrap();
    one.write(fd, &[5; 10_000]).unwrap();
    assert_eq!(one.call(9, &[0, 3 * PAGE_SIZE, 3, 1, fd, 0]), Err(Errno::NODEV), "shared and writable");
    let shared = one.call(9, &[0, PAGE_SIZE, 1, 1, fd, 0]).unwrap();
    assert_eq!(one.call(10, &[shared, PAGE_SIZE, 3]), Err(Errno::ACCES));
    let at = one.call(9, &[0, 4 * PAGE_SIZE, 3, 2, fd, 0]).unwrap();
    let path = one.path("/data/f");
    assert_eq!(one.call(87, &[path]), Ok(0));
    assert_eq!(one.call(3, &[fd]), Ok(0));
    assert_eq!(one.get(at + 9999, 2), [5, 0]);
    assert_eq!(one.kernel.memory.read_bytes(at + 3 * PAGE_SIZE, &mut [0]), Err(Errno::FAULT));
    one.kernel.memory.write_bytes(at, b"mine").unwrap();
    assert_eq!(one.get(shared, 4), [5; 4]);
    for (at, length) in [(at, 4 * PAGE_SIZE), (shared, PAGE_SIZE)] {
        let used = one.kernel.memory.with_data(|fs, disk| fs.usage(disk)).unwrap();
        assert_ne!(used, before);
        assert_eq!(one.call(11, &[at, length]), Ok(0));
    }
    assert_eq!(one.kernel.memory.with_data(|fs, disk| fs.usage(disk)).unwrap(), before);
    // One that is open when the machine stops is freed by the next start.
    let fd = one.open("/data/f", 0o102, 0o600).unwrap();
    one.write(fd, &[5; 100_000]).unwrap();
    assert_eq!(one.call(87, &[path]), Ok(0));
    one.kernel.sync_data().unwrap();
    let disk = one.kernel.memory.machine.disk.take().unwrap();
    let mut two = guest(disk);
    assert_eq!(two.kernel.memory.with_data(|fs, disk| fs.usage(disk)).unwrap(), before);
    end(two);
}

#[test]
fn a_disk_that_fails_is_an_error_to_the_program_and_reading_goes_on() {
    let mut guest = guest(empty());
    let fd = guest.open("/data/f", 0o102, 0o600).unwrap();
    guest.write(fd, b"kept").unwrap();
    assert_eq!(guest.call(75, &[fd]), Ok(0));
    guest.write(fd, b" not kept").unwrap();
    guest.kernel.memory.machine.disk_fails = true;
    assert_eq!(guest.call(75, &[fd]), Err(Errno::IO));
    assert_eq!(guest.write(fd, b"more"), Err(Errno::IO));
    assert_eq!(guest.call(17, &[fd, BUFFER, 4, 0]), Ok(4), "what is in memory");
    guest.kernel.finish_data();
    let console = String::from_utf8(guest.kernel.memory.machine.console.clone()).unwrap();
    assert!(console.contains("/data: the disk failed"), "{console}");
    let mut next = self::guest(guest.kernel.memory.machine.disk.take().unwrap());
    assert_eq!(next.read_file("/data/f"), Ok(b"kept".to_vec()));
    end(next);
}

#[test]
fn without_a_disk_there_is_no_data_and_a_bad_one_is_said_by_name() {
    let mut plain = start(None, DataOption::Required).unwrap();
    assert_eq!(plain.open("/data/x", 0o101, 0o600), Err(Errno::NOENT));
    assert!(!plain.read_file("/proc/mounts").unwrap().windows(5).any(|part| part == b"/data"));
    let blank = vec![0; 16 << 20];
    assert!(matches!(start(Some(blank.clone()), DataOption::Required), Err(StartError::Data(_))));
    let optional = start(Some(blank), DataOption::Optional).unwrap();
    let console = String::from_utf8(optional.kernel.memory.machine.console.clone()).unwrap();
    assert!(console.contains("/data is not mounted: no ext3 on it"), "{console}");
    let mut off = start(Some(empty()), DataOption::Off).unwrap();
    assert_eq!(off.open("/data/x", 0o101, 0o600), Err(Errno::NOENT));
}

#[test]
fn what_is_not_flushed_goes_out_after_seconds_and_frames_come_back() {
    let mut guest = guest(empty());
    let fd = guest.open("/data/f", 0o102, 0o600).unwrap();
    for _ in 0..100 {
        guest.write(fd, &[1; 0x4000]).unwrap();
    }
    guest.kernel.serve();
    let flushes = guest.kernel.memory.machine.disk_flushes;
    guest.kernel.memory.machine.now += 6_000_000_000;
    guest.kernel.serve();
    assert_eq!(guest.kernel.memory.machine.disk_flushes, flushes + 2);
    let used = guest.kernel.memory.machine.used;
    assert!(guest.kernel.memory.shrink_data());
    assert!(guest.kernel.memory.machine.used + 100 < used);
    // Where no frame is left the program gets those of the filesystem.
    assert_eq!(guest.read_file("/data/f").unwrap(), [1; 0x8000]);
    let machine = &mut guest.kernel.memory.machine;
    machine.limit = machine.used;
    let at = guest.call(9, &[0, 8 * PAGE_SIZE, 3, 0x22, u64::MAX, 0]).unwrap();
    guest.kernel.memory.write_bytes(at, &[9; 8 * 4096]).unwrap();
    guest.kernel.memory.machine.limit = 4096;
    end(guest);
}
