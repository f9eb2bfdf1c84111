//! Files' bytes, and the volume's pages behind them.

use crate::bytes::{in_page, len, page_of, u16_at, u32_at};
use crate::{Damage, Erofs, Error, Inode, Layout, PAGE, PAGE_SIZE, PageSource};

/// A block number that says "nothing here": a hole (`EROFS_NULL_ADDR`).
const HOLE: u32 = u32::MAX;

/// Pages of a file that follow one another in the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// The volume's page.
    pub page: u64,
    /// How many pages of the file from there on are known, without further reading, to be consecutive; at least 1.
    pub pages: u64,
}

impl<S: PageSource> Erofs<S> {
    /// The volume's page that is page `file_page` of a file, whole. `None` where there is none: in an inline tail or a
    /// hole (copy with [`Self::read`]), and behind the file's end. In a file's last page the bytes behind its end are
    /// the image's; mkfs.erofs writes zeros.
    ///
    /// # Errors
    /// The source's own and `Damaged`, only for a chunked layout, whose table has to be read.
    pub fn extent(&self, inode: &Inode, file_page: u64) -> Result<Option<u64>, Error<S::Error>> {
        Ok(self.extent_run(inode, file_page)?.map(|extent| extent.page))
    }

    /// As [`Self::extent`], with how far it goes on like this. For plain files that is to the end.
    ///
    /// # Errors
    /// As [`Self::extent`].
    pub fn extent_run(&self, inode: &Inode, file_page: u64) -> Result<Option<Extent>, Error<S::Error>> {
        let Some(left) = inode.pages().checked_sub(file_page).filter(|left| *left != 0) else {
            return Ok(None);
        };
        let extent = match inode.layout {
            Layout::Nothing => None,
            Layout::Plain { first } => Some(Extent { page: first.saturating_add(file_page), pages: left }),
            Layout::Inline { first, .. } => {
                let pages = left.saturating_sub(1);
                (pages != 0).then_some(Extent { page: first.saturating_add(file_page), pages })
            }
            Layout::Chunked { table, shift, indexes } => {
                self.chunk(table, shift, indexes, file_page, left)?
            }
        };
        match extent {
            Some(Extent { page, pages }) if page.saturating_add(pages) > self.superblock.blocks => {
                Err(Error::Damaged(Damage::Outside))
            }
            other => Ok(other),
        }
    }

    /// Looks one page up in a chunk table.
    fn chunk(
        &self,
        table: u64,
        shift: u8,
        indexes: bool,
        file_page: u64,
        left: u64,
    ) -> Result<Option<Extent>, Error<S::Error>> {
        let pages = 1_u64.checked_shl(shift.into()).ok_or(Error::Damaged(Damage::Chunk))?;
        let (chunk, within) = (file_page >> shift, file_page & pages.wrapping_sub(1));
        let unit: u64 = if indexes { 8 } else { 4 };
        let at = chunk.checked_mul(unit).and_then(|offset| table.checked_add(offset));
        let at = at.ok_or(Error::Damaged(Damage::Outside))?;
        let mut entry = [0; 8];
        let block = if indexes {
            self.read_bytes(at, &mut entry)?;
            // advice (2 bytes), device (2), block (4): `struct erofs_inode_chunk_index`.
            if u16_at(&entry, 2) != Some(0) && u32_at(&entry, 4) != Some(HOLE) {
                return Err(Error::Damaged(Damage::Chunk));
            }
            u32_at(&entry, 4)
        } else {
            self.read_bytes(at, entry.split_at_mut(4).0)?;
            u32_at(&entry, 0)
        };
        let first = block.filter(|block| *block != HOLE).map(u64::from);
        Ok(first.map(|first| Extent {
            page: first.saturating_add(within),
            pages: pages.saturating_sub(within).min(left),
        }))
    }

    /// Copies a file's bytes from `offset` on and says how many: as many as `out` takes, fewer at the file's end, none
    /// behind it. Holes read as zeros.
    ///
    /// # Errors
    /// The source's own, or `Damaged`; `out` is then filled in part.
    pub fn read(&self, inode: &Inode, offset: u64, out: &mut [u8]) -> Result<usize, Error<S::Error>> {
        let left = usize::try_from(inode.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = out.len().min(left);
        let mut rest = out.get_mut(..wanted).unwrap_or_default();
        let mut position = offset;
        while !rest.is_empty() {
            let start = in_page(position);
            let take = rest.len().min(PAGE_SIZE.saturating_sub(start));
            let Some((now, later)) = rest.split_at_mut_checked(take) else { break };
            self.read_file_page(inode, page_of(position), start, now)?;
            position = position.saturating_add(len(take));
            rest = later;
        }
        Ok(wanted)
    }

    /// Copies bytes of one page of a file; they are within its size.
    fn read_file_page(
        &self,
        inode: &Inode,
        file_page: u64,
        start: usize,
        out: &mut [u8],
    ) -> Result<(), Error<S::Error>> {
        match (self.extent(inode, file_page)?, inode.layout) {
            (Some(page), _) => self.read_page(page, start, out),
            (None, Layout::Inline { tail, .. }) => {
                let at = tail.checked_add(len(start)).ok_or(Error::Damaged(Damage::Outside))?;
                self.read_bytes(at, out)
            }
            (None, _) => {
                out.fill(0);
                Ok(())
            }
        }
    }

    /// A symbolic link's target, as a part of `buffer`.
    ///
    /// # Errors
    /// `NotLink`, `BufferTooSmall`, the source's own, or `Damaged`.
    pub fn read_link<'b>(&self, inode: &Inode, buffer: &'b mut [u8]) -> Result<&'b [u8], Error<S::Error>> {
        if inode.file_type() != crate::FileType::Link {
            return Err(Error::NotLink);
        }
        // A longer one than Linux lets anybody make would not be resolved anyhow.
        if inode.size >= PAGE {
            return Err(Error::Damaged(Damage::Inode));
        }
        let length = usize::try_from(inode.size).unwrap_or(usize::MAX);
        let target = buffer.get_mut(..length).ok_or(Error::BufferTooSmall)?;
        self.read(inode, 0, target)?;
        Ok(target)
    }
}
