//! `/dev`: a fixed table.

use super::{Attributes, DEV_DEVICE, DirEntry, DirSink};
use serde::{Deserialize, Serialize};

use crate::errno::Errno;

/// A file of `/dev`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Device {
    Null,
    Zero,
    Full,
    Random,
    Console,
}

/// What an entry of `/dev` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DevKind {
    Root,
    Device(Device, (u32, u32)),
    Link(&'static [u8]),
    /// Where `/dev/shm` is mounted.
    Shm,
}

/// An index into the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct DevId(u8);

pub(crate) const ROOT: DevId = DevId(0);

/// Names and device numbers are Linux's (Documentation/admin-guide/devices.txt).
const TABLE: [(&[u8], DevKind); 13] = [
    (b"", DevKind::Root),
    (b"null", DevKind::Device(Device::Null, (1, 3))),
    (b"zero", DevKind::Device(Device::Zero, (1, 5))),
    (b"full", DevKind::Device(Device::Full, (1, 7))),
    (b"random", DevKind::Device(Device::Random, (1, 8))),
    (b"urandom", DevKind::Device(Device::Random, (1, 9))),
    (b"tty", DevKind::Device(Device::Console, (5, 0))),
    (b"console", DevKind::Device(Device::Console, (5, 1))),
    (b"stdin", DevKind::Link(b"/proc/self/fd/0")),
    (b"stdout", DevKind::Link(b"/proc/self/fd/1")),
    (b"stderr", DevKind::Link(b"/proc/self/fd/2")),
    (b"fd", DevKind::Link(b"/proc/self/fd")),
    (b"shm", DevKind::Shm),
];

impl DevId {
    pub(crate) fn kind(self) -> DevKind {
        TABLE[usize::from(self.0) % TABLE.len()].1
    }

    pub(crate) fn lookup(self, name: &[u8]) -> Result<Self, Errno> {
        let index = TABLE.iter().position(|(entry, _)| *entry == name && !name.is_empty());
        index.and_then(|index| u8::try_from(index).ok()).map(Self).ok_or(Errno::NOENT)
    }

    pub(crate) fn attributes(self, now: u64) -> Attributes {
        let time = (now / 1_000_000_000, (now % 1_000_000_000) as u32);
        let (mode, special, links) = match self.kind() {
            DevKind::Root | DevKind::Shm => (0o040_755, 0, 2),
            DevKind::Device(_, (major, minor)) => (0o020_666, u64::from(major << 8 | minor), 1),
            DevKind::Link(_) => (0o120_777, 0, 1),
        };
        Attributes {
            device: DEV_DEVICE,
            inode: u64::from(self.0) + 1,
            mode,
            links,
            uid: 0,
            gid: 0,
            special,
            size: if let DevKind::Link(target) = self.kind() { target.len() as u64 } else { 0 },
            blocks: 0,
            accessed: time,
            modified: time,
            changed: time,
        }
    }
}

/// Gives the entries from `position` on to the sink, until it is full.
pub(crate) fn read_dir(position: u64, sink: &mut DirSink<'_>) {
    let dots = [(b".".as_slice(), 4, 1), (b"..".as_slice(), 4, 1)];
    let names = TABLE.iter().enumerate().skip(1).map(|(index, (name, kind))| {
        let kind = match kind {
            DevKind::Root | DevKind::Shm => 4,
            DevKind::Device(..) => 2,
            DevKind::Link(_) => 10,
        };
        (*name, kind, index as u64 + 1)
    });
    for (index, (name, kind, inode)) in dots.into_iter().chain(names).enumerate().skip(position as usize) {
        if !sink(&DirEntry { inode, next: index as u64 + 1, kind, name }) {
            break;
        }
    }
}
