//! Requests, checked. What is refused, and how it is answered, follows Linux's `drivers/block/xen-blkback/blkback.c`
//! (`dispatch_rw_block_io`, `dispatch_discard_io`) but for two things: an empty flush of a disk that cannot be written is no error,
//! and who asks for what was not offered hears that it is not supported.

use xen::GrantRef;
use xen_sys::blkif::{self, PAGE_SECTORS, op, rsp};

use super::{MAX_SEGMENTS, Pieces};
use crate::vbdback::BlockOffer;

/// What a client wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Disk to client.
    Read,
    /// Client to disk.
    Write,
    /// Every write that was answered is to be on stable storage before this is answered. No segments.
    Flush,
    /// Every write that was asked before is done and on stable storage before this one's data is written, if it has any; no write
    /// that was asked later is begun before this is answered (blkif.h, BLKIF_OP_WRITE_BARRIER). A flush with data is taken for one:
    /// more than it asks for.
    Barrier,
    /// The sectors' content is not needed any more. No segments.
    Discard,
}

/// What a request's answer must say to be recognised. Linux's frontend closes for good over a wrong one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    id: u64,
    /// Of an indirect request, what it contains.
    operation: u8,
}

impl Tag {
    pub(super) fn response(self, status: Status) -> [u32; blkif::RESPONSE_WORDS] {
        let [low, high] = status.code().to_le_bytes();
        let (first, second) = split(self.id);
        [first, second, u32::from_le_bytes([self.operation, 0, low, high]), 0]
    }
}

/// How a request ended (`BLKIF_RSP_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Done, all of it.
    Okay,
    /// Failed, and what is on the disk where it was to write is unknown.
    Error,
    /// Never to be tried again: the frontend leaves flushes, barriers or discards alone from now on.
    Unsupported,
}

impl Status {
    fn code(self) -> i16 {
        match self {
            Self::Okay => rsp::OKAY,
            Self::Error => rsp::ERROR,
            Self::Unsupported => rsp::EOPNOTSUPP,
        }
    }
}

/// Sectors `first` to `last`, both included, of a page of the client's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The page.
    pub reference: GrantRef,
    /// 0 to 7.
    pub first: u8,
    /// `first` to 7.
    pub last: u8,
}

impl Segment {
    const NONE: Self = Self { reference: GrantRef(0), first: 0, last: 0 };

    /// How many: 1 to 8.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        u64::from(self.last) - u64::from(self.first) + 1
    }
}

/// A request that makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// For its answer ([`super::BlockRing::complete`]).
    pub tag: Tag,
    /// What is wanted.
    pub operation: Operation,
    /// First sector of 512 bytes. 0 if there are none.
    pub sector: u64,
    /// How many; the last of them is on the disk.
    pub sectors: u64,
    segments: [Segment; MAX_SEGMENTS],
    count: u8,
}

impl Request {
    /// The client's pages, in the order of the sectors.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments[..usize::from(self.count)]
    }

    /// What goes where, block by block.
    #[must_use]
    pub fn pieces(&self) -> Pieces<'_> {
        Pieces::new(self.sector, self.segments())
    }

    /// Blocks of 4096 bytes that it touches: the first, and the one behind the last.
    #[must_use]
    pub fn blocks(&self) -> core::ops::Range<u64> {
        let end = if self.sectors == 0 { self.sector } else { self.end().next_multiple_of(PAGE_SECTORS) };
        self.sector / PAGE_SECTORS..end / PAGE_SECTORS
    }

    /// Blocks that lie in it as a whole, which are those that can be discarded; in a range that may be empty.
    #[must_use]
    pub fn whole_blocks(&self) -> core::ops::Range<u64> {
        let first = self.sector.div_ceil(PAGE_SECTORS);
        first..(self.end() / PAGE_SECTORS).max(first)
    }

    /// The sector behind the last. It was found to be at most the disk's size.
    fn end(&self) -> u64 {
        self.sector.saturating_add(self.sectors)
    }
}

/// Why a request was answered at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No such operation, or one that was not offered.
    Operation,
    /// An indirect request for something other than reading or writing.
    IndirectOperation,
    /// No segments, or too many.
    Count,
    /// A segment that begins behind its end, or ends behind its page.
    Segment,
    /// Sectors behind the disk's end.
    Range,
    /// A write to a disk that cannot be written.
    ReadOnly,
    /// The page with the segments could not be read.
    IndirectPage,
}

/// A request that does not get to the owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// For the answer.
    pub tag: Tag,
    /// The answer.
    pub status: Status,
    /// Why.
    pub why: Reason,
}

/// Copies the first bytes of a page of the client's; `false` if that is not to be had.
pub type ReadPage<'a> = &'a mut dyn FnMut(GrantRef, &mut [u8]) -> bool;

impl Request {
    /// Makes sense of a slot's copy, of a disk that was offered so. `read_page` is called once at most.
    ///
    /// # Errors
    /// [`Refused`]: what is to be answered at once.
    pub fn check(
        words: &[u32; blkif::REQUEST_WORDS],
        disk: &BlockOffer,
        read_page: ReadPage<'_>,
    ) -> Result<Self, Refused> {
        let [code, second, third, fourth] = words[0].to_le_bytes();
        let features = disk.features;
        let indirect = code == op::INDIRECT && features.indirect_segments > 0;
        let tag = Tag { id: join(words[2], words[3]), operation: if indirect { second } else { code } };
        let refuse = |status, why| Refused { tag, status, why };
        let error = |why| refuse(Status::Error, why);

        let operation = match tag.operation {
            op::READ => Operation::Read,
            op::WRITE => Operation::Write,
            _ if indirect => return Err(error(Reason::IndirectOperation)),
            op::WRITE_BARRIER if features.barrier => Operation::Barrier,
            op::FLUSH_DISKCACHE if features.flush => Operation::Flush,
            op::DISCARD if features.discard => Operation::Discard,
            _ => return Err(refuse(Status::Unsupported, Reason::Operation)),
        };
        let sector = join(words[4], words[5]);
        let mut request =
            Self { tag, operation, sector, sectors: 0, segments: [Segment::NONE; MAX_SEGMENTS], count: 0 };
        match operation {
            Operation::Discard => request.sectors = join(words[6], words[7]),
            _ if indirect => {
                let count = u16::from_le_bytes([third, fourth]);
                if count > features.indirect_segments {
                    return Err(error(Reason::Count));
                }
                let mut bytes = [0; MAX_SEGMENTS * blkif::SEGMENT_BYTES];
                let used = (usize::from(count) * blkif::SEGMENT_BYTES).min(bytes.len());
                // The bound on segments is such that they are all in the first page.
                if count > 0 && !read_page(GrantRef(words[7]), &mut bytes[..used]) {
                    return Err(error(Reason::IndirectPage));
                }
                let pairs = bytes[..used].as_chunks::<8>().0.iter().map(|[a, b, c, d, first, last, ..]| {
                    (u32::from_le_bytes([*a, *b, *c, *d]), *first, *last)
                });
                request.add(pairs).map_err(error)?;
            }
            _ => {
                let count = usize::from(second);
                if count > blkif::MAX_SEGMENTS {
                    return Err(error(Reason::Count));
                }
                let pairs = words[6..].as_chunks::<2>().0.iter().take(count).map(|[reference, sectors]| {
                    let [first, last, ..] = sectors.to_le_bytes();
                    (*reference, first, last)
                });
                request.add(pairs).map_err(error)?;
            }
        }
        request.within(disk).map_err(error)
    }

    /// Takes segments in: reference, first and last sector.
    fn add(&mut self, segments: impl Iterator<Item = (u32, u8, u8)>) -> Result<(), Reason> {
        for ((reference, first, last), place) in segments.zip(&mut self.segments) {
            if first > last || u64::from(last) >= PAGE_SECTORS {
                return Err(Reason::Segment);
            }
            *place = Segment { reference: GrantRef(reference), first, last };
            self.sectors += place.sectors();
            self.count += 1;
        }
        Ok(())
    }

    /// Checks the whole against the disk.
    fn within(mut self, disk: &BlockOffer) -> Result<Self, Reason> {
        match (self.operation, self.sectors) {
            // Linux looks at no sector number here, and frontends write none.
            (Operation::Flush | Operation::Barrier, 0) => return Ok(Self { sector: 0, ..self }),
            (_, 0) => return Err(Reason::Count),
            (Operation::Flush, _) => self.operation = Operation::Barrier,
            _ => {}
        }
        if self.operation != Operation::Read && disk.read_only {
            return Err(Reason::ReadOnly);
        }
        match self.sector.checked_add(self.sectors) {
            Some(end) if end <= disk.sectors => Ok(self),
            _ => Err(Reason::Range),
        }
    }
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn split(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
