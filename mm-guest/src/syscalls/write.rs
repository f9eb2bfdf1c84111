//! Writing, and vectors in both directions.

use super::read::{CHUNK, Handle, MAX_COUNT};
use crate::errno::{Errno, SysResult};
use crate::files::{Object, PIPE_SIZE, flags};
use crate::fs::dev::Device;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::signal::{Info, number};

/// Most pieces of one vector (`UIO_MAXIOV`).
const MAX_PIECES: u64 = 1024;

impl<M: Machine> Kernel<M> {
    /// Writes from the kernel's memory; gives the bytes written.
    pub(super) fn write_chunk(
        &mut self,
        fd: u64,
        handle: Handle,
        at: u64,
        from: &[u8],
    ) -> Result<usize, Errno> {
        match handle {
            Handle::Tmp(id, store) => {
                let written = self.memory.write_store(store, at, from)?;
                self.vfs.tmp.touch(id);
                Ok(written)
            }
            Handle::Data(ino) => self.memory.with_data(|fs, disk| fs.write(disk, ino, at, from)),
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
        let durable = description.flags & flags::DSYNC != 0;
        let (count, position) = (count.min(MAX_COUNT), description.position);
        let handle = self.handle(fd)?;
        let stream =
            matches!(handle, Handle::Device(Device::Console) | Handle::PipeWriter(_) | Handle::Event);
        if at.is_some() && stream {
            return Err(Errno::SPIPE);
        }
        let start = match handle {
            Handle::Tmp(_, store) if append => self.memory.store.size(store),
            Handle::Data(ino) if append => self.memory.data_attributes(ino)?.size,
            _ => at.unwrap_or(position),
        };
        let mut chunk = [0; CHUNK];
        let mut done = 0;
        while done < count {
            let here = start.wrapping_add(done);
            let within = if handle.is_writable() { here as usize % CHUNK } else { 0 };
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
        if at.is_none() && handle.is_writable() {
            self.files.get_mut(fd)?.position = start + done;
        }
        self.process.bytes_written += done;
        if durable && matches!(handle, Handle::Data(_)) {
            self.memory.sync_data()?;
        }
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
}
