//! Journal records: kind (2 bytes), length with this header (2), and 32-bit words.

use super::{Bad, ENTRY, OverlayEntry};
use crate::bytes::{put_u16, put_u32, u16_at, u32_at};

/// Bytes of a `Map` record.
pub(crate) const MAP: usize = 20;
/// Bytes that every record but `Create` has at most.
pub(crate) const SMALL_RECORD: usize = 20;
/// Bytes of the longest record.
pub(crate) const MOST_RECORD: usize = 4 + ENTRY;
/// Most blocks of a `Zero` record, which begins and ends within one aligned run of as many.
pub(crate) const MOST_ZERO: u32 = 4096;

/// One change. Kinds 6 to 31 are kept for snapshots; a reader refuses a kind that it does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// The logical block's content is in a block of the disk, with this checksum.
    Map { overlay: u32, logical: u32, disk: u32, crc: u32 },
    /// These blocks read as zeroes; mappings of theirs go.
    Zero { overlay: u32, logical: u32, count: u32 },
    /// These blocks read as zeroes where nothing is mapped; nothing goes.
    Hide { overlay: u32, logical: u32, count: u32 },
    /// An overlay.
    Create(OverlayEntry),
    /// An overlay and all of its blocks go.
    Delete { overlay: u32 },
}

impl Record {
    /// Writes it and gives its length; `out` has at least [`MOST_RECORD`] bytes, or as many as it takes.
    pub(crate) fn write(&self, out: &mut [u8]) -> usize {
        let (kind, words, count) = match *self {
            Self::Map { overlay, logical, disk, crc } => (1, [overlay, logical, disk, crc], 4),
            Self::Zero { overlay, logical, count } => (2, [overlay, logical, count, 0], 3),
            Self::Hide { overlay, logical, count } => (3, [overlay, logical, count, 0], 3),
            Self::Create(entry) => {
                put_u16(out, 0, 4);
                put_u16(out, 2, 132);
                entry.write(out.get_mut(4..MOST_RECORD).unwrap_or_default());
                return MOST_RECORD;
            }
            Self::Delete { overlay } => (5, [overlay, 0, 0, 0], 1),
        };
        put_u16(out, 0, kind);
        put_u16(out, 2, 4 + 4 * count);
        for (at, word) in (4..).step_by(4).zip(words).take(usize::from(count)) {
            put_u32(out, at, word);
        }
        usize::from(4 + 4 * count)
    }

    /// The first record of `bytes`, and its length.
    pub(crate) fn read(bytes: &[u8]) -> Result<(Self, usize), Bad> {
        let [kind, length] = [0, 2].map(|at| u16_at(bytes, at));
        let length = usize::from(length);
        let bytes = bytes.get(..length).ok_or(Bad::Content)?;
        let word = |index: usize| u32_at(bytes, 4 + 4 * index);
        let (overlay, logical) = (word(0), word(1));
        let record = match (kind, length) {
            (1, 20) => Self::Map { overlay, logical, disk: word(2), crc: word(3) },
            (2, 16) => Self::Zero { overlay, logical, count: word(2) },
            (3, 16) => Self::Hide { overlay, logical, count: word(2) },
            (4, MOST_RECORD) => {
                let entry = OverlayEntry::read(bytes.get(4..).unwrap_or_default())?.ok_or(Bad::Content)?;
                Self::Create(entry)
            }
            (5, 8) => Self::Delete { overlay },
            _ => return Err(Bad::Content),
        };
        Ok((record, length))
    }
}
