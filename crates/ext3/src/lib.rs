//! A filesystem that stock tools make, check and mount: ext3, which is ext2 with a journal, on blocks of 4096 bytes.
//!
//! mm-guest's `/data` is one. The kernel has one program and may die at any instant, and nobody runs `e2fsck` before the next one
//! starts; so metadata changes only by transactions of the journal (JBD), as Linux does it, and what a program flushed is found
//! again by whoever mounts the disk next: this crate, Linux, or e2fsck.
//!
//! What it promises: no unsafe, no I/O but through [`Device`], memory taken fallibly and bounded ([`Limits`]). An image is not
//! trusted: whatever its bytes say, every call ends and gives a value or an [`Error`], never a panic. After [`Ext3::sync`] all
//! that was done before is on the disk, and between two of them the disk holds the state of the first one, or of the second.
//!
//! Life of a write: [`Ext3::write`] puts bytes into cached blocks and changes the inode, bitmaps and counters in others
//! (`file.rs`, `map.rs`, `alloc.rs`); [`Ext3::sync`] writes data where it belongs, then the changed metadata to the journal, then
//! the commit block, then the metadata where it belongs (`commit.rs` says why two flushes are enough). [`Ext3::mount`] replays a
//! journal that was left behind (`replay.rs`).
//!
//! Format: Linux' `fs/ext4/ext4.h`, `include/linux/jbd2.h` and Documentation/filesystems/ext4/. Supported: what `mkfs.ext3 -b 4096`
//! makes, and flex_bg, huge_file, dir_nlink, extra_isize on top. Every other incompatible feature is refused by name: extents, 64bit and
//! metadata_csum above all. Hashed directories are read as the lists that they are, and become plain ones when they are changed.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod alloc_bits;
mod blocks;
mod cache;
mod commit;
mod dir;
mod file;
mod freed;
mod inode;
mod map;
mod mount;
mod names;
mod orphans;
mod replay;
mod superblock;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

pub use cache::Limits;
pub use dir::{Entry, NAME_MAX};
pub use file::MAX_SIZE;
pub use inode::{Kind, Stat};
pub use mount::MountError;
pub use superblock::Unsupported;

/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Most blocks of one call of [`Device::read`] and [`Device::write`].
pub const RUN: usize = 32;

/// Number of a file, directory or link: what an open file is described and opened again by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ino(pub u32);

/// The root directory.
pub const ROOT: Ino = Ino(2);

/// Seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Time {
    /// Seconds, up to 2³⁴.
    pub seconds: u64,
    /// Below 10⁹. Kept where inodes have 256 bytes.
    pub nanoseconds: u32,
}

/// The device could not do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoFailed;

/// The disk and the memory below. A buffer holds one block.
pub trait Device {
    /// A block's bytes.
    type Buffer;

    /// Blocks of 4096 bytes that the disk has.
    fn blocks(&self) -> u64;
    /// Writes are refused.
    fn is_read_only(&self) -> bool;
    /// A buffer with any content; `None` where there is no memory now.
    fn allocate(&mut self) -> Option<Self::Buffer>;
    /// Gives a buffer back.
    fn release(&mut self, buffer: Self::Buffer);
    /// Copies bytes out of a buffer; the range lies within it.
    fn fetch(&self, buffer: &Self::Buffer, offset: usize, to: &mut [u8]);
    /// Copies bytes into a buffer; the range lies within it.
    fn store(&mut self, buffer: &mut Self::Buffer, offset: usize, from: &[u8]);
    /// Reads blocks from `first` on, 1 to [`RUN`].
    ///
    /// # Errors
    /// [`IoFailed`]; what is in the buffers then means nothing.
    fn read(&mut self, first: u32, to: &mut [Self::Buffer]) -> Result<(), IoFailed>;
    /// Writes blocks from `first` on, 1 to [`RUN`].
    ///
    /// # Errors
    /// [`IoFailed`]; what is on the disk there then is not known.
    fn write(&mut self, first: u32, from: &[&Self::Buffer]) -> Result<(), IoFailed>;
    /// Makes durable what was written.
    ///
    /// # Errors
    /// [`IoFailed`]; nothing may be relied upon then.
    fn flush(&mut self) -> Result<(), IoFailed>;
    /// Says that these blocks hold nothing any more. Only a hint.
    fn discard(&mut self, first: u32, count: u32);
}

/// Why a call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The disk failed, or the filesystem has been given up after a failure: it can still be read.
    Io,
    /// What is on the disk makes no sense. `e2fsck -f` knows more.
    Corrupt,
    /// No block or no inode is free.
    NoSpace,
    /// No memory.
    NoMemory,
    /// No such name, or no such inode.
    NotFound,
    /// The name exists.
    Exists,
    /// It should be a directory.
    NotDirectory,
    /// It must not be a directory.
    IsDirectory,
    /// The directory has names in it.
    NotEmpty,
    /// More names than an inode can have.
    TooManyLinks,
    /// Longer than [`NAME_MAX`], or empty.
    NameTooLong,
    /// Beyond [`MAX_SIZE`].
    TooLarge,
    /// The disk is read-only.
    ReadOnly,
    /// It makes no sense: a directory into itself, a file that is no link.
    Invalid,
}

impl From<IoFailed> for Error {
    fn from(_: IoFailed) -> Self {
        Self::Io
    }
}

impl From<alloc::collections::TryReserveError> for Error {
    fn from(_: alloc::collections::TryReserveError) -> Self {
        Self::NoMemory
    }
}

/// How much there is, for `statfs`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Usage {
    pub blocks: u64,
    pub free_blocks: u64,
    pub inodes: u64,
    pub free_inodes: u64,
}

/// Whether it may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Writable,
    ReadOnly,
    /// A change was left half done, or the disk failed: nothing is written any more, so the disk keeps the last committed state.
    Failed,
}

/// A mounted filesystem, with the buffers of its device. Every call takes the device.
pub struct Ext3<B> {
    geometry: superblock::Geometry,
    cache: cache::Cache<B>,
    log: commit::Log<B>,
    freed: freed::Freed,
    /// Inodes that are open, and how often.
    open: Vec<(Ino, u32)>,
    now: Time,
    state: State,
    /// The change under way has touched something.
    touched: bool,
    /// Data went to the disk that no flush has followed yet.
    unflushed: bool,
}

/// Little-endian words of a block; zero where it ends before them.
fn le16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u16::from_le_bytes(*word))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_le_bytes(*word))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_be_bytes(*word))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Lengths and indices of a block or less as `usize`; x86-64 and every host of tests have 64 bits.
fn index(value: u32) -> usize {
    value as usize
}
