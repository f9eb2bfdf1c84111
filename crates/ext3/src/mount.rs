//! Opening a filesystem, and what is said on the disk about its being open.

use alloc::vec::Vec;
use core::fmt;

use crate::cache::{Cache, Limits};
use crate::commit::{Log, MAGIC, Piece};
use crate::freed::Freed;
use crate::inode::Inode;
use crate::replay::replay;
use crate::superblock::{Bad, FEATURE_INCOMPAT, Geometry, RECOVER, Unsupported};
use crate::{BLOCK, Device, Error, Ext3, Ino, State, Time, be32};

/// Runs that the journal lies in at most; `mkfs` makes it of one or a few.
const MAX_PIECES: usize = 4096;
/// `JBD2_FEATURE_INCOMPAT_REVOKE`, the one feature of the journal that ext3 has.
const REVOKES: u32 = 1;

/// Why it cannot be mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountError {
    /// The disk cannot be read, or not written.
    Io,
    /// There is no ext2, ext3 or ext4 on it.
    NotExt,
    /// It has, or lacks, something.
    Unsupported(Unsupported),
    /// It makes no sense, or somebody has noted errors in it: `e2fsck -f` first.
    Damaged,
    /// Its journal has to be replayed, and the disk is read-only.
    NeedsRecovery,
    /// No memory.
    NoMemory,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io => f.write_str("the disk fails"),
            Self::NotExt => f.write_str("no ext3 on it: mkfs.ext3 -b 4096 makes one"),
            Self::Unsupported(Unsupported(what)) => {
                write!(f, "unsupported: {what}: mkfs.ext3 -b 4096 makes one that is")
            }
            Self::Damaged => f.write_str("damaged: e2fsck -f repairs it"),
            Self::NeedsRecovery => f.write_str("its journal is to be replayed, and the disk is read-only"),
            Self::NoMemory => f.write_str("no memory"),
        }
    }
}

impl From<Error> for MountError {
    fn from(error: Error) -> Self {
        match error {
            Error::Io => Self::Io,
            Error::NoMemory => Self::NoMemory,
            _ => Self::Damaged,
        }
    }
}

impl From<Bad> for MountError {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::NotExt => Self::NotExt,
            Bad::Unsupported(what) => Self::Unsupported(Unsupported(what)),
            Bad::Damaged => Self::Damaged,
        }
    }
}

/// Reads a block through the one buffer that there is before there is a cache.
pub(crate) fn read_block<D: Device>(
    device: &mut D,
    buffer: &mut Option<D::Buffer>,
    block: u32,
    to: &mut [u8; BLOCK],
) -> Result<(), MountError> {
    let mut buffers = [buffer.take().ok_or(MountError::NoMemory)?];
    let read = device.read(block, &mut buffers);
    let [given] = buffers;
    device.fetch(&given, 0, to);
    *buffer = Some(given);
    read.map_err(|_| MountError::Io)
}

pub(crate) fn write_block<D: Device>(
    device: &mut D,
    buffer: &mut Option<D::Buffer>,
    block: u32,
    from: &[u8; BLOCK],
) -> Result<(), MountError> {
    let buffer = buffer.as_mut().ok_or(MountError::NoMemory)?;
    device.store(buffer, 0, from);
    device.write(block, &[buffer]).map_err(|_| MountError::Io)
}

impl<B> Ext3<B> {
    /// Opens the filesystem on the device, and replays its journal. Inodes that have no name any more are kept until
    /// [`Ext3::free_orphans`]: who opens files again by number does so in between.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn mount<D: Device<Buffer = B>>(device: &mut D, limits: Limits) -> Result<Self, MountError> {
        let mut buffer = device.allocate();
        let geometry = first_block(device, &mut buffer);
        let geometry = match geometry {
            Ok(geometry) => geometry,
            Err(error) => {
                buffer.into_iter().for_each(|buffer| device.release(buffer));
                return Err(error);
            }
        };
        let (Some(superblock), Some(scratch)) = (buffer, device.allocate()) else {
            return Err(MountError::NoMemory);
        };
        let log = Log {
            pieces: Vec::new(),
            first: 0,
            length: 0,
            sequence: 0,
            second_half: false,
            in_use: false,
            uuid: [0; 16],
            copies: 0,
            superblock,
            scratch,
        };
        let mut fs = Self {
            geometry,
            cache: Cache::new(limits),
            log,
            freed: Freed::default(),
            open: Vec::new(),
            now: Time::default(),
            state: if device.is_read_only() { State::ReadOnly } else { State::Writable },
            touched: false,
            unflushed: false,
        };
        match fs.open_journal(device) {
            Ok(()) => Ok(fs),
            Err(error) => {
                fs.close(device);
                Err(error)
            }
        }
    }

    fn open_journal<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<(), MountError> {
        let inode = self.read_inode(device, Ino(self.geometry.journal_inode))?;
        self.find_journal(device, &inode)?;
        let at = self.log.block(0)?;
        let mut block = [0; BLOCK];
        let mut buffer = device.allocate();
        if let Err(error) = read_block(device, &mut buffer, at, &mut block) {
            buffer.into_iter().for_each(|buffer| device.release(buffer));
            return Err(error);
        }
        device.store(&mut self.log.superblock, 0, &block);
        let opened = self.take_journal(device, &mut buffer, &block);
        buffer.into_iter().for_each(|buffer| device.release(buffer));
        opened?;
        if self.state == State::Writable {
            self.set_recover(device, true)?;
        }
        Ok(())
    }

    /// Checks the journal's superblock, and replays.
    fn take_journal<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        buffer: &mut Option<B>,
        block: &[u8; BLOCK],
    ) -> Result<(), MountError> {
        if be32(block, 0) != MAGIC || be32(block, 4) != 4 {
            return Err(MountError::Damaged);
        }
        if be32(block, 40) & !REVOKES != 0 || be32(block, 44) != 0 {
            return Err(MountError::Unsupported(Unsupported("journal features")));
        }
        let length = be32(block, 16);
        (self.log.first, self.log.sequence) = (be32(block, 20), be32(block, 24));
        let start = be32(block, 28);
        let known = self.log.pieces.last().map_or(0, |(first, _, count)| first.saturating_add(*count));
        if be32(block, 12) != 4096
            || length > known
            || self.log.first == 0
            || self.log.first >= length
            || length - self.log.first < 128
        {
            return Err(MountError::Damaged);
        }
        self.log.length = length;
        self.log.uuid = block.get(48..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        self.log.copies = Log::<B>::copies_for(length, self.log.first, self.cache.limit);
        if start != 0 {
            if start < self.log.first || start >= length {
                return Err(MountError::Damaged);
            }
            if self.state == State::ReadOnly {
                return Err(MountError::NeedsRecovery);
            }
            // What was read so far may not be what is there after the replay.
            self.cache.clear(device);
            if self.geometry.needs_recovery {
                self.log.sequence = replay(device, buffer, &self.log, start, self.geometry.blocks)?;
                device.flush().map_err(|_| MountError::Io)?;
            }
            self.log.write_start(device, 0, self.log.sequence)?;
            device.flush().map_err(|_| MountError::Io)?;
            self.geometry = first_block(device, buffer)?;
        }
        // What lies in the journal from earlier lives must never look like the next transaction.
        self.log.sequence = self.log.sequence.wrapping_add(1).max(1);
        Ok(())
    }

    /// Where the journal's blocks are.
    fn find_journal<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &Inode,
    ) -> Result<(), MountError> {
        let blocks = u32::try_from(inode.size / 4096).map_err(|_| MountError::Damaged)?;
        if blocks > self.geometry.blocks {
            return Err(MountError::Damaged);
        }
        for at in 0..blocks {
            let block = self.map(device, inode, at)?.ok_or(MountError::Damaged)?;
            let pieces = &mut self.log.pieces;
            if let Some((_, first, count)) = pieces.last_mut()
                && first.checked_add(*count) == Some(block)
            {
                *count += 1;
                continue;
            }
            if pieces.len() >= MAX_PIECES {
                return Err(MountError::Damaged);
            }
            let piece: Piece = (at, block, 1);
            pieces.try_reserve(1).map_err(|_| MountError::NoMemory)?;
            pieces.push(piece);
        }
        Ok(())
    }

    /// Notes on the disk, at once, that the journal has to be looked at by whoever opens it next, or not.
    pub(crate) fn set_recover<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        on: bool,
    ) -> Result<(), Error> {
        let now = self.word(device, 0, FEATURE_INCOMPAT)?;
        let wanted = if on { now | RECOVER } else { now & !RECOVER };
        let entry = self.cache.load(device, 0)?;
        device.store(&mut entry.buffer, FEATURE_INCOMPAT, &wanted.to_le_bytes());
        device.write(0, &[&entry.buffer])?;
        Ok(device.flush()?)
    }
}

fn first_block<D: Device>(device: &mut D, buffer: &mut Option<D::Buffer>) -> Result<Geometry, MountError> {
    let mut block = [0; BLOCK];
    let blocks = device.blocks();
    if blocks < 64 {
        return Err(MountError::NotExt);
    }
    read_block(device, buffer, 0, &mut block)?;
    let geometry = Geometry::parse(&block, blocks)?;
    if geometry.has_errors {
        return Err(MountError::Damaged);
    }
    Ok(geometry)
}
