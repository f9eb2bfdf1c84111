//! Reading.

use super::Waited;
use crate::errno::{Errno, SysResult};
use crate::files::Object;
use crate::fs::dev::Device;
use crate::fs::tmp::TmpId;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::vm::StoreId;

/// Most bytes of one call (`MAX_RW_COUNT`).
pub(super) const MAX_COUNT: u64 = 0x7fff_f000;
/// Bytes that are moved at a time.
pub(super) const CHUNK: usize = 4096;

/// An open file without what only its owner may hold: enough to read and write it.
#[derive(Clone, Copy)]
pub(super) enum Handle {
    Volume(erofs::Inode),
    Tmp(TmpId, StoreId),
    Data(ext3::Ino),
    Text,
    Device(Device),
    PipeReader(u32),
    PipeWriter(u32),
    Event,
}

impl Handle {
    /// A regular file.
    pub(super) fn is_regular(&self) -> bool {
        matches!(self, Self::Volume(_)) || self.is_writable()
    }

    /// A regular file that can be changed.
    pub(super) fn is_writable(&self) -> bool {
        matches!(self, Self::Tmp(..) | Self::Data(_))
    }
}

impl<M: Machine> Kernel<M> {
    pub(super) fn handle(&self, fd: u64) -> Result<Handle, Errno> {
        Ok(match &self.files.get(fd)?.object {
            Object::Volume(inode) => Handle::Volume(*inode),
            // What is secret can only be mapped.
            Object::Tmp(_, store) if self.memory.store.is_secret(*store) => return Err(Errno::INVAL),
            Object::Tmp(id, store) => Handle::Tmp(*id, *store),
            Object::Data(ino) => Handle::Data(*ino),
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
    pub(super) fn read_chunk(
        &mut self,
        fd: u64,
        handle: Handle,
        at: u64,
        to: &mut [u8],
    ) -> Result<usize, Errno> {
        match handle {
            Handle::Volume(inode) => self.read_object(&Object::Volume(inode), at, to),
            Handle::Tmp(id, store) => self.read_object(&Object::Tmp(id, store), at, to),
            Handle::Data(ino) => self.read_object(&Object::Data(ino), at, to),
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
    pub(super) fn wait_or_not(
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
    pub(super) fn read_into(&mut self, fd: u64, address: u64, count: u64, at: Option<u64>) -> SysResult {
        let description = self.files.get(fd)?;
        if !description.readable() {
            return Err(Errno::BADF);
        }
        let (count, start) = (count.min(MAX_COUNT), at.unwrap_or(description.position));
        let handle = self.handle(fd)?;
        let file = handle.is_regular() || matches!(handle, Handle::Text);
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
}
