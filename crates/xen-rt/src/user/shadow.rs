//! What the kernel remembers of each page of a program, beside the page-table entry: 64 bits in the companion page of
//! the L1 table.
//!
//! An absent entry is always 0 (`crate::pte`), so a private page without access is known here only; and unmapping a grant
//! takes the handle that Xen gave.

use xen_sys::{GrantHandle, GrantRef, Pfn};

use super::Prot;

const KIND: u32 = 62;
const PRIVATE: u64 = 1;
const SHARED: u64 = 2;
/// Private: protection. Shared: bit 61, executable.
const PROT: u32 = 59;
const EXECUTABLE: u64 = 1 << 61;
const HANDLE: u32 = 32;
/// Handles below this one can be remembered; Xen counts them from 0, 256 for each maptrack frame.
pub(crate) const HANDLES: u32 = 1 << 29;

/// A remembered page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shadow {
    Absent,
    Private { page: Pfn, prot: Prot },
    Shared { reference: GrantRef, handle: GrantHandle, executable: bool },
}

impl Shadow {
    pub(crate) fn encode(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Private { page, prot } => PRIVATE << KIND | u64::from(prot.number()) << PROT | page.0,
            Self::Shared { reference, handle, executable } => {
                SHARED << KIND
                    | if executable { EXECUTABLE } else { 0 }
                    | u64::from(handle.0) << HANDLE
                    | u64::from(reference.0)
            }
        }
    }

    pub(crate) fn decode(value: u64) -> Self {
        let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        match value >> KIND {
            PRIVATE => Self::Private {
                page: Pfn(value & 0xffff_ffff),
                prot: Prot::from_number(((value >> PROT) & 7).to_le_bytes()[0]),
            },
            SHARED => Self::Shared {
                reference: GrantRef(low(value)),
                handle: GrantHandle(low(value >> HANDLE) & (HANDLES - 1)),
                executable: value & EXECUTABLE != 0,
            },
            _ => Self::Absent,
        }
    }
}
