//! The one door to Xen.

use xen_sys::grant::{GrantCopy, MapGrantRef, UnmapGrantRef};
use xen_sys::memory::{Flush, MmuExtOp, MmuUpdate, MulticallEntry};
use xen_sys::{DomId, Errno, Mfn, Pfn, Port, PortState, Virq};

pub use xen_sys::sched::ShutdownReason;

/// The hypercalls of a PV domain with one virtual CPU.
///
/// A batch of grant operations returns `Ok` when Xen looked at every one of them; each has a status of its own.
pub trait Hypervisor {
    /// A new port that `remote` may bind. `ENOSPC`: no port is free. `ESRCH`: no such domain is *not* said here.
    fn evtchn_alloc_unbound(&self, remote: DomId) -> Result<Port, Errno>;
    /// A new port connected to `port` of `remote`, which must have allocated it for this domain (`EINVAL` otherwise).
    fn evtchn_bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno>;
    /// A new port that `virq` raises. `EEXIST`: bound already.
    fn evtchn_bind_virq(&self, virq: Virq) -> Result<Port, Errno>;
    /// Closes a port. The peer's end turns [`PortState::Unbound`], without an event.
    fn evtchn_close(&self, port: Port) -> Result<(), Errno>;
    /// Raises the event at the other end. On an unbound port: `Ok`, and nobody hears it.
    fn evtchn_send(&self, port: Port) -> Result<(), Errno>;
    /// What one of our ports is.
    fn evtchn_status(&self, port: Port) -> Result<PortState, Errno>;
    /// Unmasks a port, and raises the upcall if it is pending.
    fn evtchn_unmask(&self, port: Port) -> Result<(), Errno>;

    /// Frames of our grant table: now, and at most.
    fn grant_query_size(&self) -> Result<(u32, u32), Errno>;
    /// Grows our grant table to `frames` (never shrinks it) and says which machine frames it is in.
    /// `list` must have room for all of them. `EINVAL`: more than the most; `ENOMEM`: Xen has no memory for them.
    fn grant_setup_table(&self, frames: u32, list: &mut [Mfn]) -> Result<(), Errno>;
    /// Maps grants of other domains.
    ///
    /// # Safety
    /// Each `host_addr` must be an address (or entry) that no Rust object lives at and that is absent now, and the mapping
    /// must be treated as memory that its owner may change at any time.
    unsafe fn grant_map(&self, batch: &mut [MapGrantRef]) -> Result<(), Errno>;
    /// Unmaps what [`Self::grant_map`] mapped.
    ///
    /// # Safety
    /// Nothing may refer to the mappings any more.
    unsafe fn grant_unmap(&self, batch: &mut [UnmapGrantRef]) -> Result<(), Errno>;
    /// Copies between granted pages and own frames. The safe way is [`crate::GrantTable::copy`].
    ///
    /// # Safety
    /// Own frames that are written must hold nothing but words that may change at any time, such as [`xen_ring::PageWords`].
    unsafe fn grant_copy(&self, batch: &mut [GrantCopy]) -> Result<(), Errno>;

    /// Gets frames for the listed pseudo-physical numbers; each becomes the machine frame. Returns how many from the front
    /// were done: fewer than asked is what a domain at its limit, or a host without memory, gets.
    ///
    /// The frames hold anything. They are mapped nowhere yet.
    ///
    /// # Safety
    /// The pseudo-physical numbers must be ones whose frames were given back.
    unsafe fn memory_populate(&self, frames: &mut [PopulateSlot]) -> Result<usize, Errno>;
    /// Gives frames back to Xen; returns how many from the front. Xen does not clear them.
    ///
    /// # Safety
    /// The frames must be mapped nowhere in this domain and belong to nobody in it.
    unsafe fn memory_decrease(&self, frames: &[Mfn]) -> Result<usize, Errno>;
    /// Frames that the domain has now, and its ceiling.
    fn memory_reservation(&self) -> Result<(u64, u64), Errno>;

    /// Changes the page-table entry of a linear address.
    ///
    /// # Safety
    /// The change must not pull memory from under a Rust object, nor map memory writable that Rust believes immutable or
    /// its own.
    unsafe fn update_va_mapping(&self, address: u64, entry: u64, flush: Flush) -> Result<(), Errno>;
    /// Changes page-table entries by machine address.
    ///
    /// # Safety
    /// As [`Self::update_va_mapping`].
    unsafe fn mmu_update(&self, batch: &mut [MmuUpdate]) -> Result<(), Errno>;
    /// Pins, unpins and loads page tables, flushes.
    ///
    /// # Safety
    /// As [`Self::update_va_mapping`]; a loaded root must map all that runs.
    unsafe fn mmuext(&self, batch: &mut [MmuExtOp]) -> Result<(), Errno>;
    /// Makes several hypercalls in one; each entry has a result of its own.
    ///
    /// # Safety
    /// As for each of them; pointers in arguments must be good.
    unsafe fn multicall(&self, batch: &mut [MulticallEntry]) -> Result<(), Errno>;

    /// Sleeps until an event is pending. Returns at once if one is, so callers look at their ports first and again after.
    fn sched_block(&self);
    /// Sleeps until one of at most 128 ports is pending or system time reaches `timeout_ns` (absolute; `None`: for ever).
    fn sched_poll(&self, ports: &[Port], timeout_ns: Option<u64>) -> Result<(), Errno>;
    /// Lets other domains run.
    fn sched_yield(&self);
    /// Ends the domain. [`Native`]'s does not return; a fake records it.
    fn shutdown(&self, reason: ShutdownReason);
    /// Raises [`Virq::Timer`] when system time reaches `deadline_ns`; `None` cancels.
    fn set_timer(&self, deadline_ns: Option<u64>) -> Result<(), Errno>;

    /// Xen's version: major, minor.
    fn xen_version(&self) -> (u16, u16);
}

/// A place in the list of [`Hypervisor::memory_populate`]: goes in as a pseudo-physical number and comes out as a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct PopulateSlot(u64);

impl PopulateSlot {
    /// A frame is wanted for this number.
    #[must_use]
    pub const fn wanted(pfn: Pfn) -> Self {
        Self(pfn.0)
    }

    /// The frame, if the slot was one of those done.
    #[must_use]
    pub const fn frame(self) -> Mfn {
        Mfn(self.0)
    }

    /// The number that was asked for, before the call.
    #[must_use]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0)
    }

    /// Puts the frame in; for implementations of [`Hypervisor`].
    pub const fn fill(&mut self, frame: Mfn) {
        self.0 = frame.0;
    }
}
