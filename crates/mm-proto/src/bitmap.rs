//! Which pages of a window are meant: one bit for each of up to 512 pages.

use crate::WINDOW_MAX;

/// A set of pages within one window; bit `i` is page `first_page + i`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Bitmap(pub [u64; 8]);

impl Bitmap {
    /// No page.
    pub const EMPTY: Self = Self([0; 8]);

    /// The first `count` pages; all 512 where `count` is larger.
    #[must_use]
    pub fn first(count: u32) -> Self {
        let mut bits = Self::EMPTY;
        for index in 0..count.min(WINDOW_MAX) {
            bits.set(index);
        }
        bits
    }

    /// Adds page `index`; an index beyond the window is ignored.
    pub fn set(&mut self, index: u32) {
        if let Some(word) = self.0.get_mut(index as usize / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// Removes page `index`.
    pub fn clear(&mut self, index: u32) {
        if let Some(word) = self.0.get_mut(index as usize / 64) {
            *word &= !(1 << (index % 64));
        }
    }

    /// Whether page `index` is in the set; never for an index beyond the window.
    #[must_use]
    pub fn get(&self, index: u32) -> bool {
        self.0.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Number of pages in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The pages in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..WINDOW_MAX).filter(|index| self.get(*index))
    }
}
