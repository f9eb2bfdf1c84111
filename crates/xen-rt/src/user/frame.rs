//! Frames: a domain's private memory, one page at a time, some of it given back to Xen while nobody needs it.

use xen::Hypervisor;
use xen::hypervisor::PopulateSlot;
use xen_ring::PageWords;
use xen_sys::memory::{Flush, MulticallEntry};
use xen_sys::{Errno, Mfn, PAGE_SIZE, Pfn, hypercall};

use crate::machine::{LINKS, Slot, machine, words, zero_page};
use crate::tables::{TableSource, sealed};
use crate::{BootMemory, layout, native, pte};

/// Frames that go to Xen or come from it in one hypercall.
const BATCH: usize = 32;
/// End of a list of numbers.
const END: Pfn = Pfn(0);

/// A page of private memory with its machine frame. Whoever has it owns it; [`FramePool::free`] ends that. It may be lent by
/// its machine frame meanwhile.
#[must_use = "a frame that is dropped is lost"]
#[derive(PartialEq, Eq, Debug)]
pub struct Frame(pub(crate) Pfn);

impl Frame {
    /// What is in it.
    #[must_use]
    pub fn words(&self) -> &PageWords {
        // SAFETY: a frame outside of the pool is in the direct map and holds nothing but words.
        unsafe { words(self.0) }
    }

    /// Its machine frame, for grants.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        machine().frame(self.0).expect("an owned frame")
    }

    /// Fills it with zeros.
    pub fn zero(&self) {
        zero_page(self.words());
    }

    /// Makes it the kernel's: a page table, or what goes with one. `None`, and the frame is lost, if it is lent: a new frame never is.
    pub(crate) fn into_kept(self) -> Option<Pfn> {
        match machine().slot(self.0) {
            Some(Slot::Out { lent: 0, .. }) => {
                machine().keep(self.0, END);
                Some(self.0)
            }
            _ => None,
        }
    }

    /// Undoes [`Self::into_kept`].
    pub(crate) fn from_kept(page: Pfn) -> Self {
        if let Some(frame) = machine().frame(page) {
            machine().set_slot(page, Slot::Out { frame, lent: 0 });
        }
        Self(page)
    }
}

/// No frame can be had: the domain is at its ceiling, or the host has no memory. Counted in [`PoolCounters`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames;

/// What a pool has done, since boot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolCounters {
    /// Frames given back to Xen.
    pub given_back: u64,
    /// Frames had from Xen again.
    pub repopulated: u64,
    /// Hypercalls that were to bring frames and brought fewer than asked.
    pub populate_failures: u64,
    /// Allocations refused.
    pub refused: u64,
    /// Frames that were freed while they were lent: they are not used again, and their owner forgot to revoke.
    pub lost: u64,
}

/// Free frames, and the numbers whose frames Xen has.
///
/// The last `reserve` frames are for the kernel itself ([`FramePool::alloc_reserved`]): page tables, copy-on-write for its own
/// writes. Frames are given out with any content of this domain's; those that come from Xen are cleared first.
pub struct FramePool {
    /// Never used: from here …
    fresh: u64,
    /// … up to here.
    fresh_end: u64,
    /// First of the list of free frames; linked through their slots in the machine's list.
    free: Pfn,
    /// How many there are in that list.
    free_len: usize,
    /// First of the list of numbers without frame, linked likewise.
    gone: Pfn,
    gone_len: usize,
    reserve: usize,
    counters: PoolCounters,
}

impl FramePool {
    /// A pool of `frames` pages of `memory`, the last `reserve` of them the kernel's; `None` if there are not as many, or some lie
    /// beyond the first 64 GiB.
    pub fn new(memory: &mut BootMemory, frames: usize, reserve: usize) -> Option<Self> {
        let first = layout::direct_pfn(memory.take_bottom(frames)? as u64)?.0;
        if first + frames as u64 > LINKS {
            return None;
        }
        for page in first..first + frames as u64 {
            machine().keep(Pfn(page), END);
        }
        Some(Self {
            fresh: first,
            fresh_end: first + frames as u64,
            free: END,
            free_len: 0,
            gone: END,
            gone_len: 0,
            reserve,
            counters: PoolCounters::default(),
        })
    }

    /// Adds what is left of `memory`; gives the number of frames.
    pub fn absorb(&mut self, memory: &mut BootMemory) -> usize {
        let frames = memory.free_pages();
        let first = memory.take_bottom(frames).and_then(|first| layout::direct_pfn(first as u64));
        let Some(Pfn(first)) = first.filter(|first| first.0 + frames as u64 <= LINKS) else { return 0 };
        for page in first..first + frames as u64 {
            self.push(Pfn(page));
        }
        frames
    }

    /// A frame for the program. Gets frames from Xen if only the reserve is left.
    ///
    /// # Errors
    /// [`OutOfFrames`]: Xen gave none.
    pub fn alloc(&mut self) -> Result<Frame, OutOfFrames> {
        if self.available() <= self.reserve {
            self.repopulate();
        }
        if self.available() <= self.reserve {
            self.counters.refused += 1;
            return Err(OutOfFrames);
        }
        self.pop().ok_or(OutOfFrames)
    }

    /// A frame for the kernel itself: may be one of the reserve.
    ///
    /// # Errors
    /// [`OutOfFrames`]: the reserve is used up too.
    pub fn alloc_reserved(&mut self) -> Result<Frame, OutOfFrames> {
        if self.available() <= self.reserve {
            self.repopulate();
        }
        self.pop().ok_or_else(|| {
            self.counters.refused += 1;
            OutOfFrames
        })
    }

    /// Takes a frame back. Revoke its grants first: a frame that is lent is lost, and counted.
    pub fn free(&mut self, frame: Frame) {
        match frame.into_kept() {
            Some(page) => self.push(page),
            None => self.counters.lost += 1,
        }
    }

    fn push(&mut self, page: Pfn) {
        machine().keep(page, self.free);
        self.free = page;
        self.free_len += 1;
    }

    /// Frames that are there now, the reserve included.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free_len + usize::try_from(self.fresh_end - self.fresh).unwrap_or(0)
    }

    /// Numbers whose frames Xen has, and which [`Self::alloc`] asks for again.
    #[must_use]
    pub const fn given_back(&self) -> usize {
        self.gone_len
    }

    /// Frames that are kept for the kernel.
    #[must_use]
    pub const fn reserve(&self) -> usize {
        self.reserve
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> PoolCounters {
        self.counters
    }

    /// Gives up to `count` free frames back to Xen, cleared: Xen does not clear them. Keeps the reserve. Returns how many
    /// went.
    pub fn give_back(&mut self, count: usize) -> usize {
        let mut gone = 0;
        while gone < count {
            let spare = self.available().saturating_sub(self.reserve);
            let batch = BATCH.min(count - gone).min(spare);
            let done = self.give_back_batch(batch);
            gone += done;
            if done < batch || batch == 0 {
                break;
            }
        }
        gone
    }

    fn give_back_batch(&mut self, count: usize) -> usize {
        let mut pages = [END; BATCH];
        let mut frames = [Mfn(0); BATCH];
        let mut used = 0;
        while used < count {
            let Some(frame) = self.pop() else { break };
            frame.zero();
            frames[used] = frame.mfn();
            pages[used] = frame.0;
            used += 1;
        }
        if used == 0 {
            return 0;
        }
        let pages = &pages[..used];
        map_direct(pages, |_| pte::ABSENT).expect("own frames can be unmapped");
        // SAFETY: nobody has these frames, and their only mapping is gone.
        let done = unsafe { native().memory_decrease(&frames[..used]) }.unwrap_or(0);
        for &page in &pages[..done] {
            self.push_gone(page);
        }
        self.counters.given_back += done as u64;
        let kept = &pages[done..];
        map_direct(kept, |page| pte::kernel(page, pte::Kernel::ReadWrite)).expect("own frames can be mapped");
        for &page in kept {
            self.free(Frame(page));
        }
        done
    }

    /// Gets up to a batch of frames from Xen.
    fn repopulate(&mut self) {
        let mut pages = [END; BATCH];
        let mut used = 0;
        while used < BATCH {
            let Some(page) = self.pop_gone() else { break };
            pages[used] = page;
            used += 1;
        }
        if used == 0 {
            return;
        }
        let pages = &pages[..used];
        let mut slots = [PopulateSlot::wanted(END); BATCH];
        for (slot, page) in slots.iter_mut().zip(pages) {
            *slot = PopulateSlot::wanted(*page);
        }
        // SAFETY: the frames of these numbers went back to Xen.
        let done = unsafe { native().memory_populate(&mut slots[..used]) }.unwrap_or(0);
        if done < used {
            self.counters.populate_failures += 1;
        }
        for (page, slot) in pages[..done].iter().zip(&slots) {
            machine().set_slot(*page, Slot::Out { frame: slot.frame(), lent: 0 });
        }
        map_direct(&pages[..done], |page| pte::kernel(page, pte::Kernel::ReadWrite))
            .expect("new frames can be mapped");
        self.counters.repopulated += done as u64;
        for &page in &pages[..done] {
            let frame = Frame(page);
            frame.zero();
            self.free(frame);
        }
        for &page in pages[done..].iter().rev() {
            self.push_gone(page);
        }
    }

    fn pop(&mut self) -> Option<Frame> {
        if self.free == END {
            return (self.fresh < self.fresh_end).then(|| {
                let page = Pfn(self.fresh);
                self.fresh += 1;
                Frame::from_kept(page)
            });
        }
        let page = self.free;
        match machine().slot(page) {
            Some(Slot::Kept { link, .. }) => self.free = link,
            other => panic!("a free page is {other:?}"),
        }
        self.free_len -= 1;
        Some(Frame::from_kept(page))
    }

    fn push_gone(&mut self, page: Pfn) {
        machine().set_slot(page, Slot::GivenBack { next: self.gone });
        self.gone = page;
        self.gone_len += 1;
    }

    fn pop_gone(&mut self) -> Option<Pfn> {
        if self.gone == END {
            return None;
        }
        let page = self.gone;
        match machine().slot(page) {
            Some(Slot::GivenBack { next }) => self.gone = next,
            other => panic!("a page without frame is {other:?}"),
        }
        self.gone_len -= 1;
        Some(page)
    }
}

impl core::fmt::Debug for FramePool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "FramePool({} available, {} given back, {} KiB)",
            self.available(),
            self.gone_len,
            self.available() * PAGE_SIZE / 1024
        )
    }
}

impl sealed::Sealed for FramePool {}

impl TableSource for FramePool {
    fn take(&mut self) -> Option<Pfn> {
        self.alloc_reserved().ok().and_then(Frame::into_kept)
    }
}

/// Changes the direct map's entries of up to a batch of pages.
fn map_direct(pages: &[Pfn], entry: impl Fn(Mfn) -> u64) -> Result<(), Errno> {
    if pages.is_empty() {
        return Ok(());
    }
    let mut calls = [MulticallEntry::default(); BATCH];
    for (call, page) in calls.iter_mut().zip(pages) {
        let frame = machine().frame(*page).ok_or(Errno::INVAL)?;
        call.op = hypercall::UPDATE_VA_MAPPING;
        call.args = [layout::direct(*page), entry(frame), Flush::Page.bits(), 0, 0, 0];
    }
    // SAFETY: nobody has these frames, so nothing refers to their place in the direct map.
    unsafe { native().multicall(&mut calls[..pages.len()]) }?;
    calls[..pages.len()].iter().try_for_each(|call| xen::native::check(call.result).map(drop))
}
