//! Shared pages and the rings in them, with roles, without unsafe.
//!
//! Who uses it: `xen` (console and xenstore rings), `xen-rt` (hands all memory around as [`PageWords`]), the drivers
//! (netfront, blkfront), and both ends of the map protocol.
//!
//! What it promises: a peer that writes anything at any time into a shared page can make an operation here return
//! [`RingFault`] or wrong data, and nothing else: no panic, no unbounded loop, no index outside the page. What was popped
//! from a ring is a copy; judging it later is not racing with the peer.
//!
//! Layouts and memory ordering follow `xen/include/public/io/{ring,console,xs_wire}.h`.
#![cfg_attr(not(any(test, loom)), no_std)]

mod byte_ring;
mod page;
mod ring;
mod sync;

pub use byte_ring::{ByteConsumer, ByteProducer, ByteRing};
pub use page::{PAGE_SIZE, PageWords, WORDS};
pub use ring::{Back, Front};

/// No free slot: take responses (front) or requests (back) first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// The peer's index is impossible: it claims more entries than there can be, or went backwards.
///
/// Nothing in the ring can be trusted any more; close it, and the peer with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingFault {
    /// Our own index at that time.
    pub ours: u32,
    /// What the peer's index said.
    pub theirs: u32,
}

#[cfg(all(test, not(loom)))]
mod tests;
