//! Files in memory.

use super::*;

#[test]
fn files_are_made_changed_renamed_and_removed() {
    let mut guest = Guest::new();
    assert_eq!(guest.write_file("/tmp/x", b"hello"), Ok(5));
    assert_eq!(guest.read_file("/tmp/x"), Ok(b"hello".to_vec()));
    assert_eq!(guest.stat("/tmp/x").unwrap(), (0o100_644, 1, 5, 8));
    let [x, y, d, dx, l, s] =
        ["/tmp/x", "/tmp/y", "/tmp/d", "/tmp/d/x", "/tmp/l", "/tmp/s"].map(|path| guest.path(path));
    assert_eq!(guest.call(83, &[d, 0o777]), Ok(0));
    assert_eq!(guest.stat("/tmp/d").unwrap().0, 0o040_755, "umask");
    assert_eq!(guest.call(82, &[x, dx]), Ok(0));
    assert_eq!(guest.open("/tmp/x", 0, 0), Err(Errno::NOENT));
    assert_eq!(guest.call(84, &[d]), Err(Errno::NOTEMPTY));
    assert_eq!(guest.call(87, &[d]), Err(Errno::ISDIR));
    assert_eq!(guest.call(84, &[dx]), Err(Errno::NOTDIR));
    assert_eq!(guest.call(82, &[d, dx]), Err(Errno::INVAL), "into itself");
    assert_eq!(guest.call(86, &[dx, l]), Ok(0));
    assert_eq!(guest.stat("/tmp/l").unwrap().1, 2);
    let target = guest.path("d/../l");
    assert_eq!(guest.call(88, &[target, s]), Ok(0));
    assert_eq!(guest.read_file("/tmp/s"), Ok(b"hello".to_vec()));
    assert_eq!(guest.write_file("/tmp/y", b"other"), Ok(5));
    assert_eq!(guest.call(316, &[0, y, 0, l, 1]), Err(Errno::EXIST));
    assert_eq!(guest.call(82, &[y, l]), Ok(0), "replaces");
    assert_eq!(guest.read_file("/tmp/l"), Ok(b"other".to_vec()));
    assert_eq!(guest.read_file("/tmp/d/x"), Ok(b"hello".to_vec()));
    assert_eq!(guest.call(82, &[l, d]), Err(Errno::ISDIR));
    assert_eq!(guest.call(87, &[dx]), Ok(0));
    assert_eq!(guest.call(84, &[d]), Ok(0));
    assert_eq!(guest.names("/tmp", 100).unwrap(), [".", "..", "s", "l"]);
    let up = guest.path("/tmp/nothing/x");
    assert_eq!(guest.call(83, &[up, 0]), Err(Errno::NOENT));
    let volume = guest.path("/a/size-6");
    assert_eq!(guest.call(82, &[l, volume]), Err(Errno::XDEV));
    assert_eq!(guest.call(86, &[volume, x]), Err(Errno::XDEV));
}

#[test]
fn flags_of_open_do_what_they_say() {
    let mut guest = Guest::new();
    let fd = guest.open("/tmp/f", 0o302, 0o600).unwrap();
    assert_eq!(guest.open("/tmp/f", 0o302, 0o600), Err(Errno::EXIST));
    guest.write(fd, b"0123456789").unwrap();
    let append = guest.open("/tmp/f", 0o2001, 0).unwrap();
    guest.write(append, b"ab").unwrap();
    guest.write(fd, b"cd").unwrap();
    assert_eq!(guest.read_file("/tmp/f"), Ok(b"0123456789cd".to_vec()));
    assert_eq!(guest.call(18, &[fd, BUFFER, 2, 100]), Ok(2));
    assert_eq!(guest.stat("/tmp/f").unwrap().2, 102);
    guest.open("/tmp/f", 0o1001, 0).unwrap();
    assert_eq!(guest.stat("/tmp/f").unwrap().2, 0);
    assert_eq!(guest.open("/tmp/f/", 0o101, 0), Err(Errno::NOTDIR));
    assert_eq!(guest.open("/tmp/g/", 0o101, 0), Err(Errno::ISDIR));
    let unnamed = guest.open("/tmp", 0o20_200_002, 0o600).unwrap();
    guest.write(unnamed, b"secret").unwrap();
    assert_eq!(guest.names("/tmp", 400).unwrap().len(), 3);
    let path = guest.open("/tmp/f", 0o10_000_000, 0).unwrap();
    assert_eq!(guest.read(path, 1), Err(Errno::BADF));
    assert_eq!(guest.call(5, &[path, BUFFER]), Ok(0));
}

#[test]
fn a_file_lives_as_long_as_anything_uses_it_and_its_frames_come_back() {
    let mut guest = Guest::new();
    guest.write(1, b"").unwrap();
    let before = guest.kernel.memory.machine.used;
    let fd = guest.open("/tmp/f", 0o102, 0o600).unwrap();
    guest.write(fd, &[5; 10_000]).unwrap();
    let at = guest.call(9, &[0, 3 * PAGE_SIZE, 3, 1, fd, 0]).unwrap();
    assert_eq!(guest.get(at + 9999, 2), [5, 0]);
    guest.kernel.memory.write_bytes(at, b"via memory").unwrap();
    let path = guest.path("/tmp/f");
    assert_eq!(guest.call(87, &[path]), Ok(0));
    assert_eq!(guest.call(17, &[fd, BUFFER, 10, 0]), Ok(10));
    assert_eq!(guest.get(BUFFER, 10), b"via memory");
    assert_eq!(guest.call(3, &[fd]), Ok(0));
    assert_eq!(guest.get(at, 10), b"via memory", "the mapping alone keeps it");
    assert_eq!(guest.call(11, &[at, 3 * PAGE_SIZE]), Ok(0));
    // The buffers of this test are the program's and stay.
    let own = guest.kernel.memory.machine.mapped.len() as u64;
    assert_eq!(guest.kernel.memory.machine.used, own);
    assert!(own >= before);
}

#[test]
fn lengths_holes_and_ranges() {
    let mut guest = Guest::new();
    let fd = guest.open("/tmp/f", 0o102, 0o600).unwrap();
    assert_eq!(guest.call(77, &[fd, 1 << 40]), Ok(0));
    assert_eq!(guest.call(18, &[fd, BUFFER, 100, 1 << 30]), Ok(100));
    assert_eq!(guest.stat("/tmp/f").unwrap(), (0o100_600, 1, 1 << 40, 8));
    assert_eq!(guest.call(8, &[fd, 5, 3]), Ok(1 << 30), "data");
    assert_eq!(guest.call(8, &[fd, 5, 4]), Ok(5), "hole");
    assert_eq!(guest.call(8, &[fd, 1 << 30, 4]), Ok((1 << 30) + 4096));
    assert_eq!(guest.call(8, &[fd, (1 << 30) + 4096, 3]), Err(Errno::NXIO));
    assert_eq!(guest.call(285, &[fd, 3, 1 << 30, 4096]), Ok(0), "punch");
    assert_eq!(guest.stat("/tmp/f").unwrap().3, 0);
    assert_eq!(guest.call(77, &[fd, 0]), Ok(0));
    assert_eq!(guest.call(285, &[fd, 0, 0, 10_000]), Ok(0));
    assert_eq!(guest.stat("/tmp/f").unwrap(), (0o100_600, 1, 10_000, 24));
    assert_eq!(guest.call(77, &[fd, u64::MAX]), Err(Errno::INVAL));
    assert_eq!(guest.call(77, &[fd, 1 << 62]), Err(Errno::FBIG));
    assert_eq!(guest.call(18, &[fd, BUFFER, 1, i64::MAX as u64]), Err(Errno::FBIG));
    // Memory is the limit: a file that would take all of it gets what there is.
    let mut small = Guest::with(PLAIN, 12);
    let fd = small.open("/tmp/f", 0o102, 0o600).unwrap();
    let written = small.write(fd, &[1; 0x3000]);
    assert_eq!(written, Ok(0x3000));
    assert_eq!(small.call(285, &[fd, 0, 0, 1 << 20]), Err(Errno::NOSPC));
    assert_eq!(small.call(77, &[fd, 0]), Ok(0));
    assert_eq!(small.write(fd, &[1; 0x2000]), Ok(0x2000), "what was cut off is free again");
}

#[test]
fn bytes_move_between_files_within_the_kernel() {
    let mut guest = Guest::new();
    let from = guest.open("/a/size-9000", 0, 0).unwrap();
    let to = guest.open("/tmp/copy", 0o102, 0o600).unwrap();
    assert_eq!(guest.call(326, &[from, 0, to, 0, 1 << 20, 0]), Ok(9000));
    assert_eq!(guest.read_file("/tmp/copy"), Ok(content(9000)));
    let offset = guest.put(&4000_u64.to_le_bytes());
    assert_eq!(guest.call(40, &[1, from, offset, 10]), Ok(10));
    assert_eq!(guest.kernel.memory.machine.console, content(4010)[4000..]);
    assert_eq!(guest.get(offset, 8), 4010_u64.to_le_bytes());
    assert_eq!(guest.call(40, &[from, to, 0, 10]), Err(Errno::BADF));
    let memfd = guest.path("scratch");
    let memfd = guest.call(319, &[memfd, 0]).unwrap();
    assert_eq!(guest.call(40, &[memfd, from, 0, 100]), Ok(0), "its position is at the end");
    assert_eq!(guest.call(8, &[from, 0, 0]), Ok(0));
    assert_eq!(guest.call(40, &[memfd, from, 0, 100]), Ok(100));
}

#[test]
fn a_directory_that_is_emptied_while_it_is_read_shows_every_name_once() {
    let mut guest = Guest::new();
    for index in 0..200 {
        guest.write_file(&format!("/tmp/file-{index:03}"), b"").unwrap();
    }
    let dir = guest.open("/tmp", 0o200_000, 0).unwrap();
    let mut removed = 0;
    loop {
        let length = guest.call(217, &[dir, BUFFER, 500]).unwrap() as usize;
        if length == 0 {
            break;
        }
        let bytes = guest.get(BUFFER, length);
        let mut at = 0;
        while at < length {
            let record = u16::from_le_bytes([bytes[at + 16], bytes[at + 17]]) as usize;
            let name = &bytes[at + 19..at + 19 + 8];
            if name.starts_with(b"file-") {
                let name = guest.path(&format!("/tmp/{}", std::str::from_utf8(name).unwrap()));
                guest.call(87, &[name]).unwrap();
                removed += 1;
            }
            at += record;
        }
    }
    assert_eq!(removed, 200);
    assert_eq!(guest.names("/tmp", 100).unwrap(), [".", ".."]);
}

#[test]
fn times_and_modes_are_kept() {
    let mut guest = Guest::new();
    guest.write_file("/tmp/f", b"x").unwrap();
    let path = guest.path("/tmp/f");
    let times = guest.put(&[1_u64, 5, 2, 7].map(u64::to_le_bytes).concat());
    assert_eq!(guest.call(280, &[-100_i64 as u64, path, times, 0]), Ok(0));
    guest.call(6, &[path, BUFFER]).unwrap();
    assert_eq!(guest.get(BUFFER + 72, 32), [1_u64, 5, 2, 7].map(u64::to_le_bytes).concat());
    assert_eq!(guest.call(90, &[path, 0o7123]), Ok(0));
    assert_eq!(guest.stat("/tmp/f").unwrap().0, 0o107_123);
    assert_eq!(guest.call(191, &[path, path, BUFFER, 10]), Err(Errno::NODATA));
    assert_eq!(guest.call(194, &[path, BUFFER, 10]), Ok(0));
    assert_eq!(guest.call(137, &[path, BUFFER]), Ok(0));
    assert_eq!(guest.get(BUFFER, 4), 0x0102_1994_u32.to_le_bytes());
}
