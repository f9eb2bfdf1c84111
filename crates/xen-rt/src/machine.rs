//! Which machine frames this domain has: its physical-to-machine list and Xen's machine-to-physical table.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;
use xen_ring::PageWords;
use xen_sys::{Mfn, PAGE_SIZE, Pfn};

use crate::layout;

/// Facts of this boot.
pub(crate) struct Machine {
    /// Frame of each pseudo-physical number; [`GIVEN_BACK`] is set where there is none.
    p2m: &'static [AtomicU64],
    /// Numbers from here on are in the direct map.
    pub(crate) first_direct: u64,
    /// Numbers from here on, up to `shareable_end`, hold nothing but [`PageWords`].
    shareable_start: AtomicU64,
    shareable_end: AtomicU64,
}

/// Marks a number whose frame went back to Xen; the other bits are then the pool's.
pub(crate) const GIVEN_BACK: u64 = 1 << 63;
/// Bits of a list entry that are the frame's: 4 PiB of machine memory. Above them a page table of user space has the number of
/// its companion page.
const FRAME_BITS: u32 = 40;
/// Numbers that fit above the frame: 32 GiB of the domain's own memory.
pub(crate) const COMPANIONS: u64 = 1 << (63 - FRAME_BITS);

static MACHINE: Once<Machine> = Once::new();

/// The machine, after boot.
///
/// # Panics
/// On the host, where there is none.
pub(crate) fn machine() -> &'static Machine {
    MACHINE.get().expect("booted by Xen")
}

impl Machine {
    pub(crate) fn install(p2m: &'static [AtomicU64], first_direct: u64) -> &'static Self {
        MACHINE.call_once(|| Self {
            p2m,
            first_direct,
            shareable_start: AtomicU64::new(0),
            shareable_end: AtomicU64::new(0),
        })
    }

    /// Numbers that this domain was started with.
    pub(crate) fn pages(&self) -> u64 {
        self.p2m.len() as u64
    }

    /// The frame behind a number.
    pub(crate) fn frame(&self, pfn: Pfn) -> Option<Mfn> {
        let value = self.p2m.get(usize::try_from(pfn.0).ok()?)?.load(Ordering::Relaxed);
        (value & GIVEN_BACK == 0).then_some(Mfn(value & ((1 << FRAME_BITS) - 1)))
    }

    /// Remembers the page that goes with a page table; number 0 forgets it.
    pub(crate) fn set_companion(&self, table: Pfn, companion: Pfn) {
        let (Some(slot), Some(frame)) = (self.slot(table), self.frame(table)) else { return };
        debug_assert!(companion.0 < COMPANIONS, "checked when the address space was made");
        slot.store(frame.0 | companion.0 << FRAME_BITS, Ordering::Relaxed);
    }

    /// The page that goes with a page table.
    pub(crate) fn companion(&self, table: Pfn) -> Option<Pfn> {
        let value = self.slot(table)?.load(Ordering::Relaxed);
        let companion = Pfn(value >> FRAME_BITS);
        (value & GIVEN_BACK == 0 && companion.0 != 0).then_some(companion)
    }

    /// The word of a number, for the pool.
    pub(crate) fn slot(&self, pfn: Pfn) -> Option<&AtomicU64> {
        self.p2m.get(usize::try_from(pfn.0).ok()?)
    }

    /// The number of one of our frames.
    pub(crate) fn number(&self, frame: Mfn) -> Option<Pfn> {
        let pfn = Pfn(m2p(frame));
        (self.frame(pfn) == Some(frame)).then_some(pfn)
    }

    pub(crate) fn set_shareable(&self, start: u64, end: u64) {
        self.shareable_start.store(start, Ordering::Relaxed);
        self.shareable_end.store(end, Ordering::Relaxed);
    }

    /// Whether other domains may be given the frame: it is ours, and lies where only pages of words lie.
    pub(crate) fn may_share(&self, frame: Mfn) -> bool {
        self.number(frame).is_some_and(|pfn| {
            pfn.0 >= self.shareable_start.load(Ordering::Relaxed)
                && pfn.0 < self.shareable_end.load(Ordering::Relaxed)
        })
    }
}

/// What Xen's table says about a frame; anything, if the frame is not ours.
fn m2p(frame: Mfn) -> u64 {
    if !cfg!(feature = "image") {
        return u64::MAX;
    }
    // The table is at most 256 GiB of addresses.
    let address = layout::M2P + (frame.0 & 0x7_ffff_ffff) * 8;
    // SAFETY: Xen maps its table readable there (`__HYPERVISOR_VIRT_START` in `arch-x86/xen-x86_64.h`); it
    // changes entries only while one of our hypercalls runs. A number beyond the machine's memory page-faults: a panic.
    unsafe { (address as *const u64).read_volatile() }
}

/// The machine frame behind a page of this domain's memory.
///
/// # Panics
/// If the page is none of [`crate::BootMemory::pages`], nor a frame's: there is a bug in the caller.
#[must_use]
pub fn mfn_of(page: &PageWords) -> Mfn {
    let address = core::ptr::from_ref(page) as u64;
    let pfn = match address.checked_sub(layout::VIRT_BASE) {
        Some(offset) => Some(Pfn(offset / PAGE_SIZE as u64)),
        None => layout::direct_pfn(address),
    };
    pfn.and_then(|pfn| machine().frame(pfn)).expect("a page of this domain's memory")
}

/// A 64-bit value in a page, as two words: not atomic, for pages that nobody else writes.
pub(crate) fn load64(page: &PageWords, index: usize) -> u64 {
    u64::from(page.load(index * 2)) | u64::from(page.load(index * 2 + 1)) << 32
}

/// As [`load64`].
pub(crate) fn store64(page: &PageWords, index: usize, value: u64) {
    let [low, high] = [value & 0xffff_ffff, value >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    page.store(index * 2, low);
    page.store(index * 2 + 1, high);
}

/// A page of the direct map.
///
/// # Safety
/// `pfn` must be mapped there for as long as the reference lives, and nothing but words may be in it.
pub(crate) unsafe fn words<'a>(pfn: Pfn) -> &'a PageWords {
    // SAFETY: the caller's promise; every page address is aligned, and atomics may be shared with anybody.
    unsafe { &*(layout::direct(pfn) as *const PageWords) }
}
