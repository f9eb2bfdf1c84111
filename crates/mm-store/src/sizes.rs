//! How large the tables are: what the owner allocates at boot.

use core::mem::size_of;

use crate::Page;
use crate::bits::words;
use crate::geometry::Geometry;
use crate::overlays::OverlayRow;
use crate::rows::{Row, ZeroRow};

const _: () = assert!(size_of::<Row>() == 12);
const _: () = assert!(size_of::<ZeroRow>() == 16);

/// Journal blocks that are being filled or wait to be written.
const JOURNAL_PAGES: usize = 8;

/// Memory for the store: slices of the lengths of [`TableSizes`] or longer, whatever they hold.
pub struct Memory<'a> {
    /// One row for each data block.
    pub rows: &'a mut [Row],
    /// One row for each range of zeroes.
    pub zeroes: &'a mut [ZeroRow],
    /// Hash of both.
    pub buckets: &'a mut [u32],
    /// Which data blocks are free.
    pub free: &'a mut [u64],
    /// One row for each overlay.
    pub overlays: &'a mut [OverlayRow],
    /// Journal blocks under way; at least two.
    pub journal: &'a mut [Page],
}

/// Rows of each table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSizes {
    /// See [`Memory::rows`].
    pub rows: usize,
    /// See [`Memory::zeroes`].
    pub zeroes: usize,
    /// See [`Memory::buckets`]: one and a half for each row of both, so that a search looks at two or three.
    pub buckets: usize,
    /// See [`Memory::free`].
    pub free: usize,
    /// See [`Memory::overlays`].
    pub overlays: usize,
    /// See [`Memory::journal`].
    pub journal: usize,
}

impl TableSizes {
    /// Rows for a store of this geometry.
    #[must_use]
    pub fn new(geometry: &Geometry) -> Self {
        let (rows, zeroes) = (geometry.data as usize, geometry.zeroes as usize);
        Self {
            rows,
            zeroes,
            buckets: (rows + zeroes) / 2 * 3 + 3,
            free: words(rows),
            overlays: geometry.overlays as usize,
            journal: JOURNAL_PAGES,
        }
    }

    /// Bytes that the tables take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows * size_of::<Row>()
            + self.zeroes * size_of::<ZeroRow>()
            + self.buckets * size_of::<u32>()
            + self.free * size_of::<u64>()
            + self.overlays * size_of::<OverlayRow>()
            + self.journal * size_of::<Page>()
    }

    /// Whether this memory is large enough.
    pub(crate) fn fit(&self, memory: &Memory<'_>) -> bool {
        memory.rows.len() >= self.rows
            && memory.zeroes.len() >= self.zeroes
            && memory.buckets.len() >= self.buckets
            && memory.free.len() >= self.free
            && memory.overlays.len() >= self.overlays
            && memory.journal.len() >= 2
    }
}

#[cfg(test)]
mod tests {
    use super::TableSizes;
    use crate::Geometry;

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn a_block_costs_less_than_twenty_four_bytes() {
        for gigabytes in [1, 10, 100, 1000] {
            let geometry = Geometry::for_disk(gigabytes << 18).expect("large enough");
            let bytes = TableSizes::new(&geometry).bytes() as f64 / f64::from(geometry.data);
            assert!(
                (18.0..if gigabytes == 1 { 20.0 } else { 19.0 }).contains(&bytes),
                "{gigabytes}: {bytes}"
            );
        }
    }
}
