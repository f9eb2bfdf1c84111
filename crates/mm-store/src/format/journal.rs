//! The header of a journal block.

use super::{Bad, HEADER, JOURNAL, check, seal};
use crate::bytes::{put_u32, put_u64, u32_at, u64_at};
use crate::{BLOCK, Page};

/// Bytes for records in a journal block.
pub(crate) const JOURNAL_ROOM: usize = BLOCK - HEADER;

/// What a journal block says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JournalHeader {
    /// Counts journal blocks; never goes back. Block `sequence mod length` of the journal.
    pub(crate) sequence: u64,
    /// Changes with every opening, so that blocks written before a cut of power never follow ones written after it.
    pub(crate) epoch: u64,
    /// The last journal block of which a completed flush is known, together with all data that it names.
    pub(crate) durable: u64,
    /// Records, and the bytes that they take.
    pub(crate) count: u32,
    pub(crate) bytes: u32,
}

impl JournalHeader {
    /// Completes a block whose records are there.
    pub(crate) fn seal(&self, page: &mut Page, uuid: &[u8; 16]) {
        put_u64(page, 32, self.sequence);
        put_u64(page, 40, self.epoch);
        put_u64(page, 48, self.durable);
        put_u32(page, 56, self.count);
        put_u32(page, 60, self.bytes);
        seal(page, &JOURNAL, uuid);
    }

    /// The header of a good block of this store and epoch.
    pub(crate) fn read(page: &Page, uuid: &[u8; 16], epoch: u64) -> Result<Self, Bad> {
        check(page, &JOURNAL, Some(uuid))?;
        let header = Self {
            sequence: u64_at(page, 32),
            epoch: u64_at(page, 40),
            durable: u64_at(page, 48),
            count: u32_at(page, 56),
            bytes: u32_at(page, 60),
        };
        if header.epoch != epoch {
            return Err(Bad::Foreign);
        }
        let sound = header.durable < header.sequence && header.bytes as usize <= JOURNAL_ROOM;
        if sound { Ok(header) } else { Err(Bad::Content) }
    }
}

/// The records of a journal block.
pub(crate) fn records(page: &Page, bytes: u32) -> &[u8] {
    page.get(HEADER..).and_then(|rest| rest.get(..bytes as usize)).unwrap_or_default()
}
