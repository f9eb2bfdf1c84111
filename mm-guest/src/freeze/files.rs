//! Open files as a snapshot has them.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::files::{Description, Files, Object, Pipe};
use crate::fs::dev::Device;
use crate::fs::tmp::TmpId;
use crate::fs::{Node, Walked};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::vm::StoreId;

/// What an open file is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum FrozenObject {
    /// A regular file of the volume, by its inode's number.
    Volume(u64),
    Tmp(TmpId, StoreId),
    Directory,
    Device(Device),
    Text(Vec<u8>),
    PipeReader(u32),
    PipeWriter(u32),
    Event(u64, bool),
    Path,
    /// A regular file of `/data`, by its inode's number; it may have no name any more.
    Data(u32),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenDescription {
    object: FrozenObject,
    at: Option<Walked>,
    position: u64,
    flags: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenPipe {
    bytes: Vec<u8>,
    readers: u32,
    writers: u32,
}

/// The table of descriptors: for each, which open file, and whether it closes on exec.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenFiles {
    fds: Vec<Option<(u32, bool)>>,
    descriptions: Vec<Option<FrozenDescription>>,
    pipes: Vec<Option<FrozenPipe>>,
    limit: u64,
}

impl FrozenFiles {
    pub(super) fn of(files: &Files) -> Self {
        let (fds, descriptions, pipes) = files.parts();
        let description = |description: &Description| FrozenDescription {
            object: object(&description.object),
            at: description.at.clone(),
            position: description.position,
            flags: description.flags,
        };
        let pipe = |pipe: &Pipe| FrozenPipe {
            bytes: pipe.bytes.iter().copied().collect(),
            readers: pipe.readers,
            writers: pipe.writers,
        };
        Self {
            fds,
            descriptions: descriptions.iter().map(|open| open.as_ref().map(description)).collect(),
            pipes: pipes.iter().map(|open| open.as_ref().map(pipe)).collect(),
            limit: files.limit,
        }
    }

    /// Opens all of them again.
    ///
    /// # Errors
    /// A file that is not there any more, or a table that no kernel of this kind has made.
    pub(super) fn thaw<M: Machine>(self, kernel: &mut Kernel<M>) -> Result<Files, Errno> {
        let pipes: Vec<_> = self
            .pipes
            .into_iter()
            .map(|pipe| {
                let FrozenPipe { bytes, readers, writers } = pipe?;
                Some(Pipe { bytes: bytes.into(), readers, writers })
            })
            .collect();
        let mut descriptions = Vec::new();
        descriptions.try_reserve_exact(self.descriptions.len())?;
        for frozen in self.descriptions {
            let Some(FrozenDescription { object, at, position, flags }) = frozen else {
                descriptions.push(None);
                continue;
            };
            if let Some(Walked { node: Node::Data(ino), .. }) = &at {
                kernel.memory.retain_data(*ino)?;
            }
            let object = match object {
                FrozenObject::Volume(nid) => {
                    let nid = erofs::Nid(nid);
                    Object::Volume(kernel.vfs.volume.inode(&mut kernel.memory.machine, nid)?)
                }
                FrozenObject::Tmp(id, store) => Object::Tmp(id, store),
                FrozenObject::Directory => Object::Directory,
                FrozenObject::Device(device) => Object::Device(device),
                FrozenObject::Text(text) => Object::Text(text),
                FrozenObject::PipeReader(pipe) => Object::PipeReader(pipe),
                FrozenObject::PipeWriter(pipe) => Object::PipeWriter(pipe),
                FrozenObject::Event(count, semaphore) => Object::Event(count, semaphore),
                FrozenObject::Path => Object::Path,
                FrozenObject::Data(ino) => Object::Data(ext3::Ino(ino)),
            };
            let mut description = Description::new(object, at, flags);
            description.position = position;
            descriptions.push(Some(description));
        }
        Files::from_parts(self.fds, descriptions, pipes, self.limit).ok_or(Errno::INVAL)
    }
}

fn object(object: &Object) -> FrozenObject {
    match object {
        Object::Volume(inode) => FrozenObject::Volume(inode.nid.0),
        Object::Tmp(id, store) => FrozenObject::Tmp(*id, *store),
        Object::Directory => FrozenObject::Directory,
        Object::Device(device) => FrozenObject::Device(*device),
        Object::Text(text) => FrozenObject::Text(text.clone()),
        Object::PipeReader(pipe) => FrozenObject::PipeReader(*pipe),
        Object::PipeWriter(pipe) => FrozenObject::PipeWriter(*pipe),
        Object::Event(count, semaphore) => FrozenObject::Event(*count, *semaphore),
        Object::Path => FrozenObject::Path,
        Object::Data(ino) => FrozenObject::Data(ino.0),
    }
}
