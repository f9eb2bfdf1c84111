//! A request in blocks of the disk.

use xen::grant::{Direction, PageCopy};
use xen::{DomId, GrantRef, GrantStatus, Mfn};
use xen_sys::blkif::{PAGE_SECTORS, SECTOR};

use super::Segment;

/// Bytes that lie in one block of the disk and in one page of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The client's page.
    pub reference: GrantRef,
    /// Byte in it; a multiple of 512, as the other two.
    pub offset_in_page: u16,
    /// Block of 4096 bytes on the disk.
    pub disk_page: u64,
    /// Byte in it.
    pub offset_in_disk_page: u16,
    /// How many: 512 to 4096.
    pub bytes: u16,
}

impl Piece {
    /// The copy between the client's page and `frame` of ours, which holds the disk's block.
    #[must_use]
    pub fn copy(&self, peer: DomId, frame: Mfn, direction: Direction) -> PageCopy {
        PageCopy {
            frame,
            offset: self.offset_in_disk_page,
            peer,
            reference: self.reference,
            peer_offset: self.offset_in_page,
            len: self.bytes,
            direction,
            status: GrantStatus::GENERAL_ERROR,
        }
    }

    /// Whether it is all of its block.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        u64::from(self.bytes) == PAGE_SECTORS * SECTOR
    }
}

/// The pieces of a request, in the order of the disk; at most [`super::MAX_PIECES`].
#[derive(Clone, Debug)]
pub struct Pieces<'r> {
    /// Where the rest of the first segment begins on the disk.
    sector: u64,
    /// Sectors of the first segment that are done: 0 to 7.
    done: u8,
    segments: &'r [Segment],
}

impl<'r> Pieces<'r> {
    pub(super) fn new(sector: u64, segments: &'r [Segment]) -> Self {
        Self { sector, done: 0, segments }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let (segment, rest) = self.segments.split_first()?;
        let within = self.sector % PAGE_SECTORS;
        let left = segment.sectors() - u64::from(self.done);
        let sectors = left.min(PAGE_SECTORS - within);
        let piece = Piece {
            reference: segment.reference,
            offset_in_page: bytes(u64::from(segment.first + self.done)),
            disk_page: self.sector / PAGE_SECTORS,
            offset_in_disk_page: bytes(within),
            bytes: bytes(sectors),
        };
        self.sector += sectors;
        if sectors == left {
            (self.segments, self.done) = (rest, 0);
        } else {
            // At most 7.
            self.done += u8::try_from(sectors).unwrap_or(0);
        }
        Some(piece)
    }
}

/// Of at most 8 sectors.
fn bytes(sectors: u64) -> u16 {
    u16::try_from(sectors * SECTOR).unwrap_or(0)
}
