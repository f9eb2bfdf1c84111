//! Lines of buckets: where a page's frame is looked for first.

use crate::store::low;
use crate::table::NIL;

/// Bytes of a line of the processor's cache.
const LINE: usize = 64;
/// Buckets of a line.
pub(crate) const BUCKETS: usize = LINE / size_of::<u32>();

/// Buckets of sixteen neighbouring pages.
pub(crate) type Line = [u32; BUCKETS];

/// The lines that lie whole in this memory: as many as a power of two.
pub(crate) fn lines(memory: &mut [u32]) -> &mut [Line] {
    let before = memory.as_ptr().align_offset(LINE);
    // Where there is not even one line (only in tests), alignment is nothing to ask for.
    let before = if memory.len() >= before.saturating_add(BUCKETS) { before } else { 0 };
    let (lines, _) = memory.get_mut(before..).unwrap_or_default().as_chunks_mut::<BUCKETS>();
    let count = lines.len().checked_ilog2().map_or(0, |order| 1 << order);
    lines.get_mut(..count).unwrap_or_default()
}

/// The `u32`s of memory in which there are certainly so many lines.
pub(crate) fn memory_of(lines: usize) -> usize {
    lines * BUCKETS + BUCKETS - 1
}

/// A bucket of a line.
pub(crate) fn bucket(line: &Line, place: usize) -> u32 {
    line.get(place % BUCKETS).copied().unwrap_or(NIL)
}

/// As [`bucket`], to be changed.
pub(crate) fn bucket_mut(line: &mut Line, place: usize) -> &mut u32 {
    let [first, rest @ ..] = line;
    match (place % BUCKETS).checked_sub(1).and_then(|place| rest.get_mut(place)) {
        Some(bucket) => bucket,
        None => first,
    }
}

/// The place of a page in the line of its hash.
pub(crate) fn place(hash: u64, page: u32) -> usize {
    (page ^ low(hash >> 32)) as usize % BUCKETS
}
