//! Directories: reading them, being in one, and changing the names in those that can be changed.

use alloc::vec::Vec;

use super::file::read_only;
use super::{AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR};
use crate::errno::{Errno, SysResult};
use crate::files::Object;
use crate::fs::data;
use crate::fs::proc::{ProcId, ProcKind};
use crate::fs::tmp::{Kind, TmpId};
use crate::fs::{DirEntry, Last, Node, Spot};
use crate::kernel::Kernel;
use crate::machine::Machine;

impl<M: Machine> Kernel<M> {
    pub(super) fn sys_getdents64(&mut self, fd: u64, buffer: u64, size: u64) -> SysResult {
        let description = self.files.get(fd)?;
        let Object::Directory = description.object else { return Err(Errno::NOTDIR) };
        let node = description.at.as_ref().ok_or(Errno::NOTDIR)?.node;
        let position = description.position;
        let room = (size as usize).min(32 << 10);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room)?;
        let (mut next, mut any) = (position, false);
        let mut sink = |entry: &DirEntry<'_>| {
            // ino, off, reclen, type, name, zero; then rounded up to eight (`struct linux_dirent64`).
            any = true;
            let length = (19 + entry.name.len() + 1).next_multiple_of(8);
            if bytes.len() + length > room {
                return false;
            }
            let start = bytes.len();
            bytes.extend_from_slice(&entry.inode.to_le_bytes());
            bytes.extend_from_slice(&entry.next.to_le_bytes());
            bytes.extend_from_slice(&(length as u16).to_le_bytes());
            bytes.push(entry.kind);
            bytes.extend_from_slice(entry.name);
            bytes.resize(start + length, 0);
            next = entry.next;
            true
        };
        match node {
            Node::Proc(id) if id.kind() == Some(ProcKind::Fds) => {
                let dots = [(b".".to_vec(), 4, id), (b"..".to_vec(), 4, id.parent())];
                let fds =
                    self.files.numbers().map(|fd| (alloc::format!("{fd}").into_bytes(), 10, ProcId::Fd(fd)));
                for (index, (name, kind, id)) in
                    dots.into_iter().chain(fds).enumerate().skip(position as usize)
                {
                    let entry = DirEntry { inode: id.inode(), next: index as u64 + 1, kind, name: &name };
                    if !sink(&entry) {
                        break;
                    }
                }
            }
            node => self.vfs.read_dir(&mut self.memory, node, position, &mut sink)?,
        }
        if bytes.is_empty() && any {
            return Err(Errno::INVAL);
        }
        self.memory.write_bytes(buffer, &bytes)?;
        self.files.get_mut(fd)?.position = next;
        Ok(bytes.len() as u64)
    }

    pub(super) fn sys_getcwd(&mut self, buffer: u64, size: u64) -> SysResult {
        let mut path = self.process.cwd.path.clone();
        path.push(0);
        if path.len() as u64 > size {
            return Err(Errno::RANGE);
        }
        self.memory.write_bytes(buffer, &path)?;
        Ok(path.len() as u64)
    }

    pub(super) fn sys_chdir(&mut self, path: u64) -> SysResult {
        let path = self.memory.read_path(path)?;
        let walked = self.walk_at(AT_FDCWD, &path, Last::Follow)?;
        if !self.vfs.attributes(&mut self.memory, walked.node)?.is_directory() {
            return Err(Errno::NOTDIR);
        }
        self.set_cwd(walked)
    }

    pub(super) fn sys_fchdir(&mut self, fd: u64) -> SysResult {
        if !self.attributes_of(fd)?.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let walked = self.files.get(fd)?.at.clone().ok_or(Errno::NOTDIR)?;
        self.set_cwd(walked)
    }

    fn set_cwd(&mut self, walked: crate::fs::Walked) -> SysResult {
        self.retain(walked.node)?;
        let before = core::mem::replace(&mut self.process.cwd, walked);
        self.release(before.node);
        Ok(0)
    }

    /// The directory in which a name is to be made or removed, in memory or on `/data`; elsewhere nothing can.
    fn writable_parent(&mut self, dir: u64, path: &[u8]) -> Result<(Spot, Vec<u8>), Errno> {
        let (parent, name) = self.walk_to_parent(dir, path)?;
        let node = parent.node;
        match node.spot() {
            Some(spot) => Ok((spot, name)),
            None => {
                // What exists cannot be made again; what does not, cannot be at all.
                let exists = self.vfs.lookup(&mut self.memory, node, &name).is_ok();
                Err(if exists || name.is_empty() { Errno::EXIST } else { read_only(node) })
            }
        }
    }

    /// As for a name that is to go: what is not there is named before what may not be done.
    fn removable_parent(&mut self, dir: u64, path: &[u8]) -> Result<(Spot, Vec<u8>), Errno> {
        let (parent, name) = self.walk_to_parent(dir, path)?;
        let node = parent.node;
        match node.spot() {
            Some(spot) => Ok((spot, name)),
            None => {
                self.vfs.lookup(&mut self.memory, node, &name)?;
                Err(read_only(node))
            }
        }
    }

    fn is_free(&self, dir: TmpId, name: &[u8]) -> Result<(), Errno> {
        if matches!(name, b"" | b"." | b"..") || self.vfs.tmp.lookup(dir, name).is_ok() {
            return Err(Errno::EXIST);
        }
        Ok(())
    }

    fn make(&mut self, dir: TmpId, name: &[u8], kind: Kind, mode: u32) -> SysResult {
        self.is_free(dir, name)?;
        let id = self.vfs.tmp.create(kind, mode)?;
        self.vfs.tmp.link(dir, name, id).inspect_err(|_| self.vfs.tmp.reap(&mut self.memory, id))?;
        Ok(0)
    }

    pub(super) fn sys_mkdir(&mut self, dir: u64, path: u64, mode: u32) -> SysResult {
        let path = self.memory.read_path(path)?;
        let (parent, name) = self.writable_parent(dir, &path)?;
        let mode = mode & 0o1777 & !self.process.umask;
        match parent {
            Spot::Tmp(parent) => {
                self.make(parent, &name, Kind::Directory { parent, entries: Vec::new() }, mode)
            }
            Spot::Data(dir) => {
                self.memory.with_data(|fs, disk| fs.make_dir(disk, dir, &name, mode as u16)).map(|_| 0)
            }
        }
    }

    pub(super) fn sys_symlink(&mut self, target: u64, dir: u64, path: u64) -> SysResult {
        let target = self.memory.read_path(target)?;
        let path = self.memory.read_path(path)?;
        if target.is_empty() {
            return Err(Errno::NOENT);
        }
        let (parent, name) = self.writable_parent(dir, &path)?;
        match parent {
            Spot::Tmp(parent) => self.make(parent, &name, Kind::Link(target), 0o777),
            Spot::Data(dir) => {
                self.memory.with_data(|fs, disk| fs.make_link(disk, dir, &name, &target)).map(|_| 0)
            }
        }
    }

    pub(super) fn sys_link(
        &mut self,
        from_dir: u64,
        from: u64,
        dir: u64,
        path: u64,
        at_flags: u64,
    ) -> SysResult {
        const FOLLOW: u64 = 0x400;
        let (from, path) = (self.memory.read_path(from)?, self.memory.read_path(path)?);
        let node = if from.is_empty() && at_flags & AT_EMPTY_PATH != 0 {
            self.files.get(from_dir)?.at.as_ref().ok_or(Errno::NOENT)?.node
        } else {
            let last = if at_flags & FOLLOW != 0 { Last::Follow } else { Last::Keep };
            self.walk_at(from_dir, &from, last)?.node
        };
        let (parent, name) = self.writable_parent(dir, &path)?;
        let (parent, id) = match (parent, node) {
            (Spot::Tmp(parent), Node::Tmp(id)) => (parent, id),
            (Spot::Data(parent), Node::Data(ino)) => {
                let linked = self.memory.with_data(|fs, disk| fs.link(disk, parent, &name, ino));
                return match linked {
                    Err(Errno::ISDIR) => Err(Errno::PERM),
                    linked => linked.map(|()| 0),
                };
            }
            _ => return Err(Errno::XDEV),
        };
        if matches!(self.vfs.tmp.kind(id)?, Kind::Directory { .. }) {
            return Err(Errno::PERM);
        }
        self.is_free(parent, &name)?;
        self.vfs.tmp.link(parent, &name, id).map(|()| 0)
    }

    pub(super) fn sys_unlink(&mut self, dir: u64, path: u64, at_flags: u64) -> SysResult {
        let path = self.memory.read_path_always(path)?;
        let (parent, name) = self.removable_parent(dir, &path)?;
        let directory = at_flags & AT_REMOVEDIR != 0;
        match name.as_slice() {
            b"." if directory => return Err(Errno::INVAL),
            b".." if directory => return Err(Errno::NOTEMPTY),
            b"" => return Err(Errno::BUSY),
            _ => {}
        }
        let parent = match parent {
            Spot::Tmp(parent) => parent,
            Spot::Data(dir) => return self.unlink_data(dir, &name, directory, path.ends_with(b"/")),
        };
        let id = self.vfs.tmp.lookup(parent, &name)?;
        match (directory, self.vfs.tmp.is_empty(id)) {
            (false, Ok(_)) => return Err(Errno::ISDIR),
            (true, Err(_)) => return Err(Errno::NOTDIR),
            (true, Ok(false)) => return Err(Errno::NOTEMPTY),
            (false, Err(_)) if path.ends_with(b"/") => return Err(Errno::NOTDIR),
            _ => {}
        }
        self.vfs.tmp.unlink(parent, &name)?;
        self.vfs.tmp.reap(&mut self.memory, id);
        Ok(0)
    }

    fn unlink_data(&mut self, dir: ext3::Ino, name: &[u8], directory: bool, slash: bool) -> SysResult {
        if slash && !directory {
            let ino = self.memory.with_data(|fs, disk| fs.lookup(disk, dir, name))?;
            let is_directory = self.memory.data_attributes(ino)?.is_directory();
            return Err(if is_directory { Errno::ISDIR } else { Errno::NOTDIR });
        }
        self.memory.with_data(|fs, disk| fs.unlink(disk, dir, name, directory)).map(|()| 0)
    }

    pub(super) fn sys_rename(
        &mut self,
        from_dir: u64,
        from: u64,
        dir: u64,
        to: u64,
        rename_flags: u64,
    ) -> SysResult {
        const NO_REPLACE: u64 = 1;
        if rename_flags & !NO_REPLACE != 0 {
            return Err(Errno::INVAL);
        }
        let (from, to) = (self.memory.read_path(from)?, self.memory.read_path(to)?);
        let (from_parent, from_name) = self.removable_parent(from_dir, &from)?;
        let (parent, name) = self.walk_to_parent(dir, &to)?;
        let ends = (from_parent, parent.node);
        if !matches!(ends, (Spot::Tmp(_), Node::Tmp(_)) | (Spot::Data(_), Node::Data(_))) {
            return Err(Errno::XDEV);
        }
        if [&from_name, &name].iter().any(|name| matches!(name.as_slice(), b"" | b"." | b"..")) {
            return Err(Errno::BUSY);
        }
        let slash = from.ends_with(b"/") || to.ends_with(b"/");
        let replace = rename_flags & NO_REPLACE == 0;
        let (from_parent, parent) = match ends {
            (Spot::Data(from_dir), Node::Data(dir)) => {
                let ino = self.memory.with_data(|fs, disk| fs.lookup(disk, from_dir, &from_name))?;
                if slash && !self.memory.data_attributes(ino)?.is_directory() {
                    return Err(Errno::NOTDIR);
                }
                let (old, new) = ((from_dir, &from_name[..]), (dir, &name[..]));
                return self.memory.with_data(|fs, disk| fs.rename(disk, old, new, replace)).map(|()| 0);
            }
            (Spot::Tmp(from_parent), Node::Tmp(parent)) => (from_parent, parent),
            _ => return Err(Errno::XDEV),
        };
        let id = self.vfs.tmp.lookup(from_parent, &from_name)?;
        if slash && self.vfs.tmp.is_empty(id).is_err() {
            return Err(Errno::NOTDIR);
        }
        if let Some(replaced) = self.vfs.tmp.rename((from_parent, &from_name), (parent, &name), replace)? {
            self.vfs.tmp.reap(&mut self.memory, replaced);
        }
        Ok(0)
    }

    /// The node whose attributes are to change: in memory or on `/data`, or nothing doing.
    fn changeable(&mut self, dir: u64, path: &[u8], last: Last) -> Result<Spot, Errno> {
        let node = self.walk_at(dir, path, last)?.node;
        node.spot().ok_or(if read_only(node) == Errno::ROFS { Errno::ROFS } else { Errno::PERM })
    }

    fn changeable_fd(&self, fd: u64) -> Result<Spot, Errno> {
        match self.files.get(fd)?.at.as_ref().map(|at| at.node) {
            Some(Node::Volume(_)) => Err(Errno::ROFS),
            node => node.and_then(Node::spot).ok_or(Errno::PERM),
        }
    }

    fn set_mode(&mut self, spot: Spot, mode: u32) -> SysResult {
        match spot {
            Spot::Tmp(id) => self.vfs.tmp.set_mode(id, mode),
            Spot::Data(ino) => self.memory.with_data(|fs, disk| fs.set_mode(disk, ino, mode as u16)),
        }
        .map(|()| 0)
    }

    pub(super) fn sys_chmod(&mut self, dir: u64, path: u64, mode: u32) -> SysResult {
        let path = self.memory.read_path(path)?;
        let spot = self.changeable(dir, &path, Last::Follow)?;
        self.set_mode(spot, mode)
    }

    pub(super) fn sys_fchmod(&mut self, fd: u64, mode: u32) -> SysResult {
        let spot = self.changeable_fd(fd)?;
        self.set_mode(spot, mode)
    }

    /// A file of `/data` has the owner that it is given. In memory owners are all root, and a file may be given to anybody
    /// without effect.
    fn set_owner(&mut self, spot: Spot, uid: u32, gid: u32) -> SysResult {
        let given = |id: u32| (id != u32::MAX).then_some(id);
        if let Spot::Data(ino) = spot {
            self.memory.with_data(|fs, disk| fs.set_owner(disk, ino, given(uid), given(gid)))?;
        }
        Ok(0)
    }

    pub(super) fn sys_chown(&mut self, dir: u64, path: u64, (uid, gid): (u32, u32), last: Last) -> SysResult {
        let path = self.memory.read_path(path)?;
        let spot = self.changeable(dir, &path, last)?;
        self.set_owner(spot, uid, gid)
    }

    pub(super) fn sys_fchownat(&mut self, a: super::Args) -> SysResult {
        let [dir, path, uid, gid, at_flags, _] = a;
        let empty = at_flags & AT_EMPTY_PATH != 0 && self.memory.read_path_always(path)?.is_empty();
        if empty && dir as u32 != AT_FDCWD as u32 {
            return self.sys_fchown(dir, (uid as u32, gid as u32));
        }
        let last = if at_flags & super::AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
        self.sys_chown(dir, path, (uid as u32, gid as u32), last)
    }

    pub(super) fn sys_fchown(&mut self, fd: u64, (uid, gid): (u32, u32)) -> SysResult {
        let spot = self.changeable_fd(fd)?;
        self.set_owner(spot, uid, gid)
    }

    pub(super) fn sys_truncate(&mut self, path: u64, size: i64) -> SysResult {
        let size = u64::try_from(size).map_err(|_| Errno::INVAL)?;
        let path = self.memory.read_path(path)?;
        let node = self.walk_at(AT_FDCWD, &path, Last::Follow)?.node;
        let id = match node.spot().ok_or(read_only(node))? {
            Spot::Tmp(id) => id,
            Spot::Data(ino) => {
                return self.memory.with_data(|fs, disk| fs.truncate(disk, ino, size)).map(|()| 0);
            }
        };
        let store = self.vfs.tmp.content(id)?;
        self.memory.truncate_store(store, size)?;
        self.vfs.tmp.touch(id);
        Ok(0)
    }

    /// Sets times as given: each in nanoseconds since 1970, or left as it is.
    fn set_times(&mut self, dir: u64, path: Option<&[u8]>, last: Last, times: [Option<u64>; 2]) -> SysResult {
        let spot = match path {
            Some(path) => self.changeable(dir, path, last)?,
            None => self.changeable_fd(dir)?,
        };
        match spot {
            Spot::Tmp(id) => self.vfs.tmp.set_times(id, times[0], times[1]),
            Spot::Data(ino) => {
                let [accessed, modified] = times.map(|time| time.map(data::time));
                self.memory.with_data(|fs, disk| fs.set_times(disk, ino, accessed, modified))
            }
        }
        .map(|()| 0)
    }

    pub(super) fn sys_utimensat(&mut self, dir: u64, path: u64, times: u64, at_flags: u64) -> SysResult {
        const NOW: u64 = 0x3fff_ffff;
        const OMIT: u64 = 0x3fff_fffe;
        let now = self.vfs.tmp.now();
        let mut wanted = [Some(now); 2];
        if times != 0 {
            let words: [u64; 4] = self.memory.read_words(times)?;
            for (wanted, pair) in wanted.iter_mut().zip(words.chunks_exact(2)) {
                *wanted = match pair[1] {
                    NOW => Some(now),
                    OMIT => None,
                    nanoseconds if nanoseconds < 1_000_000_000 => {
                        Some(pair[0].wrapping_mul(1_000_000_000).wrapping_add(nanoseconds))
                    }
                    _ => return Err(Errno::INVAL),
                };
            }
        }
        let last = if at_flags & super::AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
        if path == 0 {
            return self.set_times(dir, None, last, wanted);
        }
        let path = self.memory.read_path(path)?;
        if path.is_empty() && at_flags & AT_EMPTY_PATH != 0 {
            return self.set_times(dir, None, last, wanted);
        }
        self.set_times(dir, Some(&path), last, wanted)
    }

    pub(super) fn sys_utimes(&mut self, dir: u64, path: u64, times: u64) -> SysResult {
        let mut wanted = [Some(self.vfs.tmp.now()); 2];
        if times != 0 {
            let words: [u64; 4] = self.memory.read_words(times)?;
            for (wanted, pair) in wanted.iter_mut().zip(words.chunks_exact(2)) {
                if pair[1] >= 1_000_000 {
                    return Err(Errno::INVAL);
                }
                *wanted = Some(pair[0].wrapping_mul(1_000_000_000).wrapping_add(pair[1] * 1000));
            }
        }
        let path = self.memory.read_path(path)?;
        self.set_times(dir, Some(&path), Last::Follow, wanted)
    }

    pub(super) fn sys_utime(&mut self, path: u64, times: u64) -> SysResult {
        let mut wanted = [Some(self.vfs.tmp.now()); 2];
        if times != 0 {
            let words: [u64; 2] = self.memory.read_words(times)?;
            wanted = words.map(|seconds| Some(seconds.wrapping_mul(1_000_000_000)));
        }
        let path = self.memory.read_path(path)?;
        self.set_times(AT_FDCWD, Some(&path), Last::Follow, wanted)
    }
}
