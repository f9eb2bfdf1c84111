//! The volume, `/dev`, `/proc`, descriptors, pipes and polling.

use super::*;

#[test]
fn files_of_the_volume_are_read_as_they_are_whatever_their_layout() {
    for image in [PLAIN, INLINE, CHUNKED, INDEXED] {
        let mut guest = Guest::with(image, 4096);
        for size in [0, 6, 5000, 9000] {
            assert_eq!(guest.read_file(&format!("/a/size-{size}")), Ok(content(size)));
        }
        let fd = guest.open("a/size-9000", 0, 0).unwrap();
        assert_eq!(guest.call(8, &[fd, 4090, 0]), Ok(4090));
        assert_eq!(guest.read(fd, 10), Ok(content(9000)[4090..4100].to_vec()));
        assert_eq!(guest.call(17, &[fd, BUFFER, 100, 8990]), Ok(10));
        assert_eq!(guest.call(8, &[fd, 0, 1]), Ok(4100), "pread does not move");
        assert_eq!(guest.call(8, &[fd, -5_i64 as u64, 2]), Ok(8995));
        assert_eq!(guest.call(8, &[fd, -9001_i64 as u64, 2]), Err(Errno::INVAL));
        // Mapped, to the page behind its end.
        let at = guest.call(9, &[0, 4 * PAGE_SIZE, 1, 2, fd, 0]).unwrap();
        assert_eq!(guest.get(at, 9000), content(9000), "a mapping shows the file");
        assert_eq!(guest.get(at + 9000, 12288 - 9000), vec![0; 12288 - 9000]);
        assert_eq!(guest.kernel.memory.read_bytes(at + 12288, &mut [0]), Err(Errno::FAULT));
        let second = guest.call(9, &[0, PAGE_SIZE, 1, 2, fd, PAGE_SIZE]).unwrap();
        assert_eq!(guest.get(second, 4096), content(9000)[4096..8192]);
    }
}

#[test]
fn the_volume_cannot_be_changed_and_each_refusal_is_linuxs() {
    let mut guest = Guest::new();
    let [size, new, dir] = ["/a/size-6", "/a/new", "/a"].map(|path| guest.path(path));
    assert_eq!(guest.open("/a/size-6", 2, 0), Err(Errno::ROFS));
    assert_eq!(guest.open("/a/size-6", 0o1000, 0), Err(Errno::ROFS));
    assert_eq!(guest.open("/a/new", 0o101, 0), Err(Errno::ROFS));
    assert_eq!(guest.open("/a/size-6", 0o301, 0), Err(Errno::EXIST));
    assert_eq!(guest.open("/a", 1, 0), Err(Errno::ISDIR));
    assert_eq!(guest.open("/a/nothing", 0, 0), Err(Errno::NOENT));
    assert_eq!(guest.open("/a/size-6/x", 0, 0), Err(Errno::NOTDIR));
    assert_eq!(guest.open("/a/size-6/", 0, 0), Err(Errno::NOTDIR));
    assert_eq!(guest.open("/a/size-6", 0o200_000, 0), Err(Errno::NOTDIR));
    assert_eq!(guest.open("", 0, 0), Err(Errno::NOENT));
    assert_eq!(guest.open("loop", 0, 0), Err(Errno::LOOP));
    assert_eq!(guest.open("link", 0o400_000, 0), Err(Errno::LOOP));
    assert_eq!(guest.open(&"x".repeat(256), 0, 0), Err(Errno::NAMETOOLONG));
    assert_eq!(guest.open(&"x/".repeat(2048), 0, 0), Err(Errno::NAMETOOLONG));
    assert_eq!(guest.call(83, &[new, 0o755]), Err(Errno::ROFS));
    assert_eq!(guest.call(83, &[dir, 0o755]), Err(Errno::EXIST));
    assert_eq!(guest.call(87, &[size]), Err(Errno::ROFS));
    assert_eq!(guest.call(87, &[new]), Err(Errno::NOENT));
    assert_eq!(guest.call(90, &[size, 0o644]), Err(Errno::ROFS));
    assert_eq!(guest.call(76, &[size, 0]), Err(Errno::ROFS));
    assert_eq!(guest.call(82, &[size, new]), Err(Errno::ROFS));
    assert_eq!(guest.call(21, &[size, 4]), Ok(0));
    assert_eq!(guest.call(21, &[size, 2]), Err(Errno::ROFS));
    assert_eq!(guest.call(21, &[size, 1]), Err(Errno::ACCES));
    assert_eq!(guest.call(2, &[1, 0, 0]), Err(Errno::FAULT));
    assert_eq!(guest.call(9, &[0, 0, 1, 2, 0, 0]), Err(Errno::INVAL));
    assert_eq!(guest.call(9, &[0, 4096, 1, 2, 99, 0]), Err(Errno::BADF));
    assert_eq!(guest.call(9, &[0, 4096, 1, 2, 0, 0]), Err(Errno::NODEV));
    let fd = guest.open("/a/size-6", 0, 0).unwrap();
    assert_eq!(guest.call(9, &[0, 4096, 3, 1, fd, 0]), Err(Errno::ACCES), "shared and writable");
    let at = guest.call(9, &[0, 4096, 1, 1, fd, 0]).unwrap();
    assert_eq!(guest.call(10, &[at, 4096, 3]), Err(Errno::ACCES));
    assert_eq!(guest.write(fd, b"x"), Err(Errno::BADF));
}

#[test]
fn directories_come_whole_through_any_buffer() {
    let mut guest = Guest::new();
    let all = guest.names("/a/up", 32768).unwrap();
    assert_eq!(all.len(), 62);
    for buffer in [128, 200, 1000] {
        assert_eq!(guest.names("/a/up", buffer), Ok(all.clone()));
    }

    assert_eq!(
        guest.names("/a", 4096).unwrap(),
        [".", "..", "size-0", "size-5000", "size-6", "size-9000", "up"]
    );
    assert!(guest.names("/dev", 64).unwrap().contains(&"urandom".into()));
    assert_eq!(guest.names("/proc/self/fd", 4096).unwrap(), [".", "..", "0", "1", "2", "3"]);
    assert_eq!(guest.names("/a/size-6", 4096), Err(Errno::NOTDIR));
}

#[test]
fn paths_lead_where_links_dots_and_directories_lead() {
    let mut guest = Guest::new();
    for path in
        ["/a/size-5000", "link", "/a/../link", "//a/.//size-5000", "/a/up/../a/size-5000", "/../../link"]
    {
        assert_eq!(guest.read_file(path).map(|bytes| bytes.len()), Ok(5000), "{path}");
    }
    let dir = guest.path("/a/up");
    assert_eq!(guest.call(80, &[dir]), Ok(0));
    assert_eq!(guest.call(79, &[BUFFER, 100]), Ok(6));
    assert_eq!(guest.get(BUFFER, 6), b"/many\0");
    assert_eq!(guest.call(79, &[BUFFER, 5]), Err(Errno::RANGE));
    assert_eq!(guest.read_file("../a/size-6"), Ok(content(6)));
    let a = guest.open("/a", 0o200_000, 0).unwrap();
    let six = guest.path("size-6");
    let opened = guest.call(257, &[a, six, 0, 0]).unwrap();
    assert_eq!(guest.read(opened, 100), Ok(content(6)));
    assert_eq!(guest.call(81, &[a]), Ok(0));
    assert_eq!(guest.read_file("size-6"), Ok(content(6)));
    let link = guest.path("/link");
    let length = guest.call(89, &[link, BUFFER, 100]).unwrap();
    assert_eq!(guest.get(BUFFER, length as usize), b"/a/size-5000");
    assert_eq!(guest.call(89, &[six, BUFFER, 100]), Err(Errno::INVAL));
    assert_eq!(guest.stat("/link").unwrap().0, 0o120_777);
    assert_eq!(guest.stat("/a/size-9000").unwrap(), (0o100_644, 1, 9000, 24));
    let empty = guest.path("");
    assert_eq!(guest.call(262, &[opened, empty, BUFFER, 0x1000]), Ok(0));
    assert_eq!(guest.call(332, &[a, six, 0, 0x7ff, BUFFER]), Ok(0));
    let statx = guest.get(BUFFER, 256);
    assert_eq!((&statx[..4], &statx[40..48]), (&0x7ff_u32.to_le_bytes()[..], &6_u64.to_le_bytes()[..]));
}

#[test]
fn devices_do_what_their_names_say() {
    let mut guest = Guest::new();
    assert_eq!(guest.read_file("/dev/null"), Ok(vec![]));
    assert_eq!(guest.read_file("/dev/zero"), Ok(vec![0; 0x8000]));
    let random = guest.read_file("/dev/urandom").unwrap();
    assert_ne!(random, guest.read_file("/dev/urandom").unwrap());
    let full = guest.open("/dev/full", 2, 0).unwrap();
    assert_eq!(guest.write(full, b"x"), Err(Errno::NOSPC));
    let null = guest.open("/dev/null", 1, 0).unwrap();
    assert_eq!(guest.write(null, b"xyz"), Ok(3));
    assert_eq!(guest.read(null, 1), Err(Errno::BADF));
    assert_eq!(guest.write(1, b"out\n"), Ok(4));
    assert_eq!(guest.kernel.memory.machine.console, b"out\n");
    guest.kernel.memory.machine.input.extend(b"typed\r");
    assert_eq!(guest.read(0, 100), Ok(b"typed\n".to_vec()));
    assert_eq!(guest.call(16, &[1, 0x5401, BUFFER]), Err(Errno::NOTTY));
    assert_eq!(guest.call(8, &[1, 0, 0]), Err(Errno::SPIPE));
    let again = guest.open("/dev/stdout", 1, 0).unwrap();
    assert_eq!(guest.write(again, b"more"), Ok(4));
    assert_eq!(guest.kernel.memory.machine.console, b"out\nmore");
}

#[test]
fn proc_tells_what_is_so() {
    let mut guest = Guest::new();
    let text = |guest: &mut Guest, path: &str| String::from_utf8(guest.read_file(path).unwrap()).unwrap();
    let fd = guest.open("/a/size-9000", 0, 0).unwrap();
    let at = guest.call(9, &[0, 3 * PAGE_SIZE, 5, 2, fd, 0]).unwrap();
    let maps = text(&mut guest, "/proc/self/maps");
    let line = maps.lines().find(|line| line.ends_with("/a/size-9000")).unwrap();
    assert!(line.starts_with(&format!("{at:x}-{:x} r-xp 00000000 ca:00 ", at + 3 * PAGE_SIZE)), "{line}");
    assert!(text(&mut guest, "/proc/meminfo").starts_with("MemTotal:          16384 kB\n"));
    assert!(text(&mut guest, "/proc/1/status").contains("Threads:\t1\n"));
    assert_eq!(text(&mut guest, "/proc/self/stat").split(' ').count(), 52);
    assert!(
        text(&mut guest, "/proc/self/limits").contains("Max open files            1024                 4096")
    );
    assert!(text(&mut guest, "/proc/mounts").contains("/dev/xvda / erofs ro 0 0\n"));
    assert_eq!(text(&mut guest, "/proc/sys/kernel/random/boot_id").len(), 37);
    for path in ["cpuinfo", "version", "stat", "uptime", "loadavg", "filesystems", "cmdline", "self/statm"] {
        assert!(text(&mut guest, &format!("/proc/{path}")).ends_with('\n'), "{path}");
    }
    let link = guest.path(&format!("/proc/self/fd/{fd}"));
    let length = guest.call(89, &[link, BUFFER, 100]).unwrap();
    assert_eq!(guest.get(BUFFER, length as usize), b"/a/size-9000");
    assert_eq!(guest.read_file(&format!("/proc/self/fd/{fd}")).map(|bytes| bytes.len()), Ok(9000));
    assert_eq!(guest.open("/proc/self/fd/99", 0, 0), Err(Errno::NOENT));
    assert_eq!(guest.open("/proc/meminfo", 1, 0), Err(Errno::ACCES));
}

#[test]
fn descriptors_are_the_lowest_free_and_share_what_dup_shares() {
    let mut guest = Guest::new();
    let fd = guest.open("/a/size-9000", 0, 0).unwrap();
    assert_eq!(fd, 3);
    assert_eq!(guest.call(32, &[fd]), Ok(4));
    assert_eq!(guest.call(33, &[fd, 10]), Ok(10));
    assert_eq!(guest.call(72, &[fd, 1030, 10]), Ok(11));
    assert_eq!(guest.call(72, &[11, 1]), Ok(1), "close on exec");
    guest.read(4, 100).unwrap();
    assert_eq!(guest.call(8, &[10, 0, 1]), Ok(100), "one position");
    assert_eq!(guest.call(3, &[3]), Ok(0));
    assert_eq!(guest.call(3, &[3]), Err(Errno::BADF));
    assert_eq!(guest.open("/a/size-6", 0, 0), Ok(3));
    assert_eq!(guest.call(33, &[99, 5]), Err(Errno::BADF));
    assert_eq!(guest.call(33, &[4, 1024]), Err(Errno::BADF));
    assert_eq!(guest.call(292, &[4, 4, 0]), Err(Errno::INVAL));
    assert_eq!(guest.call(436, &[4, u64::from(u32::MAX), 0]), Ok(0));
    assert_eq!(guest.call(8, &[10, 0, 1]), Err(Errno::BADF));
    // The limit is the program's own, and holds.
    let limit = [5_u64, 4096].map(u64::to_le_bytes).concat();
    let limit = guest.put(&limit);
    assert_eq!(guest.call(302, &[0, 7, limit, 0]), Ok(0));
    assert_eq!(guest.open("/dev/null", 0, 0), Ok(4));
    assert_eq!(guest.open("/dev/null", 0, 0), Err(Errno::MFILE));
    let more = guest.put(&[5_u64, 5000].map(u64::to_le_bytes).concat());
    assert_eq!(guest.call(302, &[0, 7, more, 0]), Err(Errno::PERM));
}

#[test]
fn pipes_keep_the_order_and_tell_when_an_end_is_gone() {
    let mut guest = Guest::new();
    assert_eq!(guest.call(293, &[BUFFER, 0o4000]), Ok(0));
    assert_eq!(guest.get(BUFFER, 8), [3, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!(guest.read(3, 10), Err(Errno::AGAIN));
    assert_eq!(guest.write(4, b"hello"), Ok(5));
    assert_eq!(guest.read(3, 3), Ok(b"hel".to_vec()));
    assert_eq!(guest.write(4, b"!"), Ok(1));
    assert_eq!(guest.read(3, 10), Ok(b"lo!".to_vec()));
    assert_eq!(guest.write(4, &[7; 0x8000]), Ok(0x8000));
    assert_eq!(guest.write(4, &[7; 0x8000]), Ok(0x8000));
    assert_eq!(guest.write(4, b"x"), Err(Errno::AGAIN), "64 KiB and no more");
    let ready = |guest: &mut Guest, fd: u64, events: u64| {
        let array = guest.put(&(fd | events << 32).to_le_bytes());
        let count = guest.call(7, &[array, 1, 0]).unwrap();
        (count, guest.get(array, 8)[6])
    };
    assert_eq!(ready(&mut guest, 4, 5), (0, 0));
    assert_eq!(ready(&mut guest, 3, 5), (1, 1));
    assert_eq!(guest.call(3, &[4]), Ok(0));
    assert_eq!(ready(&mut guest, 3, 1), (1, 0x11));
    while !guest.read(3, 0x8000).unwrap().is_empty() {}
    assert_eq!(ready(&mut guest, 3, 1), (1, 0x10));
    assert_eq!(ready(&mut guest, 77, 1), (1, 0x20));
    assert_eq!(guest.call(22, &[BUFFER]), Ok(0));
    assert_eq!(guest.call(3, &[4]), Ok(0));
    assert_eq!(guest.write(5, b"x"), Err(Errno::PIPE));
    assert_eq!(guest.kernel.process.signals.pending(), 1 << 12);
    assert_eq!(guest.call(290, &[3, 0o4000]), Ok(4));
    assert_eq!(guest.read(4, 8), Ok(3_u64.to_le_bytes().to_vec()));
    assert_eq!(guest.read(4, 8), Err(Errno::AGAIN));
    assert_eq!(guest.read(4, 7), Err(Errno::INVAL));
}

#[test]
fn vectors_are_one_call_and_waiting_ends_when_it_should() {
    let mut guest = Guest::new();
    let fd = guest.open("/a/size-9000", 0, 0).unwrap();
    let vector = [BUFFER, 5, BUFFER + 100, 0, BUFFER + 200, 9].map(u64::to_le_bytes).concat();
    let vector = guest.put(&vector);
    assert_eq!(guest.call(19, &[fd, vector, 3]), Ok(14));
    assert_eq!(guest.get(BUFFER + 200, 9), content(14)[5..]);
    assert_eq!(guest.call(295, &[fd, vector, 3, 8990]), Ok(10));
    assert_eq!(guest.call(20, &[1, vector, 3]), Ok(14));
    assert_eq!(guest.call(19, &[fd, vector, 1025]), Err(Errno::INVAL));
    // Nobody types: the call ends with its time.
    let before = guest.kernel.memory.machine.now;
    let array = guest.put(&(1_u64 << 32).to_le_bytes());
    assert_eq!(guest.call(7, &[array, 1, 1500]), Ok(0));
    assert_eq!(guest.kernel.memory.machine.now - before, 1_500_000_000);
    let set = guest.put(&1_u64.to_le_bytes());
    let time = guest.put(&[1_u64, 500_000].map(u64::to_le_bytes).concat());
    assert_eq!(guest.call(23, &[1, set, 0, 0, time]), Ok(0));
    assert_eq!(guest.get(set, 8), [0; 8]);
    guest.kernel.memory.machine.input.push_back(b'x');
    let set = guest.put(&1_u64.to_le_bytes());
    assert_eq!(guest.call(23, &[1, set, 0, 0, 0]), Ok(1));
    assert_eq!(guest.get(set, 1), [1]);
}

#[test]
fn a_buffer_too_small_for_a_name_is_refused() {
    let mut guest = Guest::new();
    assert_eq!(guest.names("/a/up", 100), Err(Errno::INVAL));
}
