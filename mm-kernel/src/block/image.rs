//! What a disk's snapshot has over its base: an index in frozen pages ([`mm_proto::disk_index`]), as M1 reads it.

use mm_proto::disk_index::{LEVELS, ZERO, levels, place};

use super::read::Source;
use crate::effects::Hands;

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

    /// As it is kept on the store's disk.
    pub(crate) fn words(&self) -> [u32; 3] {
        [self.root, u32::try_from(self.levels).unwrap_or(0), self.blocks]
    }

    /// What was kept there. `None` where it makes no sense.
    pub(crate) fn from_words([root, levels, blocks]: [u32; 3]) -> Option<Self> {
        let levels = usize::try_from(levels).ok().filter(|levels| (1..=LEVELS).contains(levels))?;
        (u64::from(root) >= mm_proto::FROZEN_FIRST).then_some(Self { root, levels, blocks })
    }

    /// Whether it can be one of a disk of so many blocks.
    pub(crate) fn fits(&self, blocks: u64) -> bool {
        let levels = u32::try_from(blocks).ok().and_then(levels);
        levels == Some(self.levels) && u64::from(self.blocks) <= blocks
    }

    /// The page of the highest level.
    pub(crate) fn root(&self) -> u32 {
        self.root
    }
}
