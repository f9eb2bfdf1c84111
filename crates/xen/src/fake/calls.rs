//! The domain's door to the machine.

use xen_sys::grant::{GrantCopy, MapGrantRef, UnmapGrantRef};
use xen_sys::memory::{Flush, MmuExtOp, MmuUpdate, MulticallEntry};
use xen_sys::{DomId, Errno, GrantStatus, Mfn, Port, PortState, Virq};

use super::{Call, FakeDomain, Fault};
use crate::hypervisor::{Hypervisor, PopulateSlot, ShutdownReason};

impl FakeDomain {
    /// A batch of operations, the first of which may be made to fail.
    fn batch<T>(
        &self,
        call: Call,
        batch: &mut [T],
        one: impl Fn(&mut super::World, DomId, &mut T),
        set: impl Fn(&mut T, GrantStatus),
    ) -> Result<(), Errno> {
        let mut world = self.xen.lock();
        world.caller(self.id)?;
        let fault = world.fault(self.id, call);
        if let Some(Fault::Errno(errno)) = fault {
            return Err(errno);
        }
        for (index, op) in batch.iter_mut().enumerate() {
            match fault {
                Some(Fault::Status(status)) if index == 0 => set(op, status),
                _ => one(&mut world, self.id, op),
            }
        }
        Ok(())
    }

    /// How many of a list of frames are to be done.
    fn limit(&self, call: Call, count: usize) -> Result<usize, Errno> {
        match self.xen.lock().fault(self.id, call) {
            Some(Fault::Errno(errno)) => Err(errno),
            Some(Fault::Only(limit)) => Ok(limit.min(count)),
            _ => Ok(count),
        }
    }
}

impl Hypervisor for FakeDomain {
    fn evtchn_alloc_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        let mut world = self.xen.lock();
        world.errno_fault(self.id, Call::EvtchnAllocUnbound)?;
        world.alloc_unbound(self.id, remote)
    }

    fn evtchn_bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno> {
        let mut world = self.xen.lock();
        world.errno_fault(self.id, Call::EvtchnBindInterdomain)?;
        world.bind_interdomain(self.id, remote, port)
    }

    fn evtchn_bind_virq(&self, virq: Virq) -> Result<Port, Errno> {
        let mut world = self.xen.lock();
        world.errno_fault(self.id, Call::EvtchnBindVirq)?;
        world.bind_virq(self.id, virq)
    }

    fn evtchn_close(&self, port: Port) -> Result<(), Errno> {
        let mut world = self.xen.lock();
        world.caller(self.id)?;
        world.close(self.id, port)
    }

    fn evtchn_send(&self, port: Port) -> Result<(), Errno> {
        let mut world = self.xen.lock();
        world.errno_fault(self.id, Call::EvtchnSend)?;
        world.send(self.id, port)
    }

    fn evtchn_status(&self, port: Port) -> Result<PortState, Errno> {
        self.xen.lock().status(self.id, port)
    }

    fn evtchn_unmask(&self, port: Port) -> Result<(), Errno> {
        self.xen.lock().unmask(self.id, port)
    }

    fn grant_query_size(&self) -> Result<(u32, u32), Errno> {
        let mut world = self.xen.lock();
        let domain = world.caller(self.id)?;
        Ok((domain.grant_frames, u32::try_from(domain.grant_area.len()).unwrap_or(u32::MAX)))
    }

    fn grant_setup_table(&self, frames: u32, list: &mut [Mfn]) -> Result<(), Errno> {
        if list.len() < frames as usize {
            return Err(Errno::INVAL);
        }
        let mut world = self.xen.lock();
        world.errno_fault(self.id, Call::GrantSetupTable)?;
        for (to, from) in list.iter_mut().zip(world.setup_table(self.id, frames)?) {
            *to = from;
        }
        Ok(())
    }

    unsafe fn grant_map(&self, batch: &mut [MapGrantRef]) -> Result<(), Errno> {
        self.batch(Call::GrantMap, batch, super::World::map, |op, status| op.status = status)
    }

    unsafe fn grant_unmap(&self, batch: &mut [UnmapGrantRef]) -> Result<(), Errno> {
        self.batch(Call::GrantUnmap, batch, super::World::unmap, |op, status| op.status = status)
    }

    unsafe fn grant_copy(&self, batch: &mut [GrantCopy]) -> Result<(), Errno> {
        self.batch(Call::GrantCopy, batch, super::World::copy, |op, status| op.status = status)
    }

    unsafe fn memory_populate(&self, frames: &mut [PopulateSlot]) -> Result<usize, Errno> {
        let limit = self.limit(Call::MemoryPopulate, frames.len())?;
        Ok(self.xen.lock().populate(self.id, &mut frames[..limit]))
    }

    unsafe fn memory_decrease(&self, frames: &[Mfn]) -> Result<usize, Errno> {
        let limit = self.limit(Call::MemoryDecrease, frames.len())?;
        Ok(self.xen.lock().decrease(self.id, &frames[..limit]))
    }

    fn memory_reservation(&self) -> Result<(u64, u64), Errno> {
        let mut world = self.xen.lock();
        let max = world.caller(self.id)?.max_pages;
        Ok((world.pages_of(self.id) as u64, max as u64))
    }

    unsafe fn update_va_mapping(&self, address: u64, entry: u64, _: Flush) -> Result<(), Errno> {
        self.xen.lock().update_va_mapping(self.id, address, entry)
    }

    unsafe fn mmu_update(&self, _: &mut [MmuUpdate]) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    unsafe fn mmuext(&self, _: &mut [MmuExtOp]) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    unsafe fn multicall(&self, _: &mut [MulticallEntry]) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }

    fn sched_block(&self) {
        // The rest of the world makes calls of its own, so the lock must be free meanwhile.
        let idle = self.xen.lock().domains.get_mut(&self.id).and_then(|domain| domain.idle.take());
        if let Some(mut idle) = idle {
            idle();
            if let Some(domain) = self.xen.lock().domains.get_mut(&self.id) {
                domain.idle.get_or_insert(idle);
            }
        }
    }

    fn sched_poll(&self, ports: &[Port], _: Option<u64>) -> Result<(), Errno> {
        if ports.len() > xen_sys::sched::POLL_PORTS {
            return Err(Errno::INVAL);
        }
        self.sched_block();
        Ok(())
    }

    fn sched_yield(&self) {
        self.sched_block();
    }

    fn shutdown(&self, reason: ShutdownReason) {
        if let Some(domain) = self.xen.lock().domains.get_mut(&self.id) {
            domain.ended = Some(reason);
        }
    }

    fn set_timer(&self, deadline_ns: Option<u64>) -> Result<(), Errno> {
        let mut world = self.xen.lock();
        world.errno_fault(self.id, Call::SetTimer)?;
        world.caller(self.id)?.timer = deadline_ns;
        // One that is due already goes off at once.
        world.advance(0);
        Ok(())
    }

    fn xen_version(&self) -> (u16, u16) {
        (4, 17)
    }
}
