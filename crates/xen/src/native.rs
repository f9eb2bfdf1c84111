//! The real Xen: `syscall` with the number in rax (`xen/include/public/arch-x86/xen-x86_64.h`).

use core::arch::asm;

use xen_sys::grant::{self, GrantCopy, GrantStatus, MapGrantRef, QuerySize, SetupTable, UnmapGrantRef};
use xen_sys::memory::{self, Flush, MemoryReservation, MmuExtOp, MmuUpdate, MulticallEntry};
use xen_sys::{DomId, Errno, Mfn, Port, PortState, Virq, event, hypercall, sched};

use crate::hypervisor::{Hypervisor, PopulateSlot, ShutdownReason};

/// Hypercalls of the domain that runs this code. Outside of a PV domain they are undefined behaviour, hence [`Native::new`].
#[derive(Clone, Copy, Debug)]
pub struct Native(());

impl Native {
    /// # Safety
    /// The program must run as the kernel of a PV domain, with one virtual CPU.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Writes to Xen's own console; `EPERM` for ordinary domains of a release build.
    pub fn console_io(&self, bytes: &[u8]) -> Result<(), Errno> {
        // SAFETY: Xen reads `bytes`, and nothing else.
        let r = unsafe {
            raw(
                hypercall::CONSOLE_IO,
                [hypercall::CONSOLEIO_WRITE, bytes.len() as u64, address(bytes.as_ptr()), 0, 0],
            )
        };
        check(r).map(drop)
    }
}

/// One hypercall.
///
/// # Safety
/// As the hypercall demands; the arguments that are pointers must be good for what Xen does with them.
pub unsafe fn raw(number: u64, args: [u64; 5]) -> i64 {
    let result: u64;
    // SAFETY: the caller's promise. Xen preserves all but rax, rcx, r11 and, by contract, the argument registers; memory
    // is not excluded, so the compiler assumes that any of it was read or written.
    unsafe {
        asm!("syscall",
            inlateout("rax") number => result,
            inlateout("rdi") args[0] => _,
            inlateout("rsi") args[1] => _,
            inlateout("rdx") args[2] => _,
            inlateout("r10") args[3] => _,
            inlateout("r8") args[4] => _,
            out("r9") _, out("rcx") _, out("r11") _);
    }
    result.cast_signed()
}

/// A hypercall's result: negative is an error number.
pub fn check(result: i64) -> Result<u64, Errno> {
    u64::try_from(result).map_err(|_| Errno(i32::try_from(-result).unwrap_or(i32::MAX)))
}

fn address<T>(pointer: *const T) -> u64 {
    pointer as u64
}

/// `event_channel_op` with its argument structure.
fn event_op<T>(op: u64, arg: &mut T) -> Result<(), Errno> {
    // SAFETY: Xen reads and writes one structure of the kind that `op` names: the callers below pair them.
    check(unsafe { raw(hypercall::EVENT_CHANNEL_OP, [op, address(&raw const *arg), 0, 0, 0]) }).map(drop)
}

/// `grant_table_op` on a batch.
fn grant_op<T>(op: u64, batch: &mut [T]) -> Result<(), Errno> {
    // SAFETY: Xen reads and writes the batch: the callers below pair `op` and `T`. What the operation does to
    // memory is their callers' promise.
    let r =
        unsafe { raw(hypercall::GRANT_TABLE_OP, [op, address(batch.as_ptr()), batch.len() as u64, 0, 0]) };
    check(r).map(drop)
}

/// What a status of an operation on our own table means as an error number.
fn status_errno(status: GrantStatus) -> Result<(), Errno> {
    match status {
        GrantStatus::OKAY => Ok(()),
        GrantStatus::BAD_DOMAIN => Err(Errno::SRCH),
        GrantStatus::PERMISSION_DENIED => Err(Errno::PERM),
        GrantStatus::GENERAL_ERROR => Err(Errno::INVAL),
        _ => Err(Errno::NOMEM),
    }
}

impl Hypervisor for Native {
    fn evtchn_alloc_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        let mut arg = event::AllocUnbound { dom: DomId::SELF.0, remote_dom: remote.0, port: 0 };
        event_op(event::op::ALLOC_UNBOUND, &mut arg)?;
        Ok(Port(arg.port))
    }

    fn evtchn_bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno> {
        let mut arg = event::BindInterdomain { remote_dom: remote.0, remote_port: port.0, local_port: 0 };
        event_op(event::op::BIND_INTERDOMAIN, &mut arg)?;
        Ok(Port(arg.local_port))
    }

    fn evtchn_bind_virq(&self, virq: Virq) -> Result<Port, Errno> {
        let mut arg = event::BindVirq { virq: virq.number(), vcpu: 0, port: 0 };
        event_op(event::op::BIND_VIRQ, &mut arg)?;
        Ok(Port(arg.port))
    }

    fn evtchn_close(&self, port: Port) -> Result<(), Errno> {
        event_op(event::op::CLOSE, &mut event::OnePort { port: port.0 })
    }

    fn evtchn_send(&self, port: Port) -> Result<(), Errno> {
        event_op(event::op::SEND, &mut event::OnePort { port: port.0 })
    }

    fn evtchn_status(&self, port: Port) -> Result<PortState, Errno> {
        let mut arg =
            event::Status { dom: DomId::SELF.0, port: port.0, status: 0, vcpu: 0, first: 0, second: 0 };
        event_op(event::op::STATUS, &mut arg)?;
        // The domain is a 16-bit field in front of padding.
        let [low, high, ..] = arg.first.to_le_bytes();
        let dom = DomId(u16::from_le_bytes([low, high]));
        Ok(match arg.status {
            0 => PortState::Closed,
            1 => PortState::Unbound(dom),
            2 => PortState::Interdomain(dom, Port(arg.second)),
            4 => PortState::Virq(arg.first),
            other => PortState::Other(other),
        })
    }

    fn evtchn_unmask(&self, port: Port) -> Result<(), Errno> {
        event_op(event::op::UNMASK, &mut event::OnePort { port: port.0 })
    }

    fn grant_query_size(&self) -> Result<(u32, u32), Errno> {
        let mut arg =
            [QuerySize { dom: DomId::SELF.0, nr_frames: 0, max_nr_frames: 0, status: GrantStatus::OKAY }];
        grant_op(grant::op::QUERY_SIZE, &mut arg)?;
        status_errno(arg[0].status)?;
        Ok((arg[0].nr_frames, arg[0].max_nr_frames))
    }

    fn grant_setup_table(&self, frames: u32, list: &mut [Mfn]) -> Result<(), Errno> {
        if (list.len() as u64) < u64::from(frames) {
            return Err(Errno::INVAL);
        }
        let mut arg = [SetupTable {
            dom: DomId::SELF.0,
            nr_frames: frames,
            status: GrantStatus::OKAY,
            frame_list: address(list.as_mut_ptr()),
        }];
        grant_op(grant::op::SETUP_TABLE, &mut arg)?;
        status_errno(arg[0].status)
    }

    unsafe fn grant_map(&self, batch: &mut [MapGrantRef]) -> Result<(), Errno> {
        grant_op(grant::op::MAP_GRANT_REF, batch)
    }

    unsafe fn grant_unmap(&self, batch: &mut [UnmapGrantRef]) -> Result<(), Errno> {
        grant_op(grant::op::UNMAP_GRANT_REF, batch)
    }

    unsafe fn grant_copy(&self, batch: &mut [GrantCopy]) -> Result<(), Errno> {
        grant_op(grant::op::COPY, batch)
    }

    unsafe fn memory_populate(&self, frames: &mut [PopulateSlot]) -> Result<usize, Errno> {
        memory_op(memory::op::POPULATE_PHYSMAP, address(frames.as_mut_ptr()), frames.len())
    }

    unsafe fn memory_decrease(&self, frames: &[Mfn]) -> Result<usize, Errno> {
        memory_op(memory::op::DECREASE_RESERVATION, address(frames.as_ptr()), frames.len())
    }

    fn memory_reservation(&self) -> Result<(u64, u64), Errno> {
        let ask = |op| {
            let dom = DomId::SELF.0;
            // SAFETY: Xen reads the domain's number.
            check(unsafe { raw(hypercall::MEMORY_OP, [op, address(&raw const dom), 0, 0, 0]) })
        };
        Ok((ask(memory::op::CURRENT_RESERVATION)?, ask(memory::op::MAXIMUM_RESERVATION)?))
    }

    unsafe fn update_va_mapping(&self, address: u64, entry: u64, flush: Flush) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        check(unsafe { raw(hypercall::UPDATE_VA_MAPPING, [address, entry, flush.bits(), 0, 0]) }).map(drop)
    }

    unsafe fn mmu_update(&self, batch: &mut [MmuUpdate]) -> Result<(), Errno> {
        let args = [address(batch.as_ptr()), batch.len() as u64, 0, u64::from(DomId::SELF.0), 0];
        // SAFETY: the caller's promise.
        check(unsafe { raw(hypercall::MMU_UPDATE, args) }).map(drop)
    }

    unsafe fn mmuext(&self, batch: &mut [MmuExtOp]) -> Result<(), Errno> {
        let args = [address(batch.as_ptr()), batch.len() as u64, 0, u64::from(DomId::SELF.0), 0];
        // SAFETY: the caller's promise.
        check(unsafe { raw(hypercall::MMUEXT_OP, args) }).map(drop)
    }

    unsafe fn multicall(&self, batch: &mut [MulticallEntry]) -> Result<(), Errno> {
        // SAFETY: the caller's promise.
        check(unsafe { raw(hypercall::MULTICALL, [address(batch.as_ptr()), batch.len() as u64, 0, 0, 0]) })
            .map(drop)
    }

    fn sched_block(&self) {
        // SAFETY: touches nothing; the upcall that it lets through is the kernel's stub.
        unsafe { raw(hypercall::SCHED_OP, [sched::op::BLOCK, 0, 0, 0, 0]) };
    }

    fn sched_poll(&self, ports: &[Port], timeout_ns: Option<u64>) -> Result<(), Errno> {
        if ports.len() > sched::POLL_PORTS {
            return Err(Errno::INVAL);
        }
        let mut list = [0_u32; sched::POLL_PORTS];
        for (to, from) in list.iter_mut().zip(ports) {
            *to = from.0;
        }
        let arg = sched::SchedPoll {
            ports: address(list.as_ptr()),
            nr_ports: u32::try_from(ports.len()).unwrap_or(0),
            timeout: timeout_ns.unwrap_or(0),
        };
        // SAFETY: Xen reads the structure and the list.
        check(unsafe { raw(hypercall::SCHED_OP, [sched::op::POLL, address(&raw const arg), 0, 0, 0]) })
            .map(drop)
    }

    fn sched_yield(&self) {
        // SAFETY: touches nothing.
        unsafe { raw(hypercall::SCHED_OP, [sched::op::YIELD, 0, 0, 0, 0]) };
    }

    fn shutdown(&self, reason: ShutdownReason) {
        let arg = reason.number();
        loop {
            // SAFETY: Xen reads the reason. It does not come back, except out of a suspend that nobody here asks for.
            unsafe { raw(hypercall::SCHED_OP, [sched::op::SHUTDOWN, address(&raw const arg), 0, 0, 0]) };
        }
    }

    fn set_timer(&self, deadline_ns: Option<u64>) -> Result<(), Errno> {
        // SAFETY: touches nothing. 0 stops the timer (`do_set_timer_op` in `xen/common/sched/core.c`).
        check(unsafe { raw(hypercall::SET_TIMER_OP, [deadline_ns.unwrap_or(0), 0, 0, 0, 0]) }).map(drop)
    }

    fn xen_version(&self) -> (u16, u16) {
        // SAFETY: touches nothing.
        let version = unsafe { raw(hypercall::XEN_VERSION, [hypercall::XENVER_VERSION, 0, 0, 0, 0]) };
        let half = |v: i64| u16::try_from(v & 0xffff).unwrap_or(0);
        (half(version >> 16), half(version))
    }
}

fn memory_op(op: u64, list: u64, count: usize) -> Result<usize, Errno> {
    let arg = MemoryReservation {
        extent_start: list,
        nr_extents: count as u64,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::SELF.0,
    };
    // SAFETY: Xen reads the structure and reads (decrease) or writes (populate) `count` words of the list; what becomes of the
    // frames is the caller's promise.
    let done = check(unsafe { raw(hypercall::MEMORY_OP, [op, address(&raw const arg), 0, 0, 0]) })?;
    Ok(usize::try_from(done).unwrap_or(0).min(count))
}
