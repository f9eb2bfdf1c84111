//! The parts that need no Xen, on pages of their own.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use xen_ring::PageWords;
use xen_sys::start::shared_info;
use xen_sys::{GrantRef, Port};

use crate::fake::FakeXen;
use crate::grant::{InUse, PermitError, RefPool};
use crate::{Access, Clock, Events};

fn page() -> &'static PageWords {
    Box::leak(Box::new(PageWords::new()))
}

#[test]
fn pending_ports_are_taken_once_and_in_order() {
    let events = Events::new(page());
    for port in [4095, 0, 63, 64, 700] {
        events.set_pending(Port(port));
    }
    assert!(events.take_pending().map(|port| port.0).eq([0, 63, 64, 700, 4095]));
    assert!(!events.any_pending());
    assert_eq!(events.take_pending().next(), None);
}

#[test]
fn a_port_beyond_the_last_is_nobodys() {
    let events = Events::new(page());
    events.set_pending(Port(4096));
    events.mask(Port(u32::MAX));
    events.unmask(Port(4096));
    events.clear(Port(4096));
    assert!(!events.any_pending());
}

#[test]
fn taking_clears_the_upcall_but_not_its_mask() {
    let page = page();
    page.word(0).store(0x0000_0100, Ordering::Relaxed);
    let events = Events::new(page);
    events.set_pending(Port(9));
    assert_eq!(page.load(0), 0x0000_0101);
    assert_eq!(events.take_pending().count(), 1);
    assert_eq!(page.load(0), 0x0000_0100);
}

proptest! {
    /// Against a set: whatever is raised, masked, and taken in parts, each event is seen once after it was raised.
    #[test]
    fn no_event_is_lost_or_doubled(steps in prop::collection::vec((0u8..5, 0u32..130), 0..200)) {
        let events = Events::new(page());
        let mut pending = std::collections::BTreeSet::new();
        let mut masked = std::collections::BTreeSet::new();
        for (what, port) in steps {
            match what {
                0 => { events.set_pending(Port(port)); pending.insert(port); }
                1 => { events.mask(Port(port)); masked.insert(port); }
                2 => { events.unmask(Port(port)); masked.remove(&port); }
                _ => {
                    let some = if what == 3 { port as usize % 3 } else { usize::MAX };
                    for taken in events.take_pending().take(some) {
                        prop_assert!(pending.remove(&taken.0), "twice, or never raised");
                        prop_assert!(!masked.contains(&taken.0));
                    }
                    if what == 4 {
                        prop_assert!(pending.is_subset(&masked));
                    }
                }
            }
        }
    }
}

#[test]
fn time_is_scaled_from_the_counter() {
    let page = page();
    let clock = Clock::new(page, || 3_000);
    page.store(shared_info::TSC_TIMESTAMP / 4, 1_000);
    page.store(shared_info::SYSTEM_TIME / 4, 500);
    // Half a nanosecond a tick.
    page.store(shared_info::TSC_MUL / 4, 1 << 31);
    assert_eq!(clock.now_ns(), 500 + 1_000);
    page.store(shared_info::TSC_SHIFT / 4, 1);
    assert_eq!(clock.now_ns(), 500 + 2_000);
    page.store(shared_info::TSC_SHIFT / 4, 0xff);
    assert_eq!(clock.now_ns(), 500 + 500);
    // A counter behind the time stamp does not make time run backwards by centuries.
    page.store(shared_info::TSC_TIMESTAMP / 4, 5_000);
    assert_eq!(clock.now_ns(), 500);
    page.store(shared_info::WC_SEC / 4, 10);
    page.store(shared_info::WC_SEC_HI / 4, 1);
    page.store(shared_info::WC_NSEC / 4, 7);
    assert_eq!(clock.unix_ns(), ((1 << 32) + 10) * 1_000_000_000 + 7 + 500);
}

#[test]
fn a_page_that_lies_about_its_version_does_not_hang_the_clock() {
    let page = page();
    page.store(shared_info::TIME_VERSION / 4, 1);
    page.store(shared_info::WC_VERSION / 4, 1);
    let clock = Clock::new(page, || 0);
    assert_eq!((clock.now_ns(), clock.unix_ns()), (0, 0));
}

#[test]
fn entries_are_bounded_and_bound_once() {
    let xen = FakeXen::new();
    let domain = xen.domain(4, 2);
    let grants = domain.grants();
    let (_, frame) = domain.page();
    let permit = |reference| grants.permit(GrantRef(reference), domain.id(), frame, Access::ReadOnly);
    assert_eq!(permit(8), Err(PermitError::OutOfRange), "no frames yet");
    grants.grow_to(1).unwrap();
    assert_eq!(permit(7), Err(PermitError::OutOfRange), "the toolstack's");
    assert_eq!(permit(512), Err(PermitError::OutOfRange));
    assert_eq!(permit(511), Ok(()));
    assert_eq!(permit(511), Err(PermitError::Occupied));
    grants.grow_to(2).unwrap();
    assert!(grants.grow_to(3).is_err());
    assert_eq!((grants.capacity(), grants.capacity_max()), (1024, 1024));
    assert_eq!(permit(1023), Ok(()));
    assert_eq!(grants.try_revoke(GrantRef(1023)), Ok(()));
    assert_eq!(grants.try_revoke(GrantRef(1)), Err(InUse));
    assert_eq!(grants.flags(GrantRef(1023)), 0);
}

#[test]
fn references_are_handed_out_once() {
    let pool = RefPool::new();
    let all: Vec<GrantRef> = std::iter::from_fn(|| pool.reserve()).collect();
    assert_eq!(all.len(), 2048);
    assert_eq!((all[0], *all.last().unwrap()), (GrantRef(8), GrantRef(RefPool::END.0 - 1)));
    assert_eq!(pool.taken(), 2048);
    pool.release(GrantRef(77));
    pool.release(GrantRef(3));
    pool.release(GrantRef(1 << 30));
    assert_eq!(pool.reserve(), Some(GrantRef(77)));
    assert_eq!(pool.reserve(), None);
}
