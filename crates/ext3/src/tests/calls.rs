//! Each call once, and what the tools say of it.

use super::*;
use crate::{MountError, Unsupported};

#[test]
fn a_file_written_in_odd_pieces_reads_back_here_and_with_debugfs() {
    let mut disk = Disk::new(tools::make(16, &[]));
    let mut fs = mount(&mut disk);
    let ino = fs.create(&mut disk, ROOT, Some(b"file"), 0o640).unwrap();
    let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at * 7 / 3) as u8).collect();
    let mut at = 0;
    for piece in bytes.chunks(7001) {
        assert_eq!(fs.write(&mut disk, ino, at, piece), Ok(piece.len()));
        at += piece.len() as u64;
    }
    assert_eq!(read_all(&mut fs, &mut disk, ino).unwrap(), bytes);
    fs.unmount(&mut disk).unwrap();
    assert_eq!(disk.buffers, 0, "every buffer came back");
    tools::check_clean(&disk.image);
    let tree = tools::dump(&disk.image);
    assert_eq!(std::fs::read(tree.path().join("file")).unwrap(), bytes);
    let mut fs = mount(&mut disk);
    let ino = fs.lookup(&mut disk, ROOT, b"file").unwrap();
    assert_eq!(read_all(&mut fs, &mut disk, ino).unwrap(), bytes);
}

#[test]
fn holes_stay_holes_and_the_far_end_goes_through_three_levels() {
    let mut disk = Disk::new(tools::make(16, &[]));
    let mut fs = mount(&mut disk);
    let ino = fs.create(&mut disk, ROOT, Some(b"sparse"), 0o600).unwrap();
    let places = [0, 50_000, 5 << 20, (4 << 30) + (100 << 20)];
    for at in places {
        assert_eq!(fs.write(&mut disk, ino, at, b"here"), Ok(4));
    }
    assert!(fs.stat(&mut disk, ino).unwrap().sectors < 8 * 16);
    let mut seen = Vec::new();
    let mut at = 0;
    while let Some(data) = fs.seek(&mut disk, ino, at, true).unwrap() {
        seen.push(data);
        at = fs.seek(&mut disk, ino, data, false).unwrap().unwrap();
    }
    assert_eq!(seen, places.map(|at| at / 4096 * 4096));
    fs.sync(&mut disk).unwrap();
    fs.punch(&mut disk, ino, 50_001, 6 << 20).unwrap();
    let mut bytes = [0; 4];
    fs.read(&mut disk, ino, 50_000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"h\0\0\0");
    fs.truncate(&mut disk, ino, 2).unwrap();
    fs.truncate(&mut disk, ino, 6).unwrap();
    assert_eq!(read_all(&mut fs, &mut disk, ino).unwrap(), b"he\0\0\0\0");
    fs.unmount(&mut disk).unwrap();
    tools::check_clean(&disk.image);
    assert!(disk.discarded >= 5, "{}", disk.discarded);
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed_also_over_a_mount() {
    let mut disk = Disk::new(tools::make(16, &[]));
    let mut fs = mount(&mut disk);
    let free = fs.usage(&mut disk).unwrap();
    let one = fs.create(&mut disk, ROOT, Some(b"one"), 0o600).unwrap();
    let two = fs.create(&mut disk, ROOT, None, 0o600).unwrap();
    for ino in [one, two] {
        fs.retain(&mut disk, ino).unwrap();
        fs.write(&mut disk, ino, 0, &[7; 100_000]).unwrap();
    }
    fs.unlink(&mut disk, ROOT, b"one", false).unwrap();
    fs.sync(&mut disk).unwrap();
    let open: Vec<_> = fs.open_inodes().collect();
    // The disk as it is now is mounted by a clone, which opens the same files, and by somebody who does not.
    let mut clone = Disk::new(disk.image.clone());
    let mut other = Disk::new(disk.image.clone());
    let mut theirs = Fs::mount(&mut clone, LIMITS).unwrap();
    for (ino, count) in &open {
        assert_eq!(*count, 1);
        theirs.retain(&mut clone, *ino).unwrap();
    }
    theirs.free_orphans(&mut clone).unwrap();
    assert_eq!(read_all(&mut theirs, &mut clone, one).unwrap(), [7; 100_000]);
    theirs.link(&mut clone, ROOT, b"kept", two).unwrap();
    theirs.release(&mut clone, one).unwrap();
    theirs.release(&mut clone, two).unwrap();
    assert_eq!(theirs.stat(&mut clone, one), Err(Error::NotFound));
    theirs.unmount(&mut clone).unwrap();
    tools::check_clean(&clone.image);
    let mut theirs = mount(&mut other);
    assert_eq!(theirs.retain(&mut other, one), Err(Error::NotFound));
    assert_eq!(theirs.usage(&mut other).unwrap(), free);
    theirs.unmount(&mut other).unwrap();
    tools::check_clean(&other.image);
    // And e2fsck, of the disk that nobody closed.
    tools::check_preen(&disk.image);
}

#[test]
fn directories_move_and_their_links_are_counted() {
    let mut disk = Disk::new(tools::make(16, &[]));
    let mut fs = mount(&mut disk);
    let a = fs.make_dir(&mut disk, ROOT, b"a", 0o755).unwrap();
    let b = fs.make_dir(&mut disk, ROOT, b"b", 0o755).unwrap();
    let c = fs.make_dir(&mut disk, a, b"c", 0o755).unwrap();
    assert_eq!(fs.rename(&mut disk, (ROOT, b"a"), (c, b"x"), true), Err(Error::Invalid));
    assert_eq!(fs.rename(&mut disk, (a, b"c"), (ROOT, b"b"), false), Err(Error::Exists));
    fs.rename(&mut disk, (a, b"c"), (ROOT, b"b"), true).unwrap();
    assert_eq!(fs.stat(&mut disk, b), Err(Error::NotFound));
    assert_eq!(fs.lookup(&mut disk, c, b".."), Ok(ROOT));
    assert_eq!(fs.stat(&mut disk, a).unwrap().links, 2);
    assert_eq!(fs.unlink(&mut disk, ROOT, b"a", false), Err(Error::IsDirectory));
    fs.make_link(&mut disk, a, b"short", b"../b").unwrap();
    let long = [b'x'; 2000];
    let link = fs.make_link(&mut disk, a, b"long", &long).unwrap();
    assert_eq!(fs.read_link(&mut disk, link).unwrap(), long);
    assert_eq!(fs.unlink(&mut disk, ROOT, b"a", true), Err(Error::NotEmpty));
    // Many names, half of them taken away, and others put in their place.
    for turn in 0..3 {
        for number in 0..400 {
            let name = format!("name {number} {}", "y".repeat(number % 60 + turn));
            fs.create(&mut disk, c, Some(name.as_bytes()), 0o644).unwrap();
        }
        for number in (0..400).step_by(2) {
            let name = format!("name {number} {}", "y".repeat(number % 60 + turn));
            fs.unlink(&mut disk, c, name.as_bytes(), false).unwrap();
        }
    }
    assert_eq!(entries(&mut fs, &mut disk, c).unwrap().len(), 600);
    fs.unmount(&mut disk).unwrap();
    tools::check_clean(&disk.image);
}

#[test]
fn a_full_disk_says_so_and_gives_everything_back() {
    let mut disk = Disk::new(tools::make(16, &["-J", "size=4"]));
    let mut fs = mount(&mut disk);
    let free = fs.usage(&mut disk).unwrap().free_blocks;
    for turn in 0..2 {
        let ino = fs.create(&mut disk, ROOT, Some(b"large"), 0o600).unwrap();
        let (mut at, block) = (0, [turn; 64 << 10]);
        loop {
            match fs.write(&mut disk, ino, at, &block) {
                Ok(length) => at += length as u64,
                Err(error) => {
                    assert_eq!(error, Error::NoSpace);
                    break;
                }
            }
        }
        assert!(at / 4096 > free - 16, "{at}");
        assert_eq!(fs.create(&mut disk, ROOT, Some(b"more"), 0o600), Err(Error::NoSpace));
        fs.unlink(&mut disk, ROOT, b"large", false).unwrap();
        assert_eq!(fs.usage(&mut disk).unwrap().free_blocks, free);
    }
    let ino = fs.create(&mut disk, ROOT, Some(b"reserved"), 0o600).unwrap();
    assert_eq!(fs.reserve(&mut disk, ino, 0, 1 << 30), Err(Error::NoSpace));
    fs.reserve(&mut disk, ino, 0, 1 << 20).unwrap();
    fs.unmount(&mut disk).unwrap();
    tools::check_clean(&disk.image);
}

#[test]
fn what_debugfs_wrote_is_read_and_a_hashed_directory_can_be_changed() {
    let image = tools::make(16, &["-I", "128"]);
    let mut disk = Disk::new(image);
    let mut fs = mount(&mut disk);
    let dir = fs.make_dir(&mut disk, ROOT, b"dir", 0o755).unwrap();
    for number in 0..500 {
        fs.create(&mut disk, dir, Some(format!("a rather long name of a file {number}").as_bytes()), 0o644)
            .unwrap();
    }
    fs.unmount(&mut disk).unwrap();
    // e2fsck -D makes hash trees.
    let image = tools::optimize(&disk.image);
    let mut disk = Disk::new(image);
    let mut fs = mount(&mut disk);
    assert_eq!(entries(&mut fs, &mut disk, dir).unwrap().len(), 500);
    for number in 0..100 {
        fs.create(&mut disk, dir, Some(format!("new {number}").as_bytes()), 0o644).unwrap();
        fs.unlink(&mut disk, dir, format!("a rather long name of a file {number}").as_bytes(), false)
            .unwrap();
    }
    assert_eq!(entries(&mut fs, &mut disk, dir).unwrap().len(), 500);
    fs.unmount(&mut disk).unwrap();
    tools::check_clean(&disk.image);
    let (image, _) = tools::debugfs(&disk.image, &["mkdir d", "symlink d/l target", "ea_set d user.x y"]);
    let mut disk = Disk::new(image);
    let mut fs = mount(&mut disk);
    let d = fs.lookup(&mut disk, ROOT, b"d").unwrap();
    let link = fs.lookup(&mut disk, d, b"l").unwrap();
    assert_eq!(fs.read_link(&mut disk, link).unwrap(), b"target");
    fs.unlink(&mut disk, d, b"l", false).unwrap();
    fs.unlink(&mut disk, ROOT, b"d", true).unwrap();
    fs.unmount(&mut disk).unwrap();
    tools::check_clean(&disk.image);
}

#[test]
fn other_filesystems_are_refused_by_name() {
    let refused = |options: &[&str]| {
        let mut disk = Disk::new(tools::make(16, options));
        let error = match Fs::mount(&mut disk, LIMITS) {
            Ok(fs) => {
                fs.close(&mut disk);
                None
            }
            Err(error) => Some(error),
        };
        assert_eq!(disk.buffers, 0);
        error
    };
    let unsupported = |what| Some(MountError::Unsupported(Unsupported(what)));
    assert_eq!(refused(&["-O", "extent"]), unsupported("extent"));
    assert_eq!(refused(&["-O", "extent,64bit"]), unsupported("extent"));
    assert_eq!(refused(&["-O", "metadata_csum"]), unsupported("metadata_csum"));
    assert_eq!(refused(&["-O", "^has_journal"]), unsupported("no journal"));
    assert_eq!(refused(&["-O", "flex_bg,huge_file,dir_nlink,extra_isize"]), None);
    let mut disk = Disk::new(vec![0; 16 << 20]);
    assert_eq!(Fs::mount(&mut disk, LIMITS).err(), Some(MountError::NotExt));
    let mut disk = Disk::new(Vec::new());
    assert_eq!(Fs::mount(&mut disk, LIMITS).err(), Some(MountError::NotExt));
}

#[test]
fn a_disk_that_fails_ends_writing_and_keeps_what_was_committed() {
    for after in 0..40 {
        let mut disk = Disk::new(tools::make(16, &[]));
        let mut fs = mount(&mut disk);
        let ino = fs.create(&mut disk, ROOT, Some(b"kept"), 0o600).unwrap();
        fs.write(&mut disk, ino, 0, b"first").unwrap();
        fs.sync(&mut disk).unwrap();
        disk.failing_writes = Some(after);
        let mut failed = false;
        for number in 0..20_u8 {
            let done = fs
                .create(&mut disk, ROOT, Some(&[b'a' + number]), 0o600)
                .and_then(|ino| fs.write(&mut disk, ino, 0, &[number; 10_000]))
                .and_then(|_| fs.sync(&mut disk));
            failed |= done.is_err();
        }
        assert_eq!(failed, after < 40);
        assert_eq!(fs.sync(&mut disk), Err(Error::Io));
        assert_eq!(read_all(&mut fs, &mut disk, ino).unwrap(), b"first");
        fs.close(&mut disk);
        assert_eq!(disk.buffers, 0);
        disk.failing_writes = None;
        let mut fs = mount(&mut disk);
        assert_eq!(read_all(&mut fs, &mut disk, ino).unwrap(), b"first");
        fs.unmount(&mut disk).unwrap();
        tools::check_clean(&disk.image);
    }
}

#[test]
fn little_memory_is_slower_and_none_is_an_error() {
    let mut disk = Disk::new(tools::make(16, &[]));
    disk.limit = 45;
    let mut fs = mount(&mut disk);
    let ino = fs.create(&mut disk, ROOT, Some(b"file"), 0o600).unwrap();
    let bytes = vec![3; 1 << 20];
    assert_eq!(fs.write(&mut disk, ino, 0, &bytes), Ok(bytes.len()));
    assert_eq!(read_all(&mut fs, &mut disk, ino).unwrap(), bytes);
    fs.sync(&mut disk).unwrap();
    fs.shrink(&mut disk);
    assert!(disk.buffers <= 2, "{}", disk.buffers);
    disk.limit = 0;
    assert_eq!(fs.create(&mut disk, ROOT, Some(b"none"), 0o600), Err(Error::NoMemory));
    disk.limit = 45;
    fs.create(&mut disk, ROOT, Some(b"again"), 0o600).unwrap();
    fs.unmount(&mut disk).unwrap();
    tools::check_clean(&disk.image);
}

#[test]
fn a_read_only_disk_is_read_and_not_written() {
    let mut disk = Disk::new(tools::make(16, &[]));
    let mut fs = mount(&mut disk);
    fs.create(&mut disk, ROOT, Some(b"file"), 0o600).unwrap();
    fs.sync(&mut disk).unwrap();
    let unclean = disk.image.clone();
    fs.unmount(&mut disk).unwrap();
    disk.read_only = true;
    let mut fs = mount(&mut disk);
    assert_eq!(entries(&mut fs, &mut disk, ROOT).unwrap().len(), 2);
    assert_eq!(fs.create(&mut disk, ROOT, Some(b"more"), 0o600), Err(Error::ReadOnly));
    fs.unmount(&mut disk).unwrap();
    disk.image = unclean;
    assert_eq!(Fs::mount(&mut disk, LIMITS).err(), Some(MountError::NeedsRecovery));
}

#[test]
fn a_journal_that_somebody_else_wrote_is_replayed_as_e2fsck_does_it() {
    // debugfs writes transactions as Linux does, with words about blocks that must not be replayed.
    let content: Vec<u8> = (0..6 * 4096_u32).map(|at| (at / 4096 + 1) as u8).collect();
    let magic: Vec<u8> = [&0xc03b_3998_u32.to_be_bytes()[..], &[9; 4092]].concat();
    for (words, file) in [
        ("jo\njw -b 3000,3001,3002,3003,3004,3005 @\njc\n", &content),
        ("jo\njw -b 3000,3001,3002,3003,3004,3005 @\njw -r 3001,3004\njc\n", &content),
        (
            "jo\njw -b 3000,3001,3002,3003,3004,3005 @\njw -r 3001\njw -b 3001,3002,3003,3004,3005,3006 @\njc\n",
            &content,
        ),
        ("jo\njw -b 3007 @\njc\n", &magic),
        (
            "jo\njw -b 3000,3001,3002,3003,3004,3005 @\njw -c -b 3010,3011,3012,3013,3014,3015 @\njc\n",
            &content,
        ),
    ] {
        let (left, said) = tools::debugfs_session(&tools::make(16, &[]), words, file);
        let theirs = tools::check_preen(&left);
        let mut disk = Disk::new(left);
        mount(&mut disk).unmount(&mut disk).unwrap();
        let part = |image: &[u8]| image[2990 * 4096..3020 * 4096].to_vec();
        assert!(part(&theirs) != vec![0; 30 * 4096], "{said}");
        assert!(part(&disk.image) == part(&theirs), "{words}: {said}");
        tools::check_clean(&disk.image);
    }
}
