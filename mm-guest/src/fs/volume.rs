//! The root filesystem: EROFS on the volume that M1 serves, read-only.
//!
//! The reader works on metadata pages that this module keeps; where it misses one, the page is fetched and the question
//! asked again, so the reader needs no access to the machine. Contents of files do not pass through here: they are
//! mapped, or read straight from the page behind them.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::ControlFlow;

use erofs::{Erofs, Error, Inode, Nid, PageSource};

use super::{Attributes, DirEntry, DirSink, Node};
use crate::errno::Errno;
use crate::machine::{Machine, VolumeError};
use crate::page::{PAGE_SIZE, VolumePage};

/// Metadata pages kept: those of a busy start of a program.
const CACHED: usize = 24;
/// Misses served for one question: more than the deepest directory search takes.
const MISSES: usize = 4096;

/// The reader wants a page that is not here.
#[derive(Clone, Copy, Debug)]
struct Miss(u64);

struct CachedPage {
    number: u64,
    used: Cell<bool>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Cache {
    pages: RefCell<Vec<CachedPage>>,
    hand: Cell<usize>,
}

impl PageSource for &Cache {
    type Error = Miss;

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> Result<(), Miss> {
        let pages = self.pages.borrow();
        let cached = pages.iter().find(|cached| cached.number == page).ok_or(Miss(page))?;
        cached.used.set(true);
        let bytes = cached.bytes.get(offset..offset + out.len()).ok_or(Miss(page))?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}

/// The same, owned by the reader.
#[derive(Default)]
struct Owned(Cache);

impl PageSource for Owned {
    type Error = Miss;

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> Result<(), Miss> {
        (&self.0).read(page, offset, out)
    }
}

impl Cache {
    fn load<M: Machine>(&self, machine: &mut M, number: u64) -> Result<(), VolumeError> {
        let mut pages = self.pages.borrow_mut();
        if pages.len() < CACHED {
            let mut bytes = Vec::new();
            let room = bytes.try_reserve_exact(PAGE_SIZE as usize).and_then(|()| pages.try_reserve(1));
            room.map_err(|_| VolumeError::OutOfFrames)?;
            bytes.resize(PAGE_SIZE as usize, 0);
            machine.read_volume(VolumePage(number), 0, &mut bytes)?;
            pages.push(CachedPage { number, used: Cell::new(true), bytes });
            return Ok(());
        }
        // A clock: the first page that was not used since the hand last passed. At most two rounds.
        loop {
            let hand = (self.hand.get() + 1) % CACHED;
            self.hand.set(hand);
            let victim = &mut pages[hand];
            if !victim.used.replace(false) {
                victim.number = u64::MAX;
                machine.read_volume(VolumePage(number), 0, &mut victim.bytes)?;
                victim.number = number;
                return Ok(());
            }
        }
    }
}

/// The volume, opened.
pub(crate) struct Volume {
    erofs: Erofs<Owned>,
}

/// Why the volume cannot be the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// A page of it could not be had.
    Volume(VolumeError),
    /// What is there is no filesystem that the reader takes.
    Format(Error<core::convert::Infallible>),
}

impl Volume {
    pub(crate) fn open<M: Machine>(machine: &mut M) -> Result<Self, OpenError> {
        let source = Owned::default();
        source.0.load(machine, 0).map_err(OpenError::Volume)?;
        let erofs = Erofs::open(source).map_err(|error| match error {
            Error::Source(Miss(_)) => OpenError::Volume(VolumeError::Unreadable),
            Error::NotErofs => OpenError::Format(Error::NotErofs),
            Error::Unsupported(feature) => OpenError::Format(Error::Unsupported(feature)),
            Error::Damaged(damage) => OpenError::Format(Error::Damaged(damage)),
            _ => OpenError::Format(Error::NotErofs),
        })?;
        Ok(Self { erofs })
    }

    /// Asks the reader, fetching what it misses.
    fn ask<M: Machine, R>(
        &self,
        machine: &mut M,
        mut question: impl FnMut(&Erofs<Owned>) -> Result<R, Error<Miss>>,
    ) -> Result<R, Errno> {
        for _ in 0..MISSES {
            match question(&self.erofs) {
                Ok(answer) => return Ok(answer),
                Err(Error::Source(Miss(page))) => {
                    self.erofs.source().0.load(machine, page).map_err(|_| Errno::IO)?;
                }
                Err(Error::NotDirectory) => return Err(Errno::NOTDIR),
                Err(Error::NotLink) => return Err(Errno::INVAL),
                Err(Error::BufferTooSmall) => return Err(Errno::NAMETOOLONG),
                Err(_) => return Err(Errno::IO),
            }
        }
        Err(Errno::IO)
    }

    pub(crate) fn root(&self) -> Nid {
        self.erofs.root()
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.erofs.superblock().blocks
    }

    pub(crate) fn inodes(&self) -> u64 {
        self.erofs.superblock().inodes
    }

    pub(crate) fn inode<M: Machine>(&self, machine: &mut M, nid: Nid) -> Result<Inode, Errno> {
        self.ask(machine, |erofs| erofs.inode(nid))
    }

    pub(crate) fn lookup<M: Machine>(&self, machine: &mut M, dir: Nid, name: &[u8]) -> Result<Nid, Errno> {
        let inode = self.inode(machine, dir)?;
        self.ask(machine, |erofs| erofs.lookup(&inode, name))?.ok_or(Errno::NOENT)
    }

    pub(crate) fn read_link<M: Machine>(&self, machine: &mut M, nid: Nid) -> Result<Vec<u8>, Errno> {
        let inode = self.inode(machine, nid)?;
        let mut target = Vec::new();
        target.try_reserve_exact(inode.size.min(PAGE_SIZE) as usize)?;
        target.resize(inode.size.min(PAGE_SIZE) as usize, 0);
        self.ask(machine, |erofs| erofs.read_link(&inode, &mut target).map(<[u8]>::len))?;
        Ok(target)
    }

    /// Gives the entries of a directory from `position` on to the sink, until it is full.
    pub(crate) fn read_dir<M: Machine>(
        &self,
        machine: &mut M,
        dir: Nid,
        position: u64,
        sink: &mut DirSink<'_>,
    ) -> Result<(), Errno> {
        let inode = self.inode(machine, dir)?;
        let mut at = position;
        self.ask(machine, |erofs| {
            let from = at;
            erofs.read_dir(&inode, from, &mut |entry| {
                let kind = entry.file_type.map_or(0, directory_type);
                let taken =
                    sink(&DirEntry { inode: entry.nid.0 + 1, next: entry.next, kind, name: entry.name });
                if !taken {
                    return ControlFlow::Break(());
                }
                at = entry.next;
                ControlFlow::Continue(())
            })
        })?;
        Ok(())
    }

    /// The run of the volume behind a file from page `file_page` on: first page, and how many. `None` for a hole.
    pub(crate) fn run<M: Machine>(
        &self,
        machine: &mut M,
        inode: &Inode,
        file_page: u64,
    ) -> Result<Option<(VolumePage, u64)>, Errno> {
        let run = self.ask(machine, |erofs| erofs.extent_run(inode, file_page))?;
        Ok(run.map(|run| (VolumePage(run.page), run.pages)))
    }

    /// Reads a file; gives the bytes read, fewer at its end.
    pub(crate) fn read<M: Machine>(
        &self,
        machine: &mut M,
        inode: &Inode,
        offset: u64,
        to: &mut [u8],
    ) -> Result<usize, Errno> {
        let mut done = 0;
        let wanted = (to.len() as u64).min(inode.size.saturating_sub(offset)) as usize;
        while done < wanted {
            let at = offset + done as u64;
            let (page, within) = (at / PAGE_SIZE, (at % PAGE_SIZE) as usize);
            let length = (wanted - done).min(PAGE_SIZE as usize - within);
            let part = &mut to[done..done + length];
            match self.run(machine, inode, page)? {
                Some((volume, _)) => machine.read_volume(volume, within, part).map_err(|_| Errno::IO)?,
                // A hole, or a tail beside the inode: the reader knows.
                None => {
                    self.ask(machine, |erofs| erofs.read(inode, at, part))?;
                }
            }
            done += length;
        }
        Ok(done)
    }

    pub(crate) fn attributes<M: Machine>(&self, machine: &mut M, nid: Nid) -> Result<Attributes, Errno> {
        let inode = self.inode(machine, nid)?;
        let time = (inode.mtime, inode.mtime_nsec);
        Ok(Attributes {
            device: super::VOLUME_DEVICE,
            inode: nid.0 + 1,
            mode: u32::from(inode.mode),
            links: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            special: u64::from(inode.rdev),
            size: inode.size,
            blocks: inode.pages() * 8,
            accessed: time,
            modified: time,
            changed: time,
        })
    }

    pub(crate) fn parent<M: Machine>(&self, machine: &mut M, nid: Nid) -> Result<Node, Errno> {
        if nid == self.root() {
            Ok(Node::Volume(nid))
        } else {
            Ok(Node::Volume(self.lookup(machine, nid, b"..")?))
        }
    }
}

/// `DT_*` of `dirent.h`.
fn directory_type(kind: erofs::FileType) -> u8 {
    match kind {
        erofs::FileType::Fifo => 1,
        erofs::FileType::Character => 2,
        erofs::FileType::Directory => 4,
        erofs::FileType::Block => 6,
        erofs::FileType::Regular => 8,
        erofs::FileType::Link => 10,
        erofs::FileType::Socket => 12,
    }
}
