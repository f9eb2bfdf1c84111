//! The hot page: what earlier clones of a snapshot touched first, for later ones to map ahead.
//!
//! 32-bit words: 0 `n`, the number of entries, at most 60; then `n` entries of 17 words: the first page, a multiple of 512 (of the
//! volume, or in the frozen part), and 16 words with a bit for each of the 512 pages from there on. The rest is zero.
//! It is advice: who reads it takes what makes sense and asks M1 for pages as always.

use crate::{Bitmap, WINDOW_MAX};

/// Words of an entry.
const ENTRY: usize = 17;

/// A set of pages, in aligned runs of 512.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HotPage {
    entries: [(u32, Bitmap); Self::ENTRIES],
    count: usize,
}

impl Default for HotPage {
    fn default() -> Self {
        Self::new()
    }
}

impl HotPage {
    /// Entries that a page has room for.
    pub const ENTRIES: usize = 60;
    /// Words of the page.
    pub const WORDS: usize = 1024;

    /// No page.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: [(0, Bitmap::EMPTY); Self::ENTRIES], count: 0 }
    }

    /// Adds pages of one run. True where that made a difference; false also where there is no room for another run, or `page` is no
    /// multiple of 512.
    pub fn add(&mut self, page: u32, bitmap: &Bitmap) -> bool {
        if !page.is_multiple_of(WINDOW_MAX) || *bitmap == Bitmap::EMPTY {
            return false;
        }
        let known = self.entries.iter().take(self.count).position(|(first, _)| *first == page);
        let Some(entry) = self.entries.get_mut(known.unwrap_or(self.count)) else { return false };
        if known.is_none() {
            self.count += 1;
            *entry = (page, Bitmap::EMPTY);
        }
        let before = entry.1;
        for (word, more) in entry.1.0.iter_mut().zip(bitmap.0) {
            *word |= more;
        }
        entry.1 != before
    }

    /// The runs: first page, and which of the 512 from there on.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Bitmap)> {
        self.entries.iter().take(self.count).map(|(page, bitmap)| (*page, bitmap))
    }

    /// Pages in the set.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.iter().map(|(_, bitmap)| bitmap.count()).sum()
    }

    /// Word `index` of the page.
    #[must_use]
    pub fn word(&self, index: usize) -> u32 {
        let Some(at) = index.checked_sub(1) else { return u32::try_from(self.count).unwrap_or(0) };
        let Some((page, bitmap)) = self.entries.get(at / ENTRY).filter(|_| at / ENTRY < self.count) else {
            return 0;
        };
        match (at % ENTRY).checked_sub(1) {
            None => *page,
            Some(half) => {
                let word = bitmap.0.get(half / 2).copied().unwrap_or(0);
                (word >> (half % 2 * 32)) as u32
            }
        }
    }

    /// Reads a page word by word. What makes no sense (a page that is no multiple of 512, more entries than there is room for) is
    /// left out.
    #[must_use]
    pub fn decode(word: impl Fn(usize) -> u32) -> Self {
        let mut hot = Self::new();
        let count = (word(0) as usize).min(Self::ENTRIES);
        for entry in 0..count {
            let at = 1 + entry * ENTRY;
            let wide = |index: usize| {
                u64::from(word(at + 1 + 2 * index)) | u64::from(word(at + 2 + 2 * index)) << 32
            };
            hot.add(word(at), &Bitmap(core::array::from_fn(wide)));
        }
        hot
    }
}
