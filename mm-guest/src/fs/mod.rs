//! Files and names: a fixed set of mounts, and the walk along a path.
//!
//! `/` is the volume, read-only; `/tmp` and `/dev/shm` are in memory; `/data` is on a disk, if there is one; `/dev` and `/proc`
//! are tables.

pub(crate) mod data;
pub(crate) mod dev;
pub(crate) mod proc;
pub(crate) mod tmp;
mod volume;
mod walk;

use alloc::vec::Vec;

pub use volume::OpenError;
pub(crate) use volume::Volume;
pub(crate) use walk::{Last, SelfLinks, Walked};

use self::dev::{DevId, DevKind};
use self::proc::{ProcId, ProcKind};
use self::tmp::{Kind, SHM_ROOT, TMP_ROOT, Tmp, TmpId};
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::machine::Machine;
use crate::vm::Memory;

/// `st_dev` of the mounts: distinct, and no more than that.
pub(crate) const VOLUME_DEVICE: u64 = 0xca00;
pub(crate) const TMP_DEVICE: u64 = 0x10;
pub(crate) const DEV_DEVICE: u64 = 0x11;
pub(crate) const PROC_DEVICE: u64 = 0x12;

/// A file, wherever it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Node {
    Volume(#[serde(with = "nid")] erofs::Nid),
    Tmp(TmpId),
    Dev(DevId),
    Proc(ProcId),
    Data(#[serde(with = "data::ino")] ext3::Ino),
}

/// An inode's number in a snapshot's manifest.
mod nid {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(nid: &erofs::Nid, to: S) -> Result<S::Ok, S::Error> {
        nid.0.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<erofs::Nid, D::Error> {
        u64::deserialize(from).map(erofs::Nid)
    }
}

/// A file of a mount that can be changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spot {
    Tmp(TmpId),
    Data(ext3::Ino),
}

impl Node {
    /// The same where it can be changed.
    pub(crate) fn spot(self) -> Option<Spot> {
        match self {
            Self::Tmp(id) => Some(Spot::Tmp(id)),
            Self::Data(ino) => Some(Spot::Data(ino)),
            Self::Volume(_) | Self::Dev(_) | Self::Proc(_) => None,
        }
    }
}

/// What `stat` tells. Times are seconds and nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Attributes {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) special: u64,
    pub(crate) size: u64,
    /// In units of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) accessed: (u64, u32),
    pub(crate) modified: (u64, u32),
    pub(crate) changed: (u64, u32),
}

impl Attributes {
    pub(crate) const TYPE: u32 = 0o170_000;

    pub(crate) fn is_directory(&self) -> bool {
        self.mode & Self::TYPE == 0o040_000
    }

    pub(crate) fn is_link(&self) -> bool {
        self.mode & Self::TYPE == 0o120_000
    }

    pub(crate) fn is_regular(&self) -> bool {
        self.mode & Self::TYPE == 0o100_000
    }
}

/// A name in a directory, as `getdents64` gives it.
pub(crate) struct DirEntry<'a> {
    pub(crate) inode: u64,
    /// Where to go on behind this entry.
    pub(crate) next: u64,
    /// `DT_*`.
    pub(crate) kind: u8,
    pub(crate) name: &'a [u8],
}

/// Takes entries of a directory; false where it has no room for this one.
pub(crate) type DirSink<'a> = dyn FnMut(&DirEntry<'_>) -> bool + 'a;

/// All mounts.
pub(crate) struct Vfs {
    pub(crate) volume: Volume,
    pub(crate) tmp: Tmp,
}

impl Vfs {
    pub(crate) fn new(volume: Volume) -> Self {
        Self { volume, tmp: Tmp::new() }
    }

    pub(crate) fn root(&self) -> Node {
        Node::Volume(self.volume.root())
    }

    /// The child of that name, mounts on it included.
    pub(crate) fn lookup<M: Machine>(
        &self,
        memory: &mut Memory<M>,
        dir: Node,
        name: &[u8],
    ) -> Result<Node, Errno> {
        match dir {
            Node::Volume(nid) => {
                if nid == self.volume.root() {
                    match name {
                        b"tmp" => return Ok(Node::Tmp(TMP_ROOT)),
                        b"dev" => return Ok(Node::Dev(dev::ROOT)),
                        b"data" if memory.data.is_some() => return Ok(Node::Data(ext3::ROOT)),
                        b"proc" => return Ok(Node::Proc(proc::ROOT)),
                        _ => {}
                    }
                }
                Ok(Node::Volume(self.volume.lookup(&mut memory.machine, nid, name)?))
            }
            Node::Tmp(id) => Ok(Node::Tmp(self.tmp.lookup(id, name)?)),
            Node::Data(dir) => Ok(Node::Data(memory.with_data(|fs, disk| fs.lookup(disk, dir, name))?)),
            Node::Dev(id) if id == dev::ROOT => {
                let found = id.lookup(name)?;
                Ok(if found.kind() == DevKind::Shm { Node::Tmp(SHM_ROOT) } else { Node::Dev(found) })
            }
            Node::Dev(_) => Err(Errno::NOTDIR),
            Node::Proc(id) => Ok(Node::Proc(id.lookup(name)?)),
        }
    }

    /// The directory that holds this one.
    pub(crate) fn parent<M: Machine>(&self, memory: &mut Memory<M>, dir: Node) -> Result<Node, Errno> {
        Ok(match dir {
            Node::Volume(nid) => self.volume.parent(&mut memory.machine, nid)?,
            Node::Tmp(TMP_ROOT) => self.root(),
            Node::Tmp(SHM_ROOT) => Node::Dev(dev::ROOT),
            Node::Tmp(id) => Node::Tmp(self.tmp.parent(id)?),
            Node::Data(dir) => memory.data_parent(dir)?.map_or(self.root(), Node::Data),
            Node::Dev(_) => self.root(),
            Node::Proc(id) if id == proc::ROOT => self.root(),
            Node::Proc(id) => Node::Proc(id.parent()),
        })
    }

    pub(crate) fn attributes<M: Machine>(
        &self,
        memory: &mut Memory<M>,
        node: Node,
    ) -> Result<Attributes, Errno> {
        match node {
            Node::Volume(nid) => self.volume.attributes(&mut memory.machine, nid),
            Node::Tmp(id) => self.tmp.attributes(memory, id),
            Node::Data(ino) => memory.data_attributes(ino),
            Node::Dev(id) => Ok(id.attributes(memory.machine.realtime())),
            Node::Proc(id) => Ok(id.attributes(memory.machine.realtime())),
        }
    }

    /// Target of a symbolic link whose target is known here: all but those of `/proc` that lead to the process's files.
    pub(crate) fn read_link<M: Machine>(&self, memory: &mut Memory<M>, node: Node) -> Result<Vec<u8>, Errno> {
        let fixed = |target: &[u8]| {
            let mut owned = Vec::new();
            owned.try_reserve_exact(target.len())?;
            owned.extend_from_slice(target);
            Ok(owned)
        };
        match node {
            Node::Volume(nid) => self.volume.read_link(&mut memory.machine, nid),
            Node::Tmp(id) => match self.tmp.kind(id)? {
                Kind::Link(target) => fixed(target),
                _ => Err(Errno::INVAL),
            },
            Node::Data(ino) => memory.with_data(|fs, disk| fs.read_link(disk, ino)),
            Node::Dev(id) => match id.kind() {
                DevKind::Link(target) => fixed(target),
                _ => Err(Errno::INVAL),
            },
            Node::Proc(id) => match id.kind() {
                Some(ProcKind::Link(target)) => fixed(target),
                _ => Err(Errno::INVAL),
            },
        }
    }

    /// Gives entries from `position` on to the sink; those of `/proc/self/fd` are the caller's.
    pub(crate) fn read_dir<M: Machine>(
        &self,
        memory: &mut Memory<M>,
        dir: Node,
        position: u64,
        sink: &mut DirSink<'_>,
    ) -> Result<(), Errno> {
        match dir {
            Node::Volume(nid) => self.volume.read_dir(&mut memory.machine, nid, position, sink),
            Node::Tmp(id) => self.tmp.read_dir(id, position, sink),
            Node::Data(dir) => memory.read_data_dir(dir, position, sink),
            Node::Dev(_) => {
                dev::read_dir(position, sink);
                Ok(())
            }
            Node::Proc(id) => {
                id.read_dir(position, sink);
                Ok(())
            }
        }
    }
}
