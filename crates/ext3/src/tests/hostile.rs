//! Images in which anything may stand anywhere: every call ends, and none panics.

use proptest::prelude::*;

use super::model::tree;
use super::*;

/// An image with a bit of everything, left with a journal to replay.
fn image() -> Vec<u8> {
    let mut disk = Disk::new(tools::make(16, &[]));
    let mut fs = mount(&mut disk);
    let dir = fs.make_dir(&mut disk, ROOT, b"dir", 0o755).unwrap();
    for number in 0..30_u8 {
        let ino = fs.create(&mut disk, dir, Some(&[b'a' + number % 26, b'A' + number / 26]), 0o644).unwrap();
        fs.write(&mut disk, ino, u64::from(number) * 50_000, &[number; 9000]).unwrap();
        if number % 5 == 0 {
            fs.retain(&mut disk, ino).unwrap();
            fs.unlink(&mut disk, dir, &[b'a' + number % 26, b'A' + number / 26], false).unwrap();
        }
    }
    fs.make_link(&mut disk, dir, b"link", &[b'x'; 100]).unwrap();
    fs.sync(&mut disk).unwrap();
    disk.image
}

fn exercise(disk: &mut Disk) {
    let Ok(mut fs) = Fs::mount(disk, LIMITS) else {
        assert_eq!(disk.buffers, 0);
        return;
    };
    let _ = fs.free_orphans(disk);
    let mut todo = vec![ROOT];
    for _ in 0..200 {
        let Some(dir) = todo.pop() else { break };
        let mut found = Vec::new();
        let _ = fs.read_dir(disk, dir, 0, &mut |entry| {
            found.push((entry.ino, entry.name.to_vec()));
            found.len() < 100
        });
        for (ino, name) in found {
            let Ok(stat) = fs.stat(disk, ino) else { continue };
            match stat.kind {
                Kind::Directory if !matches!(&name[..], b"." | b"..") => todo.push(ino),
                Kind::File => {
                    let mut bytes = [0; 5000];
                    let _ = fs.read(disk, ino, stat.size / 2, &mut bytes);
                    let _ = fs.seek(disk, ino, 0, true);
                    let _ = fs.write(disk, ino, stat.size / 3, &bytes);
                    let _ = fs.truncate(disk, ino, 3000);
                }
                _ => drop(fs.read_link(disk, ino)),
            }
        }
        let _ = fs.create(disk, dir, Some(b"new"), 0o600);
        let _ = fs.make_dir(disk, dir, b"newdir", 0o700);
        let _ = fs.rename(disk, (dir, b"new"), (ROOT, b"dir"), true);
        let _ = fs.rename(disk, (ROOT, b"dir"), (dir, b"newdir"), true);
        let _ = fs.unlink(disk, dir, b"new", false);
    }
    let _ = fs.sync(disk);
    let _ = fs.unmount(disk);
    assert_eq!(disk.buffers, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damage_anywhere_is_an_error_at_worst(
        changes in proptest::collection::vec((0..1200_u32, 0..1024_usize, prop_oneof![any::<u32>(), 0..4200_u32, Just(u32::MAX)]), 1..12),
    ) {
        thread_local!(static IMAGE: Vec<u8> = image());
        let mut disk = Disk::new(IMAGE.with(Clone::clone));
        for (block, word, value) in changes {
            // Metadata lies at the beginning; so does the journal.
            let at = block as usize * 4096 + word * 4;
            disk.image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        exercise(&mut disk);
    }

    #[test]
    fn damage_where_it_hurts_is_an_error_at_worst(
        changes in proptest::collection::vec((0..4_usize, 0..1024_usize, prop_oneof![any::<u32>(), 0..4200_u32, Just(u32::MAX)]), 1..12),
    ) {
        thread_local!(static IMAGE: Vec<u8> = { let mut disk = Disk::new(image()); mount(&mut disk).unmount(&mut disk).unwrap(); disk.image });
        let mut disk = Disk::new(IMAGE.with(Clone::clone));
        // The superblock, descriptors, first inodes, and the directory made above.
        let tables = [1024_usize, 4096, crate::le32(&disk.image, 4096 + 8) as usize * 4096, crate::le32(&disk.image, 4096) as usize * 4096];
        for (which, word, value) in changes {
            let at = tables[which] + word * 4 % 4096;
            disk.image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        exercise(&mut disk);
    }
}

#[test]
fn what_is_whole_is_read_whole() {
    let mut disk = Disk::new(image());
    let mut fs = mount(&mut disk);
    assert_eq!(tree(&mut fs, &mut disk).unwrap().len(), 3 + 24 + 1);
    fs.close(&mut disk);
}
