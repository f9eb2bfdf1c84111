//! The block service's end of a stock frontend's ring (`xen/include/public/io/blkif.h`): typed requests come out, results go in.
//!
//! Who uses it: M1. Storage is not decided here: a [`Request`] says which sectors, its [`Piece`]s which bytes of which block of
//! 4096 bytes go from or to which page of the client, and [`Copies`] moves them by GNTTABOP_copy.
//!
//! What it promises: the client can write anything anywhere in its ring and its indirect pages, at any time. A request is copied out
//! once, then checked; what is wrong with it is answered as Linux's xen-blkback answers it, and nothing of it reaches the owner. A
//! request that comes out lies within the disk, is one that was offered, and has at most [`MAX_SEGMENTS`] segments. Whether
//! its references can be used shows when they are. Two requests may carry the same number: that is the client's affair.
//!
//! The only page of a client that is mapped is its ring. [`BlockRing::close`] ends that, and must be reached on every path: a client that
//! died stays a zombie until then.

mod copies;
mod pieces;
mod request;
mod ring;

pub use copies::{Copies, CopyFailed};
pub use pieces::{Piece, Pieces};
pub use request::{Operation, ReadPage, Reason, Refused, Request, Segment, Status, Tag};
pub use ring::{BlockRing, OpenError};

/// The largest `ring-page-order`: 16 pages, 512 requests. As in Linux.
pub const MAX_RING_ORDER: u8 = 4;
/// Pages of the largest ring.
pub const RING_PAGES: usize = 1 << MAX_RING_ORDER;
/// Segments of an indirect request at most, 128 KiB. Linux's xen-blkfront never uses more unless told to (`xen_blkif_max_segments`), and
/// M1 has memory for as many of every request that is under way, without a heap.
pub const MAX_INDIRECT_SEGMENTS: u16 = 32;
/// Segments of any request at most.
pub const MAX_SEGMENTS: usize = MAX_INDIRECT_SEGMENTS as usize;
/// Pieces of a request at most: a segment that is not aligned to a block has two.
pub const MAX_PIECES: usize = 2 * MAX_SEGMENTS;

const _: () = assert!(MAX_SEGMENTS >= xen_sys::blkif::MAX_SEGMENTS);
// One indirect page holds the segments of any request.
const _: () = assert!(MAX_SEGMENTS * xen_sys::blkif::SEGMENT_BYTES <= xen_sys::PAGE_SIZE);
