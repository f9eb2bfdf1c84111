//! How a disk is divided: two superblocks, two checkpoint areas, the journal, the data blocks.

use crate::format::{OVERLAYS_IN_PAGE, ROWS_IN_PAGE, ZEROES_IN_PAGE};

/// The smallest journal, in blocks.
pub(crate) const JOURNAL_LEAST: u32 = 16;
/// The largest that [`Geometry::for_disk`] makes: 64 MiB.
const JOURNAL_MOST: u32 = 16384;
/// Data blocks for each zero row that [`Geometry::for_disk`] makes.
const DATA_FOR_ZERO: u32 = 32;
/// Overlays for which [`Geometry::for_disk`] makes room.
const OVERLAYS: u32 = 1024;

/// Sizes of the parts of a store, in blocks where nothing else is said. They follow one another in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// The journal.
    pub journal: u32,
    /// Data blocks.
    pub data: u32,
    /// Rows for overlays.
    pub overlays: u32,
    /// Rows for ranges that read as zeroes; each is a bit map of 64 blocks or larger ranges.
    pub zeroes: u32,
}

impl Geometry {
    /// A store that uses a disk of `blocks` blocks; none where it is too small (below 512 KiB).
    #[must_use]
    pub fn for_disk(blocks: u32) -> Option<Self> {
        // The parts for as many data blocks as the disk has blocks are a little too large, which is right and simple.
        let most = Self { journal: 0, data: blocks, overlays: overlays(blocks), zeroes: zeroes(blocks) };
        let journal = most.area().clamp(JOURNAL_LEAST.max((blocks / 16).min(256)), JOURNAL_MOST);
        let parts = Self { journal, ..most }.first_data();
        let data = blocks.checked_sub(u32::try_from(parts).ok()?)?;
        let geometry = Self { journal, data, zeroes: zeroes(data), ..most };
        geometry.is_sound().then_some(geometry)
    }

    /// Whether the store can work with it: every part there, and all block numbers in 32 bits.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.journal >= JOURNAL_LEAST
            && self.data >= 16
            && self.overlays >= 1
            && self.overlays <= 1 << 16
            && self.zeroes >= 8
            && self.zeroes <= 1 << 27
            && self.first_data() + u64::from(self.data) < 1 << 31
    }

    /// Blocks of the disk that it takes.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        narrow(self.first_data() + u64::from(self.data))
    }

    /// Most metadata blocks that opening the store reads: superblocks, one checkpoint, and the journal twice.
    #[must_use]
    pub fn recovery_blocks(&self) -> u64 {
        2 + u64::from(self.area()) + 2 * u64::from(self.journal)
    }

    /// Most data blocks that opening it reads: those that the last journal blocks name, which may never have been flushed.
    #[must_use]
    pub fn recovery_data_blocks(&self) -> u64 {
        u64::from(self.unflushed_most() + 1) * 201 + u64::from(self.places_most())
    }

    /// Journal blocks after which the store itself flushes the disk.
    pub(crate) fn unflushed(&self) -> u32 {
        (self.journal / 8).min(32)
    }

    /// Journal blocks not known to be durable, beyond which nothing new is begun.
    pub(crate) fn unflushed_most(&self) -> u32 {
        self.unflushed() * 2
    }

    /// Writes under way at once.
    pub(crate) fn places_most(&self) -> u32 {
        (self.journal / 4).min(1024)
    }

    pub(crate) fn overlay_pages(&self) -> u32 {
        self.overlays.div_ceil(OVERLAYS_IN_PAGE)
    }

    pub(crate) fn zero_pages(&self) -> u32 {
        self.zeroes.div_ceil(ZEROES_IN_PAGE)
    }

    pub(crate) fn row_pages(&self) -> u32 {
        self.data.div_ceil(ROWS_IN_PAGE)
    }

    /// Blocks of one checkpoint area.
    #[must_use]
    pub fn area(&self) -> u32 {
        self.overlay_pages().saturating_add(self.zero_pages()).saturating_add(self.row_pages())
    }

    /// First block of the checkpoint area of this generation.
    pub(crate) fn area_of(&self, generation: u64) -> u32 {
        if generation.is_multiple_of(2) { 2 } else { 2_u32.saturating_add(self.area()) }
    }

    /// Block of the journal block with this sequence number.
    pub(crate) fn journal_block(&self, sequence: u64) -> u32 {
        let first = 2 + 2 * u64::from(self.area());
        narrow(first + sequence % u64::from(self.journal.max(1)))
    }

    /// First data block.
    pub(crate) fn first_data(&self) -> u64 {
        2 + 2 * u64::from(self.area()) + u64::from(self.journal)
    }

    /// Block number of a row.
    pub(crate) fn disk_block(&self, row: u32) -> u32 {
        narrow(self.first_data() + u64::from(row))
    }

    /// Row of a block number.
    pub(crate) fn row(&self, disk: u32) -> Option<u32> {
        let row = u64::from(disk).checked_sub(self.first_data())?;
        (row < u64::from(self.data)).then(|| narrow(row))
    }
}

fn overlays(blocks: u32) -> u32 {
    OVERLAYS.min((blocks / 32).max(4))
}

fn zeroes(data: u32) -> u32 {
    (data / DATA_FOR_ZERO).max(64)
}

/// A sound geometry has all block numbers in 32 bits.
fn narrow(block: u64) -> u32 {
    u32::try_from(block).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::Geometry;

    #[test]
    fn a_store_fits_on_its_disk() {
        for blocks in (0..3000).chain([1 << 14, 1 << 18, 1 << 22, 10_000_000, 1 << 28, (1 << 31) - 1]) {
            match Geometry::for_disk(blocks) {
                Some(geometry) => {
                    assert!(geometry.blocks() <= blocks, "{blocks}: {geometry:?}");
                    assert!(blocks < 4096 || geometry.data > blocks / 100 * 94, "{blocks}: {geometry:?}");
                    assert_eq!(geometry.row(geometry.disk_block(5)), Some(5));
                    assert_eq!(geometry.row(geometry.blocks()), None);
                }
                None => assert!(blocks < 128, "{blocks}"),
            }
        }
        assert_eq!(Geometry::for_disk(u32::MAX), None);
    }
}
