//! How a snapshot says what a disk of its client had over its base: an index in frozen pages, which M1 itself writes.
//!
//! An index page has 1024 entries of 4 bytes. On the lowest level entry `i` is for the block with this number among the page's: 0, the base's
//! block; [`ZERO`]; else the frozen page that holds it. Above, it is the index page of the level below, or 0. One to three levels
//! cover 2¹⁰, 2²⁰ or 2³⁰ blocks. Looking a block up does not depend on how many snapshots came before.

/// Entries of an index page, as a power of two.
pub const ORDER: u32 = 10;
/// Entries of an index page.
pub const ENTRIES: usize = 1 << ORDER;
/// Levels at most.
pub const LEVELS: usize = 3;
/// The entry of a block of zeroes: no frozen page has this number.
pub const ZERO: u32 = 1;

/// Levels for so many blocks; none if there are too many.
#[must_use]
pub fn levels(blocks: u32) -> Option<usize> {
    (1..=LEVELS).find(|levels| u64::from(blocks) <= 1 << (ORDER as usize * levels))
}

/// Which entry of its page on this level a block has.
#[must_use]
pub fn place(block: u64, level: usize) -> usize {
    (block >> (ORDER as usize * level)) as usize & (ENTRIES - 1)
}

/// Whether a block is the last of its page on this level.
#[must_use]
pub fn is_last(block: u64, level: usize) -> bool {
    (block + 1).is_multiple_of(1 << (ORDER as usize * (level + 1)))
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
