//! Inodes: 32 bytes (compact) or 64 (extended), at 32 times their number in the metadata area
//! (`struct erofs_inode_compact`, `struct erofs_inode_extended`).

use crate::bytes::{in_page, u16_at, u32_at, u64_at};
use crate::{Damage, Erofs, Error, Feature, PAGE, PageSource};

/// An inode's number, as directories give it; stable for the life of a volume, so it does for `st_ino` too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Nid(pub u64);

/// What kind of file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileType {
    /// A file with bytes.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Where a file's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Nowhere: devices, pipes and sockets.
    Nothing,
    /// In consecutive pages of the volume.
    Plain {
        /// The first of them.
        first: u64,
    },
    /// The last page's bytes behind the inode, all before in consecutive pages.
    Inline {
        /// The first page, if there is any before the tail.
        first: u64,
        /// The volume's byte at which the tail starts.
        tail: u64,
    },
    /// In chunks of a power of two of pages, which a table lists.
    Chunked {
        /// The volume's byte at which the table starts.
        table: u64,
        /// A chunk has 2 to this power pages.
        shift: u8,
        /// An entry of the table is an index of 8 bytes (device and block) instead of a block number of 4.
        indexes: bool,
    },
}

/// A file's metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Its number.
    pub nid: Nid,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u16,
    /// Length in bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification, seconds since 1970.
    pub mtime: u64,
    /// Nanoseconds of the same.
    pub mtime_nsec: u32,
    /// Number of names.
    pub nlink: u32,
    /// Device number in Linux's 32-bit encoding (minor bits 0–7 and 20–31, major bits 8–19); zero where it is no device.
    pub rdev: u32,
    /// Where its bytes are.
    pub layout: Layout,
}

impl Inode {
    /// The kind of file.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        // The mode was checked when the inode was read; one made up by a caller is taken for a file.
        FileType::from_mode(self.mode).unwrap_or(FileType::Regular)
    }

    /// Length in pages, the last one perhaps in part.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.size.div_ceil(PAGE)
    }
}

impl FileType {
    /// From the type bits of a mode (`S_IFMT`).
    #[must_use]
    pub fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Link,
            0o020_000 => Self::Character,
            0o060_000 => Self::Block,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// From the byte of a directory entry (`EROFS_FT_*`); `None` for "unknown" and for what is not defined.
    #[must_use]
    pub fn from_entry(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::Character,
            4 => Self::Block,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Link,
            _ => return None,
        })
    }
}

/// Both forms of inode brought to one.
struct Raw {
    format: u16,
    xattr_count: u16,
    mode: u16,
    /// `i_u`: first block, device number or chunk format.
    union: u32,
    size: u64,
    uid: u32,
    gid: u32,
    mtime: u64,
    mtime_nsec: u32,
    nlink: u32,
    /// Bytes of the inode itself.
    length: u64,
}

impl<S: PageSource> Erofs<S> {
    /// Reads an inode and checks that its bytes can be where it says.
    ///
    /// # Errors
    /// The source's own; `Damaged` or `Unsupported`.
    pub fn inode(&self, nid: Nid) -> Result<Inode, Error<S::Error>> {
        let position = self.superblock.inode_position(nid).ok_or(Error::Damaged(Damage::Outside))?;
        let mut buffer = [0; 64];
        let (head, tail) = buffer.split_at_mut(32);
        self.read_bytes(position, head)?;
        let extended = u16_at(head, 0).is_some_and(|format| format & 1 == 1);
        if extended {
            self.read_bytes(position.saturating_add(32), tail)?;
        }
        let raw = if extended { extended_inode(&buffer) } else { self.compact_inode(&buffer) };
        // The buffer is long enough for every field.
        let raw = raw.ok_or(Error::Damaged(Damage::Inode))?;
        self.judge(nid, position, &raw)
    }

    fn compact_inode(&self, bytes: &[u8]) -> Option<Raw> {
        Some(Raw {
            format: u16_at(bytes, 0)?,
            xattr_count: u16_at(bytes, 2)?,
            mode: u16_at(bytes, 4)?,
            nlink: u16_at(bytes, 6)?.into(),
            size: u32_at(bytes, 8)?.into(),
            union: u32_at(bytes, 16)?,
            uid: u16_at(bytes, 24)?.into(),
            gid: u16_at(bytes, 26)?.into(),
            mtime: self.superblock.build_time,
            mtime_nsec: self.superblock.build_time_nsec,
            length: 32,
        })
    }

    fn judge(&self, nid: Nid, position: u64, raw: &Raw) -> Result<Inode, Error<S::Error>> {
        // Bit 0 is the form, bits 1–3 the layout; the bits above came with 48-bit addresses.
        if raw.format & !0xf != 0 {
            return Err(Error::Unsupported(Feature::InodeFormat(raw.format)));
        }
        let kind = FileType::from_mode(raw.mode).ok_or(Error::Damaged(Damage::Inode))?;
        let device = matches!(kind, FileType::Character | FileType::Block);
        let has_bytes = matches!(kind, FileType::Regular | FileType::Directory | FileType::Link);
        let layout = if has_bytes { self.layout(position, raw, kind)? } else { Layout::Nothing };
        Ok(Inode {
            nid,
            mode: raw.mode,
            size: if has_bytes { raw.size } else { 0 },
            uid: raw.uid,
            gid: raw.gid,
            mtime: raw.mtime,
            mtime_nsec: raw.mtime_nsec,
            nlink: raw.nlink,
            rdev: if device { raw.union } else { 0 },
            layout,
        })
    }

    fn layout(&self, position: u64, raw: &Raw, kind: FileType) -> Result<Layout, Error<S::Error>> {
        // Shared and inline extended attributes: a header of 12 bytes, then units of 4 (`erofs_xattr_ibody_size`).
        let xattrs = match u64::from(raw.xattr_count) {
            0 => 0,
            count => count.saturating_sub(1).saturating_mul(4).saturating_add(12),
        };
        let after = position.saturating_add(raw.length).saturating_add(xattrs);
        let pages = raw.size.div_ceil(PAGE);
        let first = u64::from(raw.union);
        match raw.format >> 1 {
            0 => {
                self.check_run(first, pages)?;
                Ok(Layout::Plain { first })
            }
            1 | 3 => Err(Error::Unsupported(Feature::Compression)),
            2 => self.inline(first, pages, raw.size, after),
            // No tool chunks anything but files, and chunks could make a directory longer than the volume.
            4 if kind == FileType::Regular => self.chunked(raw, pages, after),
            4 => Err(Error::Damaged(Damage::Inode)),
            _ => Err(Error::Unsupported(Feature::InodeFormat(raw.format))),
        }
    }

    /// An inline tail must end in the page in which it starts, as Linux has it too.
    fn inline(&self, first: u64, pages: u64, size: u64, tail: u64) -> Result<Layout, Error<S::Error>> {
        let whole = pages.saturating_sub(1);
        self.check_run(first, whole)?;
        let tail_bytes = size.saturating_sub(whole.saturating_mul(PAGE));
        let end_in_page = crate::bytes::len(in_page(tail)).saturating_add(tail_bytes);
        if end_in_page > PAGE || tail.saturating_add(tail_bytes) > self.superblock.bytes() {
            return Err(Error::Damaged(Damage::Inode));
        }
        Ok(Layout::Inline { first, tail })
    }

    /// The chunk format: bits 0–4 the chunk's size as a power of two of blocks, bit 5 indexes instead of block numbers.
    fn chunked(&self, raw: &Raw, pages: u64, after: u64) -> Result<Layout, Error<S::Error>> {
        let [low, high, ..] = raw.union.to_le_bytes();
        if high != 0 || low & 0xc0 != 0 {
            return Err(Error::Unsupported(Feature::InodeFormat(u16::from_le_bytes([low, high]))));
        }
        let (shift, indexes) = (low & 0x1f, low & 0x20 != 0);
        let unit: u64 = if indexes { 8 } else { 4 };
        let table = after.checked_next_multiple_of(unit).ok_or(Error::Damaged(Damage::Outside))?;
        let chunks = pages.div_ceil(1_u64.checked_shl(shift.into()).unwrap_or(u64::MAX));
        if table.saturating_add(chunks.saturating_mul(unit)) > self.superblock.bytes() {
            return Err(Error::Damaged(Damage::Outside));
        }
        Ok(Layout::Chunked { table, shift, indexes })
    }

    /// A run of pages must be in the volume. An empty file's first page means nothing.
    fn check_run(&self, first: u64, pages: u64) -> Result<(), Error<S::Error>> {
        if pages != 0 && first.saturating_add(pages) > self.superblock.blocks {
            return Err(Error::Damaged(Damage::Outside));
        }
        Ok(())
    }
}

fn extended_inode(bytes: &[u8]) -> Option<Raw> {
    Some(Raw {
        format: u16_at(bytes, 0)?,
        xattr_count: u16_at(bytes, 2)?,
        mode: u16_at(bytes, 4)?,
        size: u64_at(bytes, 8)?,
        union: u32_at(bytes, 16)?,
        uid: u32_at(bytes, 24)?,
        gid: u32_at(bytes, 28)?,
        mtime: u64_at(bytes, 32)?,
        mtime_nsec: u32_at(bytes, 40)?,
        nlink: u32_at(bytes, 44)?,
        length: 64,
    })
}
