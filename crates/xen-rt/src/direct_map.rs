//! The direct map: all memory behind the image and the boot structures, readable and writable, never executable.
//!
//! It is built bottom up from pages that can be reached already: Xen's boot mapping has at least 512 KiB behind the boot
//! structures, each L1 table made there shows 2 MiB more, and those hold the tables that follow.

use xen::Hypervisor;
use xen_sys::memory::{Flush, MulticallEntry};
use xen_sys::{Errno, PAGE_SHIFT, Pfn, hypercall};

use crate::machine::machine;
use crate::tables::{self, Table, TableError, TableSource};
use crate::{layout, native, pte};

/// Pages from the first free one on.
pub(crate) struct Bump {
    pub(crate) next: u64,
    pub(crate) end: u64,
}

impl tables::sealed::Sealed for Bump {}

impl TableSource for Bump {
    fn take(&mut self) -> Option<Pfn> {
        let taken = Pfn(self.next);
        (self.next < self.end).then(|| {
            self.next += 1;
            // A table is never lent. One that is freed may be, as any other frame.
            machine().keep(taken, Pfn(0));
            taken
        })
    }
}

/// Builds it, and removes the boot mapping of what it shows.
pub(crate) fn build(bump: &mut Bump) -> Result<(), TableError> {
    let first = bump.next;
    let boot_end = tables::boot_aliases_end();
    for chunk in first / 512..bump.end.div_ceil(512) {
        let address = layout::direct(Pfn(chunk * 512));
        let l2 = tables::ensure(address, 2, bump)?;
        let l1 = Table(bump.take().ok_or(TableError::Memory)?);
        for index in 0..512 {
            l1.fill(index, entry(Pfn(chunk * 512 + index as u64), first, bump));
        }
        l1.seal()?;
        l2.hook(layout::index(address, 2), l1)?;
    }
    tables::direct_map_is_complete();
    unmap_boot_aliases(first, boot_end.min(bump.end))?;
    Ok(())
}

/// What the direct map shows of a page: nothing in front of the first free one, tables read-only.
fn entry(pfn: Pfn, first: u64, bump: &Bump) -> u64 {
    match machine().frame(pfn) {
        Some(frame) if pfn.0 >= bump.next && pfn.0 < bump.end => pte::kernel(frame, pte::Kernel::ReadWrite),
        Some(frame) if pfn.0 >= first && pfn.0 < bump.end => pte::kernel(frame, pte::Kernel::Read),
        _ => pte::ABSENT,
    }
}

/// Removes the second mapping at `VIRT_BASE` of pages that the direct map has: a frame with a forgotten mapping can be neither given back
/// nor made a table.
fn unmap_boot_aliases(first: u64, end: u64) -> Result<(), Errno> {
    let mut batch = [MulticallEntry::default(); 32];
    let mut pfn = first;
    while pfn < end {
        let mut used = 0;
        while used < batch.len() && pfn < end {
            let address = layout::VIRT_BASE + (pfn << PAGE_SHIFT);
            batch[used] = MulticallEntry {
                op: hypercall::UPDATE_VA_MAPPING,
                result: 0,
                args: [address, pte::ABSENT, Flush::Page.bits(), 0, 0, 0],
            };
            used += 1;
            pfn += 1;
        }
        // SAFETY: nothing refers to the boot mapping of free pages.
        unsafe { native().multicall(&mut batch[..used]) }?;
        for call in &batch[..used] {
            xen::native::check(call.result)?;
        }
    }
    Ok(())
}
