//! Page numbers and their arithmetic.

use core::ops::Range;

/// Bytes of a page.
pub const PAGE_SIZE: u64 = 4096;
/// First address that is not the program's: 47 bits less one guard page, Linux's `TASK_SIZE_MAX`.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// Lowest address that may be mapped, so that a null pointer always faults (Linux's `mmap_min_addr`).
pub const USER_START: u64 = 0x1_0000;

/// A page of the program's address space: its address divided by 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserPage(pub u64);

impl UserPage {
    /// The page that holds `address`.
    #[must_use]
    pub fn of(address: u64) -> Self {
        Self(address / PAGE_SIZE)
    }

    /// Address of the page's first byte.
    #[must_use]
    pub fn address(self) -> u64 {
        self.0 * PAGE_SIZE
    }
}

/// A 4 KiB page of the volume, counted from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumePage(pub u64);

/// Rounds up to whole pages; saturates just below 2⁶⁴.
pub(crate) fn round_up(bytes: u64) -> u64 {
    bytes.saturating_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1)
}

/// Rounds down to whole pages.
pub(crate) fn round_down(bytes: u64) -> u64 {
    bytes & !(PAGE_SIZE - 1)
}

/// The pages of `[address, address + length)`, where the address is aligned, the length is not zero and the whole lies
/// in the program's half.
pub(crate) fn pages(address: u64, length: u64) -> Option<Range<u64>> {
    let end = address.checked_add(round_up(length))?;
    let fits = address.is_multiple_of(PAGE_SIZE) && length > 0 && end <= USER_END;
    fits.then_some(address / PAGE_SIZE..end / PAGE_SIZE)
}
