//! Which blocks of the base an overlay hides: those that were zeroed or discarded. Where nothing is mapped they read as zeroes.
//!
//! Once hidden a block stays so while its overlay is there: a mapping goes before it, and when the mapping goes the block
//! reads as zeroes again. So this only grows, which is what lets a checkpoint be taken while it does.
//!
//! A row is a bit map of 64 ranges of 64^level blocks: whoever discards a whole disk sets few bits.

use crate::rows::Map;

/// Ranges are 1, 64, 4096 or 262144 blocks.
const LEVELS: u32 = 4;
/// Bits of a key below its level.
const LEVEL_SHIFT: u32 = 28;

/// No zero rows left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRows;

/// A range of 64^level blocks, aligned.
#[derive(Clone, Copy)]
struct Piece {
    level: u32,
    start: u32,
}

impl Piece {
    /// The largest that begins at `start` and ends before `end` does.
    fn first(start: u32, end: u64) -> Self {
        let fits = |level: &u32| {
            let size = 1_u64 << (6 * level);
            u64::from(start).is_multiple_of(size) && u64::from(start) + size <= end
        };
        Self { level: (0..LEVELS).rev().find(fits).unwrap_or(0), start }
    }

    fn blocks(self) -> u64 {
        1 << (6 * self.level)
    }

    fn key(self) -> u32 {
        self.level << LEVEL_SHIFT | self.start >> (6 * (self.level + 1))
    }

    fn bit(self) -> u64 {
        1 << (self.start >> (6 * self.level) & 63)
    }
}

/// Whether a key can be one.
pub(crate) fn is_key(key: u32) -> bool {
    let level = key >> LEVEL_SHIFT;
    level < LEVELS && key & ((1 << LEVEL_SHIFT) - 1) <= u32::MAX >> (6 * (level + 1))
}

impl Map<'_> {
    /// Whether this block is hidden.
    pub(crate) fn hidden(&self, overlay: u32, logical: u32) -> bool {
        self.hidden_from(overlay, Piece { level: 0, start: logical })
    }

    /// Whether a piece is hidden as a part of a range of its own size or a larger one.
    fn hidden_from(&self, overlay: u32, piece: Piece) -> bool {
        (piece.level..LEVELS).any(|level| {
            let piece = Piece { level, ..piece };
            self.find_zero(overlay, piece.key())
                .is_some_and(|row| self.zeroes.at(row).bits & piece.bit() != 0)
        })
    }

    /// Hides `count` blocks from `start` on, of an overlay of `pages` blocks: all of them or, without rows, none.
    /// Gives how many rows it took, or that nothing was new.
    pub(crate) fn hide(
        &mut self,
        overlay: u32,
        start: u32,
        count: u32,
        pages: u32,
    ) -> Result<Option<u32>, NoRows> {
        let mut end = u64::from(start) + u64::from(count);
        if end >= u64::from(pages) {
            // Behind the end there is nothing: one large range instead of many small ones.
            end = end.next_multiple_of(1 << (6 * (LEVELS - 1)));
        }
        let (mut rows, mut new, mut last) = (0, false, [None; LEVELS as usize]);
        pieces(start, end, |piece| {
            if self.hidden_from(overlay, piece) {
                return;
            }
            new = true;
            // Pieces come in order: those of one row follow one another within their level.
            if let Some(last) = last.get_mut(piece.level as usize)
                && last.replace(piece.key()) != Some(piece.key())
            {
                rows += u32::from(self.find_zero(overlay, piece.key()).is_none());
            }
        });
        if rows > self.zeroes.len() - self.counts.zeroes {
            return Err(NoRows);
        }
        if !new {
            return Ok(None);
        }
        pieces(start, end, |piece| {
            if !self.hidden_from(overlay, piece) {
                let row =
                    self.find_zero(overlay, piece.key()).or_else(|| self.add_zero(overlay, piece.key()));
                if let Some(row) = row {
                    self.zeroes.at_mut(row).bits |= piece.bit();
                }
            }
        });
        Ok(Some(rows))
    }
}

/// At most 126 pieces of each size but the largest, of which there are at most 16384.
fn pieces(start: u32, end: u64, mut each: impl FnMut(Piece)) {
    let mut at = u64::from(start);
    while let Ok(start) = u32::try_from(at)
        && at < end
    {
        let piece = Piece::first(start, end);
        each(piece);
        at += piece.blocks();
    }
}
