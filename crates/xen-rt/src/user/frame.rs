//! Frames: a domain's private memory, one page at a time, some of it given back to Xen while nobody needs it.

use xen::Hypervisor;
use xen::hypervisor::PopulateSlot;
use xen_ring::PageWords;
use xen_sys::memory::{Flush, MulticallEntry};
use xen_sys::{Errno, Mfn, PAGE_SIZE, Pfn, hypercall};

use crate::machine::{LINKS, Slot, machine, words, zero_page};
use crate::tables::{self, TableError, TableSource, sealed};
use crate::{BootMemory, layout, native, pte};

/// Frames that go to Xen or come from it in one hypercall.
pub(crate) const BATCH: usize = 32;
/// End of a list of numbers.
pub(crate) const END: Pfn = Pfn(0);
/// Pages that one table of the direct map shows.
const CHUNK: u64 = 512;

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
    /// Tables of the direct map that were taken away and became free frames, because Xen had all that they showed, and tables that were
    /// made again.
    pub tables_freed: u64,
    /// See `tables_freed`.
    pub tables_made: u64,
}

/// Free frames, and the numbers whose frames Xen has.
///
/// The last `reserve` frames are for the kernel itself ([`FramePool::alloc_reserved`]): page tables, copy-on-write for its own
/// writes. Frames are given out with any content of this domain's; those that come from Xen are cleared first.
pub struct FramePool {
    /// First number of the pool.
    first: u64,
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
            first,
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
        let mut used = 0;
        while used < count {
            let Some(frame) = self.pop() else { break };
            pages[used] = frame.0;
            used += 1;
        }
        let pages = &pages[..used];
        let done = give_back(pages);
        for &page in &pages[..done] {
            self.push_gone(page);
        }
        self.counters.given_back += done as u64;
        for &page in &pages[done..] {
            self.free(Frame(page));
        }
        let mut chunk = None;
        for &page in &pages[..done] {
            if chunk.replace(page.0 / CHUNK) != Some(page.0 / CHUNK) {
                self.free_table(page.0 / CHUNK);
            }
        }
        done
    }

    /// Frees the direct map's table for a chunk of numbers of which none has a frame any more.
    fn free_table(&mut self, chunk: u64) {
        let pages = chunk * CHUNK..(chunk + 1) * CHUNK;
        if pages.start < self.first || pages.end > self.fresh_end {
            return;
        }
        let mut slots = pages.clone().map(|page| machine().slot(Pfn(page)));
        if !slots.all(|slot| matches!(slot, Some(Slot::GivenBack { .. }))) {
            return;
        }
        // SAFETY: the direct map shows none of these numbers, so nothing refers to their places.
        if let Some(table) = unsafe { tables::unhook_l1(layout::direct(Pfn(pages.start))) } {
            self.counters.tables_freed += 1;
            self.push(table);
        }
    }

    /// Makes sure that the direct map has a table for a number, from the frames that are there.
    fn ensure_table(&mut self, page: Pfn) -> Result<(), TableError> {
        /// Takes frames without asking Xen for more.
        struct Present<'p>(&'p mut FramePool);

        impl sealed::Sealed for Present<'_> {}

        impl TableSource for Present<'_> {
            fn take(&mut self) -> Option<Pfn> {
                let page = self.0.pop().and_then(Frame::into_kept)?;
                self.0.counters.tables_made += 1;
                Some(page)
            }
        }

        tables::ensure(layout::direct(page), 1, &mut Present(self)).map(drop)
    }

    /// Gets up to a batch of frames from Xen.
    fn repopulate(&mut self) {
        let mut pages = [END; BATCH];
        let mut used = 0;
        while used < BATCH {
            let Some(page) = self.pop_gone() else { break };
            if let Err(error) = self.ensure_table(page) {
                log::debug!("no table for a page to come: {error:?}");
                self.push_gone(page);
                break;
            }
            pages[used] = page;
            used += 1;
        }
        let pages = &pages[..used];
        let done = populate(pages);
        if done < BATCH && (done < used || self.gone != END) {
            self.counters.populate_failures += 1;
        }
        self.counters.repopulated += done as u64;
        for &page in &pages[..done] {
            self.free(Frame(page));
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

/// Gives the frames of up to a batch of pages to Xen, cleared. Returns how many from the front went; the others stay as they are, but
/// for their content.
///
/// Nobody may have the pages: what refers to them would see nothing, which is why only lists of free pages come here.
pub(crate) fn give_back(pages: &[Pfn]) -> usize {
    if pages.is_empty() {
        return 0;
    }
    let mut frames = [Mfn(0); BATCH];
    for (frame, page) in frames.iter_mut().zip(pages) {
        let free = Frame(*page);
        free.zero();
        *frame = free.mfn();
    }
    map_direct(pages, |_| pte::ABSENT).expect("own frames can be unmapped");
    // SAFETY: nobody has these frames, and their only mapping is gone.
    let done = unsafe { native().memory_decrease(&frames[..pages.len()]) }.unwrap_or(0);
    map_direct(&pages[done..], |page| pte::kernel(page, pte::Kernel::ReadWrite))
        .expect("own frames can be mapped");
    for page in &pages[..done] {
        machine().set_slot(*page, Slot::GivenBack { next: END });
    }
    done
}

/// Gets frames for up to a batch of pages whose frames Xen has, and clears them; the direct map has tables for them. Returns how many from
/// the front came.
pub(crate) fn populate(pages: &[Pfn]) -> usize {
    if pages.is_empty() {
        return 0;
    }
    let mut slots = [PopulateSlot::wanted(END); BATCH];
    for (slot, page) in slots.iter_mut().zip(pages) {
        *slot = PopulateSlot::wanted(*page);
    }
    // SAFETY: the frames of these numbers went back to Xen.
    let done = unsafe { native().memory_populate(&mut slots[..pages.len()]) }.unwrap_or(0);
    for (page, slot) in pages[..done].iter().zip(&slots) {
        machine().set_slot(*page, Slot::Out { frame: slot.frame(), lent: 0 });
    }
    map_direct(&pages[..done], |page| pte::kernel(page, pte::Kernel::ReadWrite))
        .expect("new frames can be mapped");
    for page in &pages[..done] {
        Frame(*page).zero();
    }
    done
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
