//! Boot, traps, memory and user mode of a PV image.
//!
//! Who uses it: `mm-kernel`, `mm-guest`, `mm-unikernel`. An image is a `no_std`, `no_main` program that says
//! [`entry!`]`(main)` and whose `main` takes a [`Boot`]; it is built with the feature `image`, the workspace's `build.rs` and
//! `linker.ld`. Without that feature this is a library that compiles on the host.
//!
//! What it promises: no safe call makes memory writable and executable at once, lends the program's own memory to another
//! domain, pulls memory from under a reference, or forgets a mapped grant. Memory pages are `&'static PageWords`,
//! words that anybody may change. One virtual CPU, upcalls masked while the kernel runs, no heap but for an image that asks for one
//! (feature `heap`). A bug ends in a message with a call chain on the console and a shutdown with the reason crash.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(feature = "image"),
    allow(dead_code, reason = "what only an image calls is compiled and tested on the host")
)]

mod direct_map;
pub mod foreign;
mod grants;
#[cfg(feature = "heap")]
mod heap;
#[cfg(feature = "image")]
mod image;
mod layout;
mod machine;
mod memory;
mod pte;
mod tables;
#[cfg(test)]
mod tests;
pub mod user;

use xen::console::Console;
use xen::{Clock, Events, GrantTable, Hypervisor, Native};
use xen_ring::PageWords;
use xen_sys::{DomId, Port};

#[cfg(feature = "heap")]
pub use heap::Heap;
pub use machine::{Footprint, copy_page, footprint, mfn_of, zero_page};
pub use memory::BootMemory;

/// What a domain is born with.
pub struct Boot {
    /// `extra=` of the domain's configuration.
    pub cmdline: &'static str,
    /// The console. `log` writes to it already, from level info on.
    pub console: Console,
    /// Pending events.
    pub events: Events,
    /// Time.
    pub clock: Clock,
    /// Xenstore's ring; `None` in the initial domain, which starts before there is one.
    pub xenstore: Option<XenstorePage>,
    /// What we lend. It has one frame at first.
    pub grants: &'static GrantTable,
    /// All memory that is left.
    pub memory: BootMemory,
    /// Our own number.
    pub domid: DomId,
    /// Whether Xen itself started us.
    pub is_initial_domain: bool,
    /// Whether user mode may use AVX.
    pub avx: bool,
    /// Xen.
    pub hypervisor: &'static (dyn Hypervisor + Sync),
}

/// The page shared with xenstored.
#[derive(Clone, Copy, Debug)]
pub struct XenstorePage {
    /// Rings `XENSTORE_REQUEST` and `XENSTORE_REPLY` of `xen_ring::ByteRing` are in it.
    pub page: &'static PageWords,
    /// Its port, connected already.
    pub port: Port,
}

/// Makes a function the image's main function: `xen_rt::entry!(main);` with `fn main(boot: xen_rt::Boot) -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "Rust" fn xen_rt_main(boot: $crate::Boot) -> ! {
            let main: fn($crate::Boot) -> ! = $main;
            main(boot)
        }
    };
}

/// Ends the domain.
pub fn shutdown(reason: xen::ShutdownReason) -> ! {
    native().shutdown(reason);
    unreachable!("a shutdown does not return")
}

/// Hypercalls, in an image; on the host, where `syscall` would be somebody else's, a panic.
const fn native() -> Native {
    if !cfg!(feature = "image") {
        panic!("there is no Xen here");
    }
    // SAFETY: an image runs as a PV kernel, with one virtual CPU.
    unsafe { Native::new() }
}
