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
fn a_moment_of_the_counter_has_a_time_before_and_after_the_stamp() {
    let page = page();
    let clock = Clock::new(page, || 0);
    page.store(shared_info::TSC_TIMESTAMP / 4, 1_000);
    page.store(shared_info::SYSTEM_TIME / 4, 700);
    page.store(shared_info::TSC_MUL / 4, 1 << 31);
    assert_eq!([1_000, 3_000, 400].map(|ticks| clock.ns_at(ticks)), [700, 1_700, 400]);
    page.store(shared_info::SYSTEM_TIME / 4, 100);
    assert_eq!(clock.ns_at(0), 0, "not before Xen booted");
    assert_eq!(clock.span_ns(5_000), 2_500);
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

/// The console is one for the program, so this is one test.
#[test]
fn the_console_drops_what_does_not_fit_and_a_dying_kernel_waits() {
    use crate::console::{Console, print_in_panic};
    use xen_ring::ByteRing;

    let xen = FakeXen::new();
    let domain: &'static _ = Box::leak(Box::new(xen.domain(1, 1)));
    let page = page();
    let port = crate::Hypervisor::evtchn_alloc_unbound(domain, domain.id()).unwrap();
    let mut console = Console::on_ring(page, port, domain);
    let mut daemon = ByteRing::CONSOLE_OUT.consumer(page);
    let mut take = move || {
        let mut bytes = [0; 2048];
        let taken = daemon.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..taken].to_vec()).unwrap()
    };

    std::fmt::Write::write_str(&mut console, "one\ntwo").unwrap();
    assert_eq!(take(), "one\r\ntwo");
    assert_eq!(console.port(), Some(port));

    assert_eq!(console.write_some(&[b'x'; 3000]), 2048);
    console.write(b"lost");
    assert_eq!(console.dropped(), 4);
    print_in_panic(format_args!("nobody reads this\n"));
    assert_eq!(take().len(), 2048);

    // With a daemon that makes room, the last words arrive.
    console.log_with(domain.clock(), log::LevelFilter::Info);
    assert_eq!(console.write_some(&[b'x'; 3000]), 2048);
    let heard = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let ears = heard.clone();
    domain.when_blocked(move || *ears.lock().unwrap() += &take());
    print_in_panic(format_args!("last words\n"));
    crate::Hypervisor::sched_block(domain);
    assert!(heard.lock().unwrap().ends_with("xlast words\r\n"));

    // What is typed comes in.
    assert_eq!(ByteRing::CONSOLE_IN.producer(page).write(b"hello"), Ok(5));
    let mut typed = [0; 16];
    assert_eq!(console.read(&mut typed), 5);
    assert_eq!(console.read(&mut typed), 0);

    log::info!("{}", "logged");
    crate::Hypervisor::sched_block(domain);
    let heard = heard.lock().unwrap();
    assert!(heard.ends_with("[    1.000000] INFO  xen::tests: logged\r\n"), "{heard:?}");
}
