//! Against the tools that everybody else has: mkfs.ext3 makes the images, e2fsck and debugfs judge them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![expect(clippy::cast_possible_truncation, reason = "tests are on x86-64")]

mod calls;
mod disk;
mod hostile;
mod model;
mod power;
mod random;
mod tools;

use std::collections::BTreeMap;

use crate::{Entry, Error, Ext3, Ino, Kind, Limits, ROOT};
use disk::{Bytes, Disk};

type Fs = Ext3<Bytes>;

const LIMITS: Limits = Limits { blocks: 256 };

fn mount(disk: &mut Disk) -> Fs {
    let mut fs = Fs::mount(disk, LIMITS).expect("it mounts");
    fs.free_orphans(disk).expect("orphans can be freed");
    fs
}

fn entries(fs: &mut Fs, disk: &mut Disk, dir: Ino) -> Result<BTreeMap<Vec<u8>, (Ino, Kind)>, Error> {
    let mut list = BTreeMap::new();
    fs.read_dir(disk, dir, 0, &mut |entry: &Entry<'_>| {
        if !matches!(entry.name, b"." | b"..") {
            assert!(list.insert(entry.name.to_vec(), (entry.ino, entry.kind)).is_none());
        }
        true
    })?;
    Ok(list)
}

fn read_all(fs: &mut Fs, disk: &mut Disk, ino: Ino) -> Result<Vec<u8>, Error> {
    let size = fs.stat(disk, ino)?.size;
    let mut bytes = vec![0xee; size as usize + 1];
    let length = fs.read(disk, ino, 0, &mut bytes)?;
    bytes.truncate(length);
    assert_eq!(length as u64, size);
    Ok(bytes)
}
