//! The mapping: which data block holds which logical block of which overlay, and which data blocks are free.
//!
//! A row is *free*, *writing* (given out by `begin_write`; nobody reads it), *live* (in the hash, found by its key), or
//! *pending* (superseded; the mapping that went before can come back after a cut of power until a journal block is durable).
//! A row of an overlay that is gone is live until the sweep finds it.

use crate::bits::Bits;
use crate::table::{NIL, Table};

/// The overlay number of a free row. Overlays' numbers begin above their number of rows.
pub(crate) const FREE: u32 = 0;
/// The overlay number of a pending row: `logical` links to the next, `crc` is the low half of the journal's sequence number.
pub(crate) const PENDING: u32 = u32::MAX;
/// The overlay number of a row that is being written: `crc` is the overlay.
pub(crate) const WRITING: u32 = u32::MAX - 1;

/// One data block's row: 12 bytes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Row {
    pub(crate) overlay: u32,
    pub(crate) logical: u32,
    pub(crate) crc: u32,
}

/// 64 ranges of an overlay that read as zeroes where nothing is mapped: 16 bytes. While free, `key` links to the next.
#[derive(Clone, Copy, Default, Debug)]
pub struct ZeroRow {
    pub(crate) overlay: u32,
    pub(crate) key: u32,
    pub(crate) bits: u64,
}

/// Both tables, their hash, and the free blocks.
pub(crate) struct Map<'a> {
    pub(crate) rows: Table<'a, Row>,
    pub(crate) zeroes: Table<'a, ZeroRow>,
    pub(crate) buckets: &'a mut [u32],
    pub(crate) seed: u64,
    free: Bits<'a>,
    cursor: u32,
    pub(crate) free_zero: u32,
    pub(crate) counts: Counts,
    oldest: u32,
    newest: u32,
}

/// Rows in each state. Those of zeroes that are not in use are free.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) free: u32,
    pub(crate) writing: u32,
    pub(crate) live: u32,
    pub(crate) pending: u32,
    pub(crate) zeroes: u32,
    /// Rows that were ever in use since the store was opened end here; a checkpoint needs no more.
    pub(crate) rows_end: u32,
    pub(crate) zeroes_end: u32,
}

impl<'a> Map<'a> {
    /// Empty tables, without free blocks: [`count`](Self::count) finds those when everything is loaded.
    pub(crate) fn new(
        rows: Table<'a, Row>,
        zeroes: Table<'a, ZeroRow>,
        buckets: &'a mut [u32],
        free: &'a mut [u64],
        seed: u64,
    ) -> Self {
        buckets.fill(NIL);
        let free = Bits::new(free, rows.len() as usize);
        let mut map = Self {
            rows,
            zeroes,
            buckets,
            seed,
            free,
            cursor: 0,
            free_zero: NIL,
            counts: Counts::default(),
            oldest: NIL,
            newest: NIL,
        };
        map.link_free_zeroes();
        map
    }

    /// Makes the list of free zero rows anew, lowest first.
    pub(crate) fn link_free_zeroes(&mut self) {
        self.free_zero = NIL;
        self.counts.zeroes = 0;
        self.counts.zeroes_end = 0;
        for index in (0..self.zeroes.len()).rev() {
            if self.zeroes.at(index).overlay == FREE {
                *self.zeroes.at_mut(index) = ZeroRow { overlay: FREE, key: self.free_zero, bits: 0 };
                self.free_zero = index;
            } else {
                self.counts.zeroes += 1;
                self.counts.zeroes_end = self.counts.zeroes_end.max(index + 1);
            }
        }
    }

    /// Counts rows and finds the free blocks, when a store was loaded: all rows are live or free.
    pub(crate) fn count(&mut self) {
        self.link_free_zeroes();
        self.counts =
            Counts { zeroes: self.counts.zeroes, zeroes_end: self.counts.zeroes_end, ..Counts::default() };
        for row in 0..self.rows.len() {
            if self.rows.at(row).overlay == FREE {
                self.free.insert(row);
                self.counts.free += 1;
            } else {
                self.counts.live += 1;
                self.counts.rows_end = row + 1;
            }
        }
    }

    /// A free block, in ascending order round the disk, so that writes that come together lie together.
    pub(crate) fn take(&mut self, overlay: u32, logical: u32) -> Option<u32> {
        let row = self.free.next(self.cursor).or_else(|| self.free.next(0))?;
        self.free.remove(row);
        self.cursor = row + 1;
        *self.rows.at_mut(row) = Row { overlay: WRITING, logical, crc: overlay };
        self.counts.free -= 1;
        self.counts.writing += 1;
        self.counts.rows_end = self.counts.rows_end.max(row + 1);
        Some(row)
    }

    /// A block that was being written is free again.
    pub(crate) fn abandon(&mut self, row: u32) {
        self.counts.writing -= 1;
        self.release(row);
    }

    /// A block that was written becomes the content of its logical block; the row that was so before is no longer found.
    pub(crate) fn bind(&mut self, row: u32, crc: u32) -> Option<u32> {
        let Row { logical, crc: overlay, .. } = *self.rows.at(row);
        let old = self.find(overlay, logical);
        if let Some(old) = old {
            self.unhash(old);
        }
        *self.rows.at_mut(row) = Row { overlay, logical, crc };
        self.hash(row);
        self.counts.writing -= 1;
        self.counts.live += 1;
        old
    }

    /// A row that is no longer found waits until the journal block that says so is durable, if it is not.
    pub(crate) fn supersede(&mut self, row: u32, sequence: u64, durable: u64) {
        self.counts.live -= 1;
        if sequence <= durable {
            self.release(row);
            return;
        }
        *self.rows.at_mut(row) = Row { overlay: PENDING, logical: NIL, crc: low(sequence) };
        match self.newest {
            NIL => self.oldest = row,
            newest => self.rows.at_mut(newest).logical = row,
        }
        self.newest = row;
        self.counts.pending += 1;
    }

    /// Frees at most `limit` blocks that were superseded by journal blocks up to `durable`. Whether there are more.
    pub(crate) fn reclaim(&mut self, durable: u64, limit: u32) -> bool {
        for _ in 0..limit {
            if !self.reclaimable(durable) {
                return false;
            }
            let row = self.oldest;
            self.oldest = self.rows.at(row).logical;
            if self.oldest == NIL {
                self.newest = NIL;
            }
            self.counts.pending -= 1;
            self.release(row);
        }
        self.reclaimable(durable)
    }

    fn reclaimable(&self, durable: u64) -> bool {
        // Half sequence numbers suffice: the journal never holds 2³¹ blocks.
        self.oldest != NIL && low(durable).wrapping_sub(self.rows.at(self.oldest).crc) < 1 << 31
    }

    /// A live row whose overlay is gone.
    pub(crate) fn drop_row(&mut self, row: u32) {
        self.unhash(row);
        self.counts.live -= 1;
        self.release(row);
    }

    fn release(&mut self, row: u32) {
        *self.rows.at_mut(row) = Row::default();
        self.free.insert(row);
        self.counts.free += 1;
    }

    /// Whether the row is live, though its overlay may be gone.
    pub(crate) fn is_live(&self, row: u32) -> bool {
        ![FREE, PENDING, WRITING].contains(&self.rows.at(row).overlay)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
fn low(sequence: u64) -> u32 {
    sequence as u32
}
