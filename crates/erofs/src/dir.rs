//! Directories: blocks of 12-byte entries, followed by their names (`struct erofs_dirent`).
//!
//! Within a block and from block to block names are in ascending order of their bytes, so a name is found by halving:
//! first the block, by its first name, then the entry. Each block stands for itself: its first entry's name offset
//! says how many entries there are, a name ends where the next one starts, the last one at the block's end or at a
//! zero. A volume that breaks the order hides names from [`Erofs::lookup`] but not from [`Erofs::read_dir`].

use core::cmp::Ordering;
use core::ops::ControlFlow;

use crate::bytes::{in_page, len, page_of, u16_at, u64_at};
use crate::{Damage, Erofs, Error, FileType, Inode, Nid, PAGE, PAGE_SIZE, PageSource};

/// Longest name in bytes (`EROFS_NAME_LEN`).
pub const NAME_MAX: usize = 255;
/// Bytes of an entry.
const ENTRY: usize = 12;

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The name; `.` and `..` are among them.
    pub name: &'a [u8],
    /// The file's inode.
    pub nid: Nid,
    /// Its kind, if the directory says.
    pub file_type: Option<FileType>,
    /// The position at which [`Erofs::read_dir`] goes on behind this entry.
    pub next: u64,
}

/// A directory block whose first entry was read.
#[derive(Clone, Copy)]
struct Block {
    /// The byte of the directory at which it starts.
    start: u64,
    /// Its bytes: a page, or what is left of the directory.
    length: usize,
    /// Bytes that its entries take: a multiple of 12, less than `length`.
    entries: usize,
}

/// An entry without its name.
#[derive(Clone, Copy)]
struct Head {
    nid: Nid,
    file_type: u8,
    /// Where in the block the name is, the end at most a page's end and perhaps behind the name's own.
    name: (usize, usize),
}

type Name = [u8; NAME_MAX];

impl<S: PageSource> Erofs<S> {
    /// The inode behind a name in a directory, or `None` where there is no such name.
    ///
    /// # Errors
    /// `NotDirectory`, the source's own, or `Damaged`.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<Nid>, Error<S::Error>> {
        if dir.file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        let mut buffer = [0; NAME_MAX];
        // The last block whose first name is not behind the one that is looked for.
        let (mut low, mut high) = (0, dir.pages());
        let mut found = None;
        while low < high {
            let middle = low.midpoint(high);
            let block = self.block(dir, middle)?;
            let (head, first) = self.entry(dir, block, 0, &mut buffer)?;
            match first.cmp(name) {
                Ordering::Equal => return Ok(Some(head.nid)),
                Ordering::Less => (low, found) = (middle.saturating_add(1), Some(block)),
                Ordering::Greater => high = middle,
            }
        }
        let Some(block) = found else { return Ok(None) };
        let (mut low, mut high) = (1, block.count());
        while low < high {
            let middle = low.midpoint(high);
            let (head, here) = self.entry(dir, block, middle, &mut buffer)?;
            match here.cmp(name) {
                Ordering::Equal => return Ok(Some(head.nid)),
                Ordering::Less => low = middle.saturating_add(1),
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Gives the entries from `position` on to `each`, in the volume's order, until it breaks. Returns the position of
    /// the entry at which it broke (that one comes again when called with it), or the one behind the last entry. Zero is the start; others come from here or from
    /// [`Entry::next`].
    ///
    /// # Errors
    /// `NotDirectory`, the source's own, or `Damaged` (also for a position that is none).
    pub fn read_dir(
        &self,
        dir: &Inode,
        position: u64,
        each: &mut dyn FnMut(Entry<'_>) -> ControlFlow<()>,
    ) -> Result<u64, Error<S::Error>> {
        if dir.file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        let mut buffer = [0; NAME_MAX];
        let mut skip = in_page(position);
        if !skip.is_multiple_of(ENTRY) {
            return Err(Error::Damaged(Damage::Directory));
        }
        for page in page_of(position)..dir.pages() {
            let block = self.block(dir, page)?;
            let place = |at: usize| block.start.saturating_add(len(at));
            for at in (skip..block.entries).step_by(ENTRY) {
                let (head, name) = self.entry(dir, block, at / ENTRY, &mut buffer)?;
                let after = at.saturating_add(ENTRY);
                let next =
                    if after < block.entries { place(after) } else { block.start.saturating_add(PAGE) };
                let file_type = FileType::from_entry(head.file_type);
                if each(Entry { name, nid: head.nid, file_type, next }).is_break() {
                    return Ok(place(at));
                }
            }
            skip = 0;
        }
        Ok(position.max(dir.pages().saturating_mul(PAGE)))
    }

    /// Reads how many entries a block has.
    fn block(&self, dir: &Inode, page: u64) -> Result<Block, Error<S::Error>> {
        let start = page.saturating_mul(PAGE);
        let left = usize::try_from(dir.size.saturating_sub(start)).unwrap_or(usize::MAX);
        let length = left.min(PAGE_SIZE);
        let mut first = [0; ENTRY];
        self.read_all(dir, start, &mut first)?;
        let entries = u16_at(&first, 8).map(usize::from);
        // A name has at least one byte, so the names start before the block ends.
        let good = |entries: &usize| *entries != 0 && entries.is_multiple_of(ENTRY) && *entries < length;
        let entries = entries.filter(good).ok_or(Error::Damaged(Damage::Directory))?;
        Ok(Block { start, length, entries })
    }

    /// Reads an entry and its name.
    fn entry<'b>(
        &self,
        dir: &Inode,
        block: Block,
        index: usize,
        buffer: &'b mut Name,
    ) -> Result<(Head, &'b [u8]), Error<S::Error>> {
        let damaged = Damage::Directory;
        let last = index.saturating_add(1) >= block.count();
        let mut bytes = [0; 2 * ENTRY];
        let (own, both) = (ENTRY, 2 * ENTRY);
        let taken = bytes.get_mut(..if last { own } else { both }).unwrap_or_default();
        self.read_all(dir, block.start.saturating_add(len(index.saturating_mul(ENTRY))), taken)?;
        let head = Self::head(&bytes, block, last).ok_or(Error::Damaged(damaged))?;
        let (from, to) = head.name;
        // The last name is followed by zeros up to the block's end: reading one byte more than a name can have
        // would tell too long a name, but so does a name of 255 bytes without a zero behind it.
        let span = to.saturating_sub(from);
        let room = span.min(NAME_MAX);
        let name = buffer.get_mut(..room).ok_or(Error::Damaged(damaged))?;
        let at = block.start.saturating_add(len(from));
        self.read_all(dir, at, name)?;
        let end = if last { name.iter().position(|byte| *byte == 0).unwrap_or(room) } else { room };
        if end == NAME_MAX && span > NAME_MAX {
            let mut beyond = [0; 1];
            self.read_all(dir, at.saturating_add(len(end)), &mut beyond)?;
            if !last || beyond != [0] {
                return Err(Error::Damaged(damaged));
            }
        }
        let name = name.get(..end).ok_or(Error::Damaged(damaged))?;
        if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(Error::Damaged(damaged));
        }
        Ok((head, name))
    }

    fn head(bytes: &[u8], block: Block, last: bool) -> Option<Head> {
        let from = usize::from(u16_at(bytes, 8)?);
        let to = if last { block.length } else { usize::from(u16_at(bytes, ENTRY + 8)?) };
        let good = block.entries <= from && from < to && to <= block.length;
        good.then_some(Head { nid: Nid(u64_at(bytes, 0)?), file_type: *bytes.get(10)?, name: (from, to) })
    }

    /// Reads all of `out` from a directory, or it is damaged.
    fn read_all(&self, dir: &Inode, offset: u64, out: &mut [u8]) -> Result<(), Error<S::Error>> {
        let wanted = out.len();
        if self.read(dir, offset, out)? == wanted { Ok(()) } else { Err(Error::Damaged(Damage::Directory)) }
    }
}

impl Block {
    fn count(self) -> usize {
        self.entries / ENTRY
    }
}
