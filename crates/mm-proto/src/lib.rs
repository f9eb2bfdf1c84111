//! The words of the map protocol: messages, limits, version and key names, for both of its ends.
//!
//! M1 and every client use this crate, and nothing in it depends on Xen. `docs/PROTOCOL.md` is the contract; the
//! layouts here are what it describes. A message is an array of 32 little-endian words. [`Request::decode`] and
//! [`Response::decode`] take words that were already copied out of shared memory once, never panic, and say in
//! a value what is wrong with them.
#![cfg_attr(not(test), no_std)]
// Shifts split 64-bit values into the two words that carry them.
#![expect(clippy::cast_possible_truncation)]

mod bitmap;
pub mod disk_index;
mod hot;
mod info;
mod message;
mod names;
#[cfg(test)]
mod tests;

pub use bitmap::Bitmap;
pub use hot::HotPage;
pub use info::{InfoError, InfoPage, SnapshotInfo, VolumeIdentity};
pub use message::{AbortReason, DecodeError, Request, RequestBody, Response, Status, Timing};
pub use names::{operation_name, status_name};

/// Version that this crate speaks. A client and M1 use the highest version that both know.
pub const VERSION: u32 = 2;
/// Oldest version that this crate still speaks.
pub const VERSION_MIN: u32 = 1;

/// Bytes of a page, in volumes and in memory alike.
pub const PAGE_SIZE: usize = 4096;
/// 32-bit words of one ring slot: 128 bytes.
pub const SLOT_WORDS: usize = 32;
/// Slots of the map ring: the largest power of two of 128-byte slots that fits behind the 64-byte header
/// (`xen/include/public/io/ring.h`, `__RING_SIZE`).
pub const RING_SLOTS: u32 = 16;
/// Pages of the largest window.
pub const WINDOW_MAX: u32 = 512;
/// Pages that a window starts with; it doubles while access is sequential.
pub const WINDOW_FIRST: u32 = 16;

/// First page of the frozen part: of a device that was attached to a snapshot (`target=NAME@SNAPSHOT`), pages below are the
/// volume's, pages from here on are frozen. Page numbers fit 32 bits.
pub const FROZEN_FIRST: u64 = 1 << 31;
/// Frames in one `Capture`.
pub const CAPTURE_MAX: usize = 16;

/// Keys in the vbd's backend directory, written by M1 before it goes to `XenbusStateInitWait` (2).
pub mod keys {
    /// Grant reference of the map ring's page, decimal; readable and writable by the client.
    pub const MAP_RING_REF: &str = "map-ring-ref";
    /// Unbound event channel of M1 for the client to bind, decimal.
    pub const MAP_PORT: &str = "map-port";
    /// Grant reference of the info page, decimal; read-only.
    pub const INFO_REF: &str = "info-ref";
}
