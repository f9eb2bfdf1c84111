//! Xen's ABI in words: numbers, types and structures of a 64-bit PV guest on x86, without functions.
//!
//! Who uses it: everybody below and in the drivers. It promises that each structure has the size and the field offsets of Xen's
//! own C headers: constant assertions say so here, and `tests/layout.rs` asks a C compiler.
//!
//! Names follow `xen/include/public/`, without the prefixes that the type already says.
#![cfg_attr(not(test), no_std)]

/// Size and field offsets of a structure, as a C compiler gave them.
macro_rules! layout {
    ($name:ty, $size:literal $(, $field:ident @ $offset:literal)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };
    };
}

pub mod blkif;
mod errno;
pub mod event;
pub mod grant;
pub mod hypercall;
pub mod memory;
pub mod sched;
pub mod start;
pub mod trap;

pub use errno::Errno;
pub use event::{PortState, Virq};
pub use grant::GrantStatus;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;
/// Address bits below a page number.
pub const PAGE_SHIFT: u32 = 12;

/// A domain's number (`domid_t`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct DomId(pub u16);

impl DomId {
    /// The caller itself. Grant *maps* of own pages need the real number instead.
    pub const SELF: Self = Self(0x7ff0);
    /// The first number that is not a domain (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
}

/// The caller itself, under its C name.
pub const DOMID_SELF: DomId = DomId::SELF;

/// A local event-channel port (`evtchn_port_t`). 0 is never bound.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Port(pub u32);

/// The index of an entry in some domain's grant table (`grant_ref_t`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct GrantRef(pub u32);

/// What Xen calls one of our mappings of a foreign grant (`grant_handle_t`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct GrantHandle(pub u32);

/// A machine frame number: what page tables and grant entries of a PV guest name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Mfn(pub u64);

impl Mfn {
    /// The machine address of the frame's first byte.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

/// A pseudo-physical frame number: the domain's own count of its frames, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Pfn(pub u64);

macro_rules! display_number {
    ($($name:ident)*) => {$(
        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display_number!(DomId Port GrantRef GrantHandle Mfn Pfn);
