//! Little-endian numbers out of byte slices, and positions into pages. A number that is not there is `None`.

use crate::{PAGE, PAGE_SIZE};

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

pub(crate) fn uuid_at(bytes: &[u8], at: usize) -> Option<[u8; 16]> {
    array(bytes, at)
}

/// A length of memory as a length of a volume.
pub(crate) fn len(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The offset of a byte within its page, always less than a page.
pub(crate) fn in_page(position: u64) -> usize {
    usize::try_from(position & (PAGE - 1)).unwrap_or(PAGE_SIZE - 1)
}

/// The page that holds a byte.
pub(crate) fn page_of(position: u64) -> u64 {
    position / PAGE
}
