//! Positions and lengths of files, and bytes that move between files within the kernel.

use super::Args;
use super::read::{CHUNK, MAX_COUNT};
use crate::errno::{Errno, SysResult};
use crate::files::{Object, flags};
use crate::fs::dev::Device;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::vm::StoreId;

impl<M: Machine> Kernel<M> {
    pub(super) fn sys_lseek(&mut self, fd: u64, offset: i64, whence: u64) -> SysResult {
        let description = self.files.get(fd)?;
        let (position, object) = (description.position, &description.object);
        let (size, store) = match object {
            Object::Volume(inode) => (inode.size, None),
            Object::Data(ino) => {
                let ino = *ino;
                return self.seek_data(fd, ino, offset, whence);
            }
            Object::Tmp(_, store) => (self.memory.store.size(*store), Some(*store)),
            Object::Text(text) => (text.len() as u64, None),
            Object::Directory => (0, None),
            Object::Device(Device::Console)
            | Object::PipeReader(_)
            | Object::PipeWriter(_)
            | Object::Event(..) => {
                return Err(Errno::SPIPE);
            }
            Object::Device(_) => return Ok(0),
            Object::Path => return Err(Errno::BADF),
        };
        let from = match whence {
            0 => 0,
            1 => position,
            2 => size,
            // SEEK_DATA and SEEK_HOLE: a file of the volume is taken for data all through.
            3 | 4 => {
                let at = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
                if at >= size {
                    return Err(Errno::NXIO);
                }
                let position = match store {
                    None if whence == 3 => at,
                    None => size,
                    Some(store) => self.seek_store(store, at, size, whence == 3)?,
                };
                self.files.get_mut(fd)?.position = position;
                return Ok(position);
            }
            _ => return Err(Errno::INVAL),
        };
        let position =
            from.checked_add_signed(offset).filter(|at| *at <= i64::MAX as u64).ok_or(Errno::INVAL)?;
        self.files.get_mut(fd)?.position = position;
        Ok(position)
    }

    /// The same on `/data`, whose holes are known to its filesystem.
    fn seek_data(&mut self, fd: u64, ino: ext3::Ino, offset: i64, whence: u64) -> SysResult {
        let from = match whence {
            0 => 0,
            1 => self.files.get(fd)?.position,
            2 => self.memory.data_attributes(ino)?.size,
            3 | 4 => {
                let at = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
                let found = self.memory.with_data(|fs, disk| fs.seek(disk, ino, at, whence == 3))?;
                let position = found.ok_or(Errno::NXIO)?;
                self.files.get_mut(fd)?.position = position;
                return Ok(position);
            }
            _ => return Err(Errno::INVAL),
        };
        let position =
            from.checked_add_signed(offset).filter(|at| *at <= i64::MAX as u64).ok_or(Errno::INVAL)?;
        self.files.get_mut(fd)?.position = position;
        Ok(position)
    }

    /// The next byte of data, or the next hole, from `at` on, which lies before the end.
    fn seek_store(&self, store: StoreId, at: u64, size: u64, data: bool) -> SysResult {
        let mut page = at / 4096;
        loop {
            let next = self.memory.store.next_page(store, page).filter(|next| next * 4096 < size);
            match next {
                _ if data => return next.map(|next| at.max(next * 4096)).ok_or(Errno::NXIO),
                Some(next) if next == page => page += 1,
                _ => return Ok(at.max(page * 4096).min(size)),
            }
        }
    }

    /// Moves bytes from one file to another; gives how many.
    fn transfer(
        &mut self,
        (from, at): (u64, Option<u64>),
        (to, to_at): (u64, Option<u64>),
        count: u64,
    ) -> SysResult {
        let (source, sink) = (self.files.get(from)?, self.files.get(to)?);
        if !source.readable() || !sink.writable() {
            return Err(Errno::BADF);
        }
        let (start, to_start) = (at.unwrap_or(source.position), to_at.unwrap_or(sink.position));
        let (source, sink) = (self.handle(from)?, self.handle(to)?);
        let mut chunk = [0; CHUNK];
        let (mut done, count) = (0, count.min(MAX_COUNT));
        while done < count {
            let length = ((count - done) as usize).min(CHUNK);
            let result =
                self.read_chunk(from, source, start + done, &mut chunk[..length]).and_then(|length| {
                    if length == 0 {
                        Ok(0)
                    } else {
                        self.write_chunk(to, sink, to_start + done, &chunk[..length])
                    }
                });
            match result {
                Ok(0) => break,
                Ok(written) => done += written as u64,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if at.is_none() {
            self.files.get_mut(from)?.position = start + done;
        }
        if to_at.is_none() && sink.is_writable() {
            self.files.get_mut(to)?.position = to_start + done;
        }
        Ok(done)
    }

    pub(super) fn sys_sendfile(&mut self, to: u64, from: u64, offset: u64, count: u64) -> SysResult {
        if !self.handle(from)?.is_regular() {
            return Err(Errno::INVAL);
        }
        if self.files.get(to)?.flags & flags::APPEND != 0 {
            return Err(Errno::INVAL);
        }
        if offset == 0 {
            return self.transfer((from, None), (to, None), count);
        }
        let at = self.memory.read_u64(offset)?;
        let done = self.transfer((from, Some(at)), (to, None), count)?;
        self.memory.write_u64(offset, at + done)?;
        Ok(done)
    }

    pub(super) fn sys_copy_file_range(&mut self, a: Args) -> SysResult {
        let [from, from_offset, to, to_offset, count, range_flags] = a;
        if range_flags != 0 || !self.handle(from)?.is_regular() || !self.handle(to)?.is_regular() {
            return Err(Errno::INVAL);
        }
        if self.files.get(to)?.flags & flags::APPEND != 0 {
            return Err(Errno::BADF);
        }
        let mut at = [None, None];
        for (at, offset) in at.iter_mut().zip([from_offset, to_offset]) {
            if offset != 0 {
                *at = Some(self.memory.read_u64(offset)?);
            }
        }
        let done = self.transfer((from, at[0]), (to, at[1]), count)?;
        for (at, offset) in at.into_iter().zip([from_offset, to_offset]) {
            if let Some(at) = at {
                self.memory.write_u64(offset, at + done)?;
            }
        }
        Ok(done)
    }

    pub(super) fn sys_ftruncate(&mut self, fd: u64, size: i64) -> SysResult {
        let size = u64::try_from(size).map_err(|_| Errno::INVAL)?;
        let description = self.files.get(fd)?;
        match description.object {
            Object::Tmp(id, store) if description.writable() => {
                self.memory.truncate_store(store, size)?;
                self.vfs.tmp.touch(id);
                Ok(0)
            }
            Object::Data(ino) if description.writable() => {
                self.memory.with_data(|fs, disk| fs.truncate(disk, ino, size)).map(|()| 0)
            }
            _ => Err(Errno::INVAL),
        }
    }

    pub(super) fn sys_fallocate(&mut self, fd: u64, mode: u64, start: u64, length: u64) -> SysResult {
        const KEEP_SIZE: u64 = 1;
        const PUNCH_HOLE: u64 = 2;
        const ZERO_RANGE: u64 = 16;
        let description = self.files.get(fd)?;
        if let (Object::Data(ino), true) = (&description.object, description.writable()) {
            let ino = *ino;
            return self.allocate_data(ino, mode, start, length);
        }
        let Object::Tmp(id, store) = description.object else {
            return Err(if matches!(description.object, Object::PipeWriter(_)) {
                Errno::SPIPE
            } else {
                Errno::BADF
            });
        };
        if !description.writable() {
            return Err(Errno::BADF);
        }
        let end = start.checked_add(length).filter(|end| *end <= crate::vm::MAX_FILE).ok_or(Errno::FBIG)?;
        if length == 0 {
            return Err(Errno::INVAL);
        }
        match mode & !KEEP_SIZE {
            PUNCH_HOLE if mode & KEEP_SIZE != 0 => self.memory.punch_store(store, start, end)?,
            0 | ZERO_RANGE => {
                if mode & ZERO_RANGE != 0 {
                    self.memory.punch_store(store, start, end)?;
                }
                for page in start / 4096..end.div_ceil(4096) {
                    self.memory.store.fill(&mut self.memory.machine, store, page)?;
                }
                if mode & KEEP_SIZE == 0 && end > self.memory.store.size(store) {
                    self.memory.truncate_store(store, end)?;
                }
            }
            _ => return Err(Errno::OPNOTSUPP),
        }
        self.vfs.tmp.touch(id);
        Ok(0)
    }

    /// The same on `/data`. Its format has no blocks behind a file's end, so none are kept there.
    fn allocate_data(&mut self, ino: ext3::Ino, mode: u64, start: u64, length: u64) -> SysResult {
        const KEEP_SIZE: u64 = 1;
        const PUNCH_HOLE: u64 = 2;
        const ZERO_RANGE: u64 = 16;
        let end = start.checked_add(length).filter(|end| *end <= ext3::MAX_SIZE).ok_or(Errno::FBIG)?;
        let size = self.memory.data_attributes(ino)?.size;
        match mode & !KEEP_SIZE {
            _ if length == 0 => return Err(Errno::INVAL),
            PUNCH_HOLE if mode & KEEP_SIZE != 0 => {
                self.memory.with_data(|fs, disk| fs.punch(disk, ino, start, end))?;
            }
            0 | ZERO_RANGE if mode & KEEP_SIZE == 0 || end <= size => {
                if mode & ZERO_RANGE != 0 {
                    self.memory.with_data(|fs, disk| fs.punch(disk, ino, start, end))?;
                }
                self.memory.with_data(|fs, disk| fs.reserve(disk, ino, start, end))?;
            }
            _ => return Err(Errno::OPNOTSUPP),
        }
        Ok(0)
    }
}
