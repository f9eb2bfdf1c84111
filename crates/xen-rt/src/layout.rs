//! The kernel's address space.
//!
//! | from | what |
//! |---|---|
//! | 0 | user space, when there is one |
//! | 0xffff800000000000 | Xen; its machine-to-physical table, readable |
//! | 0xffff880000000000 | direct map: all RAM behind the image and boot structures, at its pseudo-physical address |
//! | 0xffff888000000000 | our grant table |
//! | 0xffff890000000000 | foreign pages, mapped by grant |
//! | 0xffffffff80000000 | the image and Xen's boot structures, at their pseudo-physical address |

use xen_sys::start::{HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START};
use xen_sys::{PAGE_SHIFT, Pfn};

/// `VIRT_BASE`: where the image's pseudo-physical address 0 is.
pub(crate) const VIRT_BASE: u64 = 0xffff_ffff_8000_0000;
/// Where pseudo-physical address 0 is in the direct map.
pub(crate) const DIRECT_BASE: u64 = HYPERVISOR_VIRT_END;
/// Most pages that the direct map can show: one L4 slot.
pub(crate) const DIRECT_PAGES: u64 = 1 << 27;
/// The grant table.
pub(crate) const GRANT_BASE: u64 = DIRECT_BASE + (1 << 39);
/// Foreign pages.
pub(crate) const FOREIGN_BASE: u64 = DIRECT_BASE + (2 << 39);
/// First address that is not user space's.
pub(crate) const USER_END: u64 = 1 << 47;
/// The machine-to-physical table.
pub(crate) const M2P: u64 = HYPERVISOR_VIRT_START;

/// Where `pfn` is in the direct map.
pub(crate) const fn direct(pfn: Pfn) -> u64 {
    DIRECT_BASE + (pfn.0 << PAGE_SHIFT)
}

/// Which frame number an address in the direct map has.
pub(crate) const fn direct_pfn(address: u64) -> Option<Pfn> {
    match address.checked_sub(DIRECT_BASE) {
        Some(offset) if offset >> PAGE_SHIFT < DIRECT_PAGES => Some(Pfn(offset >> PAGE_SHIFT)),
        _ => None,
    }
}

/// The index into a table of `level` (1: L1 … 4: L4) that an address goes through.
pub(crate) const fn index(address: u64, level: u32) -> usize {
    ((address >> (PAGE_SHIFT + 9 * (level - 1))) & 511) as usize
}
