//! What goes wrong, what is refused, and what holds while it goes on, on the fake machine.

use mm_proto::SnapshotInfo;

use super::manifest::{ABI, Head, Manifest, ThawError, checksum};
use super::*;
use crate::fake::{Fake, Frozen};
use crate::kernel::StartError;
use crate::options::Options;
use crate::page::VolumePage;
use crate::syscalls::tests::{Guest, PLAIN, SCRATCH};

const MADVISE: u64 = 28;
const MUNMAP: u64 = 11;
const MREMAP: u64 = 25;
const MEMFD_SECRET: u64 = 447;
const CLOSE: u64 = 3;
const WIPEONFORK: u64 = 18;
/// Where the tests write.
const PAGES: u64 = SCRATCH + 0x10000;

fn volume() -> Vec<u8> {
    let mut volume = PLAIN.to_vec();
    volume.resize(volume.len().next_multiple_of(4096), 0);
    volume
}

/// A guest with `count` pages written, each with its number.
fn written(count: u64) -> Guest {
    let mut guest = Guest::new();
    for page in 0..count {
        write(&mut guest, page, page + 1);
    }
    guest
}

fn write(guest: &mut Guest, page: u64, value: u64) {
    guest.kernel.memory.write_u64(PAGES + page * 4096, value).unwrap();
}

fn read(kernel: &mut Kernel<Fake>, page: u64) -> u64 {
    kernel.memory.read_u64(PAGES + page * 4096).unwrap()
}

fn order(guest: &mut Guest) {
    guest.kernel.memory.machine.frozen.0.borrow_mut().ordered = true;
    guest.kernel.serve();
    guest.kernel.freeze_now(None);
}

/// Serves until the freeze has ended one way or the other.
fn finish(guest: &mut Guest) {
    for _ in 0..10_000 {
        guest.kernel.serve();
        if guest.kernel.freezing.is_none() {
            return;
        }
    }
    panic!("the freeze does not end: {:?}", guest.kernel.memory.machine.frozen.0.borrow().steps);
}

/// A kernel that goes on from the last snapshot of this one.
fn thaw(guest: &Guest) -> Result<Kernel<Fake>, ThawError> {
    let frozen = guest.kernel.memory.machine.frozen.clone();
    let head = *frozen.0.borrow().heads.last().expect("a snapshot");
    thaw_from(&frozen, head)
}

fn thaw_from(frozen: &Frozen, head: u32) -> Result<Kernel<Fake>, ThawError> {
    let mut machine = Fake::new(4096, volume());
    machine.frozen = frozen.clone();
    let info = SnapshotInfo { head, hot: 0, identity: [4; 16] };
    Kernel::thaw(machine, Options::default(), &info).map_err(|(_, error)| match error {
        StartError::Thaw(error) => error,
        other => panic!("{other:?}"),
    })
}

#[test]
fn what_is_written_after_the_instant_is_in_the_program_and_not_in_the_snapshot() {
    let mut guest = written(40);
    guest.kernel.memory.machine.frozen.0.borrow_mut().slow = 3;
    order(&mut guest);
    // Written, unmapped, moved, and wiped while M1 has hardly begun.
    write(&mut guest, 3, 100);
    guest.call(MADVISE, &[PAGES + 5 * 4096, 4096, 4]).unwrap();
    guest.call(MUNMAP, &[PAGES + 6 * 4096, 4096]).unwrap();
    let moved = guest.call(MREMAP, &[PAGES + 7 * 4096, 4096, 8192, 1]).unwrap();
    guest.kernel.memory.write_u64(moved, 200).unwrap();
    write(&mut guest, 39, 300);
    finish(&mut guest);
    assert_eq!(guest.kernel.memory.machine.frozen.0.borrow().heads.len(), 1);
    assert_eq!(
        [read(&mut guest.kernel, 3), read(&mut guest.kernel, 5), read(&mut guest.kernel, 39)],
        [100, 0, 300]
    );
    assert_eq!(guest.kernel.memory.read_u64(moved), Ok(200));
    assert!(guest.kernel.memory.counts.preserved > 0);
    let mut clone = thaw(&guest).unwrap();
    for page in 0..40 {
        assert_eq!(read(&mut clone, page), page + 1, "page {page} of the clone");
    }
    // Pages of the clone are shared until it writes.
    assert_eq!(clone.memory.resident().0, 0);
    clone.memory.write_u64(PAGES, 7).unwrap();
    assert_eq!(clone.memory.resident().0, 1);
    assert_eq!(read(&mut thaw(&guest).unwrap(), 0), 1, "another clone does not notice");
    // Everything that the freeze kept is free again.
    guest.kernel.finish();
    assert_eq!(guest.kernel.memory.machine.used, 0);
}

#[test]
fn the_program_goes_on_where_there_is_no_memory_for_moving_pages_away() {
    let mut guest = written(40);
    order(&mut guest);
    let machine = &mut guest.kernel.memory.machine;
    machine.limit = machine.used;
    for page in 0..40 {
        write(&mut guest, page, 1000 + page);
    }
    guest.kernel.memory.machine.limit = 4096;
    finish(&mut guest);
    let mut clone = thaw(&guest).unwrap();
    for page in 0..40 {
        assert_eq!((read(&mut guest.kernel, page), read(&mut clone, page)), (1000 + page, page + 1));
    }
}

#[test]
fn a_freeze_that_comes_to_nothing_leaves_everything_as_it_was() {
    let said = |guest: &Guest| String::from_utf8_lossy(&guest.kernel.memory.machine.console).into_owned();
    // No room; a page refused at each place; the program's end.
    let mut guest = written(40);
    guest.kernel.memory.machine.frozen.0.borrow_mut().room = 3;
    order(&mut guest);
    assert!(guest.kernel.freezing.is_none() && said(&guest).contains("no room"), "{}", said(&guest));
    let frozen = guest.kernel.memory.machine.frozen.clone();
    assert!(!frozen.0.borrow().steps.iter().any(|step| step.starts_with("abort")), "M1 knows already");
    for captures in 0..5 {
        let mut guest = written(40);
        guest.kernel.memory.machine.frozen.0.borrow_mut().captures = Some(captures);
        order(&mut guest);
        write(&mut guest, 39, 77);
        finish(&mut guest);
        let frozen = guest.kernel.memory.machine.frozen.clone();
        let steps = frozen.0.borrow().steps.clone();
        if frozen.0.borrow().heads.is_empty() {
            assert_eq!(steps.last().map(String::as_str), Some("abort Refused"), "{steps:?}");
        }
        for page in 0..39 {
            write(&mut guest, page, 5);
            assert_eq!(read(&mut guest.kernel, page), 5);
        }
        assert_eq!(read(&mut guest.kernel, 39), 77);
        guest.kernel.finish();
        assert_eq!(guest.kernel.memory.machine.used, 0, "{captures}");
    }
    for turns in 0..8 {
        let mut guest = written(40);
        guest.kernel.memory.machine.frozen.0.borrow_mut().slow = 2;
        order(&mut guest);
        for _ in 0..turns {
            guest.kernel.serve();
        }
        guest.kernel.freeze_abandon();
        let steps = guest.kernel.memory.machine.frozen.0.borrow().steps.clone();
        assert_eq!(steps.last().map(String::as_str), Some("abort Ended"), "{turns}: {steps:?}");
        guest.kernel.finish();
        assert_eq!(guest.kernel.memory.machine.used, 0, "{turns}");
    }
}

#[test]
fn nothing_is_frozen_as_long_as_there_is_a_secret_and_what_is_to_be_wiped_is_zero() {
    let mut guest = written(4);
    let fd = guest.call(MEMFD_SECRET, &[0]).unwrap();
    order(&mut guest);
    let steps = guest.kernel.memory.machine.frozen.0.borrow().steps.clone();
    assert_eq!(steps, ["abort Secret"]);
    guest.call(CLOSE, &[fd]).unwrap();
    guest.call(MADVISE, &[PAGES + 4096, 4096, WIPEONFORK]).unwrap();
    guest.kernel.memory.machine.frozen.0.borrow_mut().answer = None;
    order(&mut guest);
    finish(&mut guest);
    let mut clone = thaw(&guest).unwrap();
    assert_eq!([0, 1, 2].map(|page| read(&mut clone, page)), [1, 0, 3]);
    assert_eq!(read(&mut guest.kernel, 1), 2, "only in clones");
}

#[test]
fn clones_say_what_they_keep_and_capture_what_they_wrote() {
    let mut guest = written(30);
    order(&mut guest);
    finish(&mut guest);
    let frozen = guest.kernel.memory.machine.frozen.clone();
    let mut clone = Guest::of(thaw(&guest).unwrap());
    write(&mut clone, 3, 300);
    // A page that is given back shows zeroes, not what the snapshot had there.
    clone.call(MADVISE, &[PAGES + 8 * 4096, 4096, 4]).unwrap();
    frozen.0.borrow_mut().steps.clear();
    order(&mut clone);
    write(&mut clone, 4, 400);
    finish(&mut clone);
    let steps = frozen.0.borrow().steps.clone();
    let own = clone.kernel.memory.machine.frozen.0.borrow().kept.len();
    assert!(steps.contains(&String::from("capture 1")), "the one page that it wrote: {steps:?}");
    assert_eq!(own, 28, "{steps:?}");
    let mut second = thaw(&clone).unwrap();
    let expected = |page: u64| match page {
        3 => 300,
        8 => 0,
        page => page + 1,
    };
    for page in 0..30 {
        assert_eq!(read(&mut second, page), expected(page), "page {page}");
    }
}

#[test]
fn a_snapshot_that_is_none_is_refused_by_name() {
    let mut guest = written(2);
    order(&mut guest);
    finish(&mut guest);
    let frozen = guest.kernel.memory.machine.frozen.clone();
    let head = *frozen.0.borrow().heads.last().unwrap();
    let place = (head - (1 << 31)) as usize;
    let change = |change: &dyn Fn(&mut [u8; 4096])| {
        let before = frozen.0.borrow().pages[place];
        change(&mut frozen.0.borrow_mut().pages[place]);
        let result = thaw_from(&frozen, head).err();
        frozen.0.borrow_mut().pages[place] = before;
        result
    };
    assert_eq!(change(&|page| page[0] = 0), Some(ThawError::NoHead));
    assert_eq!(change(&|page| page[8] = 9), Some(ThawError::OtherKernel { ours: ABI, theirs: 9 }));
    assert_eq!(change(&|page| page[24] ^= 1), Some(ThawError::OtherVolume));
    assert_eq!(change(&|page| page[16] ^= 1), Some(ThawError::Damaged));
    assert_eq!(change(&|page| page[20] = 200), Some(ThawError::Senseless));
    assert!(matches!(change(&|page| page[59] = 0), Some(ThawError::Senseless)));
    assert_eq!(thaw_from(&frozen, head).err(), None);
    assert!(matches!(thaw_from(&frozen, head - 1).err(), Some(ThawError::NoHead | ThawError::Page(_))));
}

/// Moves a snapshot to an M1 whose frozen part holds these pages already. Gives its head there.
fn move_to(from: &Frozen, head: u32, to: &Frozen) -> Result<u32, ThawError> {
    let page = |number: u32| from.0.borrow().pages.get(number.checked_sub(1 << 31)? as usize).copied();
    let put = |bytes: [u8; 4096]| {
        let pages = &mut to.0.borrow_mut().pages;
        let known = pages.iter().position(|page| *page == bytes);
        let place = known.unwrap_or(pages.len());
        if known.is_none() {
            pages.push(bytes);
        }
        (1 << 31) + place as u32
    };
    let mut moving = Moving::read(head, &[9; 32], page)?;
    let mut numbers = alloc::collections::BTreeMap::new();
    for number in moving.pages()? {
        numbers.insert(number, put(page(number).ok_or(ThawError::Senseless)?));
    }
    let most = moving.own_pages();
    let manifest = moving.manifest(&numbers).expect("all are there");
    assert!(manifest.len() < most);
    let own: Vec<u32> = manifest.into_iter().map(put).collect();
    assert_eq!(moving.head(&[]), None);
    Ok(put(moving.head(&own).expect("as many")))
}

#[test]
fn a_snapshot_goes_to_another_m1_with_files_in_memory_and_other_numbers() {
    const OPEN: u64 = 2;
    let mut guest = written(40);
    let path = guest.path("/tmp/file");
    let fd = guest.call(OPEN, &[path, 0o102, 0o600]).unwrap();
    guest.kernel.memory.write_bytes(SCRATCH, b"in memory").unwrap();
    assert_eq!(guest.call(1, &[fd, SCRATCH, 9]), Ok(9));
    order(&mut guest);
    finish(&mut guest);
    let here = guest.kernel.memory.machine.frozen.clone();
    let head = *here.0.borrow().heads.last().unwrap();
    // Pages of others, and every third of its own, scattered.
    let there = Frozen::default();
    for place in (0..here.0.borrow().pages.len()).rev().step_by(3) {
        there.0.borrow_mut().pages.extend([here.0.borrow().pages[place], [place as u8; 4096]]);
    }
    let first = move_to(&here, head, &there).unwrap();
    let count = there.0.borrow().pages.len();
    assert_eq!(move_to(&here, head, &there), Ok(first), "the same again");
    assert_eq!(there.0.borrow().pages.len(), count, "and nothing of it is new");
    let back = Frozen::default();
    let again = move_to(&there, first, &back).unwrap();
    for (frozen, head) in [(&there, first), (&back, again)] {
        let mut clone = Guest::of(thaw_from(frozen, head).unwrap());
        for page in 0..40 {
            assert_eq!(read(&mut clone.kernel, page), page + 1, "page {page} of the clone");
        }
        assert_eq!(clone.call(17, &[fd, SCRATCH, 100, 0]), Ok(9));
        assert_eq!(clone.get(SCRATCH, 9), b"in memory");
    }
    assert!(Moving::read(head, &[8; 32], |_| None).is_err());
    // A page that is missing is not made up.
    let mut moving =
        Moving::read(head, &[9; 32], |number| here.0.borrow().page(VolumePage(number.into())).copied())
            .unwrap();
    assert_eq!(moving.manifest(&Default::default()), None);
}

/// A manifest that lies, under a checksum that is right: refused, or at worst a program that gets signals.
#[test]
fn manifests_of_random_bytes_are_refused_without_a_panic() {
    let mut guest = written(20);
    order(&mut guest);
    finish(&mut guest);
    let frozen = guest.kernel.memory.machine.frozen.clone();
    let head = *frozen.0.borrow().heads.last().unwrap();
    let page = |number: u32| (number - (1 << 31)) as usize;
    let good = Head::decode(&frozen.0.borrow().pages[page(head)], &[9; 32]).unwrap();
    let original = frozen.0.borrow().pages[page(good.pages[0])];
    assert_eq!(good.pages.len(), 1, "this test knows manifests of one page");
    let mut seed = 7_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    let mut thawed = 0;
    for _ in 0..2000 {
        let mut bytes = original;
        for _ in 0..1 + random() % 4 {
            bytes[random() % good.bytes as usize] = random() as u8;
        }
        let crc = checksum(&bytes[..good.bytes as usize]);
        let lying = Head { crc, ..good.clone() };
        frozen.0.borrow_mut().pages[page(good.pages[0])] = bytes;
        frozen.0.borrow_mut().pages[page(head)] = lying.encode();
        let moved = move_to(&frozen, head, &Frozen::default());
        if let Ok(mut kernel) = thaw_from(&frozen, head) {
            thawed += 1;
            let lacks = |error: &ThawError| *error == ThawError::Senseless;
            assert!(moved.as_ref().err().is_none_or(lacks), "{moved:?}");
            for page in 0..20 {
                let _ = kernel.memory.read_u64(PAGES + page * 4096);
                let _ = kernel.memory.write_u64(PAGES + page * 4096, 1);
            }
            kernel.finish();
        }
    }
    assert!(thawed > 0, "some bytes do not matter");
}

#[test]
fn the_encoding_is_that_of_this_abi() {
    let mut guest = written(3);
    order(&mut guest);
    let freezing = guest.kernel.freezing.take().unwrap();
    let bytes = freezing.manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap(), freezing.manifest);
    // Where this fails, what older kernels have frozen cannot be thawed any more: raise `ABI`, then put the new numbers here.
    assert_eq!((ABI, bytes.len(), checksum(&bytes)), (1, 1186, 3_285_351_249));
}

/// A disk for `/data`.
fn disk() -> Vec<u8> {
    let image = tempfile::NamedTempFile::new().unwrap();
    m1_tests::volume::make_data(image.path(), 16 << 20).unwrap();
    std::fs::read(image.path()).unwrap()
}

fn check(disk: &[u8]) {
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), disk).unwrap();
    m1_tests::volume::check_data(image.path()).unwrap();
}

#[test]
fn a_clone_goes_on_with_data_as_it_was_at_that_instant_files_without_a_name_included() {
    const OPEN: u64 = 2;
    const CREATE: u64 = 0o102;
    let start = |disk, frozen: Option<(&Frozen, u32)>| {
        let mut machine = Fake::new(4096, volume());
        machine.disk = disk;
        let Some((frozen, head)) = frozen else {
            return Kernel::new(machine, Options::default()).map_err(|(_, error)| error);
        };
        machine.frozen = frozen.clone();
        let info = SnapshotInfo { head, hot: 0, identity: [4; 16] };
        Kernel::thaw(machine, Options::default(), &info).map_err(|(_, error)| error)
    };
    let Ok(kernel) = start(Some(disk()), None) else { panic!("it starts") };
    let mut guest = Guest::beside(kernel);
    let files = ["/data/named", "/data/unnamed", "/data/mapped", "/data/closed"].map(|name| {
        let path = guest.path(name);
        let fd = guest.call(OPEN, &[path, CREATE, 0o600]).unwrap();
        guest.kernel.memory.write_bytes(PAGES, name.as_bytes()).unwrap();
        guest.call(1, &[fd, PAGES, name.len() as u64]).unwrap();
        (path, fd)
    });
    let [(_, named), (path, unnamed), (mapped_path, mapped), (closed_path, closed)] = files;
    let dir = guest.path("/data/dir");
    assert_eq!(guest.call(83, &[dir, 0o700]), Ok(0));
    assert_eq!(guest.call(80, &[dir]), Ok(0));
    let shown = guest.call(9, &[0, 4096, 1, 2, mapped, 0]).unwrap();
    for gone in [path, mapped_path, closed_path] {
        assert_eq!(guest.call(87, &[gone]), Ok(0));
    }
    assert_eq!(guest.call(CLOSE, &[mapped]), Ok(0));
    let before = guest.kernel.memory.with_data(|fs, disk| fs.usage(disk)).unwrap();
    order(&mut guest);
    // M1 takes the instant's disk; the program goes on with its own.
    let instant = guest.kernel.memory.machine.disk.clone();
    guest.kernel.memory.write_bytes(PAGES, b"later").unwrap();
    assert_eq!(guest.call(18, &[named, PAGES, 5, 0]), Ok(5));
    assert_eq!(guest.call(CLOSE, &[closed]), Ok(0));
    finish(&mut guest);
    let frozen = guest.kernel.memory.machine.frozen.clone();
    let head = *frozen.0.borrow().heads.last().expect("a snapshot");
    let Ok(kernel) = start(instant, Some((&frozen, head))) else { panic!("it is thawed") };
    let mut clone = Guest::of(kernel);
    for (fd, content) in [(named, "/data/named"), (unnamed, "/data/unnamed"), (closed, "/data/closed")] {
        assert_eq!(clone.call(17, &[fd, PAGES, 100, 0]), Ok(content.len() as u64));
        assert_eq!(clone.get(PAGES, content.len()), content.as_bytes());
    }
    assert_eq!(clone.get(shown, 12), b"/data/mapped");
    assert_eq!(clone.kernel.memory.with_data(|fs, disk| fs.usage(disk)).unwrap(), before);
    let inside = clone.path("inside");
    assert!(clone.call(OPEN, &[inside, CREATE, 0o600]).is_ok(), "in the current directory");
    for mut one in [clone, guest] {
        one.kernel.finish_data();
        check(&one.kernel.memory.machine.disk.take().unwrap());
    }
    // Without its disk it does not go on.
    let refused = start(None, Some((&frozen, head))).err();
    assert_eq!(refused, Some(StartError::Thaw(ThawError::File(crate::errno::Errno::IO))));
    // A disk that fails is no disk to freeze with.
    let Ok(kernel) = start(Some(disk()), None) else { panic!("it starts") };
    let mut guest = Guest::beside(kernel);
    let path = guest.path("/data/x");
    assert!(guest.call(OPEN, &[path, CREATE, 0o600]).is_ok());
    guest.kernel.memory.machine.disk_fails = true;
    order(&mut guest);
    assert_eq!(guest.kernel.memory.machine.frozen.0.borrow().steps.last().unwrap(), "abort Disk");
}
