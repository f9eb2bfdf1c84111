//! Reading and writing.

use super::{Args, Waited};
use crate::errno::{Errno, SysResult};
use crate::files::{Object, PIPE_SIZE, flags};
use crate::fs::dev::Device;
use crate::fs::tmp::TmpId;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::signal::{Info, number};
use crate::vm::StoreId;

/// Most bytes of one call (`MAX_RW_COUNT`).
const MAX_COUNT: u64 = 0x7fff_f000;
/// Most pieces of one vector (`UIO_MAXIOV`).
const MAX_PIECES: u64 = 1024;
const CHUNK: usize = 4096;

/// An open file without what only its owner may hold: enough to read and write it.
#[derive(Clone, Copy)]
enum Handle {
    Volume(erofs::Inode),
    Tmp(TmpId, StoreId),
    Text,
    Device(Device),
    PipeReader(u32),
    PipeWriter(u32),
    Event,
}

impl<M: Machine> Kernel<M> {
    fn handle(&self, fd: u64) -> Result<Handle, Errno> {
        Ok(match &self.files.get(fd)?.object {
            Object::Volume(inode) => Handle::Volume(*inode),
            Object::Tmp(id, store) => Handle::Tmp(*id, *store),
            Object::Text(_) => Handle::Text,
            Object::Device(device) => Handle::Device(*device),
            Object::PipeReader(pipe) => Handle::PipeReader(*pipe),
            Object::PipeWriter(pipe) => Handle::PipeWriter(*pipe),
            Object::Event(..) => Handle::Event,
            Object::Directory => return Err(Errno::ISDIR),
            Object::Path => return Err(Errno::BADF),
        })
    }

    /// Reads into the kernel's memory, from a position of a file or from a stream; zero is the end.
    fn read_chunk(&mut self, fd: u64, handle: Handle, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        match handle {
            Handle::Volume(inode) => self.read_object(&Object::Volume(inode), at, to),
            Handle::Tmp(id, store) => self.read_object(&Object::Tmp(id, store), at, to),
            Handle::Text => {
                let Object::Text(text) = &self.files.get(fd)?.object else { return Err(Errno::BADF) };
                let rest = text.get(usize::try_from(at).unwrap_or(usize::MAX)..).unwrap_or_default();
                let length = rest.len().min(to.len());
                to[..length].copy_from_slice(&rest[..length]);
                Ok(length)
            }
            Handle::Device(Device::Null) => Ok(0),
            Handle::Device(Device::Zero | Device::Full) => {
                to.fill(0);
                Ok(to.len())
            }
            Handle::Device(Device::Random) => {
                self.random.fill(to);
                Ok(to.len())
            }
            Handle::Device(Device::Console) => self.read_console(fd, to),
            Handle::PipeReader(pipe) => self.read_pipe(fd, pipe, to),
            Handle::PipeWriter(_) => Err(Errno::BADF),
            Handle::Event => self.read_event(fd, to),
        }
    }

    fn read_console(&mut self, fd: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let nonblocking = self.files.get(fd)?.nonblocking();
        match self.wait_or_not(nonblocking, |kernel| kernel.memory.machine.console_ready()) {
            Err(error) => Err(error),
            Ok(()) => {
                let length = self.memory.machine.console_read(to);
                // A terminal sends a carriage return for the Enter key.
                for byte in to[..length].iter_mut().filter(|byte| **byte == b'\r') {
                    *byte = b'\n';
                }
                Ok(length)
            }
        }
    }

    /// Waits until a stream is ready, unless the caller does not want to.
    fn wait_or_not(
        &mut self,
        nonblocking: bool,
        mut ready: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Errno> {
        if nonblocking {
            return if ready(self) { Ok(()) } else { Err(Errno::AGAIN) };
        }
        match self.wait_until(None, ready) {
            Waited::Ready => Ok(()),
            _ => Err(Errno::RESTARTSYS),
        }
    }

    fn read_pipe(&mut self, fd: u64, pipe: u32, to: &mut [u8]) -> Result<usize, Errno> {
        let nonblocking = self.files.get(fd)?.nonblocking();
        self.wait_or_not(nonblocking, |kernel| {
            kernel.files.pipe(pipe).is_none_or(|pipe| !pipe.bytes.is_empty() || pipe.writers == 0)
        })?;
        let Some(pipe) = self.files.pipe_mut(pipe) else { return Ok(0) };
        let length = pipe.bytes.len().min(to.len());
        for (to, byte) in to.iter_mut().zip(pipe.bytes.drain(..length)) {
            *to = byte;
        }
        Ok(length)
    }

    fn read_event(&mut self, fd: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let Some(to) = to.first_chunk_mut::<8>() else { return Err(Errno::INVAL) };
        let nonblocking = self.files.get(fd)?.nonblocking();
        let counter = |kernel: &Self| match kernel.files.get(fd).map(|description| &description.object) {
            Ok(Object::Event(counter, _)) => *counter,
            _ => 0,
        };
        self.wait_or_not(nonblocking, |kernel| counter(kernel) > 0)?;
        let Object::Event(counter, semaphore) = &mut self.files.get_mut(fd)?.object else {
            return Err(Errno::BADF);
        };
        let taken = if *semaphore { 1 } else { *counter };
        *counter -= taken;
        *to = taken.to_le_bytes();
        Ok(8)
    }

    /// Reads into the program's memory. Streams give what is there; files what was asked for, up to their end.
    fn read_into(&mut self, fd: u64, address: u64, count: u64, at: Option<u64>) -> SysResult {
        let description = self.files.get(fd)?;
        if !description.readable() {
            return Err(Errno::BADF);
        }
        let (count, start) = (count.min(MAX_COUNT), at.unwrap_or(description.position));
        let handle = self.handle(fd)?;
        let file = matches!(handle, Handle::Volume(_) | Handle::Tmp(..) | Handle::Text);
        let stream =
            matches!(handle, Handle::Device(Device::Console) | Handle::PipeReader(_) | Handle::Event);
        if at.is_some() && (stream || matches!(handle, Handle::PipeWriter(_))) {
            return Err(Errno::SPIPE);
        }
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while done < count {
            // Chunks end where pages of the file do.
            let within = if file { (start + done) as usize % CHUNK } else { 0 };
            let length = ((count - done) as usize).min(CHUNK - within);
            let part = &mut chunk[..length];
            let result = self.read_chunk(fd, handle, start.wrapping_add(done), part).and_then(|length| {
                self.memory.write_bytes(address.wrapping_add(done), &chunk[..length]).map(|()| length)
            });
            match result {
                Ok(length) => {
                    done += length as u64;
                    if length == 0 || stream {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if at.is_none() && file {
            self.files.get_mut(fd)?.position = start + done;
        }
        self.process.bytes_read += done;
        Ok(done)
    }

    pub(super) fn sys_read(&mut self, fd: u64, address: u64, count: u64) -> SysResult {
        self.read_into(fd, address, count, None)
    }

    pub(super) fn sys_pread(&mut self, fd: u64, address: u64, count: u64, at: u64) -> SysResult {
        if at as i64 <= -1 {
            return Err(Errno::INVAL);
        }
        self.read_into(fd, address, count, Some(at))
    }

    /// Writes from the kernel's memory; gives the bytes written.
    fn write_chunk(&mut self, fd: u64, handle: Handle, at: u64, from: &[u8]) -> Result<usize, Errno> {
        match handle {
            Handle::Tmp(id, store) => {
                let written = self.memory.write_store(store, at, from)?;
                self.vfs.tmp.touch(id);
                Ok(written)
            }
            Handle::Device(Device::Null | Device::Zero | Device::Random) => Ok(from.len()),
            Handle::Device(Device::Full) => Err(Errno::NOSPC),
            Handle::Device(Device::Console) => {
                self.memory.machine.console_write(from);
                Ok(from.len())
            }
            Handle::PipeWriter(pipe) => self.write_pipe(fd, pipe, from),
            Handle::Event => {
                let add = u64::from_le_bytes(*from.first_chunk().ok_or(Errno::INVAL)?);
                let Object::Event(counter, _) = &mut self.files.get_mut(fd)?.object else {
                    return Err(Errno::BADF);
                };
                let sum = counter.checked_add(add).filter(|sum| *sum < u64::MAX);
                *counter = sum.ok_or(if add == u64::MAX { Errno::INVAL } else { Errno::AGAIN })?;
                Ok(8)
            }
            Handle::Volume(_) | Handle::Text | Handle::PipeReader(_) => Err(Errno::BADF),
        }
    }

    fn write_pipe(&mut self, fd: u64, id: u32, from: &[u8]) -> Result<usize, Errno> {
        let nonblocking = self.files.get(fd)?.nonblocking();
        // Up to a page is written whole or not at all (PIPE_BUF).
        let wanted = from.len().min(CHUNK);
        self.wait_or_not(nonblocking, |kernel| {
            kernel
                .files
                .pipe(id)
                .is_none_or(|pipe| pipe.readers == 0 || pipe.bytes.len() + wanted <= PIPE_SIZE)
        })?;
        let pipe = self.files.pipe_mut(id).filter(|pipe| pipe.readers > 0);
        let Some(pipe) = pipe else {
            self.process.signals.send(Info::sent(number::PIPE, true));
            return Err(Errno::PIPE);
        };
        pipe.bytes.try_reserve(wanted)?;
        pipe.bytes.extend(&from[..wanted]);
        Ok(wanted)
    }

    fn write_from(&mut self, fd: u64, address: u64, count: u64, at: Option<u64>) -> SysResult {
        let description = self.files.get(fd)?;
        if !description.writable() {
            return Err(Errno::BADF);
        }
        let append = description.flags & flags::APPEND != 0;
        let (count, position) = (count.min(MAX_COUNT), description.position);
        let handle = self.handle(fd)?;
        let stream =
            matches!(handle, Handle::Device(Device::Console) | Handle::PipeWriter(_) | Handle::Event);
        if at.is_some() && stream {
            return Err(Errno::SPIPE);
        }
        let start = match handle {
            Handle::Tmp(_, store) if append => self.memory.store.size(store),
            _ => at.unwrap_or(position),
        };
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while done < count {
            let here = start.wrapping_add(done);
            let within = if matches!(handle, Handle::Tmp(..)) { here as usize % CHUNK } else { 0 };
            let length = ((count - done) as usize).min(CHUNK - within);
            let part = &mut chunk[..length];
            let result = self
                .memory
                .read_bytes(address.wrapping_add(done), part)
                .and_then(|()| self.write_chunk(fd, handle, here, &chunk[..length]));
            match result {
                Ok(written) => {
                    done += written as u64;
                    if written < length {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        if at.is_none() && matches!(handle, Handle::Tmp(..)) {
            self.files.get_mut(fd)?.position = start + done;
        }
        self.process.bytes_written += done;
        Ok(done)
    }

    pub(super) fn sys_write(&mut self, fd: u64, address: u64, count: u64) -> SysResult {
        self.write_from(fd, address, count, None)
    }

    pub(super) fn sys_pwrite(&mut self, fd: u64, address: u64, count: u64, at: u64) -> SysResult {
        if at as i64 <= -1 {
            return Err(Errno::INVAL);
        }
        self.write_from(fd, address, count, Some(at))
    }

    /// Does one call for each piece of a vector, until one comes short.
    fn each_piece(
        &mut self,
        vector: u64,
        count: u64,
        mut call: impl FnMut(&mut Self, u64, u64, u64) -> SysResult,
    ) -> SysResult {
        if count > MAX_PIECES {
            return Err(Errno::INVAL);
        }
        let mut done = 0;
        for index in 0..count {
            let [address, length] = self.memory.read_words(vector.wrapping_add(16 * index))?;
            if length > i64::MAX as u64 {
                return Err(Errno::INVAL);
            }
            if length == 0 {
                continue;
            }
            match call(self, address, length, done) {
                Ok(moved) => {
                    done += moved;
                    if moved < length {
                        break;
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    pub(super) fn sys_readv(&mut self, fd: u64, vector: u64, count: u64, at: Option<u64>) -> SysResult {
        if !self.files.get(fd)?.readable() {
            return Err(Errno::BADF);
        }
        self.each_piece(vector, count, |kernel, address, length, done| {
            kernel.read_into(fd, address, length, at.map(|at| at.wrapping_add(done)))
        })
    }

    pub(super) fn sys_writev(&mut self, fd: u64, vector: u64, count: u64, at: Option<u64>) -> SysResult {
        if !self.files.get(fd)?.writable() {
            return Err(Errno::BADF);
        }
        self.each_piece(vector, count, |kernel, address, length, done| {
            kernel.write_from(fd, address, length, at.map(|at| at.wrapping_add(done)))
        })
    }

    pub(super) fn sys_lseek(&mut self, fd: u64, offset: i64, whence: u64) -> SysResult {
        let description = self.files.get(fd)?;
        let (size, store) = match &description.object {
            Object::Volume(inode) => (inode.size, None),
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
            1 => description.position,
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
        if to_at.is_none() && matches!(sink, Handle::Tmp(..)) {
            self.files.get_mut(to)?.position = to_start + done;
        }
        Ok(done)
    }

    pub(super) fn sys_sendfile(&mut self, to: u64, from: u64, offset: u64, count: u64) -> SysResult {
        if !matches!(self.handle(from)?, Handle::Volume(_) | Handle::Tmp(..)) {
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
        let regular = |handle| matches!(handle, Handle::Volume(_) | Handle::Tmp(..));
        if range_flags != 0 || !regular(self.handle(from)?) || !regular(self.handle(to)?) {
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
            _ => Err(Errno::INVAL),
        }
    }

    pub(super) fn sys_fallocate(&mut self, fd: u64, mode: u64, start: u64, length: u64) -> SysResult {
        const KEEP_SIZE: u64 = 1;
        const PUNCH_HOLE: u64 = 2;
        const ZERO_RANGE: u64 = 16;
        let description = self.files.get(fd)?;
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
            PUNCH_HOLE if mode & KEEP_SIZE != 0 => self.memory.punch_store(store, start, end),
            0 | ZERO_RANGE => {
                if mode & ZERO_RANGE != 0 {
                    self.memory.punch_store(store, start, end);
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
}
