//! The words on the disk. `docs/STORE.md` says the same for people; everything that is read is checked here.
//!
//! Each metadata block begins with the same 32 bytes: magic (8), CRC-32C of the whole block with this field zero (4),
//! version (4), identity of the store (16).

mod checkpoint;
mod entry;
mod journal;
mod record;
mod superblock;
#[cfg(test)]
mod tests;

pub(crate) use checkpoint::{
    CheckpointHeader, Kind, OVERLAYS_IN_PAGE, ROWS_IN_PAGE, ZEROES_IN_PAGE, entry_at, entry_mut,
};
pub use entry::NAME;
pub(crate) use entry::{ENTRY, NO_QUOTA, OverlayEntry, Text};
pub(crate) use journal::{JOURNAL_ROOM, JournalHeader, records};
pub(crate) use record::{MAP, MOST_RECORD, MOST_ZERO, Record, SMALL_RECORD};
pub(crate) use superblock::Superblock;
pub use superblock::{format_block, probe};

use crate::Page;
use crate::bytes::{array_at, put, put_u32, u32_at};
use crate::crc::crc_without;

/// Bytes before the content of journal and checkpoint blocks.
pub(crate) const HEADER: usize = 64;
/// The format that this crate writes.
const VERSION: u32 = 1;

pub(crate) const SUPERBLOCK: [u8; 8] = *b"M1STORE\0";
pub(crate) const JOURNAL: [u8; 8] = *b"M1JOURNL";
pub(crate) const CHECKPOINT: [u8; 8] = *b"M1CHKPNT";

const CRC_AT: usize = 8;
const VERSION_AT: usize = 12;
const UUID_AT: usize = 16;

/// What is wrong with a metadata block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bad {
    /// Something else, or of another store.
    Foreign,
    /// The checksum is wrong: torn, or rotten.
    Checksum,
    /// Of a format that is not known here.
    Version(u32),
    /// The checksum is right, and the content makes no sense.
    Content,
}

/// Completes a block whose content is there: the common header and the checksum.
pub(crate) fn seal(page: &mut Page, magic: &[u8; 8], uuid: &[u8; 16]) {
    put(page, 0, magic);
    put_u32(page, VERSION_AT, VERSION);
    put(page, UUID_AT, uuid);
    let sum = crc_without(page, CRC_AT);
    put_u32(page, CRC_AT, sum);
}

/// Checks what all blocks have in common; the identity where one is expected.
pub(crate) fn check(page: &Page, magic: &[u8; 8], uuid: Option<&[u8; 16]>) -> Result<(), Bad> {
    if array_at::<8>(page, 0) != *magic {
        return Err(Bad::Foreign);
    }
    if u32_at(page, CRC_AT) != crc_without(page, CRC_AT) {
        return Err(Bad::Checksum);
    }
    let version = u32_at(page, VERSION_AT);
    if version != VERSION {
        return Err(Bad::Version(version));
    }
    if uuid.is_some_and(|uuid| array_at::<16>(page, UUID_AT) != *uuid) {
        return Err(Bad::Foreign);
    }
    Ok(())
}

fn uuid(page: &Page) -> [u8; 16] {
    array_at(page, UUID_AT)
}

/// Makes the checksum of a metadata block right, so that what is behind it is reached.
#[cfg(feature = "fuzz")]
pub(crate) fn mend(page: &mut Page) {
    if [SUPERBLOCK, JOURNAL, CHECKPOINT].contains(&array_at(page, 0)) {
        let sum = crc_without(page, CRC_AT);
        put_u32(page, CRC_AT, sum);
    }
}
