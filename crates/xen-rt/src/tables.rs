//! Page tables of the kernel's half, changed by hypercall.
//!
//! A page becomes a table in this order: fill it, make every mapping of it read-only, hook it into its parent. Xen refuses a table that is
//! writable anywhere (`EINVAL`).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xen::Hypervisor;
use xen_ring::PageWords;
use xen_sys::memory::{Flush, MmuUpdate};
use xen_sys::{Errno, Mfn, PAGE_SHIFT, Pfn};

use crate::machine::{load64, machine, store64};
use crate::{layout, native, pte};

/// The kernel's L4 table: its pseudo-physical number.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// Whether numbers behind the boot structures are still mapped at `VIRT_BASE` too; up to this number.
static BOOT_ALIASES: AtomicU64 = AtomicU64::new(0);
/// Whether the direct map exists as far as it is needed.
static DIRECT: AtomicBool = AtomicBool::new(false);

/// A page that is a page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Table(pub(crate) Pfn);

/// Something that has pages for page tables: [`crate::BootMemory`], [`crate::user::FramePool`].
pub trait TableSource: sealed::Sealed {
    /// The next page, with any content.
    #[doc(hidden)]
    fn take(&mut self) -> Option<Pfn>;
}

pub(crate) mod sealed {
    /// Only this crate knows which pages may become tables.
    pub trait Sealed {}
}

/// Why the address space could not grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableError {
    /// No page for a table.
    Memory,
    /// Xen refused.
    Xen(Errno),
}

impl From<Errno> for TableError {
    fn from(errno: Errno) -> Self {
        Self::Xen(errno)
    }
}

pub(crate) fn set_root(root: Pfn, boot_aliases_end: u64) {
    ROOT.store(root.0, Ordering::Relaxed);
    BOOT_ALIASES.store(boot_aliases_end, Ordering::Relaxed);
}

pub(crate) fn boot_aliases_end() -> u64 {
    BOOT_ALIASES.load(Ordering::Relaxed)
}

/// From now on every page behind the boot structures is at its place in the direct map, and only there.
pub(crate) fn direct_map_is_complete() {
    DIRECT.store(true, Ordering::Relaxed);
    BOOT_ALIASES.store(0, Ordering::Relaxed);
}

/// The kernel's root table.
pub(crate) fn root() -> Table {
    Table(Pfn(ROOT.load(Ordering::Relaxed)))
}

/// Where a page of ours can be read.
fn address_of(pfn: Pfn) -> u64 {
    if pfn.0 < machine().first_direct || pfn.0 < boot_aliases_end() {
        layout::VIRT_BASE + (pfn.0 << PAGE_SHIFT)
    } else {
        layout::direct(pfn)
    }
}

impl Table {
    /// The table's content as words. Writable only before it is a table.
    pub(crate) fn words(self) -> &'static PageWords {
        // SAFETY: boot structures and table pages stay mapped for ever, and are read and written as words only.
        unsafe { &*(address_of(self.0) as *const PageWords) }
    }

    /// The table's frame.
    pub(crate) fn frame(self) -> Mfn {
        machine().frame(self.0).expect("a table has a frame")
    }

    /// One entry. Xen changes its accessed and dirty bits at any time, we only by hypercall: two halves are good enough.
    pub(crate) fn entry(self, index: usize) -> u64 {
        load64(self.words(), index)
    }

    /// Writes an entry of a page that is not a table yet.
    pub(crate) fn fill(self, index: usize, entry: u64) {
        store64(self.words(), index, entry);
    }

    /// The machine address of an entry, which `mmu_update` names it by.
    pub(crate) fn entry_address(self, index: usize) -> u64 {
        self.frame().address() + index as u64 * 8
    }

    /// The table that an entry points to.
    pub(crate) fn below(self, index: usize) -> Option<Self> {
        let frame = pte::frame(self.entry(index))?;
        machine().number(frame).map(Self)
    }

    /// Hooks `table` in.
    pub(crate) fn hook(self, index: usize, table: Self) -> Result<(), Errno> {
        let update = MmuUpdate { ptr: self.entry_address(index), val: pte::table(table.frame()) };
        // SAFETY: the entry was absent, or points to the same table; what the table maps is its maker's promise.
        unsafe { native().mmu_update(&mut [update]) }
    }

    /// Makes all mappings of the page read-only, so that it may become a table.
    pub(crate) fn seal(self) -> Result<(), Errno> {
        let entry = pte::kernel(self.frame(), pte::Kernel::Read);
        if self.0.0 < boot_aliases_end() {
            set(layout::VIRT_BASE + (self.0.0 << PAGE_SHIFT), entry)?;
        }
        if DIRECT.load(Ordering::Relaxed) || is_mapped(layout::direct(self.0)) {
            set(layout::direct(self.0), entry)?;
        }
        Ok(())
    }

    /// Undoes [`Self::seal`] after the table was unhooked and unpinned everywhere.
    pub(crate) fn unseal(self) -> Result<(), Errno> {
        set(layout::direct(self.0), pte::kernel(self.frame(), pte::Kernel::ReadWrite))
    }
}

fn set(address: u64, entry: u64) -> Result<(), Errno> {
    // SAFETY: the same frame with other access: tables are written by nobody, and what was a table has no users.
    unsafe { native().update_va_mapping(address, entry, Flush::Page) }
}

/// The L1 table that maps `address`, if there is one.
pub(crate) fn l1_of(address: u64) -> Option<Table> {
    let mut table = root();
    for level in [4, 3, 2] {
        table = table.below(layout::index(address, level))?;
    }
    Some(table)
}

/// Takes the L1 table that maps `address` out of the tables, if there is one: it belongs to the caller, as a page that can be written.
///
/// # Safety
/// Nothing that the table maps may be in use.
pub(crate) unsafe fn unhook_l1(address: u64) -> Option<Pfn> {
    let mut l2 = root();
    for level in [4, 3] {
        l2 = l2.below(layout::index(address, level))?;
    }
    let index = layout::index(address, 2);
    let l1 = l2.below(index)?;
    let update = MmuUpdate { ptr: l2.entry_address(index), val: pte::ABSENT };
    // SAFETY: the caller's promise. Xen flushes what processors remember of the table before the page may be written.
    unsafe { native().mmu_update(&mut [update]) }.ok()?;
    l1.unseal().ok()?;
    Some(l1.0)
}

/// Whether `address` is mapped.
pub(crate) fn is_mapped(address: u64) -> bool {
    l1_of(address).is_some_and(|l1| pte::frame(l1.entry(layout::index(address, 1))).is_some())
}

/// Makes sure that there is a table of `level` for `address`, empty if new, and returns it.
pub(crate) fn ensure(address: u64, level: u32, source: &mut dyn TableSource) -> Result<Table, TableError> {
    let mut table = root();
    for above in (level + 1..=4).rev() {
        let index = layout::index(address, above);
        table = match table.below(index) {
            Some(below) => below,
            None => {
                let new = Table(source.take().ok_or(TableError::Memory)?);
                new.words().zero();
                new.seal()?;
                table.hook(index, new)?;
                new
            }
        };
    }
    Ok(table)
}
