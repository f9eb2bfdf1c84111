//! Time, events, sleep and memory.

use xen::{DomId, PortState, Virq};

use crate::{Outcome, World, check};

pub(crate) fn clock(world: &mut World) -> Outcome {
    let clock = world.boot.clock;
    let first = clock.now_ns();
    let mut last = first;
    for _ in 0..1000 {
        let now = clock.now_ns();
        check!(now >= last);
        last = now;
    }
    check!(last > first);
    check!(last < 3_600_000_000_000);
    // 2020-01-01.
    check!(clock.unix_ns() > 1_577_836_800_000_000_000);
    Ok(())
}

pub(crate) fn events(world: &mut World) -> Outcome {
    let (events, xen) = (world.boot.events, world.boot.hypervisor);
    let ours = xen.evtchn_alloc_unbound(DomId::SELF).map_err(|_| "alloc")?;
    check!(xen.evtchn_status(ours) == Ok(PortState::Unbound(world.boot.domid)));
    let theirs = xen.evtchn_bind_interdomain(DomId::SELF, ours).map_err(|_| "bind")?;
    check!(xen.evtchn_status(ours) == Ok(PortState::Interdomain(world.boot.domid, theirs)));
    // Binding makes the port pending once.
    for port in events.take_pending() {
        check!(port == ours || port == theirs);
    }
    check!(xen.evtchn_send(ours).is_ok());
    check!(events.any_pending());
    events.wait(xen);
    check!(events.take_pending().eq([theirs]));
    check!(!events.any_pending());
    check!(xen.evtchn_close(theirs).is_ok());
    check!(xen.evtchn_status(ours) == Ok(PortState::Unbound(world.boot.domid)));
    check!(xen.evtchn_close(ours).is_ok());
    check!(xen.evtchn_status(ours) == Ok(PortState::Closed));
    Ok(())
}

pub(crate) fn masks(world: &mut World) -> Outcome {
    let (events, xen) = (world.boot.events, world.boot.hypervisor);
    let ours = xen.evtchn_alloc_unbound(DomId::SELF).map_err(|_| "alloc")?;
    let theirs = xen.evtchn_bind_interdomain(DomId::SELF, ours).map_err(|_| "bind")?;
    events.take_pending().for_each(drop);
    events.mask(theirs);
    check!(xen.evtchn_send(ours).is_ok());
    check!(events.take_pending().next().is_none());
    events.unmask(theirs);
    // An iterator that is dropped early loses nothing.
    check!(xen.evtchn_send(theirs).is_ok());
    let first = events.take_pending().next();
    let second = events.take_pending().next();
    check!(first.is_some() && second.is_some() && first != second);
    check!(events.take_pending().next().is_none());
    check!(xen.evtchn_close(theirs).is_ok() && xen.evtchn_close(ours).is_ok());
    Ok(())
}

pub(crate) fn timer(world: &mut World) -> Outcome {
    let (events, xen, clock) = (world.boot.events, world.boot.hypervisor, world.boot.clock);
    let port = xen.evtchn_bind_virq(Virq::Timer).map_err(|_| "bind")?;
    check!(xen.evtchn_bind_virq(Virq::Timer) == Err(xen::Errno::EXIST));
    events.take_pending().for_each(drop);
    let start = clock.now_ns();
    check!(xen.set_timer(Some(start + 3_000_000)).is_ok());
    let mut rounds = 0;
    loop {
        events.wait(xen);
        rounds += 1;
        if events.take_pending().any(|pending| pending == port) {
            break;
        }
        check!(rounds < 100);
    }
    let slept = clock.now_ns() - start;
    check!(slept >= 3_000_000);
    check!(slept < 500_000_000);
    check!(xen.evtchn_close(port).is_ok());
    Ok(())
}

pub(crate) fn poll(world: &mut World) -> Outcome {
    let (events, xen, clock) = (world.boot.events, world.boot.hypervisor, world.boot.clock);
    let ours = xen.evtchn_alloc_unbound(DomId::SELF).map_err(|_| "alloc")?;
    let theirs = xen.evtchn_bind_interdomain(DomId::SELF, ours).map_err(|_| "bind")?;
    events.take_pending().for_each(drop);
    let start = clock.now_ns();
    check!(xen.sched_poll(&[theirs], Some(start + 2_000_000)).is_ok());
    check!(clock.now_ns() >= start + 2_000_000);
    check!(xen.evtchn_send(ours).is_ok());
    check!(xen.sched_poll(&[theirs], None).is_ok());
    check!(events.take_pending().eq([theirs]));
    check!(xen.evtchn_close(theirs).is_ok() && xen.evtchn_close(ours).is_ok());
    Ok(())
}

pub(crate) fn balloon(world: &mut World) -> Outcome {
    let xen = world.boot.hypervisor;
    let pool = &mut world.pool;
    let (before, _) = xen.memory_reservation().map_err(|_| "reservation")?;
    let available = pool.available();
    // All but the reserve and a few, so that the next allocations must ask Xen.
    let left = pool.reserve() + 3;
    let mut spare = 0;
    // Tables of the direct map that show nothing any more are free frames in their turn.
    while pool.available() > left {
        let more = pool.available() - left;
        check!(pool.give_back(more) == more);
        spare += more;
    }
    let tables = pool.counters().tables_freed;
    check!(tables > 0 && (available - left) as u64 + tables == spare as u64);
    check!(pool.given_back() == spare);
    let (after, _) = xen.memory_reservation().map_err(|_| "reservation")?;
    check!(before - after == spare as u64);
    let mut frames = [const { None }; 10];
    for slot in &mut frames {
        let frame = pool.alloc().map_err(|_| "alloc")?;
        frame.words().store(7, 0xdead_beef);
        *slot = Some(frame);
    }
    // The last that went come first: numbers of freed tables, then those of a chunk that needs one again.
    check!(pool.counters().repopulated == 32 && pool.counters().tables_made <= 2);
    check!(pool.given_back() == spare - 32);
    let a = frames[0].as_ref().map(|frame| frame.mfn());
    let b = frames[9].as_ref().map(|frame| frame.mfn());
    check!(a != b);
    for frame in frames.into_iter().flatten() {
        pool.free(frame);
    }
    // The rest comes back too, and is clear; the frames wait in the free list of a second pool: this one's own, by turns.
    let mut rounds = 0;
    while pool.given_back() != 0 {
        let mut held = [const { None }; 1024];
        for slot in &mut held {
            *slot = pool.alloc().ok();
        }
        for frame in held.into_iter().flatten() {
            pool.free(frame);
        }
        rounds += 1;
        if rounds > 2 {
            break;
        }
    }
    check!(pool.counters().populate_failures == 0 && pool.counters().tables_made > 0);
    check!(pool.counters().given_back == spare as u64);
    Ok(())
}
