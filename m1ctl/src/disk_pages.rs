//! The pages of what a client's disk had over its volume, and its index as another M1 is to have it.
//!
//! M1 believes the index of a disk, which it wrote itself; so none goes to it that names a page which is not in the file.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use mm_proto::disk_index::{ENTRIES, LEVELS, ZERO};

use crate::failure::{Failure, Result};
use crate::snapshot_file::{Index, Page};

/// A disk whose index makes sense.
pub(crate) struct DiskPages {
    root: u32,
    /// The pages of the index, by level, lowest first, with their entries.
    levels: Vec<BTreeMap<u32, Box<[u32; ENTRIES]>>>,
}

impl DiskPages {
    /// Reads the index; `page` gives the bytes of the file's pages, and refuses others.
    pub(crate) fn read(index: &Index, mut page: impl FnMut(u32) -> Result<Page>) -> Result<Self> {
        let levels = index.levels as usize;
        if !(1..=LEVELS).contains(&levels) {
            return Err(Failure::Refused("a disk's index makes no sense".to_owned()));
        }
        let mut read = Self { root: index.root, levels: vec![BTreeMap::new(); levels] };
        let mut wanted = BTreeSet::from([index.root]);
        for level in (0..levels).rev() {
            // Each page once, however often it is named: they are no more than the file has.
            for number in std::mem::take(&mut wanted) {
                let entries = entries(&page(number)?);
                let named = entries.iter().filter(|entry| !is_none(level, **entry));
                wanted.extend(named);
                read.levels[level].insert(number, entries);
            }
        }
        // What it has at last are the disk's blocks.
        for number in wanted {
            page(number)?;
        }
        Ok(read)
    }

    /// The pages that hold its blocks.
    pub(crate) fn pages(&self) -> BTreeSet<u32> {
        let entries = self.levels[0].values().flat_map(|entries| entries.iter());
        entries.copied().filter(|entry| !is_none(0, *entry)).collect()
    }

    /// Pages of the index.
    pub(crate) fn own_pages(&self) -> usize {
        self.levels.iter().map(BTreeMap::len).sum()
    }

    /// Gives the index to another M1, where the blocks' pages have these numbers; `send` gives the numbers that pages get. Gives the root's.
    pub(crate) fn send(
        &self,
        blocks: &BTreeMap<u32, u32>,
        mut send: impl FnMut(&[Page]) -> Result<Vec<u32>>,
    ) -> Result<u32> {
        let mut below = blocks.clone();
        for (level, pages) in self.levels.iter().enumerate() {
            let moved =
                pages.values().map(|entries| moved(level, entries, &below)).collect::<Result<Vec<_>>>()?;
            below = pages.keys().copied().zip(send(&moved)?).collect();
        }
        below.get(&self.root).copied().ok_or_else(missing)
    }
}

/// Whether an entry on this level names no page.
fn is_none(level: usize, entry: u32) -> bool {
    entry == 0 || level == 0 && entry == ZERO
}

fn entries(page: &Page) -> Box<[u32; ENTRIES]> {
    let mut entries = Box::new([0; ENTRIES]);
    for (entry, bytes) in entries.iter_mut().zip(page.chunks_exact(4)) {
        *entry = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    entries
}

fn moved(level: usize, entries: &[u32; ENTRIES], numbers: &BTreeMap<u32, u32>) -> Result<Page> {
    let mut page = [0; ENTRIES * 4];
    for (bytes, entry) in page.chunks_exact_mut(4).zip(entries) {
        let number = if is_none(level, *entry) { *entry } else { *numbers.get(entry).ok_or_else(missing)? };
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    Ok(page)
}

fn missing() -> Failure {
    Failure::Host("M1 has not taken all pages of a disk".to_owned())
}
