//! Paths as system calls give them, and the links of `/proc/self`.

use alloc::vec::Vec;

use super::AT_FDCWD;
use crate::errno::Errno;
use crate::files::Files;
use crate::fs::proc::{ProcId, ProcKind};
use crate::fs::{Last, SelfLinks, Walked};
use crate::kernel::Kernel;
use crate::machine::Machine;

struct Links<'a> {
    files: &'a Files,
    exe: &'a Walked,
    cwd: &'a Walked,
}

impl SelfLinks for Links<'_> {
    fn resolve(&self, id: ProcId) -> Result<Option<Walked>, Errno> {
        match (id, id.kind()) {
            (ProcId::Fd(fd), _) => {
                let description = self.files.get(u64::from(fd)).map_err(|_| Errno::NOENT)?;
                Ok(description.at.clone())
            }
            (_, Some(ProcKind::Exe)) => Ok(Some(self.exe.clone())),
            (_, Some(ProcKind::Cwd)) => Ok(Some(self.cwd.clone())),
            _ => Err(Errno::INVAL),
        }
    }
}

impl<M: Machine> Kernel<M> {
    /// Where a path that is not absolute starts.
    fn start_of(&self, dir: u64, path: &[u8]) -> Result<Walked, Errno> {
        if dir as u32 == AT_FDCWD as u32 {
            return Ok(self.process.cwd.clone());
        }
        if path.first() == Some(&b'/') {
            return Ok(self.vfs.root_walked());
        }
        self.files.get(dir)?.at.clone().ok_or(Errno::NOTDIR)
    }

    /// The file that a path names, from the current directory.
    pub(crate) fn walk(&mut self, path: &[u8], last: Last) -> Result<Walked, Errno> {
        self.walk_at(AT_FDCWD, path, last)
    }

    pub(super) fn walk_at(&mut self, dir: u64, path: &[u8], last: Last) -> Result<Walked, Errno> {
        let start = self.start_of(dir, path)?;
        let links = Links { files: &self.files, exe: &self.process.exe, cwd: &self.process.cwd };
        self.vfs.walk(&mut self.memory, &start, path, last, &links)
    }

    /// The directory in which a path's last component is or would be, and that component.
    pub(super) fn walk_to_parent(&mut self, dir: u64, path: &[u8]) -> Result<(Walked, Vec<u8>), Errno> {
        let start = self.start_of(dir, path)?;
        let links = Links { files: &self.files, exe: &self.process.exe, cwd: &self.process.cwd };
        let (parent, name) = self.vfs.walk_to_parent(&mut self.memory, &start, path, &links)?;
        Ok((parent, name.to_vec()))
    }

    /// Where a link of `/proc/self` leads, as text.
    pub(super) fn self_link(&mut self, id: ProcId) -> Result<Vec<u8>, Errno> {
        let links = Links { files: &self.files, exe: &self.process.exe, cwd: &self.process.cwd };
        if let Some(walked) = links.resolve(id)? {
            return Ok(walked.path);
        }
        let ProcId::Fd(fd) = id else { return Err(Errno::INVAL) };
        let text = match self.files.get(u64::from(fd))?.object {
            crate::files::Object::PipeReader(pipe) | crate::files::Object::PipeWriter(pipe) => {
                alloc::format!("pipe:[{}]", pipe + 1)
            }
            crate::files::Object::Device(_) => "/dev/console".into(),
            crate::files::Object::Event(..) => "anon_inode:[eventfd]".into(),
            _ => "anon_inode:[unnamed]".into(),
        };
        Ok(text.into_bytes())
    }
}
