//! One mapping of the program's address space, and the set of them all.

use alloc::vec::Vec;
use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::machine::Prot;

/// Most mappings that a program may have (Linux's default `vm.max_map_count`).
const MAX_MAPPINGS: usize = 65530;

/// What the program may do with a mapping: `PROT_*` of `mman.h`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Rights(u8);

impl Rights {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const READ_WRITE: Self = Self(3);

    /// From the `prot` argument of `mmap` or `mprotect`; other bits are ignored, as Linux does.
    pub(crate) fn from_argument(prot: u64) -> Self {
        Self((prot & 7) as u8)
    }

    #[cfg(test)]
    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    pub(crate) fn new(read: bool, write: bool, exec: bool) -> Self {
        Self(u8::from(read) | u8::from(write) << 1 | u8::from(exec) << 2)
    }

    pub(crate) fn none(self) -> bool {
        self.0 == 0
    }

    /// Any access implies reading: the processor has no other way.
    pub(crate) fn read(self) -> bool {
        self.0 != 0
    }

    pub(crate) fn write(self) -> bool {
        self.0 & 2 != 0
    }

    pub(crate) fn exec(self) -> bool {
        self.0 & 4 != 0
    }

    /// The entry of a private page under these rights.
    pub(crate) fn prot(self) -> Prot {
        match (self.none(), self.write(), self.exec()) {
            (true, ..) => Prot::None,
            (_, false, false) => Prot::Read,
            (_, true, false) => Prot::ReadWrite,
            (_, false, true) => Prot::ReadExec,
            (_, true, true) => Prot::ReadWriteExec,
        }
    }

    /// `rwx` with dashes, for `/proc/self/maps`.
    pub(crate) fn letters(self) -> [u8; 3] {
        let letter = |bit, letter| if self.0 & bit != 0 { letter } else { b'-' };
        [letter(1, b'r'), letter(2, b'w'), letter(4, b'x')]
    }
}

/// Which file a mapping shows, for `/proc/self/maps`: an index into the table of mapped names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct NameId(pub(crate) u32);

/// A file whose content is held in memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct StoreId(pub(crate) u32);

/// Where the pages of a mapping come from before they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Backing {
    /// Zeroes.
    Anonymous,
    /// A run of the volume.
    Volume {
        /// Page of the volume behind the mapping's first page.
        volume: u64,
        /// Pages from there that the file has; beyond them is a bus error. May exceed the mapping.
        valid: u64,
        /// Page of the file behind the mapping's first page.
        file_page: u64,
        name: NameId,
    },
    /// A file in memory.
    Stored {
        file: StoreId,
        file_page: u64,
        /// Writes go to the file (`MAP_SHARED`).
        shared: bool,
        name: NameId,
    },
    /// A file of `/data`: pages are copies.
    Data {
        #[serde(with = "crate::fs::data::ino")]
        file: ext3::Ino,
        file_page: u64,
        name: NameId,
    },
}

impl Backing {
    /// Whether writes go to a file in memory, which has its pages whatever happens to the mapping.
    pub(crate) fn is_shared_file(self) -> bool {
        matches!(self, Self::Stored { shared: true, .. })
    }

    /// The backing of what starts `pages` further on.
    fn advanced(self, pages: u64) -> Self {
        match self {
            Self::Anonymous => self,
            Self::Volume { volume, valid, file_page, name } => Self::Volume {
                volume: volume + pages,
                valid: valid.saturating_sub(pages),
                file_page: file_page + pages,
                name,
            },
            Self::Stored { file, file_page, shared, name } => {
                Self::Stored { file, file_page: file_page + pages, shared, name }
            }
            Self::Data { file, file_page, name } => Self::Data { file, file_page: file_page + pages, name },
        }
    }
}

/// A mapping: a run of pages with the same rights and backing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) rights: Rights,
    /// `MAP_SHARED`.
    pub(crate) shared: bool,
    /// Grows towards lower addresses when touched just below: the stack.
    pub(crate) grows_down: bool,
    /// Zeroes in whoever is thawed from a snapshot (`MADV_WIPEONFORK`).
    pub(crate) wiped: bool,
    pub(crate) backing: Backing,
}

impl Vma {
    pub(crate) fn pages(&self) -> u64 {
        self.end - self.start
    }

    /// The part from page `start` on.
    pub(crate) fn tail(self, start: u64) -> Self {
        Self { start, backing: self.backing.advanced(start - self.start), ..self }
    }

    /// The part that lies in `range`, which overlaps it.
    pub(crate) fn part(self, range: &Range<u64>) -> Self {
        let mut part = self.tail(range.start.max(self.start));
        part.end = self.end.min(range.end);
        part
    }

    fn continues(&self, next: &Self) -> bool {
        self.end == next.start
            && self.rights == next.rights
            && self.shared == next.shared
            && self.grows_down == next.grows_down
            && self.wiped == next.wiped
            && self.backing.advanced(self.pages()) == next.backing
    }
}

/// All mappings, ascending, none overlapping.
#[derive(Default)]
pub(crate) struct VmaSet {
    list: Vec<Vma>,
}

impl VmaSet {
    /// Makes room for `more` further mappings, so that what follows cannot fail half way.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), Errno> {
        if self.list.len() + more > MAX_MAPPINGS {
            return Err(Errno::NOMEM);
        }
        Ok(self.list.try_reserve(more)?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Vma> {
        self.list.iter()
    }

    /// These mappings, which may come from anywhere: `None` where they are not ascending, or not all in the program's half.
    pub(crate) fn from_list(list: Vec<Vma>) -> Option<Self> {
        let last = crate::page::USER_END / crate::page::PAGE_SIZE;
        let first = crate::page::USER_START / crate::page::PAGE_SIZE;
        let sound = list.iter().all(|vma| vma.start >= first && vma.start < vma.end && vma.end <= last);
        let ascending = list.windows(2).all(|pair| pair[0].end <= pair[1].start);
        (sound && ascending && list.len() <= MAX_MAPPINGS).then_some(Self { list })
    }

    /// Index of the first mapping that ends after `page`.
    fn index(&self, page: u64) -> usize {
        self.list.partition_point(|vma| vma.end <= page)
    }

    pub(crate) fn find(&self, page: u64) -> Option<&Vma> {
        self.list.get(self.index(page)).filter(|vma| vma.start <= page)
    }

    /// The first mapping that ends after `page`, which may lie below it.
    pub(crate) fn at_or_above(&self, page: u64) -> Option<&Vma> {
        self.list.get(self.index(page))
    }

    pub(crate) fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = &Vma> {
        self.list[self.index(range.start)..].iter().take_while(move |vma| vma.start < range.end)
    }

    pub(crate) fn is_free(&self, range: Range<u64>) -> bool {
        self.overlapping(range).next().is_none()
    }

    /// Whether every page of the range belongs to a mapping.
    pub(crate) fn covers(&self, range: Range<u64>) -> bool {
        let mut next = range.start;
        for vma in self.overlapping(range.clone()) {
            if vma.start > next {
                return false;
            }
            next = vma.end;
        }
        next >= range.end
    }

    /// Makes `page` a boundary. Room for one more mapping was reserved.
    fn split(&mut self, page: u64) {
        let index = self.index(page);
        if let Some(vma) = self.list.get_mut(index)
            && vma.start < page
        {
            let tail = vma.tail(page);
            vma.end = page;
            self.list.insert(index + 1, tail);
        }
    }

    /// Takes the range out of every mapping.
    pub(crate) fn remove(&mut self, range: Range<u64>) -> Result<(), Errno> {
        self.reserve(2)?;
        self.split(range.start);
        self.split(range.end);
        let (first, last) = (self.index(range.start), self.index(range.end - 1));
        let past = last + usize::from(self.list.get(last).is_some_and(|vma| vma.start < range.end));
        self.list.drain(first..past);
        Ok(())
    }

    /// Adds a mapping where nothing is.
    pub(crate) fn insert(&mut self, vma: Vma) -> Result<(), Errno> {
        self.reserve(1)?;
        let index = self.index(vma.start);
        self.list.insert(index, vma);
        self.join(index + 1);
        self.join(index);
        Ok(())
    }

    /// Joins mapping `index` to the one before it where they are one.
    fn join(&mut self, index: usize) {
        if index > 0
            && let (Some(left), Some(right)) = (self.list.get(index - 1), self.list.get(index))
            && left.continues(right)
        {
            self.list[index - 1].end = right.end;
            self.list.remove(index);
        }
    }

    /// Changes every mapping in the range; those at its ends are split.
    pub(crate) fn change(&mut self, range: Range<u64>, change: impl Fn(&mut Vma)) -> Result<(), Errno> {
        self.reserve(2)?;
        self.split(range.start);
        self.split(range.end);
        let first = self.index(range.start);
        let mut index = first;
        while let Some(vma) = self.list.get_mut(index)
            && vma.start < range.end
        {
            change(vma);
            index += 1;
        }
        for joint in (first..=index).rev() {
            self.join(joint);
        }
        Ok(())
    }

    /// Lets the growing mapping above `page` reach down to it.
    pub(crate) fn grow_down(&mut self, page: u64) {
        let index = self.index(page);
        if let Some(vma) = self.list.get_mut(index) {
            vma.start = vma.start.min(page);
        }
    }

    /// The highest free run of `count` pages within `low..high`.
    pub(crate) fn gap_below(&self, count: u64, low: u64, high: u64) -> Option<u64> {
        let mut top = high;
        for vma in self.list[..self.list.partition_point(|vma| vma.start < high)].iter().rev() {
            if top >= vma.end && top - vma.end >= count {
                break;
            }
            top = top.min(vma.start);
            if top <= low {
                return None;
            }
        }
        let start = top.checked_sub(count)?;
        (start >= low).then_some(start)
    }

    pub(crate) fn total(&self) -> u64 {
        self.list.iter().map(Vma::pages).sum()
    }
}
