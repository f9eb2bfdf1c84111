//! A Xen in memory, with several domains: the stateful sibling of [`crate::Native`].
//!
//! Who uses it: tests of everything above this crate. It keeps the rules and the result codes of Xen 4.17 for event channels,
//! version 1 grants, reservations and the death of domains; [`crate::conformance`] runs the same calls here and on the real
//! one. Faults can be put in with [`FakeXen::inject`].
//!
//! Not modelled: page tables. A mapping is an entry in a list by address ([`FakeDomain::page_at`]), read-only is not enforced on
//! who has the words, and `mmu_update`, `mmuext` and `multicall` say `ENOSYS`. Time stands still until [`FakeXen::advance`].

mod calls;
mod events;
mod grants;
mod guest;
mod memory;
#[cfg(test)]
mod tests;
mod window;
mod world;

use std::sync::{Arc, Mutex, MutexGuard};

use xen_ring::PageWords;
use xen_sys::{DomId, Errno, GrantStatus, Mfn, Port};

use crate::grant::GrantArea;
use crate::{Clock, Events, GrantTable, ShutdownReason};
pub use guest::Mapped;
pub use window::FakeWindow;
use world::World;

/// The machine. Clones are the same one.
#[derive(Clone)]
pub struct FakeXen {
    world: Arc<Mutex<World>>,
}

/// A domain of it, and its hypercalls. Clones are the same one.
#[derive(Clone)]
pub struct FakeDomain {
    xen: FakeXen,
    id: DomId,
    shared_info: &'static PageWords,
    grants: &'static GrantTable,
}

/// A hypercall that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the methods of `Hypervisor`")]
pub enum Call {
    EvtchnAllocUnbound,
    EvtchnBindInterdomain,
    EvtchnBindVirq,
    EvtchnSend,
    GrantSetupTable,
    GrantMap,
    GrantUnmap,
    GrantCopy,
    MemoryPopulate,
    MemoryDecrease,
    SetTimer,
}

/// What is to go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The call as a whole.
    Errno(Errno),
    /// The first operation of a batch.
    Status(GrantStatus),
    /// Only so many of a list of frames.
    Only(usize),
}

impl Default for FakeXen {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeXen {
    /// A machine without domains, at system time 1 s.
    #[must_use]
    pub fn new() -> Self {
        Self { world: Arc::new(Mutex::new(World::new())) }
    }

    /// A new domain that may have `pages` frames and a grant table of `grant_frames`. Its number is the next one from 1 on.
    #[must_use]
    pub fn domain(&self, pages: usize, grant_frames: u32) -> FakeDomain {
        let id = self.lock().number();
        self.create(id, pages, grant_frames)
    }

    /// Domain 0, for who cares that it is that one. There can be one.
    #[must_use]
    pub fn dom0(&self, pages: usize, grant_frames: u32) -> FakeDomain {
        self.create(DomId(0), pages, grant_frames)
    }

    fn create(&self, id: DomId, pages: usize, grant_frames: u32) -> FakeDomain {
        let (shared_info, area) = self.lock().create(id, pages, grant_frames);
        let source: &'static Source = Box::leak(Box::new(Source { xen: self.clone(), id }));
        let grants = Box::leak(Box::new(GrantTable::new(area, source)));
        FakeDomain { xen: self.clone(), id, shared_info, grants }
    }

    /// Destroys a domain, as `xl destroy` does: its mappings and ports go, its frames stay where others map them.
    pub fn destroy(&self, id: DomId) {
        self.lock().destroy(id);
    }

    /// Whether Xen knows the domain: it does as long as somebody maps its frames.
    #[must_use]
    pub fn knows(&self, id: DomId) -> bool {
        self.lock().domains.contains_key(&id)
    }

    /// Lets time pass, and timers go off.
    pub fn advance(&self, ns: u64) {
        self.lock().advance(ns);
    }

    /// The next `call` of domain `id` goes wrong; several are taken one after the other.
    pub fn inject(&self, id: DomId, call: Call, fault: Fault) {
        self.lock().faults.entry((id, call)).or_default().push_back(fault);
    }

    /// Mappings that were overwritten or whose grants can never be unmapped any more.
    #[must_use]
    pub fn leaked_mappings(&self) -> usize {
        self.lock().leaked
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        // A test that failed while it held the lock has said why.
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl FakeDomain {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.id
    }

    /// The machine that it is in.
    #[must_use]
    pub fn xen(&self) -> &FakeXen {
        &self.xen
    }

    /// Its grant table, which has no frames yet.
    #[must_use]
    pub fn grants(&self) -> &'static GrantTable {
        self.grants
    }

    /// Its pending ports.
    #[must_use]
    pub fn events(&self) -> Events {
        Events::new(self.shared_info)
    }

    /// Its time.
    #[must_use]
    pub fn clock(&self) -> Clock {
        Clock::new(self.shared_info, || 0)
    }

    /// A page of its memory: cleared, and counted in its reservation.
    ///
    /// # Panics
    /// If the domain has as many frames as it may.
    #[must_use]
    pub fn page(&self) -> (&'static PageWords, Mfn) {
        self.xen.lock().allocate(self.id).expect("the domain's reservation has room")
    }

    /// `count` pages, one behind the other in memory.
    ///
    /// # Panics
    /// As [`Self::page`].
    #[must_use]
    pub fn pages(&self, count: usize) -> &'static [PageWords] {
        self.xen.lock().allocate_run(self.id, count).expect("the domain's reservation has room")
    }

    /// The frame of one of its pages.
    ///
    /// # Panics
    /// If the page is none of its.
    #[must_use]
    pub fn mfn_of(&self, page: &PageWords) -> Mfn {
        self.xen.lock().frame_of(self.id, page).expect("a page of this domain")
    }

    /// What is mapped at an address.
    #[must_use]
    pub fn page_at(&self, address: u64) -> Option<&'static PageWords> {
        self.xen.lock().page_at(self.id, address)
    }

    /// Mappings of other domains' grants that it has.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.xen.lock().domains.get(&self.id).map_or(0, |domain| domain.mappings.len())
    }

    /// Ports that are not closed.
    #[must_use]
    pub fn open_ports(&self) -> usize {
        self.xen.lock().domains.get(&self.id).map_or(0, |domain| domain.open_ports())
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<ShutdownReason> {
        self.xen.lock().domains.get(&self.id).and_then(|domain| domain.ended)
    }

    /// The deadline of its timer.
    #[must_use]
    pub fn timer(&self) -> Option<u64> {
        self.xen.lock().domains.get(&self.id).and_then(|domain| domain.timer)
    }

    /// Runs `idle` whenever the domain blocks: the rest of the world.
    pub fn when_blocked(&self, idle: impl FnMut() + Send + 'static) {
        if let Some(domain) = self.xen.lock().domains.get_mut(&self.id) {
            domain.idle = Some(Box::new(idle));
        }
    }

    /// Raises one of its ports as a peer would.
    pub fn raise(&self, port: Port) {
        self.events().set_pending(port);
    }
}

impl std::fmt::Debug for FakeDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeDomain({})", self.id)
    }
}

/// A domain's grant frames.
struct Source {
    xen: FakeXen,
    id: DomId,
}

impl GrantArea for Source {
    fn grow(&self, frames: u32) -> Result<(), Errno> {
        self.xen.lock().setup_table(self.id, frames).map(drop)
    }

    fn may_share(&self, frame: Mfn) -> bool {
        self.xen.lock().frames.get(&frame).is_some_and(|info| info.owner == self.id && info.owned)
    }
}
