//! Unit tests without an image. Those on images of mkfs.erofs are in `tests/`, here and in the workspace.

#![expect(clippy::arithmetic_side_effects, reason = "numbers of a made-up volume")]

use crate::fuzz::{exercise, mend_checksum};
use crate::superblock::checksum;
use crate::*;

/// The smallest volume: a superblock and a root directory with nothing but `.` and `..`.
fn tiny() -> Vec<u8> {
    let mut image = vec![0; 2 * PAGE_SIZE];
    let mut put = |at: usize, bytes: &[u8]| image.splice(at..at + bytes.len(), bytes.iter().copied()).count();
    put(1024, &0xE0F5_E1E2_u32.to_le_bytes());
    put(1024 + 8, &1_u32.to_le_bytes());
    put(1024 + 12, &[12]);
    put(1024 + 14, &40_u16.to_le_bytes());
    put(1024 + 24, &1_700_000_000_u64.to_le_bytes());
    put(1024 + 36, &2_u32.to_le_bytes());
    put(1024 + 48, &[7; 16]);
    let root = 40 * 32;
    put(root + 4, &0o040_755_u16.to_le_bytes());
    put(root + 6, &2_u16.to_le_bytes());
    put(root + 8, &27_u32.to_le_bytes());
    put(root + 16, &1_u32.to_le_bytes());
    for (index, name) in [24_u16, 25].into_iter().enumerate() {
        put(PAGE_SIZE + index * 12, &40_u64.to_le_bytes());
        put(PAGE_SIZE + index * 12 + 8, &name.to_le_bytes());
        put(PAGE_SIZE + index * 12 + 10, &[2]);
    }
    put(PAGE_SIZE + 24, b"...");
    mend_checksum(&mut image);
    image
}

fn with(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut image = tiny();
    change(&mut image);
    mend_checksum(&mut image);
    image
}

fn open(image: &[u8]) -> Result<Erofs<SlicePages<'_>>, Error<source::BeyondSlice>> {
    Erofs::open(SlicePages(image))
}

#[test]
fn the_smallest_volume_has_a_root_that_is_its_own_parent() -> Result<(), PathError<source::BeyondSlice>> {
    let image = tiny();
    let volume = open(&image)?;
    assert_eq!(volume.identity(), Identity { uuid: [7; 16], blocks: 2, build_time: 1_700_000_000 });
    let root = volume.inode(volume.root())?;
    assert_eq!(
        (root.file_type(), root.size, root.nlink, root.mode & 0o777),
        (FileType::Directory, 27, 2, 0o755)
    );
    assert_eq!(volume.lookup(&root, b"..")?, Some(volume.root()));
    assert_eq!(volume.lookup(&root, b"a")?, None);
    assert_eq!(volume.resolve(b"/.././/..")?, root);
    assert_eq!(volume.resolve(b""), Err(PathError::NotFound));
    assert_eq!(volume.resolve(b"/x"), Err(PathError::NotFound));
    assert_eq!(volume.resolve(&[b'x'; NAME_MAX + 1]), Err(PathError::TooLong));
    assert_eq!(volume.resolve(&[b'/'; PATH_MAX + 1]), Err(PathError::TooLong));
    Ok(())
}

#[test]
fn the_identity_is_uuid_then_blocks_then_build_time() {
    let bytes = Identity { uuid: [9; 16], blocks: 0x0102, build_time: 0x0304 }.to_bytes();
    let mut expected = [0; 32];
    expected.iter_mut().take(16).for_each(|byte| *byte = 9);
    for (at, value) in [(16, 2), (17, 1), (24, 4), (25, 3)] {
        if let Some(byte) = expected.get_mut(at) {
            *byte = value;
        }
    }
    assert_eq!(bytes, expected);
}

#[test]
fn the_checksum_is_crc32c_without_the_last_inversion() {
    // The checksum's own bytes, 4..8, count as zeros whatever they are.
    let mut bytes = *b"1234\0\0\0\0";
    let plain = checksum(&bytes);
    for byte in bytes.iter_mut().skip(4) {
        *byte = 0xff;
    }
    assert_eq!(plain, checksum(&bytes));
    assert_eq!(!checksum(b"123"), 0x107b_2fb2);
}

#[test]
fn what_the_reader_lacks_is_refused_by_name() {
    let refused = |at: usize, value: &[u8]| {
        let image = with(|image| drop(image.splice(at..at + value.len(), value.iter().copied())));
        open(&image).map(|_| ())
    };
    let feature = |bits: u32| refused(1024 + 80, &bits.to_le_bytes());
    assert_eq!(feature(0x01), Ok(()), "zero padding");
    assert_eq!(feature(0x44), Ok(()), "chunked files, xattr prefixes");
    assert_eq!(feature(0x02), Err(Error::Unsupported(Feature::Compression)));
    assert_eq!(feature(0x20), Err(Error::Unsupported(Feature::Compression)));
    assert_eq!(feature(0x08), Err(Error::Unsupported(Feature::Devices)));
    assert_eq!(feature(0x80), Err(Error::Unsupported(Feature::WideAddresses)));
    assert_eq!(feature(0x4100), Err(Error::Unsupported(Feature::Unknown(0x4100))));
    assert_eq!(refused(1024 + 86, &[1]), Err(Error::Unsupported(Feature::Devices)));
    assert_eq!(refused(1024 + 12, &[9]), Err(Error::Unsupported(Feature::BlockSizeBits(9))));
    assert_eq!(refused(1024 + 90, &[2]), Err(Error::Unsupported(Feature::BlockSizeBits(14))));
    assert_eq!(refused(1024, &[0]), Err(Error::NotErofs));
    assert_eq!(refused(1024 + 40, &2_u32.to_le_bytes()), Err(Error::Damaged(Damage::Outside)));
    let mut image = tiny();
    image.splice(1024 + 20..1024 + 21, [1]);
    assert_eq!(open(&image).map(|_| ()), Err(Error::Damaged(Damage::Checksum)));
    assert_eq!(open(&[]).map(|_| ()), Err(Error::Source(source::BeyondSlice { page: 0 })));
}

#[test]
fn an_impossible_inode_is_an_error() {
    let root = 40 * 32;
    let judged = |at: usize, value: &[u8]| {
        let image =
            with(|image| drop(image.splice(root + at..root + at + value.len(), value.iter().copied())));
        open(&image).and_then(|volume| volume.inode(volume.root())).map(|_| ())
    };
    assert_eq!(judged(4, &[0, 0]), Err(Error::Damaged(Damage::Inode)), "no type");
    assert_eq!(judged(16, &[2]), Err(Error::Damaged(Damage::Outside)), "behind the volume");
    assert_eq!(judged(8, &[1, 16]), Err(Error::Damaged(Damage::Outside)), "too long");
    assert_eq!(judged(0, &[2 << 1]), Ok(()), "an inline tail of 27 bytes");
    assert_eq!(
        judged(0, &[2 << 1, 0, 0xff, 0xff]),
        Err(Error::Damaged(Damage::Inode)),
        "tail behind the volume"
    );
    assert_eq!(judged(0, &[4 << 1]), Err(Error::Damaged(Damage::Inode)), "a chunked directory");
    assert_eq!(judged(0, &[1 << 1]), Err(Error::Unsupported(Feature::Compression)));
    assert_eq!(judged(0, &[3 << 1]), Err(Error::Unsupported(Feature::Compression)));
    assert_eq!(judged(0, &[0x10]), Err(Error::Unsupported(Feature::InodeFormat(0x10))));
    let image = tiny();
    let beyond = open(&image).and_then(|volume| volume.inode(Nid(u64::MAX))).map(|_| ());
    assert_eq!(beyond, Err(Error::Damaged(Damage::Outside)));
}

#[test]
fn an_impossible_directory_is_an_error() {
    let listed = |at: usize, value: &[u8]| {
        let start = PAGE_SIZE + at;
        let image = with(|image| drop(image.splice(start..start + value.len(), value.iter().copied())));
        let volume = open(&image)?;
        let root = volume.inode(volume.root())?;
        volume.read_dir(&root, 0, &mut |_| core::ops::ControlFlow::Continue(()))
    };
    let damaged = Err(Error::Damaged(Damage::Directory));
    assert_eq!(listed(0, &[]), Ok(4096));
    for first_name in [0_u8, 11, 13, 36, 255] {
        assert_eq!(listed(8, &[first_name]), damaged, "names start at {first_name}");
    }
    for second_name in [0_u8, 23, 24, 27, 255] {
        assert_eq!(listed(20, &[second_name]), damaged, "second name at {second_name}");
    }
    assert_eq!(listed(24, b"/"), damaged);
    assert_eq!(listed(24, b"\0"), damaged);
    assert_eq!(listed(25, b"\0\0"), damaged);
}

#[test]
fn everything_that_the_fuzz_entry_does_ends_well_on_the_smallest_volume() {
    // The root, and `.` and `..` which are the root again.
    assert!(exercise(&tiny()) >= 3);
    assert_eq!(exercise(&[]), 0);
}
