//! Pages that may be referred to for as long as the program runs: their addresses always show words.

use xen::{Access, Hypervisor};
use xen_ring::PageWords;
use xen_sys::grant::MapGrantRef;
use xen_sys::memory::{Flush, MulticallEntry};
use xen_sys::{DomId, GrantHandle, GrantRef, GrantStatus, PAGE_SIZE, grant, hypercall};

use super::{ForeignPage, ForeignWindow, NOBODYS, WORD, empty_map, unmap_op};
use crate::{native, pte};

/// A mapped page of another domain that may be referred to for ever, such as a ring. [`ForeignWindow::retire`] gives the
/// owner its page back.
#[must_use = "a page that is dropped stays mapped for ever"]
#[derive(PartialEq, Eq, Debug)]
pub struct StaticPage(ForeignPage);

impl StaticPage {
    /// What is in it, now; and after it was retired, words without meaning, or those of a page that followed there.
    #[must_use]
    pub fn words(&self) -> &'static PageWords {
        // SAFETY: something is mapped there for ever: the foreign page, or `NOBODYS`.
        unsafe { &*(self.0.address as *const PageWords) }
    }

    /// The owner's reference.
    #[must_use]
    pub const fn reference(&self) -> GrantRef {
        self.0.reference
    }
}

impl ForeignWindow {
    /// Maps one page that is to be referred to for as long as the program runs: a ring.
    ///
    /// # Errors
    /// As [`Self::map`].
    pub fn map_static(
        &mut self,
        owner: DomId,
        reference: GrantRef,
        access: Access,
    ) -> Result<StaticPage, GrantStatus> {
        if let Some(address) = self.take_retired() {
            return self.map_again(address, owner, reference, access);
        }
        let mut out = [None];
        self.map_all(owner, &[reference], access, &mut out)?;
        let [page] = out;
        page.map(StaticPage).ok_or(GrantStatus::GENERAL_ERROR)
    }

    /// Maps where a page was retired.
    fn map_again(
        &mut self,
        address: u64,
        owner: DomId,
        reference: GrantRef,
        access: Access,
    ) -> Result<StaticPage, GrantStatus> {
        let mut map =
            [MapGrantRef { host_addr: address, reference: reference.0, ..empty_map(owner, access) }];
        // Xen flushes nothing when it maps, so the address is made absent first.
        let mut calls = [
            MulticallEntry {
                op: hypercall::UPDATE_VA_MAPPING,
                result: 0,
                args: [address, 0, Flush::Page.bits(), 0, 0, 0],
            },
            MulticallEntry {
                op: hypercall::GRANT_TABLE_OP,
                result: 0,
                args: [grant::op::MAP_GRANT_REF, (&raw mut map).addr() as u64, 1, 0, 0, 0],
            },
        ];
        // SAFETY: whoever has a reference finds words there, before and after: where the map fails, what follows sees to that.
        // Nothing runs in between.
        let asked = unsafe { native().multicall(&mut calls) };
        let done = asked.is_ok() && calls.iter().all(|call| call.result == 0) && map[0].status.is_okay();
        if done {
            let handle = GrantHandle(map[0].handle);
            return Ok(StaticPage(ForeignPage { address, handle, reference }));
        }
        let entry = pte::kernel(nobodys(), pte::Kernel::ReadWrite);
        // SAFETY: a page of ours that holds words without meaning, where there is none now.
        let shown = unsafe { native().update_va_mapping(address, entry, Flush::Page) };
        assert!(shown.is_ok(), "own pages can be mapped: {shown:?}");
        self.mark_retired(address);
        Err(if map[0].status.is_okay() { GrantStatus::GENERAL_ERROR } else { map[0].status })
    }

    /// Gives a page back that others may still refer to: its address shows words without meaning from now on, until a page
    /// follows there that lasts as well.
    pub fn retire(&mut self, page: StaticPage) {
        let mut unmap = [unmap_op(&page.0)];
        let mut calls = [
            MulticallEntry {
                op: hypercall::GRANT_TABLE_OP,
                result: 0,
                args: [grant::op::UNMAP_GRANT_REF, (&raw mut unmap).addr() as u64, 1, 0, 0, 0],
            },
            MulticallEntry {
                op: hypercall::UPDATE_VA_MAPPING,
                result: 0,
                args: [
                    page.0.address,
                    pte::kernel(nobodys(), pte::Kernel::ReadWrite),
                    Flush::Page.bits(),
                    0,
                    0,
                    0,
                ],
            },
        ];
        // SAFETY: whoever has a reference finds words there, before and after; nothing runs in between.
        let asked = unsafe { native().multicall(&mut calls) };
        let fine = asked.is_ok() && calls.iter().all(|call| call.result == 0) && unmap[0].status.is_okay();
        assert!(fine, "Xen does not know our mapping: {asked:?}, {calls:?}, {unmap:?}");
        self.mark_retired(page.0.address);
    }

    fn take_retired(&mut self) -> Option<u64> {
        let (index, word) = self.retired.iter_mut().enumerate().find(|(_, word)| **word != 0)?;
        let bit = word.trailing_zeros() as usize;
        *word &= !(1 << bit);
        Some(self.base + ((index * WORD + bit) * PAGE_SIZE) as u64)
    }

    fn mark_retired(&mut self, address: u64) {
        let page = self.place(address);
        if let Some(word) = self.retired.get_mut(page / WORD) {
            *word |= 1 << (page % WORD);
        }
    }
}

/// The frame that retired addresses show.
fn nobodys() -> xen_sys::Mfn {
    NOBODYS.get().and_then(|page| crate::machine::machine().frame(*page)).expect("made with the window")
}
