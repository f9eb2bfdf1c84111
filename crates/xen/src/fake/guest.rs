//! Grant mappings for tests that play another domain's kernel. Safe, unlike [`Hypervisor::grant_map`]: a mapping in here is an
//! entry in a list, and no memory that Rust relies on.

use xen_ring::PageWords;
use xen_sys::grant::{MapGrantRef, UnmapGrantRef, gntmap};
use xen_sys::{DomId, GrantHandle, GrantRef, GrantStatus, PAGE_SIZE};

use super::FakeDomain;
use crate::{Access, Hypervisor};

/// Where mappings of [`FakeDomain::map`] begin.
const WINDOW: u64 = 0x7f00_0000_0000;

/// A page of another domain's that this one maps. [`FakeDomain::unmap`] ends it, and so does the domain's death.
#[must_use]
#[derive(Debug)]
pub struct Mapped {
    address: u64,
    handle: GrantHandle,
    words: &'static PageWords,
}

impl Mapped {
    /// What is in it.
    #[must_use]
    pub fn words(&self) -> &'static PageWords {
        self.words
    }
}

impl FakeDomain {
    /// Maps a grant of `owner`'s somewhere.
    ///
    /// # Errors
    /// Xen's status; [`GrantStatus::GENERAL_ERROR`] too where it refused the call as a whole.
    ///
    /// # Panics
    /// If the mapping cannot be found again: a bug of the fake's.
    pub fn map(&self, owner: DomId, reference: GrantRef, access: Access) -> Result<Mapped, GrantStatus> {
        let taken = |address: &u64| self.page_at(*address).is_some();
        let address = (WINDOW..).step_by(PAGE_SIZE).find(|address| !taken(address)).expect("endless");
        let flags = gntmap::HOST_MAP | if access == Access::ReadOnly { gntmap::READONLY } else { 0 };
        let mut op = [MapGrantRef {
            host_addr: address,
            flags,
            reference: reference.0,
            dom: owner.0,
            status: GrantStatus::GENERAL_ERROR,
            handle: 0,
            dev_bus_addr: 0,
        }];
        // SAFETY: nothing of Rust's lives at the address, and nothing comes to live there: see `PageWords` of the fake.
        let called = unsafe { self.grant_map(&mut op) };
        if called.is_err() || !op[0].status.is_okay() {
            return Err(op[0].status);
        }
        let words = self.page_at(address).expect("mapped just now");
        Ok(Mapped { address, handle: GrantHandle(op[0].handle), words })
    }

    /// Ends a mapping.
    ///
    /// # Errors
    /// It is still there.
    pub fn unmap(&self, mapped: Mapped) -> Result<(), (Mapped, GrantStatus)> {
        let mut op = [UnmapGrantRef {
            host_addr: mapped.address,
            dev_bus_addr: 0,
            handle: mapped.handle.0,
            status: GrantStatus::GENERAL_ERROR,
        }];
        // SAFETY: the words live on, whoever still has them.
        let called = unsafe { self.grant_unmap(&mut op) };
        if called.is_ok() && op[0].status.is_okay() { Ok(()) } else { Err((mapped, op[0].status)) }
    }
}
