//! Opening, closing and duplicating files; `fcntl` and `ioctl`.

use alloc::vec::Vec;

use super::{AT_FDCWD, Args};
use crate::errno::{Errno, SysResult};
use crate::files::{Description, Object, flags};
use crate::fs::dev::{DevKind, Device};
use crate::fs::proc::{ProcId, ProcKind};
use crate::fs::tmp::Kind;
use crate::fs::{Last, Node, Spot, Walked};
use crate::kernel::Kernel;
use crate::machine::Machine;

impl<M: Machine> Kernel<M> {
    pub(super) fn sys_open(&mut self, dir: u64, path: u64, flags: u32, mode: u32) -> SysResult {
        let path = self.memory.read_path(path)?;
        self.open_path(dir, &path, flags, mode)
    }

    /// `openat2`: without any of its ways to resolve a path differently.
    pub(super) fn sys_openat2(&mut self, dir: u64, path: u64, how: u64, size: u64) -> SysResult {
        if size < 24 {
            return Err(Errno::INVAL);
        }
        let [flags, mode, resolve] = self.memory.read_words(how)?;
        let flags = u32::try_from(flags).map_err(|_| Errno::INVAL)?;
        if resolve != 0 || (mode != 0 && flags & (flags::CREAT | flags::TMPFILE) == 0) {
            return Err(Errno::INVAL);
        }
        self.sys_open(dir, path, flags, mode as u32)
    }

    fn open_path(&mut self, dir: u64, path: &[u8], flags: u32, mode: u32) -> SysResult {
        let mode = mode & 0o7777 & !self.process.umask;
        if flags & flags::TMPFILE != 0 {
            return self.open_unnamed(dir, path, flags, mode);
        }
        let keep = flags & flags::NOFOLLOW != 0
            || flags & (flags::CREAT | flags::EXCL) == flags::CREAT | flags::EXCL;
        let created = match self.walk_at(dir, path, if keep { Last::Keep } else { Last::Follow }) {
            Ok(walked) if flags & (flags::CREAT | flags::EXCL) != flags::CREAT | flags::EXCL => {
                return self.open_walked(walked, flags);
            }
            Ok(_) => return Err(Errno::EXIST),
            Err(Errno::NOENT) if flags & flags::CREAT != 0 => self.create(dir, path, mode)?,
            Err(error) => return Err(error),
        };
        self.open_walked(created, flags & !(flags::TRUNC))
    }

    /// Makes an empty file where the path says, in a directory that exists.
    fn create(&mut self, dir: u64, path: &[u8], mode: u32) -> Result<Walked, Errno> {
        if path.ends_with(b"/") {
            return Err(Errno::ISDIR);
        }
        let (parent, name) = self.walk_to_parent(dir, path)?;
        let node = match parent.node.spot().ok_or(read_only(parent.node))? {
            // A name that is there all the same is a link whose target is not.
            Spot::Tmp(dir) if self.vfs.tmp.lookup(dir, &name).is_ok() => return Err(Errno::NOENT),
            Spot::Tmp(dir) => {
                let id = self.create_tmp(mode)?;
                if let Err(error) = self.vfs.tmp.link(dir, &name, id) {
                    self.vfs.tmp.reap(&mut self.memory, id);
                    return Err(error);
                }
                Node::Tmp(id)
            }
            Spot::Data(dir) => {
                let made = self.memory.with_data(|fs, disk| fs.create(disk, dir, Some(&name), mode as u16));
                Node::Data(made.map_err(|error| if error == Errno::EXIST { Errno::NOENT } else { error })?)
            }
        };
        let mut path = parent.path;
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        Ok(Walked { node, path })
    }

    fn create_tmp(&mut self, mode: u32) -> Result<crate::fs::tmp::TmpId, Errno> {
        let store = self.memory.store.create()?;
        self.vfs.tmp.create(Kind::File(store), mode).inspect_err(|_| self.memory.delete_store(store))
    }

    fn open_unnamed(&mut self, dir: u64, path: &[u8], flags: u32, mode: u32) -> SysResult {
        let parent = self.walk_at(dir, path, Last::Follow)?;
        let spot = parent.node.spot().ok_or(Errno::OPNOTSUPP)?;
        if !self.vfs.attributes(&mut self.memory, parent.node)?.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if flags & flags::ACCMODE == 0 {
            return Err(Errno::INVAL);
        }
        if let Spot::Data(dir) = spot {
            let ino = self.memory.with_data(|fs, disk| {
                let ino = fs.create(disk, dir, None, mode as u16)?;
                fs.retain(disk, ino)?;
                Ok(ino)
            })?;
            let at = Walked { node: Node::Data(ino), path: b"/data/#unnamed (deleted)".to_vec() };
            let opened = self.open_walked(at, flags & !(flags::TMPFILE | flags::DIRECTORY));
            // The description has it open now, or nobody.
            self.memory.release_data(ino);
            return opened;
        }
        self.open_new_tmp(b"/tmp/#unnamed (deleted)", flags, mode)
    }

    /// A file in memory that has no name.
    fn open_new_tmp(&mut self, path: &[u8], flags: u32, mode: u32) -> SysResult {
        let id = self.create_tmp(mode)?;
        let at = Walked { node: Node::Tmp(id), path: path.to_vec() };
        self.open_walked(at, flags & !(flags::TMPFILE | flags::DIRECTORY))
            .inspect_err(|_| self.vfs.tmp.reap(&mut self.memory, id))
    }

    pub(super) fn sys_memfd_create(&mut self, name: u64, memfd_flags: u64) -> SysResult {
        let name = self.memory.read_path(name)?;
        if memfd_flags & !3 != 0 || name.len() > 249 {
            return Err(Errno::INVAL);
        }
        let mut path = b"/memfd:".to_vec();
        path.extend_from_slice(&name);
        path.extend_from_slice(b" (deleted)");
        let cloexec = if memfd_flags & 1 != 0 { flags::CLOEXEC } else { 0 };
        self.open_new_tmp(&path, flags::RDWR | cloexec, 0o777)
    }

    /// A file that can only be mapped, and whose content never leaves the domain: M1 gets no snapshot as long as it is there.
    pub(super) fn sys_memfd_secret(&mut self, flags: u64) -> SysResult {
        let close_on_exec = u64::from(flags::CLOEXEC);
        if flags & !close_on_exec != 0 {
            return Err(Errno::INVAL);
        }
        let fd = self.open_new_tmp(b"/secretmem (deleted)", flags::RDWR | flags as u32, 0)?;
        if let Object::Tmp(_, store) = self.files.get(fd)?.object {
            self.memory.store.keep_secret(store);
        }
        Ok(fd)
    }

    /// Opens what a path has led to.
    fn open_walked(&mut self, at: Walked, flags: u32) -> SysResult {
        let close_on_exec = flags & flags::CLOEXEC != 0;
        let attributes = self.vfs.attributes(&mut self.memory, at.node)?;
        let kept = flags & !(flags::CREAT | flags::EXCL | flags::TRUNC | flags::CLOEXEC | flags::NOFOLLOW);
        let writes = flags & flags::ACCMODE != 0;
        if flags & flags::DIRECTORY != 0 && !attributes.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if flags & flags::PATH != 0 {
            return self.install(Description::new(Object::Path, Some(at), kept), close_on_exec);
        }
        if let Node::Proc(ProcId::Fd(fd)) = at.node {
            return self.reopen(u64::from(fd), kept, close_on_exec);
        }
        if attributes.is_link() {
            return Err(Errno::LOOP);
        }
        let object = if attributes.is_directory() {
            if writes || flags & flags::CREAT != 0 {
                return Err(Errno::ISDIR);
            }
            Object::Directory
        } else {
            match at.node {
                Node::Volume(_) if writes || flags & flags::TRUNC != 0 => return Err(Errno::ROFS),
                Node::Volume(_) if !attributes.is_regular() => return Err(Errno::NXIO),
                Node::Data(_) if !attributes.is_regular() => return Err(Errno::NXIO),
                Node::Data(_)
                    if (writes || flags & flags::TRUNC != 0)
                        && self.memory.machine.data_disk().is_some_and(|disk| disk.read_only) =>
                {
                    return Err(Errno::ROFS);
                }
                Node::Volume(_) | Node::Tmp(_) | Node::Data(_) => self.open_regular(at.node)?,
                Node::Dev(id) => match id.kind() {
                    DevKind::Device(device, _) => Object::Device(device),
                    _ => return Err(Errno::NXIO),
                },
                Node::Proc(_) if writes => return Err(Errno::ACCES),
                Node::Proc(id) => match id.kind() {
                    Some(ProcKind::Text(text)) => Object::Text(self.proc_text(text)?),
                    _ => return Err(Errno::NXIO),
                },
            }
        };
        match object {
            Object::Tmp(id, store) if flags & flags::TRUNC != 0 => {
                self.memory.truncate_store(store, 0)?;
                self.vfs.tmp.touch(id);
            }
            Object::Data(ino) if flags & flags::TRUNC != 0 && attributes.size > 0 => {
                self.memory.with_data(|fs, disk| fs.truncate(disk, ino, 0))?;
            }
            _ => {}
        }
        self.install(Description::new(object, Some(at), kept), close_on_exec)
    }

    /// Another open file of what a descriptor without a path refers to: `/proc/self/fd/N` of a pipe or the console.
    fn reopen(&mut self, fd: u64, kept: u32, close_on_exec: bool) -> SysResult {
        let object = match self.files.get(fd).map_err(|_| Errno::NOENT)?.object {
            Object::Device(device) => Object::Device(device),
            Object::PipeReader(pipe) | Object::PipeWriter(pipe) => {
                let ends = self.files.pipe_mut(pipe).ok_or(Errno::NXIO)?;
                match kept & flags::ACCMODE {
                    0 => {
                        ends.readers += 1;
                        Object::PipeReader(pipe)
                    }
                    flags::WRONLY => {
                        ends.writers += 1;
                        Object::PipeWriter(pipe)
                    }
                    _ => return Err(Errno::NXIO),
                }
            }
            _ => return Err(Errno::NXIO),
        };
        self.install(Description::new(object, None, kept), close_on_exec)
    }

    pub(super) fn install(&mut self, description: Description, close_on_exec: bool) -> SysResult {
        let node = description.at.as_ref().map(|at| at.node);
        self.memory.check_heap()?;
        if let Some(node) = node {
            self.retain(node)?;
        }
        let opened = self.files.open(description, close_on_exec);
        if let (Err(_), Some(node)) = (&opened, node) {
            self.release(node);
        }
        opened
    }

    pub(super) fn sys_close(&mut self, fd: u64) -> SysResult {
        let closed = self.files.close(fd)?;
        self.closed(closed);
        Ok(0)
    }

    /// An open file has lost its last descriptor.
    pub(super) fn closed(&mut self, description: Option<Description>) {
        if let Some(at) = description.and_then(|description| description.at) {
            self.release(at.node);
        }
    }

    /// A file is in use, and stays if it loses its names.
    pub(super) fn retain(&mut self, node: Node) -> Result<(), Errno> {
        match node.spot() {
            Some(Spot::Tmp(id)) => self.vfs.tmp.retain(id),
            Some(Spot::Data(ino)) => self.memory.retain_data(ino)?,
            None => {}
        }
        Ok(())
    }

    /// The other end of [`Kernel::retain`].
    pub(super) fn release(&mut self, node: Node) {
        match node.spot() {
            Some(Spot::Tmp(id)) => {
                self.vfs.tmp.release(id);
                self.vfs.tmp.reap(&mut self.memory, id);
            }
            Some(Spot::Data(ino)) => self.memory.release_data(ino),
            None => {}
        }
    }

    pub(super) fn sys_close_range(&mut self, first: u64, last: u64, range_flags: u64) -> SysResult {
        const CLOEXEC: u64 = 4;
        let (first, last) = (first as u32, last as u32);
        if first > last || range_flags & !(CLOEXEC | 2) != 0 {
            return Err(Errno::INVAL);
        }
        let open: Vec<u32> = self.files.numbers().filter(|fd| (first..=last).contains(fd)).collect();
        for fd in open {
            if range_flags & CLOEXEC != 0 {
                self.files.set_close_on_exec(u64::from(fd), true)?;
            } else {
                self.sys_close(u64::from(fd))?;
            }
        }
        Ok(0)
    }

    pub(super) fn sys_dup(&mut self, fd: u64) -> SysResult {
        self.files.duplicate(fd, 0, false)
    }

    pub(super) fn sys_dup2(&mut self, fd: u64, to: u64) -> SysResult {
        if fd as u32 == to as u32 {
            return self.files.get(fd).map(|_| to);
        }
        let closed = self.files.duplicate_to(fd, to, false)?;
        self.closed(closed);
        Ok(to)
    }

    pub(super) fn sys_dup3(&mut self, fd: u64, to: u64, dup_flags: u32) -> SysResult {
        if fd as u32 == to as u32 || dup_flags & !flags::CLOEXEC != 0 {
            return Err(Errno::INVAL);
        }
        let closed = self.files.duplicate_to(fd, to, dup_flags != 0)?;
        self.closed(closed);
        Ok(to)
    }

    pub(super) fn sys_pipe(&mut self, ends: u64, pipe_flags: u32) -> SysResult {
        if pipe_flags & !(flags::CLOEXEC | flags::NONBLOCK | 0o40000) != 0 {
            return Err(Errno::INVAL);
        }
        self.memory.check_heap()?;
        let (reader, writer) = self.files.open_pipe(pipe_flags)?;
        self.memory.write_u64(ends, reader | writer << 32).inspect_err(|_| {
            let _ = self.files.close(reader);
            let _ = self.files.close(writer);
        })?;
        Ok(0)
    }

    pub(super) fn sys_eventfd(&mut self, start: u64, event_flags: u32) -> SysResult {
        if event_flags & !(flags::CLOEXEC | flags::NONBLOCK | 1) != 0 {
            return Err(Errno::INVAL);
        }
        let object = Object::Event(start & 0xffff_ffff, event_flags & 1 != 0);
        let kept = flags::RDWR | event_flags & flags::NONBLOCK;
        self.install(Description::new(object, None, kept), event_flags & flags::CLOEXEC != 0)
    }

    pub(super) fn sys_fcntl(&mut self, fd: u64, command: u64, argument: u64) -> SysResult {
        match command {
            0 => self.files.duplicate(fd, argument, false),
            1030 => self.files.duplicate(fd, argument, true),
            1 => Ok(u64::from(self.files.close_on_exec(fd)?)),
            2 => self.files.set_close_on_exec(fd, argument & 1 != 0).map(|()| 0),
            3 => Ok(u64::from(self.files.get(fd)?.flags | flags::LARGEFILE)),
            4 => {
                let description = self.files.get_mut(fd)?;
                let wanted = argument as u32 & flags::CHANGEABLE;
                description.flags = description.flags & !flags::CHANGEABLE | wanted;
                Ok(0)
            }
            // F_GETLK: nobody else holds a lock. F_SETLK, F_SETLKW and their open-file forms: granted at once.
            5 | 36 => {
                self.files.get(fd)?;
                let mut kind = self.memory.read_array::<2>(argument)?;
                kind.copy_from_slice(&2_u16.to_le_bytes());
                self.memory.write_bytes(argument, &kind).map(|()| 0)
            }
            6 | 7 | 37 | 38 => self.files.get(fd).map(|_| 0),
            // F_GETOWN, F_SETOWN: without a second process nobody else could be told.
            8 | 9 => self.files.get(fd).map(|_| 0),
            // F_SETPIPE_SZ, F_GETPIPE_SZ.
            1031 | 1032 => match self.files.get(fd)?.object {
                Object::PipeReader(_) | Object::PipeWriter(_) => Ok(crate::files::PIPE_SIZE as u64),
                _ => Err(Errno::BADF),
            },
            _ => self.files.get(fd).and(Err(Errno::INVAL)),
        }
    }

    /// Locks of the whole file: there is nobody to lock out.
    pub(super) fn sys_flock(&mut self, fd: u64, operation: u64) -> SysResult {
        self.files.get(fd)?;
        if matches!(operation & !4, 1 | 2 | 8) { Ok(0) } else { Err(Errno::INVAL) }
    }

    /// The console is no terminal to the program: it has no modes and no size.
    pub(super) fn sys_ioctl(&mut self, fd: u64, request: u64, argument: u64) -> SysResult {
        const FIONREAD: u64 = 0x541b;
        const FIONBIO: u64 = 0x5421;
        const FIONCLEX: u64 = 0x5450;
        const FIOCLEX: u64 = 0x5451;
        let description = self.files.get(fd)?;
        match request & 0xffff_ffff {
            FIONCLEX | FIOCLEX => {
                self.files.set_close_on_exec(fd, request & 0xffff_ffff == FIOCLEX).map(|()| 0)
            }
            FIONBIO => {
                let on = self.memory.read_u32(argument)? != 0;
                let description = self.files.get_mut(fd)?;
                description.flags =
                    description.flags & !flags::NONBLOCK | if on { flags::NONBLOCK } else { 0 };
                Ok(0)
            }
            FIONREAD => {
                let ready = match description.object {
                    Object::PipeReader(pipe) => {
                        self.files.pipe(pipe).map_or(0, |pipe| pipe.bytes.len() as u64)
                    }
                    Object::Volume(inode) => inode.size.saturating_sub(description.position),
                    Object::Tmp(_, store) => {
                        self.memory.store.size(store).saturating_sub(description.position)
                    }
                    Object::Data(ino) => {
                        let position = description.position;
                        self.memory.data_attributes(ino)?.size.saturating_sub(position)
                    }
                    _ => return Err(Errno::NOTTY),
                };
                self.memory.write_u32(argument, ready as u32).map(|()| 0)
            }
            _ => Err(Errno::NOTTY),
        }
    }

    /// `getxattr` and its like: the file is looked up, and has none.
    pub(super) fn sys_xattr(&mut self, call: u64, file: u64) -> SysResult {
        let last = if matches!(call, 192 | 195) { Last::Keep } else { Last::Follow };
        if matches!(call, 193 | 196) {
            self.files.get(file)?;
        } else {
            let path = self.memory.read_path(file)?;
            self.walk_at(AT_FDCWD, &path, last)?;
        }
        if call >= 194 { Ok(0) } else { Err(Errno::NODATA) }
    }

    pub(super) fn sys_fsync(&mut self, fd: u64) -> SysResult {
        let description = self.files.get(fd)?;
        let on_data = matches!(description.at, Some(Walked { node: Node::Data(_), .. }));
        match description.object {
            Object::Data(_) | Object::Directory if on_data => self.memory.sync_data().map(|()| 0),
            Object::Volume(_) | Object::Tmp(..) | Object::Data(_) | Object::Directory => Ok(0),
            _ => Err(Errno::INVAL),
        }
    }

    pub(super) fn sys_fadvise(&mut self, fd: u64, advice: u64) -> SysResult {
        match self.files.get(fd)?.object {
            Object::PipeReader(_) | Object::PipeWriter(_) => Err(Errno::SPIPE),
            _ if advice > 5 => Err(Errno::INVAL),
            _ => Ok(0),
        }
    }

    pub(super) fn sys_preadv2(&mut self, a: Args) -> SysResult {
        if a[5] != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let at = (a[3] != u64::MAX).then_some(a[3]);
        self.sys_readv(a[0], a[1], a[2], at)
    }

    pub(super) fn sys_pwritev2(&mut self, a: Args) -> SysResult {
        if a[5] != 0 {
            return Err(Errno::OPNOTSUPP);
        }
        let at = (a[3] != u64::MAX).then_some(a[3]);
        self.sys_writev(a[0], a[1], a[2], at)
    }

    /// Whether a device is the console: for `poll`.
    pub(super) fn is_console(object: &Object) -> bool {
        matches!(object, Object::Device(Device::Console))
    }
}

/// Why nothing can be made in a directory.
pub(super) fn read_only(node: Node) -> Errno {
    match node {
        Node::Volume(_) => Errno::ROFS,
        _ => Errno::ACCES,
    }
}
