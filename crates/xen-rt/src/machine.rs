//! Which machine frames this domain has: its physical-to-machine list and Xen's machine-to-physical table.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;
use xen_ring::PageWords;
use xen_sys::{Mfn, PAGE_SIZE, Pfn};

use crate::layout;

/// Facts of this boot.
pub(crate) struct Machine {
    /// One word for each pseudo-physical number; see [`Slot`].
    p2m: &'static [AtomicU64],
    /// Numbers from here on are in the direct map.
    pub(crate) first_direct: u64,
    /// Numbers from here on, up to `shareable_end`, hold nothing but [`PageWords`].
    shareable_start: AtomicU64,
    shareable_end: AtomicU64,
}

/// What the word of a number says.
///
/// Xen's builder makes the list with nothing but frames in it. We keep more in it, so that what decides about memory lies where no
/// other domain can ever write, and costs nothing: 38 bits of frame (1 PiB of machine memory), above them 24 bits of
/// a number or a count, and two flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    /// Somebody has the page, and lends it under so many references.
    Out { frame: Mfn, lent: u64 },
    /// The floor's own: a free page with the next one's number, a page table with its companion's; 0 is none. It is never lent.
    Kept { frame: Mfn, link: Pfn },
    /// Xen has the frame; the next such number.
    GivenBack { next: Pfn },
}

const FRAME_BITS: u32 = 38;
const LINK_BITS: u32 = 24;
const KEPT: u64 = 1 << 62;
const GIVEN_BACK: u64 = 1 << 63;
/// Numbers that can be linked: 64 GiB of the domain's own memory.
pub(crate) const LINKS: u64 = 1 << LINK_BITS;

impl Slot {
    pub(crate) const fn decode(word: u64) -> Self {
        let frame = Mfn(word & ((1 << FRAME_BITS) - 1));
        let high = (word >> FRAME_BITS) & (LINKS - 1);
        if word & GIVEN_BACK != 0 {
            Self::GivenBack { next: Pfn(high) }
        } else if word & KEPT != 0 {
            Self::Kept { frame, link: Pfn(high) }
        } else {
            Self::Out { frame, lent: high }
        }
    }

    pub(crate) const fn encode(self) -> u64 {
        match self {
            Self::Out { frame, lent } => frame.0 | lent << FRAME_BITS,
            Self::Kept { frame, link } => KEPT | frame.0 | link.0 << FRAME_BITS,
            Self::GivenBack { next } => GIVEN_BACK | next.0 << FRAME_BITS,
        }
    }
}

static MACHINE: Once<Machine> = Once::new();
static FOOTPRINT: Once<Footprint> = Once::new();

/// Pages that were in use before there was any [`crate::BootMemory`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Footprint {
    /// The image, its stacks included.
    pub image: u64,
    /// What the domain builder made: the list of frames (8 bytes for each page of the domain), the first page tables, console, xenstore.
    pub start: u64,
    /// Tables of the direct map, before any was freed.
    pub direct_map: u64,
}

/// What boot has taken; nothing, on the host.
#[must_use]
pub fn footprint() -> Footprint {
    FOOTPRINT.get().copied().unwrap_or_default()
}

pub(crate) fn set_footprint(footprint: Footprint) {
    FOOTPRINT.call_once(|| footprint);
}

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

    /// What is known about a number.
    pub(crate) fn slot(&self, pfn: Pfn) -> Option<Slot> {
        let word = self.p2m.get(usize::try_from(pfn.0).ok()?)?;
        Some(Slot::decode(word.load(Ordering::Relaxed)))
    }

    /// # Panics
    /// If there is no such number.
    pub(crate) fn set_slot(&self, pfn: Pfn, slot: Slot) {
        let index = usize::try_from(pfn.0).unwrap_or(usize::MAX);
        self.p2m[index].store(slot.encode(), Ordering::Relaxed);
    }

    /// The frame behind a number.
    pub(crate) fn frame(&self, pfn: Pfn) -> Option<Mfn> {
        match self.slot(pfn)? {
            Slot::Out { frame, .. } | Slot::Kept { frame, .. } => Some(frame),
            Slot::GivenBack { .. } => None,
        }
    }

    /// Makes a page the floor's own, with a link.
    pub(crate) fn keep(&self, pfn: Pfn, link: Pfn) {
        debug_assert!(link.0 < LINKS, "checked where numbers come from");
        if let Some(frame) = self.frame(pfn) {
            self.set_slot(pfn, Slot::Kept { frame, link });
        }
    }

    /// The page that goes with a page table.
    pub(crate) fn companion(&self, table: Pfn) -> Option<Pfn> {
        match self.slot(table)? {
            Slot::Kept { link, .. } if link.0 != 0 => Some(link),
            _ => None,
        }
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

    /// Counts one more reference under which the frame is lent. `false`: other domains may not be given it. They may if it is
    /// ours, lies where only pages of words lie, and is neither free nor a page table.
    pub(crate) fn lend(&self, frame: Mfn) -> bool {
        match self.shareable(frame) {
            Some((pfn, Slot::Out { frame, lent })) if lent + 1 < LINKS => {
                self.set_slot(pfn, Slot::Out { frame, lent: lent + 1 });
                true
            }
            _ => false,
        }
    }

    /// Undoes one [`Self::lend`].
    pub(crate) fn unlend(&self, frame: Mfn) {
        if let Some((pfn, Slot::Out { frame, lent })) = self.shareable(frame) {
            self.set_slot(pfn, Slot::Out { frame, lent: lent.saturating_sub(1) });
        }
    }

    /// Whether Xen may copy into and out of the frame for somebody.
    pub(crate) fn may_share(&self, frame: Mfn) -> bool {
        matches!(self.shareable(frame), Some((_, Slot::Out { .. })))
    }

    fn shareable(&self, frame: Mfn) -> Option<(Pfn, Slot)> {
        let pfn = self.number(frame)?;
        let within = pfn.0 >= self.shareable_start.load(Ordering::Relaxed)
            && pfn.0 < self.shareable_end.load(Ordering::Relaxed);
        if within { Some((pfn, self.slot(pfn)?)) } else { None }
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

/// Makes `to` a copy of `from`, as [`PageWords::copy_from`] does, by one string instruction: every copy-on-write waits for this.
pub fn copy_page(to: &PageWords, from: &PageWords) {
    // SAFETY: both are pages, and are words that anybody may change at any time; the compiler does not see what assembly
    // does with them, as it does not see what another domain does.
    unsafe {
        core::arch::asm!("rep movsq",
            inout("rcx") PAGE_SIZE / 8 => _,
            inout("rdi") core::ptr::from_ref(to) => _,
            inout("rsi") core::ptr::from_ref(from) => _,
            options(nostack, preserves_flags));
    }
}

/// Fills `page` with zeros, as [`PageWords::zero`] does, by one string instruction.
pub fn zero_page(page: &PageWords) {
    // SAFETY: as in `copy_page`.
    unsafe {
        core::arch::asm!("rep stosq",
            inout("rcx") PAGE_SIZE / 8 => _,
            inout("rdi") core::ptr::from_ref(page) => _,
            in("rax") 0_u64,
            options(nostack, preserves_flags));
    }
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
