//! The overlay store: where M1 keeps what its clients write, on a disk that dom0 gives it. Pure decisions, no I/O.
//!
//! An *overlay* is the set of 4 KiB blocks that one client has written over a read-only base volume. The store maps
//! (overlay, logical block) to a block of the disk and that block's checksum, and keeps this mapping by a journal and
//! checkpoints, so that a cut of power at any instant loses nothing that was flushed. `docs/STORE.md` is the format.
//!
//! Who uses it: M1's block service, which does the I/O that [`Store::poll`] asks for; `m1-fsck`; tests, which cut the power.
//!
//! What it promises, whatever the disk holds and whenever it stops:
//! - A write that was reported [`written`](Store::written) before a [`flush`](Store::flush) is there after that flush was reported good.
//! - A block that was written since shows one of the values that it had since its last flush, never anything else.
//! - A block of the disk is never written while a mapping that can come back after a cut of power names it: the content of
//!   a live block never changes.
//! - A full store, a spent quota, a broken disk and a damaged image are values, never panics; every call's work is bounded.
//!
//! Cost: 12 bytes and 1.5 hash buckets of 4 for each data block, and 1/32 of a zero row (see [`TableSizes`]): 18.8 bytes.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

#[cfg(all(feature = "host", not(test)))]
extern crate std;

mod bits;
mod bytes;
mod change;
mod checkpoint;
mod crc;
mod error;
mod figures;
mod flush;
mod format;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod geometry;
mod hidden;
#[cfg(feature = "host")]
pub mod host;
mod index;
mod journal;
mod overlays;
mod recovery;
mod replay;
mod rows;
mod sizes;
mod store;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod unjournaled;
mod work;

pub use change::{Base, Lifetime};
pub use crc::crc32c;
pub use error::{
    CreateRefused, DeleteRefused, FlushRefused, IoFailed, OpenError, OpenRefused, Part, WriteRefused,
};
pub use figures::{Figures, OverlayFigures, RecoveryFigures};
pub use format::{NAME, format_block, probe};
pub use geometry::Geometry;
pub use overlays::{OverlayId, OverlayRow};
pub use recovery::{Reading, Recovery};
pub use rows::{Row, ZeroRow};
pub use sizes::{Memory, TableSizes};
pub use store::{DiskBlock, Found, Live, Place, Store, Verdict};
pub use unjournaled::{Hidden, NoRoom};
pub use work::{Command, Ticket};

/// Bytes of a block: of the disk, of an overlay, of a page of M1's memory.
pub const BLOCK: usize = 4096;

/// One block's bytes.
pub type Page = [u8; BLOCK];
