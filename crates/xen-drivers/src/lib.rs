//! The drivers of PV domains: M1's network card and base disks, M1's side of its clients' disks, and the clients' side.
//!
//! - [`netfront`]: an Ethernet card for smoltcp, served by dom0's netback.
//! - [`blkfront`]: reads and writes of whole pages on a disk served by dom0's blkback, many at once.
//! - [`vbdback`]: the devices that dom0 gives to clients with `backend=m1`, from discovery to removal.
//! - [`blkback`]: the ring of a client that is a stock blkfront: its requests, checked, and copies to and from its pages.
//! - [`mapfront`]: a client's end of the map ring.
//! - [`vbdfront`]: how a client that knows the map protocol finds what M1 published for it.
//!
//! Who uses it: M1 (the first four), the client kernels (the last two).
//!
//! What it promises: nothing here waits. Devices are moved on by xenstore messages ([`xenstore::Connection::poll`]), by
//! events and by the clock, and say in values what happened. A page that was lent is handed back to its owner only after
//! the grant was taken back; where the peer holds on to it, the page is reported as quarantined, never reused. Peers that lie are
//! disconnected, not believed.
#![cfg_attr(not(test), no_std)]

pub mod blkback;
pub mod blkfront;
mod device;
mod lend;
pub mod mapfront;
pub mod netfront;
mod text;
pub mod vbdback;
pub mod vbdfront;

pub use device::{DEVICES, devices};
pub use lend::{Frame, Lent, Platform};
pub use text::Text;

#[cfg(test)]
mod tests;
