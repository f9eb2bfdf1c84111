//! User mode: a program's address space and its registers.
//!
//! Who uses it: `mm-guest`. The program runs in ring 3 with page tables of its own; its half is hooked into the kernel's tables too, so
//! addresses mean the same for both. The kernel looks up each page before it touches it, so it never faults on the
//! program's memory.

mod capture;
pub(crate) mod context;
mod floor;
pub(crate) mod frame;
mod probe;
mod shadow;
mod space;
#[cfg(test)]
mod tests;
mod transfer;

pub use context::{Exit, Registers, UserContext};
pub use floor::{FLOOR_PAGES, Floor};
pub use frame::{Frame, FramePool, OutOfFrames, PoolCounters};
#[cfg(feature = "image")]
pub(crate) use probe::probe_text_sharing;
pub use probe::text_is_shareable;
pub use space::{
    Entry, MapError, NotMapped, NotWritable, ProtectError, ReplaceError, SharedMap, Unmapped, UserSpace,
};

use crate::layout::USER_END;
use xen_sys::PAGE_SIZE;

const PAGE: u64 = PAGE_SIZE as u64;

/// The address of a page in a program's half of the address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserPage(u64);

impl UserPage {
    /// From an address that must be a page's, below 2^47.
    #[must_use]
    pub const fn try_new(va: u64) -> Option<Self> {
        if va.is_multiple_of(PAGE) && va < USER_END { Some(Self(va)) } else { None }
    }

    /// The page that `va` lies in.
    #[must_use]
    pub const fn containing(va: u64) -> Option<Self> {
        Self::try_new(va & !(PAGE - 1))
    }

    /// The address of its first byte.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0
    }

    /// The page behind it.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::try_new(self.0 + PAGE)
    }
}

/// What a program may do with a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Prot {
    /// Nothing.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExec,
    /// All.
    ReadWriteExec,
}

impl Prot {
    /// Whether it may write.
    #[must_use]
    pub const fn writable(self) -> bool {
        matches!(self, Self::ReadWrite | Self::ReadWriteExec)
    }

    /// Whether it may execute.
    #[must_use]
    pub const fn executable(self) -> bool {
        matches!(self, Self::ReadExec | Self::ReadWriteExec)
    }

    const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Read => 1,
            Self::ReadWrite => 2,
            Self::ReadExec => 3,
            Self::ReadWriteExec => 4,
        }
    }

    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Read,
            2 => Self::ReadWrite,
            3 => Self::ReadExec,
            4 => Self::ReadWriteExec,
            _ => Self::None,
        }
    }
}
