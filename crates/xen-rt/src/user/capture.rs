//! What freezing and thawing a program needs of its page tables.

use heapless::Vec;
use xen::Hypervisor;
use xen_sys::memory::{MmuExtOp, MmuUpdate, mmuext};
use xen_sys::{Errno, Mfn};

use super::shadow::Shadow;
use super::space::BATCH;
use super::{Prot, UserPage, UserSpace};
use crate::machine::machine;
use crate::{native, pte};

impl UserSpace {
    /// The machine frame of a private page, whatever the program may do with it: to be lent while nothing writes to it.
    #[must_use]
    pub fn private_frame(&self, page: UserPage) -> Option<Mfn> {
        match self.shadow(page) {
            Shadow::Private { page, .. } => machine().frame(page),
            _ => None,
        }
    }

    /// Takes away the right to write to these private pages; others stay as they are. The processor is told once, at the end.
    ///
    /// # Errors
    /// What Xen said; some of the pages may be read-only then.
    pub fn write_protect(&mut self, pages: &mut dyn Iterator<Item = UserPage>) -> Result<(), Errno> {
        self.activate();
        let mut updates: Vec<MmuUpdate, BATCH> = Vec::new();
        for page in pages {
            let Some(leaf) = self.find(page) else { continue };
            let Shadow::Private { page: own, prot } = leaf.get() else { continue };
            let prot = match prot {
                Prot::ReadWrite => Prot::Read,
                Prot::ReadWriteExec => Prot::ReadExec,
                _ => continue,
            };
            let frame = machine().frame(own).ok_or(Errno::INVAL)?;
            let val = pte::user(frame, false, prot.executable());
            // Made room for below.
            let _ = updates.push(MmuUpdate { ptr: leaf.entry_address(), val });
            leaf.set(Shadow::Private { page: own, prot });
            if updates.is_full() {
                // SAFETY: the same frames with less access.
                unsafe { native().mmu_update(&mut updates) }?;
                updates.clear();
            }
        }
        if !updates.is_empty() {
            // SAFETY: as above.
            unsafe { native().mmu_update(&mut updates) }?;
        }
        let mut flush = [MmuExtOp { cmd: mmuext::TLB_FLUSH_LOCAL, arg1: 0, arg2: 0 }];
        // SAFETY: changes nothing but what the processor remembers.
        unsafe { native().mmuext(&mut flush) }.map(drop)
    }

    /// Forgets that shared pages which have just been mapped were accessed: [`Self::accessed`] tells from now on.
    pub fn forget_accesses(&mut self, pages: &[UserPage]) {
        self.activate();
        for pages in pages.chunks(BATCH) {
            let mut updates: Vec<MmuUpdate, BATCH> = Vec::new();
            for page in pages {
                if let Some(leaf) = self.find(*page)
                    && matches!(leaf.get(), Shadow::Shared { .. })
                {
                    let val = pte::not_accessed(leaf.entry());
                    // A chunk is no longer.
                    let _ = updates.push(MmuUpdate { ptr: leaf.entry_address(), val });
                }
            }
            // SAFETY: the same frames and access; of a grant's entry only the accessed bit changes.
            if !updates.is_empty() && unsafe { native().mmu_update(&mut updates) }.is_err() {
                // It only looks as if all had been used.
                log::debug!("accesses cannot be forgotten");
            }
        }
    }

    /// Whether the processor has used the page's entry.
    #[must_use]
    pub fn accessed(&self, page: UserPage) -> bool {
        self.find(page).is_some_and(|leaf| pte::is_accessed(leaf.entry()))
    }
}
