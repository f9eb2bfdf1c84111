//! Descriptors, what they refer to, and pipes within the process.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::errno::Errno;
use crate::fs::Walked;
use crate::fs::dev::Device;
use crate::fs::tmp::TmpId;
use crate::vm::StoreId;

/// Flags of `open` (`asm-generic/fcntl.h`).
pub(crate) mod flags {
    pub(crate) const WRONLY: u32 = 1;
    pub(crate) const RDWR: u32 = 2;
    pub(crate) const ACCMODE: u32 = 3;
    pub(crate) const CREAT: u32 = 0o100;
    pub(crate) const EXCL: u32 = 0o200;
    pub(crate) const TRUNC: u32 = 0o1000;
    pub(crate) const APPEND: u32 = 0o2000;
    pub(crate) const NONBLOCK: u32 = 0o4000;
    pub(crate) const DSYNC: u32 = 0o10_000;
    pub(crate) const LARGEFILE: u32 = 0o100_000;
    pub(crate) const DIRECTORY: u32 = 0o200_000;
    pub(crate) const NOFOLLOW: u32 = 0o400_000;
    pub(crate) const CLOEXEC: u32 = 0o2_000_000;
    pub(crate) const PATH: u32 = 0o10_000_000;
    pub(crate) const TMPFILE: u32 = 0o20_000_000;
    /// What `F_SETFL` may change.
    pub(crate) const CHANGEABLE: u32 = APPEND | NONBLOCK;
}

/// Most descriptors that `RLIMIT_NOFILE` can be raised to.
pub(crate) const MAX_FDS: u64 = 4096;
/// Bytes that a pipe holds, as in Linux.
pub(crate) const PIPE_SIZE: usize = 65536;

/// What an open file is.
#[derive(Debug)]
pub(crate) enum Object {
    /// A regular file of the volume.
    Volume(erofs::Inode),
    /// A regular file in memory.
    Tmp(TmpId, StoreId),
    /// A regular file of `/data`.
    Data(ext3::Ino),
    /// A directory, read through its node.
    Directory,
    Device(Device),
    /// A file of `/proc`, as it was when it was opened.
    Text(Vec<u8>),
    PipeReader(u32),
    PipeWriter(u32),
    /// `eventfd`: the counter, and whether it is a semaphore.
    Event(u64, bool),
    /// Opened with `O_PATH`: only a place.
    Path,
}

/// An open file: what `dup` shares.
pub(crate) struct Description {
    pub(crate) object: Object,
    /// Where it was found; pipes and the like have no place.
    pub(crate) at: Option<Walked>,
    pub(crate) position: u64,
    pub(crate) flags: u32,
    references: u32,
}

impl Description {
    pub(crate) fn new(object: Object, at: Option<Walked>, flags: u32) -> Self {
        Self { object, at, position: 0, flags, references: 0 }
    }

    pub(crate) fn readable(&self) -> bool {
        self.flags & flags::ACCMODE != flags::WRONLY && self.flags & flags::PATH == 0
    }

    pub(crate) fn writable(&self) -> bool {
        self.flags & flags::ACCMODE != 0 && self.flags & flags::PATH == 0
    }

    pub(crate) fn nonblocking(&self) -> bool {
        self.flags & flags::NONBLOCK != 0
    }
}

#[derive(Clone, Copy)]
struct Fd {
    description: u32,
    close_on_exec: bool,
}

/// Bytes under way between the two ends.
pub(crate) struct Pipe {
    pub(crate) bytes: VecDeque<u8>,
    pub(crate) readers: u32,
    pub(crate) writers: u32,
}

/// The table of descriptors.
pub(crate) struct Files {
    fds: Vec<Option<Fd>>,
    descriptions: Vec<Option<Description>>,
    pipes: Vec<Option<Pipe>>,
    /// `RLIMIT_NOFILE`, soft.
    pub(crate) limit: u64,
}

/// Puts a value into the first free place.
fn place<T>(list: &mut Vec<Option<T>>, value: T) -> Result<u32, Errno> {
    let index = match list.iter().position(Option::is_none) {
        Some(free) => free,
        None => {
            list.try_reserve(1)?;
            list.push(None);
            list.len() - 1
        }
    };
    list[index] = Some(value);
    u32::try_from(index).map_err(|_| Errno::NFILE)
}

impl Files {
    pub(crate) fn new() -> Self {
        Self { fds: Vec::new(), descriptions: Vec::new(), pipes: Vec::new(), limit: 1024 }
    }

    /// Descriptors with their open files, open files, and pipes: what a snapshot keeps.
    #[expect(clippy::type_complexity, reason = "three tables, taken apart at once")]
    pub(crate) fn parts(&self) -> (Vec<Option<(u32, bool)>>, &[Option<Description>], &[Option<Pipe>]) {
        let fds = self.fds.iter().map(|fd| fd.map(|fd| (fd.description, fd.close_on_exec)));
        (fds.collect(), &self.descriptions, &self.pipes)
    }

    /// The table with these in it. `None` where something that is named is not there.
    pub(crate) fn from_parts(
        fds: Vec<Option<(u32, bool)>>,
        descriptions: Vec<Option<Description>>,
        pipes: Vec<Option<Pipe>>,
        limit: u64,
    ) -> Option<Self> {
        let mut files = Self { fds: Vec::new(), descriptions, pipes, limit };
        let pipe = |id: u32| files.pipe(id).is_some();
        let sound = files.descriptions.iter().flatten().all(|description| match description.object {
            Object::PipeReader(id) | Object::PipeWriter(id) => pipe(id),
            _ => true,
        });
        if !sound || fds.len() as u64 > MAX_FDS || limit > MAX_FDS {
            return None;
        }
        for fd in fds {
            let fd = match fd {
                Some((description, close_on_exec)) => {
                    files.descriptions.get_mut(description as usize)?.as_mut()?.references += 1;
                    Some(Fd { description, close_on_exec })
                }
                None => None,
            };
            files.fds.push(fd);
        }
        Some(files)
    }

    fn entry(&self, fd: u64) -> Result<Fd, Errno> {
        let index = usize::try_from(fd as u32).map_err(|_| Errno::BADF)?;
        self.fds.get(index).copied().flatten().ok_or(Errno::BADF)
    }

    pub(crate) fn get(&self, fd: u64) -> Result<&Description, Errno> {
        let index = self.entry(fd)?.description as usize;
        self.descriptions.get(index).and_then(Option::as_ref).ok_or(Errno::BADF)
    }

    pub(crate) fn get_mut(&mut self, fd: u64) -> Result<&mut Description, Errno> {
        let index = self.entry(fd)?.description as usize;
        self.descriptions.get_mut(index).and_then(Option::as_mut).ok_or(Errno::BADF)
    }

    /// The same number for two descriptors of one open file.
    pub(crate) fn identity(&self, fd: u64) -> Result<u32, Errno> {
        Ok(self.entry(fd)?.description)
    }

    /// Open descriptors, ascending.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.fds.iter().enumerate().filter(|(_, fd)| fd.is_some()).map(|(number, _)| number as u32)
    }

    pub(crate) fn pipe(&self, id: u32) -> Option<&Pipe> {
        self.pipes.get(id as usize)?.as_ref()
    }

    pub(crate) fn pipe_mut(&mut self, id: u32) -> Option<&mut Pipe> {
        self.pipes.get_mut(id as usize)?.as_mut()
    }

    fn free_fd(&mut self, from: u64) -> Result<usize, Errno> {
        let from = usize::try_from(from).map_err(|_| Errno::INVAL)?;
        let free = (from..self.fds.len()).find(|index| self.fds[*index].is_none());
        let index = free.unwrap_or(self.fds.len().max(from));
        if index as u64 >= self.limit {
            return Err(Errno::MFILE);
        }
        self.reach(index)?;
        Ok(index)
    }

    fn reach(&mut self, index: usize) -> Result<(), Errno> {
        if index >= self.fds.len() {
            self.fds.try_reserve(index + 1 - self.fds.len())?;
            self.fds.resize(index + 1, None);
        }
        Ok(())
    }

    /// Gives an open file the lowest free descriptor.
    pub(crate) fn open(&mut self, mut description: Description, close_on_exec: bool) -> Result<u64, Errno> {
        let index = self.free_fd(0)?;
        description.references = 1;
        let description = place(&mut self.descriptions, description)?;
        self.fds[index] = Some(Fd { description, close_on_exec });
        Ok(index as u64)
    }

    /// The lowest free descriptor from `from` on becomes another one of the same open file.
    pub(crate) fn duplicate(&mut self, fd: u64, from: u64, close_on_exec: bool) -> Result<u64, Errno> {
        let description = self.entry(fd)?.description;
        if from >= self.limit {
            return Err(Errno::INVAL);
        }
        let index = self.free_fd(from)?;
        self.get_mut(fd)?.references += 1;
        self.fds[index] = Some(Fd { description, close_on_exec });
        Ok(index as u64)
    }

    /// `dup2`: `to` becomes another descriptor of the same open file; what it was is closed.
    pub(crate) fn duplicate_to(
        &mut self,
        fd: u64,
        to: u64,
        close_on_exec: bool,
    ) -> Result<Option<Description>, Errno> {
        let description = self.entry(fd)?.description;
        let index = usize::try_from(to as u32).map_err(|_| Errno::BADF)?;
        if index as u64 >= self.limit {
            return Err(Errno::BADF);
        }
        self.reach(index)?;
        self.get_mut(fd)?.references += 1;
        let closed = self.close(to).unwrap_or(None);
        self.fds[index] = Some(Fd { description, close_on_exec });
        Ok(closed)
    }

    /// Closes a descriptor; gives the open file if it was its last.
    pub(crate) fn close(&mut self, fd: u64) -> Result<Option<Description>, Errno> {
        let entry = self.entry(fd)?;
        self.fds[fd as u32 as usize] = None;
        let slot = &mut self.descriptions[entry.description as usize];
        let Some(description) = slot else { return Err(Errno::BADF) };
        description.references -= 1;
        if description.references > 0 {
            return Ok(None);
        }
        let closed = slot.take();
        match closed.as_ref().map(|closed| &closed.object) {
            Some(Object::PipeReader(id)) => self.leave_pipe(*id, |pipe| pipe.readers -= 1),
            Some(Object::PipeWriter(id)) => self.leave_pipe(*id, |pipe| pipe.writers -= 1),
            _ => {}
        }
        Ok(closed)
    }

    fn leave_pipe(&mut self, id: u32, leave: impl Fn(&mut Pipe)) {
        let Some(pipe) = self.pipe_mut(id) else { return };
        leave(pipe);
        if pipe.readers == 0 && pipe.writers == 0 {
            self.pipes[id as usize] = None;
        }
    }

    /// A new pipe: descriptors of its reading and its writing end.
    pub(crate) fn open_pipe(&mut self, flags: u32) -> Result<(u64, u64), Errno> {
        let id = place(&mut self.pipes, Pipe { bytes: VecDeque::new(), readers: 1, writers: 1 })?;
        let close_on_exec = flags & self::flags::CLOEXEC != 0;
        let kept = flags & self::flags::NONBLOCK;
        let reader = match self.open(Description::new(Object::PipeReader(id), None, kept), close_on_exec) {
            Ok(reader) => reader,
            Err(error) => {
                self.pipes[id as usize] = None;
                return Err(error);
            }
        };
        let writer = Description::new(Object::PipeWriter(id), None, kept | self::flags::WRONLY);
        match self.open(writer, close_on_exec) {
            Ok(writer) => Ok((reader, writer)),
            Err(error) => {
                self.close(reader)?;
                self.pipes[id as usize] = None;
                Err(error)
            }
        }
    }

    pub(crate) fn close_on_exec(&self, fd: u64) -> Result<bool, Errno> {
        Ok(self.entry(fd)?.close_on_exec)
    }

    pub(crate) fn set_close_on_exec(&mut self, fd: u64, value: bool) -> Result<(), Errno> {
        self.entry(fd)?;
        if let Some(Some(entry)) = self.fds.get_mut(fd as u32 as usize) {
            entry.close_on_exec = value;
        }
        Ok(())
    }
}
