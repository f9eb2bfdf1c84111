//! A read-only reader of uncompressed EROFS volumes that shows where a file's pages lie in the volume.
//!
//! mm-guest finds its root filesystem with it: [`Erofs::extent`] names the volume page behind a page of a file, and
//! that page is what M1 lends. M1 takes a volume's identity from [`SuperBlock`]. Tests and tools read whole images
//! through [`SlicePages`].
//!
//! What it promises: no heap, no unsafe, no I/O but through [`PageSource`]; at most 4.5 KiB of stack in
//! [`Erofs::resolve`] and [`Erofs::open`], 1 KiB elsewhere. An image is not trusted: whatever its bytes say, every
//! call ends after a number of reads bounded by its arguments (or the length of the directory it walks) and gives a
//! value or an [`Error`], never a panic.
//!
//! Format: `fs/erofs/erofs_fs.h` of Linux, and its Documentation/filesystems/erofs.rst. Supported: 4096-byte blocks;
//! compact and extended inodes; the layouts plain, inline tail and chunk-based (block map and indexes). Refused by
//! name: compression, extra devices, 48-bit addresses, and every incompatible feature that is not known here.
//! Extended attributes are skipped.
#![cfg_attr(not(test), no_std)]

mod bytes;
mod data;
mod dir;
mod error;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod inode;
mod path;
mod source;
mod superblock;
#[cfg(test)]
mod tests;

pub use data::Extent;
pub use dir::{Entry, NAME_MAX};
pub use error::{Damage, Error, Feature, PathError};
pub use inode::{FileType, Inode, Layout, Nid};
pub use path::{LINKS_MAX, LastLink, PATH_MAX};
pub use source::{PageSource, SlicePages};
pub use superblock::{Identity, SuperBlock};

/// Bytes of a page, and of a block of the volumes that this crate reads.
pub const PAGE_SIZE: usize = 4096;
/// The same as a length in a volume.
const PAGE: u64 = 4096;

/// A volume that was opened: its superblock was checked.
#[derive(Debug)]
pub struct Erofs<S> {
    source: S,
    superblock: SuperBlock,
}

impl<S: PageSource> Erofs<S> {
    /// Reads and checks the superblock.
    ///
    /// # Errors
    /// The source's own, and all that [`SuperBlock::parse`] finds.
    pub fn open(source: S) -> Result<Self, Error<S::Error>> {
        let mut page = [0; PAGE_SIZE];
        source.read(0, 0, &mut page).map_err(Error::Source)?;
        let superblock = SuperBlock::parse(&page).map_err(Error::from_superblock)?;
        Ok(Self { source, superblock })
    }

    /// The superblock.
    #[must_use]
    pub fn superblock(&self) -> &SuperBlock {
        &self.superblock
    }

    /// Which content this volume has.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.superblock.identity()
    }

    /// The pages' source, for a caller that keeps one of its own in there.
    #[must_use]
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The root directory's number.
    #[must_use]
    pub fn root(&self) -> Nid {
        self.superblock.root
    }

    /// Reads volume bytes from `position` on, within the volume; page by page.
    fn read_bytes(&self, position: u64, out: &mut [u8]) -> Result<(), Error<S::Error>> {
        let mut position = position;
        let mut rest = out;
        while !rest.is_empty() {
            let offset = bytes::in_page(position);
            let take = rest.len().min(PAGE_SIZE.saturating_sub(offset));
            let (now, later) = rest.split_at_mut_checked(take).ok_or(Error::Damaged(Damage::Outside))?;
            self.read_page(bytes::page_of(position), offset, now)?;
            position = position.checked_add(bytes::len(take)).ok_or(Error::Damaged(Damage::Outside))?;
            rest = later;
        }
        Ok(())
    }

    /// Reads bytes of one page, which is checked to be in the volume.
    fn read_page(&self, page: u64, offset: usize, out: &mut [u8]) -> Result<(), Error<S::Error>> {
        if page >= self.superblock.blocks {
            return Err(Error::Damaged(Damage::Outside));
        }
        self.source.read(page, offset, out).map_err(Error::Source)
    }
}
