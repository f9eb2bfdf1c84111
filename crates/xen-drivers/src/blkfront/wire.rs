//! Requests and responses of `xen/include/public/io/blkif.h` on x86-64, as ring words. A sector has 512 bytes, whatever the disk's
//! own are (Linux's blkback counts so).

pub(crate) use xen_sys::blkif::{
    MAX_SEGMENTS as SEGMENTS, PAGE_SECTORS, REQUEST_WORDS as REQ, RESPONSE_WORDS as RSP, op, rsp,
};

/// Segment: reference, first and last sector within its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) reference: u32,
    pub(crate) first: u8,
    pub(crate) last: u8,
}

impl Segment {
    /// As it lies in a request or a page (`blkif_request_segment`).
    pub(crate) fn words(self) -> [u32; 2] {
        [self.reference, u32::from_le_bytes([self.first, self.last, 0, 0])]
    }
}

/// A request of at most [`SEGMENTS`] segments.
pub(crate) fn request(operation: u8, id: u64, sector: u64, segments: &[Segment]) -> [u32; REQ] {
    let mut words = [0; REQ];
    let count = u8::try_from(segments.len().min(SEGMENTS)).unwrap_or(0);
    // operation, nr_segments, handle (u16, ignored by blkback)
    words[0] = u32::from_le_bytes([operation, count, 0, 0]);
    (words[2], words[3]) = split(id);
    (words[4], words[5]) = split(sector);
    for (pair, segment) in words[6..].as_chunks_mut::<2>().0.iter_mut().zip(segments) {
        *pair = segment.words();
    }
    words
}

/// A request of more segments (`blkif_request_indirect`), which the page behind `described` holds: see [`Segment::words`].
pub(crate) fn indirect(operation: u8, id: u64, sector: u64, segments: usize, described: u32) -> [u32; REQ] {
    let mut words = request(op::INDIRECT, id, sector, &[]);
    let [low, high] = u16::try_from(segments).unwrap_or(0).to_le_bytes();
    // operation, indirect_op, nr_segments (u16); then a handle (u16) where segments would be, and the pages' references
    words[0] = u32::from_le_bytes([op::INDIRECT, operation, low, high]);
    words[7] = described;
    words
}

/// A request to discard sectors (`blkif_request_discard`); not a secure one.
pub(crate) fn discard(id: u64, sector: u64, sectors: u64) -> [u32; REQ] {
    let mut words = request(op::DISCARD, id, sector, &[]);
    (words[6], words[7]) = split(sectors);
    words
}

/// A response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Response {
    pub(crate) id: u64,
    pub(crate) operation: u8,
    pub(crate) status: i16,
}

impl Response {
    pub(crate) fn decode(words: [u32; RSP]) -> Self {
        let [operation, _, low, high] = words[2].to_le_bytes();
        let id = u64::from(words[0]) | u64::from(words[1]) << 32;
        Self { id, operation, status: i16::from_le_bytes([low, high]) }
    }
}

fn split(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
