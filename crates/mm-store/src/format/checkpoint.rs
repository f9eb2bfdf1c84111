//! Checkpoint blocks: an image of the tables, taken while they change.

use super::{Bad, CHECKPOINT, ENTRY, HEADER, check, seal};
use crate::bytes::{put_u32, put_u64, u32_at, u64_at};
use crate::{BLOCK, Page};

/// A row's bytes: overlay, logical block, checksum.
pub(crate) const ROW: usize = 12;
/// A zero row's bytes: overlay, key, bits (8).
pub(crate) const ZERO: usize = 16;

pub(crate) const ROWS_IN_PAGE: u32 = 336;
pub(crate) const ZEROES_IN_PAGE: u32 = 252;
pub(crate) const OVERLAYS_IN_PAGE: u32 = 31;
const _: () = assert!(ROWS_IN_PAGE as usize * ROW == BLOCK - HEADER);
const _: () = assert!(ZEROES_IN_PAGE as usize * ZERO == BLOCK - HEADER);
const _: () = assert!(OVERLAYS_IN_PAGE as usize * ENTRY <= BLOCK - HEADER);

/// What the entries of a checkpoint block are. The blocks of one kind follow one another, the kinds in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Overlays,
    Zeroes,
    Rows,
}

impl Kind {
    pub(crate) fn in_page(self) -> u32 {
        match self {
            Self::Overlays => OVERLAYS_IN_PAGE,
            Self::Zeroes => ZEROES_IN_PAGE,
            Self::Rows => ROWS_IN_PAGE,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::Overlays => ENTRY,
            Self::Zeroes => ZERO,
            Self::Rows => ROW,
        }
    }

    fn code(self) -> u32 {
        match self {
            Self::Overlays => 1,
            Self::Zeroes => 2,
            Self::Rows => 3,
        }
    }
}

/// Which checkpoint block this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CheckpointHeader {
    pub(crate) generation: u64,
    pub(crate) kind: Kind,
    /// Among the blocks of its kind.
    pub(crate) index: u32,
}

impl CheckpointHeader {
    /// Completes a block whose entries are there.
    pub(crate) fn seal(&self, page: &mut Page, uuid: &[u8; 16]) {
        put_u64(page, 32, self.generation);
        put_u32(page, 40, self.kind.code());
        put_u32(page, 44, self.index);
        seal(page, &CHECKPOINT, uuid);
    }

    /// Whether this block is the one that is expected.
    pub(crate) fn check(&self, page: &Page, uuid: &[u8; 16]) -> Result<(), Bad> {
        check(page, &CHECKPOINT, Some(uuid))?;
        let same = u64_at(page, 32) == self.generation
            && u32_at(page, 40) == self.kind.code()
            && u32_at(page, 44) == self.index;
        if same { Ok(()) } else { Err(Bad::Content) }
    }
}

/// The bytes of an entry of a checkpoint block.
pub(crate) fn entry_at(page: &Page, kind: Kind, index: u32) -> &[u8] {
    let at = HEADER + index as usize * kind.size();
    page.get(at..at + kind.size()).unwrap_or_default()
}

/// The same, to be written.
pub(crate) fn entry_mut(page: &mut Page, kind: Kind, index: u32) -> &mut [u8] {
    let at = HEADER + index as usize * kind.size();
    page.get_mut(at..at + kind.size()).unwrap_or_default()
}
