//! What a PV domain asks of Xen, with types: hypercalls, grants, event channels, clock and console; and a fake Xen.
//!
//! Who uses it: the drivers, the images and `xen-rt`. [`Hypervisor`] is the one door: [`Native`] makes hypercalls, and
//! `fake::FakeDomain` (feature `fake`) is a domain of a Xen in memory with the same rules and result codes.
//!
//! What it promises: a safe function here cannot make Xen write into, unmap, or give to another domain any memory that Rust
//! relies on. What could is an `unsafe fn`, and only this crate and `xen-rt` call those. Xen's refusals are [`Errno`] or
//! [`GrantStatus`] values; nothing here panics over what Xen or another domain says.
#![cfg_attr(not(any(test, feature = "fake")), no_std)]

pub mod clock;
pub mod conformance;
pub mod console;
pub mod events;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod foreign;
pub mod grant;
pub mod hypervisor;
#[cfg(target_arch = "x86_64")]
pub mod native;

pub use clock::Clock;
pub use events::Events;
pub use foreign::{ForeignPage, ForeignPages};
pub use grant::{Access, GrantTable};
pub use hypervisor::{Hypervisor, ShutdownReason};
#[cfg(target_arch = "x86_64")]
pub use native::Native;
pub use xen_ring::PageWords;
pub use xen_sys::{DomId, Errno, GrantHandle, GrantRef, GrantStatus, Mfn, Pfn, Port, PortState, Virq};

#[cfg(test)]
mod tests;
