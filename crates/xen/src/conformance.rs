//! The same calls on every Xen: what the fake says must be what the real one says.
//!
//! [`run`] makes each call once and records its result; [`EXPECTED`] is the record of Xen 4.17. A test holds the fake to it, and an
//! image (tests/guests/floor-test) the real one.

use xen_sys::grant::{CopyEnd, GrantCopy, MapGrantRef, UnmapGrantRef, gntcopy, gntmap};
use xen_sys::{DomId, Errno, GrantRef, GrantStatus, Mfn, Port, PortState, Virq};

use crate::{Access, Events, GrantTable, Hypervisor};

/// What Xen 4.17 says: a name and a code in each line.
pub const EXPECTED: &str = include_str!("conformance/expected.txt");

/// A domain to try the calls on. All is done with itself as the other side.
pub struct Subject<'a> {
    /// Its hypercalls.
    pub hypervisor: &'a dyn Hypervisor,
    /// Its grant table, with room behind `references`.
    pub grants: &'a GrantTable,
    /// Its pending ports.
    pub events: Events,
    /// Its number.
    pub domid: DomId,
    /// Two frames of its own that may be lent, and are used for nothing else.
    pub frames: [Mfn; 2],
    /// The first of 8 references that are free.
    pub references: GrantRef,
    /// Two addresses where nothing is mapped, and where something can be.
    pub scratch: [u64; 2],
}

/// A domain number that no test machine has.
const NOBODY: DomId = DomId(0x7000);

/// Makes the calls, and records each: 0 or a count is success, negative a grant status or an error number.
///
/// # Safety
/// The scratch addresses must be free for any mapping.
pub unsafe fn run(subject: &Subject<'_>, record: &mut dyn FnMut(&'static str, i32)) {
    events(subject, record);
    // SAFETY: the caller's promise.
    unsafe {
        maps(subject, record);
        copies(subject, record);
        memory(subject, record);
    }
}

fn code<T>(result: Result<T, Errno>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(errno) => -errno.0,
    }
}

fn state(result: Result<PortState, Errno>) -> i32 {
    match result {
        Ok(PortState::Closed) => 0,
        Ok(PortState::Unbound(_)) => 1,
        Ok(PortState::Interdomain(..)) => 2,
        Ok(PortState::Virq(_)) => 4,
        Ok(PortState::Other(_)) => 100,
        Err(errno) => -errno.0,
    }
}

fn events(subject: &Subject<'_>, record: &mut dyn FnMut(&'static str, i32)) {
    let xen = subject.hypervisor;
    subject.events.take_pending().for_each(drop);
    let ours = xen.evtchn_alloc_unbound(DomId::SELF);
    record("alloc_unbound", code(ours));
    let ours = ours.unwrap_or(Port(0));
    record("status of an unbound port", state(xen.evtchn_status(ours)));
    record(
        "status says for whom",
        i32::from(xen.evtchn_status(ours) == Ok(PortState::Unbound(subject.domid))),
    );
    record("send on an unbound port", code(xen.evtchn_send(ours)));
    record(
        "alloc_unbound for nobody",
        code(xen.evtchn_alloc_unbound(NOBODY).map(|port| xen.evtchn_close(port))),
    );
    record("bind to nobody", code(xen.evtchn_bind_interdomain(NOBODY, ours)));
    record("bind to a closed port", code(xen.evtchn_bind_interdomain(DomId::SELF, Port(1000))));
    let theirs = xen.evtchn_bind_interdomain(DomId::SELF, ours);
    record("bind", code(theirs));
    let theirs = theirs.unwrap_or(Port(0));
    record("bind makes our end pending", i32::from(subject.events.take_pending().eq([theirs])));
    record("bind again", code(xen.evtchn_bind_interdomain(DomId::SELF, ours)));
    record("status of a bound port", state(xen.evtchn_status(theirs)));
    record("send", code(xen.evtchn_send(ours)));
    record("send makes the other end pending", i32::from(subject.events.take_pending().eq([theirs])));
    subject.events.mask(theirs);
    record("send to a masked port", code(xen.evtchn_send(ours)));
    record("a masked port is not taken", i32::from(subject.events.take_pending().next().is_none()));
    record("unmask", code(xen.evtchn_unmask(theirs)));
    record("unmask brings it back", i32::from(subject.events.take_pending().eq([theirs])));
    record("close", code(xen.evtchn_close(theirs)));
    record("status after the peer closed", state(xen.evtchn_status(ours)));
    record("send after the peer closed", code(xen.evtchn_send(ours)));
    record("close the rest", code(xen.evtchn_close(ours)));
    record("status of a closed port", state(xen.evtchn_status(ours)));
    record("send on a closed port", code(xen.evtchn_send(ours)));
    record("close again", code(xen.evtchn_close(ours)));
    record("close a port that cannot be", code(xen.evtchn_close(Port(1 << 20))));
    record("status of a port that cannot be", state(xen.evtchn_status(Port(1 << 20))));
    record("unmask a port that cannot be", code(xen.evtchn_unmask(Port(1 << 20))));
    let virq = xen.evtchn_bind_virq(Virq::Timer);
    record("bind_virq", code(virq));
    record("bind_virq again", code(xen.evtchn_bind_virq(Virq::Timer)));
    let virq = virq.unwrap_or(Port(0));
    record("status of a virq", state(xen.evtchn_status(virq)));
    record("send on a virq", code(xen.evtchn_send(virq)));
    record("set_timer in the past", code(xen.set_timer(Some(1))));
    record("poll for it", code(xen.sched_poll(&[virq], None)));
    record("the timer is pending", i32::from(subject.events.take_pending().eq([virq])));
    record("close the virq", code(xen.evtchn_close(virq)));
    record("poll for too many", code(xen.sched_poll(&[Port(1); 129], None)));
}

impl Subject<'_> {
    fn reference(&self, index: u32) -> GrantRef {
        GrantRef(self.references.0 + index)
    }

    /// One map.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn map(&self, dom: DomId, reference: GrantRef, flags: u32, address: u64) -> (i32, u32) {
        let mut op = [MapGrantRef {
            host_addr: address,
            flags,
            reference: reference.0,
            dom: dom.0,
            status: GrantStatus(1),
            handle: 0,
            dev_bus_addr: 0,
        }];
        // SAFETY: the caller's promise.
        match unsafe { self.hypervisor.grant_map(&mut op) } {
            Ok(()) => (i32::from(op[0].status.0), op[0].handle),
            Err(errno) => (-1000 - errno.0, 0),
        }
    }

    /// One unmap.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn unmap(&self, handle: u32, address: u64) -> i32 {
        let mut op = [UnmapGrantRef { host_addr: address, dev_bus_addr: 0, handle, status: GrantStatus(1) }];
        // SAFETY: the caller's promise; nobody refers to the mapping.
        match unsafe { self.hypervisor.grant_unmap(&mut op) } {
            Ok(()) => i32::from(op[0].status.0),
            Err(errno) => -1000 - errno.0,
        }
    }
}

/// # Safety
/// As [`run`].
unsafe fn maps(subject: &Subject<'_>, record: &mut dyn FnMut(&'static str, i32)) {
    const READ: u32 = gntmap::HOST_MAP | gntmap::READONLY;
    const WRITE: u32 = gntmap::HOST_MAP;
    let (grants, domid) = (subject.grants, subject.domid);
    let [one, two, free] = [0, 1, 2].map(|index| subject.reference(index));
    let [here, there] = subject.scratch;
    let flag = |on: bool| i32::from(on);
    record("setup_table beyond the most", code(grants.grow_to(grants.frames_max() + 1)));
    record("permit", i32::from(grants.permit(one, domid, subject.frames[0], Access::ReadOnly).is_err()));
    // SAFETY: the caller's promise, for all of these; each map that succeeds is unmapped below.
    unsafe {
        record("map without flags", subject.map(domid, one, 0, here).0);
        record("map of our own as SELF", subject.map(DomId::SELF, one, READ, here).0);
        record("map of nobody's", subject.map(NOBODY, one, READ, here).0);
        record("map of a reference that cannot be", subject.map(domid, GrantRef(1 << 30), READ, here).0);
        record("map of a free reference", subject.map(domid, free, READ, here).0);
        record("map writable of a read-only grant", subject.map(domid, one, WRITE, here).0);
        record("refused maps leave no mark", flag(!grants.is_in_use(one)));
        let (status, first) = subject.map(domid, one, READ, here);
        record("map", status);
        record("map marks the entry", flag(grants.is_reading(one)));
        let (status, second) = subject.map(domid, one, READ, there);
        record("map twice", status);
        record("map writable while mapped read-only", subject.map(domid, one, WRITE, there).0);
        record("revoke while mapped", flag(grants.try_revoke(one).is_err()));
        record("unmap with a wrong handle", subject.unmap(0x00ff_ffff, here));
        record("unmap", subject.unmap(first, here));
        record("unmap again", subject.unmap(first, here));
        record("still marked", flag(grants.is_reading(one)));
        record("unmap the second", subject.unmap(second, there));
        record("not marked any more", flag(!grants.is_in_use(one)));
        record("revoke", flag(grants.try_revoke(one).is_err()));
        record("map after the revoke", subject.map(domid, one, READ, here).0);

        record(
            "permit for nobody",
            i32::from(grants.permit(two, NOBODY, subject.frames[0], Access::ReadOnly).is_err()),
        );
        record("map of another's grant", subject.map(domid, two, READ, here).0);
        record("revoke from nobody", flag(grants.try_revoke(two).is_err()));
        record(
            "permit writable",
            i32::from(grants.permit(two, domid, subject.frames[1], Access::ReadWrite).is_err()),
        );
        let (status, handle) = subject.map(domid, two, WRITE, here);
        record("map writable", status);
        record("map read-only beside it", {
            let (status, handle) = subject.map(domid, two, READ, there);
            if status == 0 { subject.unmap(handle, there) } else { status }
        });
        record("marked as written", flag(grants.flags(two) & xen_sys::grant::gtf::WRITING != 0));
        record("unmap writable", subject.unmap(handle, here));
        record("revoke writable", flag(grants.try_revoke(two).is_err()));
        record("map at an address in a page", subject.map(domid, one, READ, here + 8).0);
    }
}

/// # Safety
/// As [`run`].
unsafe fn copies(subject: &Subject<'_>, record: &mut dyn FnMut(&'static str, i32)) {
    let (grants, domid) = (subject.grants, subject.domid);
    let [lent, writable, free] = [3, 4, 5].map(|index| subject.reference(index));
    let [from, to] = subject.frames;
    record("permit the source", i32::from(grants.permit(lent, domid, from, Access::ReadOnly).is_err()));
    record(
        "permit the destination",
        i32::from(grants.permit(writable, domid, to, Access::ReadWrite).is_err()),
    );
    let by_reference = |dom: DomId, reference: GrantRef, offset| CopyEnd {
        ref_or_frame: u64::from(reference.0),
        dom: dom.0,
        offset,
    };
    let by_frame = |dom: DomId, frame: Mfn| CopyEnd { ref_or_frame: frame.0, dom: dom.0, offset: 0 };
    let mut copy = |name, source, dest, len, flags| {
        let mut op = [GrantCopy { source, dest, len, flags, status: GrantStatus(1) }];
        // SAFETY: the frames are used for nothing else.
        let result = match unsafe { subject.hypervisor.grant_copy(&mut op) } {
            Ok(()) => i32::from(op[0].status.0),
            Err(errno) => -1000 - errno.0,
        };
        record(name, result);
    };
    const BOTH: u16 = gntcopy::SOURCE_GREF | gntcopy::DEST_GREF;
    let own = |frame| by_frame(DomId::SELF, frame);
    copy("copy to a grant", own(from), by_reference(domid, writable, 0), 4096, gntcopy::DEST_GREF);
    copy("copy from a grant", by_reference(domid, lent, 0), own(to), 4096, gntcopy::SOURCE_GREF);
    copy("copy from grant to grant", by_reference(domid, lent, 0), by_reference(domid, writable, 4), 8, BOTH);
    copy("copy between own frames", own(from), own(to), 4096, 0);
    copy("copy nothing", own(from), by_reference(domid, writable, 0), 0, gntcopy::DEST_GREF);
    copy("copy over a page's end", own(from), by_reference(domid, writable, 8), 4096, gntcopy::DEST_GREF);
    copy("copy to a read-only grant", own(to), by_reference(domid, lent, 0), 16, gntcopy::DEST_GREF);
    copy("copy to a free reference", own(from), by_reference(domid, free, 0), 16, gntcopy::DEST_GREF);
    copy(
        "copy to a reference that cannot be",
        own(from),
        by_reference(domid, GrantRef(1 << 30), 0),
        16,
        gntcopy::DEST_GREF,
    );
    copy("copy to nobody", own(from), by_reference(NOBODY, writable, 0), 16, gntcopy::DEST_GREF);
    copy(
        "copy from a frame by number",
        by_frame(domid, from),
        by_reference(domid, writable, 0),
        16,
        gntcopy::DEST_GREF,
    );
    copy(
        "copy from a frame that cannot be",
        own(Mfn(1 << 36)),
        by_reference(domid, writable, 0),
        16,
        gntcopy::DEST_GREF,
    );
    record("copies leave no mark", i32::from(!grants.is_in_use(lent) && !grants.is_in_use(writable)));
    record("revoke the source", i32::from(grants.try_revoke(lent).is_err()));
    record("revoke the destination", i32::from(grants.try_revoke(writable).is_err()));
}

/// # Safety
/// As [`run`].
unsafe fn memory(subject: &Subject<'_>, record: &mut dyn FnMut(&'static str, i32)) {
    // SAFETY: frames that are not ours cannot be given back.
    let done = unsafe { subject.hypervisor.memory_decrease(&[Mfn(1 << 36), subject.frames[0]]) };
    record("give back a frame that cannot be", code(done));
    record("stops at it", done.map_or(-1, |count| i32::try_from(count).unwrap_or(-1)));
    let (now, max) = subject.hypervisor.memory_reservation().unwrap_or((1, 0));
    record("reservation within the ceiling", i32::from(now <= max));
    record("version 4", i32::from(subject.hypervisor.xen_version().0 == 4));
}
