//! What a disk's snapshot has over its base: an index in frozen pages, which M1 itself wrote.
//!
//! An index page has 1024 entries of 4 bytes. On the lowest level entry `i` is for the block with this number among the page's: 0, the base's
//! block; 1, zeroes; else the frozen page that holds it. Above, it is the index page of the level below, or 0. One to three levels
//! cover 2¹⁰, 2²⁰ or 2³⁰ blocks. Looking a block up does not depend on how many snapshots came before.

use super::read::Source;
use crate::effects::Hands;

/// Entries of an index page, as a power of two.
pub(super) const ORDER: u32 = 10;
/// Levels at most.
pub(super) const LEVELS: usize = 3;
/// The entry of a block of zeroes: no frozen page has this number.
pub(super) const ZERO: u32 = 1;

/// The index of one disk in one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Image {
    /// The page of the highest level.
    pub(super) root: u32,
    pub(super) levels: usize,
    /// Blocks that it has, those of zeroes apart.
    pub(super) blocks: u32,
}

/// Where a block is, as far as the index says.
pub(super) enum Entry {
    Base,
    Zero,
    At(Source),
    /// This page of the index has to be read first.
    Index(Source),
}

/// Levels for so many blocks; none if there are too many.
pub(super) fn levels(pages: u32) -> Option<usize> {
    (1..=LEVELS).find(|levels| u64::from(pages) <= 1 << (ORDER as usize * levels))
}

/// Which entry of its page on this level a block has.
pub(super) fn place(block: u64, level: usize) -> usize {
    usize::try_from(block >> (ORDER as usize * level) & ((1 << ORDER) - 1)).unwrap_or(0)
}

/// Whether a block is the last of its page on this level.
pub(super) fn is_last(block: u64, level: usize) -> bool {
    (block + 1).is_multiple_of(1 << (ORDER as usize * (level + 1)))
}

impl Image {
    pub(super) fn find(&self, block: u64, hands: &mut Hands<'_>) -> Entry {
        let Some(volume) = hands.engine.frozen_volume() else { return Entry::Base };
        let mut page = self.root;
        for level in (0..self.levels).rev() {
            let source = Source { volume, page: u64::from(page) };
            let frame = hands.engine.resident(volume, source.page);
            let Some((words, _)) = frame.and_then(|frame| hands.lending.frame(frame)) else {
                return Entry::Index(source);
            };
            page = match words.load(place(block, level)) {
                0 => return Entry::Base,
                ZERO => return Entry::Zero,
                page => page,
            };
        }
        Entry::At(Source { volume, page: u64::from(page) })
    }
}

impl Image {
    /// As it is kept on the store's disk.
    pub(crate) fn words(&self) -> [u32; 3] {
        [self.root, u32::try_from(self.levels).unwrap_or(0), self.blocks]
    }

    /// What was kept there. `None` where it makes no sense.
    pub(crate) fn from_words([root, levels, blocks]: [u32; 3]) -> Option<Self> {
        let levels = usize::try_from(levels).ok().filter(|levels| (1..=LEVELS).contains(levels))?;
        (u64::from(root) >= mm_proto::FROZEN_FIRST).then_some(Self { root, levels, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_as_many_as_blocks_need() {
        assert_eq!(
            [1, 1024, 1025, 1 << 20, (1 << 20) + 1, 1 << 30].map(levels),
            [1, 1, 2, 2, 3, 3].map(Some)
        );
        assert_eq!(levels((1 << 30) + 1), None);
        let block = (5 << 20) | (6 << 10) | 7;
        assert_eq!([0, 1, 2].map(|level| place(block, level)), [7, 6, 5]);
        assert!(is_last(1023, 0) && !is_last(1022, 0) && !is_last(1023, 1) && is_last((1 << 20) - 1, 1));
    }
}
