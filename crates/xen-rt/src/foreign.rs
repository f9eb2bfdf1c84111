//! Pages of other domains, mapped by grant into the kernel's half of the address space.
//!
//! They are words that their owner may change at any time. A page that was mapped read-only faults when it is
//! written: a panic. Xen takes no mapping away, whatever becomes of the owner.

use core::sync::atomic::{AtomicU64, Ordering};

use spin::Once;
use xen::{Access, Hypervisor};
use xen_ring::PageWords;
use xen_sys::grant::{MapGrantRef, UNMAP_BATCH, UnmapGrantRef, gntmap};
use xen_sys::{DomId, GrantHandle, GrantRef, GrantStatus, PAGE_SHIFT, PAGE_SIZE, Pfn};

pub use crate::tables::{TableError, TableSource};
use crate::{layout, native, tables};

mod lasting;
mod ring;
pub use lasting::StaticPage;
pub use ring::RingWindow;

/// Most pages of one window.
pub const WINDOW_MAX: usize = 4096;
const WORD: usize = 64;

/// Next address that no window has.
static NEXT: AtomicU64 = AtomicU64::new(layout::FOREIGN_BASE);
/// What addresses show that had a foreign page once and are still referred to: a page of ours without meaning.
static NOBODYS: Once<Pfn> = Once::new();

/// Addresses for foreign pages.
pub struct ForeignWindow {
    base: u64,
    pages: usize,
    taken: [u64; WINDOW_MAX / WORD],
    /// Of those, addresses that show [`NOBODYS`]: only a page that lasts may follow there.
    retired: [u64; WINDOW_MAX / WORD],
}

/// A mapped page of another domain. [`ForeignWindow::unmap`] ends it.
#[must_use = "a page that is dropped stays mapped for ever"]
#[derive(PartialEq, Eq, Debug)]
pub struct ForeignPage {
    address: u64,
    handle: GrantHandle,
    reference: GrantRef,
}

impl ForeignPage {
    /// What is in it, now.
    #[must_use]
    pub fn words(&self) -> &PageWords {
        // SAFETY: mapped until `unmap` consumes the page; words may be changed by anybody.
        unsafe { &*(self.address as *const PageWords) }
    }

    /// The owner's reference.
    #[must_use]
    pub const fn reference(&self) -> GrantRef {
        self.reference
    }
}

impl ForeignWindow {
    /// A window of `pages` addresses, with page tables out of `memory`.
    ///
    /// # Errors
    /// No memory for tables, or Xen refused them.
    ///
    /// # Panics
    /// If `pages` is more than [`WINDOW_MAX`].
    pub fn new(pages: usize, memory: &mut dyn TableSource) -> Result<Self, TableError> {
        assert!(pages <= WINDOW_MAX, "a window has at most {WINDOW_MAX} pages");
        let bytes = (pages * PAGE_SIZE) as u64;
        let base = NEXT.load(Ordering::Relaxed);
        if NOBODYS.get().is_none() {
            let page = memory.take().ok_or(TableError::Memory)?;
            NOBODYS.call_once(|| page);
        }
        let mut address = base;
        while address < base + bytes {
            tables::ensure(address, 1, memory)?;
            address = (address | 0x1f_ffff) + 1;
        }
        NEXT.store(base + bytes, Ordering::Relaxed);
        let none = [0; WINDOW_MAX / WORD];
        Ok(Self { base, pages, taken: none, retired: none })
    }

    /// Addresses that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.pages - self.taken.iter().map(|word| word.count_ones() as usize).sum::<usize>()
    }

    /// Maps `references` of `owner` read-only; `out` gets a page for each that could be mapped.
    ///
    /// # Errors
    /// The first status that was not okay; [`GrantStatus::NO_SPACE`] also when the window is full. What could be mapped is.
    ///
    /// # Panics
    /// If `out` is shorter than `references`, or holds a page already.
    pub fn map(
        &mut self,
        owner: DomId,
        references: &[GrantRef],
        out: &mut [Option<ForeignPage>],
    ) -> Result<(), GrantStatus> {
        self.map_all(owner, references, Access::ReadOnly, out)
    }

    /// As [`Self::map`], writable.
    ///
    /// # Errors
    /// As [`Self::map`].
    ///
    /// # Panics
    /// As [`Self::map`].
    pub fn map_writable(
        &mut self,
        owner: DomId,
        references: &[GrantRef],
        out: &mut [Option<ForeignPage>],
    ) -> Result<(), GrantStatus> {
        self.map_all(owner, references, Access::ReadWrite, out)
    }

    fn map_all(
        &mut self,
        owner: DomId,
        references: &[GrantRef],
        access: Access,
        out: &mut [Option<ForeignPage>],
    ) -> Result<(), GrantStatus> {
        assert!(out.len() >= references.len() && out.iter().all(Option::is_none), "room for each page");
        let mut result = Ok(());
        for (references, out) in references.chunks(UNMAP_BATCH).zip(out.chunks_mut(UNMAP_BATCH)) {
            if let Err(status) = self.map_batch(owner, references, access, out) {
                result = result.and(Err(status));
            }
        }
        result
    }

    fn map_batch(
        &mut self,
        owner: DomId,
        references: &[GrantRef],
        access: Access,
        out: &mut [Option<ForeignPage>],
    ) -> Result<(), GrantStatus> {
        let empty = empty_map(owner, access);
        let mut ops = [empty; UNMAP_BATCH];
        let mut used = 0;
        for reference in references {
            let Some(address) = self.take() else { break };
            ops[used] = MapGrantRef { host_addr: address, reference: reference.0, ..empty };
            used += 1;
        }
        // SAFETY: addresses of this window that nobody has and that are absent.
        let asked = used == 0 || unsafe { native().grant_map(&mut ops[..used]) }.is_ok();
        let mut result = if used < references.len() { Err(GrantStatus::NO_SPACE) } else { Ok(()) };
        for (op, out) in ops[..used].iter().zip(out) {
            let status = if asked { op.status } else { GrantStatus::GENERAL_ERROR };
            if status.is_okay() {
                *out = Some(ForeignPage {
                    address: op.host_addr,
                    handle: GrantHandle(op.handle),
                    reference: GrantRef(op.reference),
                });
            } else {
                self.release(op.host_addr);
                result = result.and(Err(status));
            }
        }
        result
    }

    /// Unmaps all pages that are there, in batches; leaves `None`.
    pub fn unmap(&mut self, pages: &mut [Option<ForeignPage>]) {
        for pages in pages.chunks_mut(UNMAP_BATCH) {
            let mut ops = [EMPTY_UNMAP; UNMAP_BATCH];
            let mut used = 0;
            for page in pages.iter_mut().filter_map(Option::take) {
                ops[used] = unmap_op(&page);
                used += 1;
            }
            if used == 0 {
                continue;
            }
            // SAFETY: the pages were consumed: nobody refers to them.
            unsafe { native().grant_unmap(&mut ops[..used]) }.expect("own mappings can be unmapped");
            for op in &ops[..used] {
                assert!(op.status.is_okay(), "Xen does not know our mapping: {op:?}");
                self.release(op.host_addr);
            }
        }
    }

    /// Tries `xen::conformance` on this domain, between two addresses of the window, which are free again afterwards.
    ///
    /// `frames` must be used for nothing else, and 8 references from `references` on be free.
    ///
    /// # Errors
    /// [`GrantStatus::NO_SPACE`]: the window is full.
    pub fn conformance(
        &mut self,
        boot: &crate::Boot,
        frames: [&crate::user::Frame; 2],
        references: GrantRef,
        record: &mut dyn FnMut(&'static str, i32),
    ) -> Result<(), GrantStatus> {
        let scratch = [(); 2].map(|()| self.take());
        if let [Some(here), Some(there)] = scratch {
            let subject = xen::conformance::Subject {
                hypervisor: boot.hypervisor,
                grants: boot.grants,
                events: boot.events,
                domid: boot.domid,
                frames: frames.map(|frame| frame.mfn()),
                references,
                scratch: [here, there],
            };
            // SAFETY: addresses of this window that nobody has; the frames are lent to ourselves and hold words only.
            unsafe { xen::conformance::run(&subject, record) };
        }
        let found = scratch.iter().all(Option::is_some);
        scratch.into_iter().flatten().for_each(|address| self.release(address));
        if found { Ok(()) } else { Err(GrantStatus::NO_SPACE) }
    }

    /// Whether Xen lets the page be executed. It stays so; it is unmapped as any other.
    #[cfg(feature = "image")]
    pub(crate) fn try_execute(&self, page: &ForeignPage) -> bool {
        use crate::pte;
        use xen_sys::memory::Flush;

        let Some(l1) = tables::l1_of(page.address) else { return false };
        let Some(frame) = pte::frame(l1.entry(layout::index(page.address, 1))) else { return false };
        let entry = pte::kernel(frame, pte::Kernel::ReadExec);
        // SAFETY: the same frame, readable as before; nobody jumps there.
        unsafe { native().update_va_mapping(page.address, entry, Flush::Page) }.is_ok()
            && pte::is_executable(l1.entry(layout::index(page.address, 1)))
    }

    fn take(&mut self) -> Option<u64> {
        for (index, word) in self.taken.iter_mut().enumerate() {
            let bit = word.trailing_ones() as usize;
            if bit < WORD && index * WORD + bit < self.pages {
                *word |= 1 << bit;
                return Some(self.base + ((index * WORD + bit) * PAGE_SIZE) as u64);
            }
        }
        None
    }

    fn release(&mut self, address: u64) {
        let page = self.place(address);
        if let Some(word) = self.taken.get_mut(page / WORD) {
            *word &= !(1 << (page % WORD));
        }
    }

    /// Which of the window's pages is at `address`.
    fn place(&self, address: u64) -> usize {
        usize::try_from((address - self.base) >> PAGE_SHIFT).unwrap_or(usize::MAX)
    }
}

/// A map of nothing.
fn empty_map(owner: DomId, access: Access) -> MapGrantRef {
    let flags = match access {
        Access::ReadOnly => gntmap::HOST_MAP | gntmap::READONLY,
        Access::ReadWrite => gntmap::HOST_MAP,
    };
    let status = GrantStatus::GENERAL_ERROR;
    MapGrantRef { host_addr: 0, flags, reference: 0, dom: owner.0, status, handle: 0, dev_bus_addr: 0 }
}

impl core::fmt::Debug for ForeignWindow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ForeignWindow({} of {} free)", self.free(), self.pages)
    }
}

const EMPTY_UNMAP: UnmapGrantRef =
    UnmapGrantRef { host_addr: 0, dev_bus_addr: 0, handle: 0, status: GrantStatus::GENERAL_ERROR };

fn unmap_op(page: &ForeignPage) -> UnmapGrantRef {
    UnmapGrantRef { host_addr: page.address, handle: page.handle.0, ..EMPTY_UNMAP }
}
