//! The fake keeps Xen's rules.

use xen_sys::grant::{MapGrantRef, UnmapGrantRef, gntmap};
use xen_sys::memory::Flush;
use xen_sys::{DomId, Errno, GrantRef, GrantStatus, Mfn, Pfn, Port, PortState, Virq};

use super::{Call, FakeDomain, FakeXen, Fault};
use crate::grant::{Direction, InUse, PageCopy, PermitError};
use crate::hypervisor::PopulateSlot;
use crate::{Access, Hypervisor, ShutdownReason, conformance};

const REF: GrantRef = GrantRef(8);

fn two() -> (FakeXen, FakeDomain, FakeDomain) {
    let xen = FakeXen::new();
    let (a, b) = (xen.domain(64, 4), xen.domain(64, 4));
    a.grants().grow_to(1).unwrap();
    b.grants().grow_to(1).unwrap();
    (xen, a, b)
}

fn map(
    domain: &FakeDomain,
    owner: DomId,
    reference: GrantRef,
    address: u64,
    flags: u32,
) -> (GrantStatus, u32) {
    let mut op = [MapGrantRef {
        host_addr: address,
        flags,
        reference: reference.0,
        dom: owner.0,
        status: GrantStatus::GENERAL_ERROR,
        handle: 0,
        dev_bus_addr: 0,
    }];
    // SAFETY: the fake maps nothing for real.
    unsafe { domain.grant_map(&mut op) }.unwrap();
    (op[0].status, op[0].handle)
}

fn unmap(domain: &FakeDomain, handle: u32, address: u64) -> GrantStatus {
    let mut op =
        [UnmapGrantRef { host_addr: address, dev_bus_addr: 0, handle, status: GrantStatus::GENERAL_ERROR }];
    // SAFETY: the fake unmaps nothing for real.
    unsafe { domain.grant_unmap(&mut op) }.unwrap();
    op[0].status
}

const READ: u32 = gntmap::HOST_MAP | gntmap::READONLY;
const WRITE: u32 = gntmap::HOST_MAP;

#[test]
fn says_what_xen_says() {
    let xen = FakeXen::new();
    let domain = xen.domain(64, 8);
    domain.grants().grow_to(8).unwrap();
    let (_, one) = domain.page();
    let (_, two) = domain.page();
    let subject = conformance::Subject {
        hypervisor: &domain,
        grants: domain.grants(),
        events: domain.events(),
        domid: domain.id(),
        frames: [one, two],
        references: GrantRef(100),
        scratch: [0x10_0000, 0x10_1000],
    };
    let mut said = String::new();
    // SAFETY: the fake maps nothing for real.
    unsafe { conformance::run(&subject, &mut |name, code| said += &format!("{name}: {code}\n")) };
    let differences: Vec<_> =
        said.lines().zip(conformance::EXPECTED.lines()).filter(|(a, b)| a != b).collect();
    assert!(differences.is_empty(), "(fake, real): {differences:#?}");
    assert_eq!(said.lines().count(), conformance::EXPECTED.lines().count());
    assert_eq!(xen.leaked_mappings(), 0);
    assert_eq!((domain.mappings(), domain.open_ports()), (0, 0));
}

#[test]
fn a_granted_page_is_the_same_memory_in_both_domains() {
    let (_, a, b) = two();
    let (page, frame) = a.page();
    page.store(3, 33);
    a.grants().permit(REF, b.id(), frame, Access::ReadOnly).unwrap();
    let (status, handle) = map(&b, a.id(), REF, 0x5000, READ);
    assert_eq!(status, GrantStatus::OKAY);
    assert_eq!(b.page_at(0x5000).unwrap().load(3), 33);
    page.store(3, 34);
    assert_eq!(b.page_at(0x5000).unwrap().load(3), 34);
    assert!(a.grants().is_reading(REF));
    assert_eq!(a.grants().try_revoke(REF), Err(InUse));
    assert_eq!(unmap(&b, handle, 0x5000), GrantStatus::OKAY);
    assert!(b.page_at(0x5000).is_none());
    assert_eq!(a.grants().try_revoke(REF), Ok(()));
    assert_eq!(map(&b, a.id(), REF, 0x5000, READ).0, GrantStatus::GENERAL_ERROR);
}

#[test]
fn only_own_frames_can_be_lent_and_only_to_one_domain() {
    let (xen, a, b) = two();
    let c = xen.domain(4, 1);
    let (_, theirs) = b.page();
    assert_eq!(a.grants().permit(REF, b.id(), theirs, Access::ReadOnly), Err(PermitError::Unshareable));
    let (_, frame) = a.page();
    a.grants().permit(REF, b.id(), frame, Access::ReadOnly).unwrap();
    assert_eq!(a.grants().permit(REF, c.id(), frame, Access::ReadOnly), Err(PermitError::Occupied));
    assert_eq!(map(&c, a.id(), REF, 0x5000, READ).0, GrantStatus::GENERAL_ERROR);
    assert_eq!(map(&b, a.id(), REF, 0x5000, WRITE).0, GrantStatus::GENERAL_ERROR);
}

#[test]
fn a_window_maps_writable_pages_only_and_gives_them_back() {
    use crate::ForeignPages;
    let (xen, a, b) = two();
    let (words, frame) = a.page();
    let (_, other) = a.page();
    a.grants().permit(REF, b.id(), frame, Access::ReadWrite).unwrap();
    a.grants().permit(GrantRef(9), b.id(), other, Access::ReadOnly).unwrap();
    let mut window = super::FakeWindow::new(&b, 1);
    assert_eq!(window.map(a.id(), GrantRef(9)).err(), Some(GrantStatus::GENERAL_ERROR), "not writable");
    let (page, seen) = window.map(a.id(), REF).unwrap();
    seen.store(0, 7);
    assert_eq!((words.load(0), window.mapped()), (7, 1));
    assert_eq!(window.map(a.id(), REF).err(), Some(GrantStatus::NO_SPACE));
    xen.destroy(a.id());
    assert!(xen.knows(a.id()), "a zombie, for what is mapped");
    window.unmap(page);
    assert!(!xen.knows(a.id()));
    assert_eq!(xen.leaked_mappings(), 0);
}

#[test]
fn a_pinned_entry_is_not_looked_at_again() {
    let (_, a, b) = two();
    let (old, frame) = a.page();
    old.store(0, 1);
    a.grants().permit(REF, b.id(), frame, Access::ReadOnly).unwrap();
    let (_, first) = map(&b, a.id(), REF, 0x5000, READ);
    // The granter writes over the entry by force, which GrantTable refuses to do.
    a.xen().lock().domains.get_mut(&a.id()).unwrap().grant_area[0].store(16, 0);
    let (status, second) = map(&b, a.id(), REF, 0x6000, READ);
    assert_eq!(status, GrantStatus::OKAY);
    assert_eq!(b.page_at(0x6000).unwrap().load(0), 1);
    assert_eq!(unmap(&b, first, 0x5000), GrantStatus::OKAY);
    assert_eq!(unmap(&b, second, 0x6000), GrantStatus::OKAY);
    assert_eq!(map(&b, a.id(), REF, 0x5000, READ).0, GrantStatus::GENERAL_ERROR);
}

#[test]
fn a_dead_granters_page_lives_on_its_mappings() {
    let (xen, a, b) = two();
    let (page, frame) = a.page();
    let (_, unmapped) = a.page();
    page.store(0, 5);
    a.grants().permit(REF, b.id(), frame, Access::ReadOnly).unwrap();
    a.grants().permit(GrantRef(9), b.id(), unmapped, Access::ReadOnly).unwrap();
    let (_, handle) = map(&b, a.id(), REF, 0x5000, READ);
    xen.destroy(a.id());
    assert!(xen.knows(a.id()));
    assert_eq!(b.page_at(0x5000).unwrap().load(0), 5);
    // A page that nobody kept is gone; one that somebody maps can be mapped once more.
    assert_eq!(map(&b, a.id(), GrantRef(9), 0x6000, READ).0, GrantStatus::BAD_PAGE);
    let (status, again) = map(&b, a.id(), REF, 0x6000, READ);
    assert_eq!(status, GrantStatus::OKAY);
    assert_eq!(unmap(&b, again, 0x6000), GrantStatus::OKAY);
    assert_eq!(unmap(&b, handle, 0x5000), GrantStatus::OKAY);
    assert!(!xen.knows(a.id()));
    assert_eq!(map(&b, a.id(), REF, 0x5000, READ).0, GrantStatus::BAD_DOMAIN);
}

#[test]
fn a_dead_grantees_pins_go_without_an_event() {
    let (xen, a, b) = two();
    let (_, frame) = a.page();
    a.grants().permit(REF, b.id(), frame, Access::ReadOnly).unwrap();
    assert_eq!(map(&b, a.id(), REF, 0x5000, READ).0, GrantStatus::OKAY);
    let port = a.evtchn_alloc_unbound(b.id()).unwrap();
    b.evtchn_bind_interdomain(a.id(), port).unwrap();
    a.events().take_pending().for_each(drop);
    xen.destroy(b.id());
    assert!(!a.grants().is_in_use(REF));
    assert_eq!(a.grants().try_revoke(REF), Ok(()));
    assert_eq!(a.evtchn_status(port), Ok(PortState::Unbound(b.id())));
    assert!(!a.events().any_pending());
    assert!(!xen.knows(b.id()));
}

#[test]
fn overwriting_a_grant_mapping_leaks_it() {
    let (xen, a, b) = two();
    let (_, frame) = a.page();
    a.grants().permit(REF, b.id(), frame, Access::ReadOnly).unwrap();
    let (_, handle) = map(&b, a.id(), REF, 0x5000, READ);
    // SAFETY: the fake maps nothing for real.
    unsafe { b.update_va_mapping(0x5000, 0, Flush::Page) }.unwrap();
    assert_eq!(xen.leaked_mappings(), 1);
    assert_eq!(unmap(&b, handle, 0x5000), GrantStatus::GENERAL_ERROR);
    assert!(a.grants().is_in_use(REF));
}

#[test]
fn copies_need_no_mapping() {
    let (_, a, b) = two();
    let (ours, frame) = a.page();
    let (theirs, other) = b.page();
    ours.store(0, 7);
    b.grants().permit(REF, a.id(), other, Access::ReadWrite).unwrap();
    let mut copies = [
        PageCopy::page(frame, b.id(), REF, Direction::ToPeer),
        // Not ours: refused before Xen is asked.
        PageCopy::page(other, b.id(), REF, Direction::ToPeer),
        PageCopy::page(frame, DomId(99), REF, Direction::ToPeer),
    ];
    a.grants().copy(&a, &mut copies).unwrap();
    let statuses = copies.map(|copy| copy.status);
    assert_eq!(statuses, [GrantStatus::OKAY, GrantStatus::BAD_PAGE, GrantStatus::BAD_DOMAIN]);
    assert_eq!(theirs.load(0), 7);
    assert!(!b.grants().is_in_use(REF));
}

#[test]
fn ports_connect_two_domains_and_wake_the_other() {
    let (_, a, b) = two();
    let ours = a.evtchn_alloc_unbound(b.id()).unwrap();
    assert_eq!(a.evtchn_bind_interdomain(a.id(), ours), Err(Errno::INVAL), "allocated for another");
    let theirs = b.evtchn_bind_interdomain(a.id(), ours).unwrap();
    assert!(b.events().take_pending().eq([theirs]));
    a.evtchn_send(ours).unwrap();
    assert!(b.events().take_pending().eq([theirs]));
    b.evtchn_send(theirs).unwrap();
    assert!(a.events().take_pending().eq([ours]));
    b.evtchn_close(theirs).unwrap();
    assert_eq!(a.evtchn_status(ours), Ok(PortState::Unbound(b.id())));
    assert_eq!(b.evtchn_close(theirs), Err(Errno::INVAL));
}

#[test]
fn ports_run_out() {
    let (_, a, b) = two();
    let count = std::iter::from_fn(|| a.evtchn_alloc_unbound(b.id()).ok()).count();
    assert_eq!(count, 1023);
    assert_eq!(a.evtchn_alloc_unbound(b.id()), Err(Errno::NOSPC));
    a.evtchn_close(Port(5)).unwrap();
    assert_eq!(a.evtchn_alloc_unbound(b.id()), Ok(Port(5)));
}

#[test]
fn a_reservation_has_a_ceiling() {
    let xen = FakeXen::new();
    let domain = xen.domain(4, 1);
    let frames: Vec<Mfn> = (0..4).map(|_| domain.page().1).collect();
    assert_eq!(domain.memory_reservation(), Ok((4, 4)));
    let mut slots = [PopulateSlot::wanted(Pfn(0)); 3];
    // SAFETY: these numbers have no frames.
    let done = unsafe { domain.memory_populate(&mut slots) };
    assert_eq!(done, Ok(0));
    // SAFETY: nobody uses the pages any more.
    assert_eq!(unsafe { domain.memory_decrease(&frames[..2]) }, Ok(2));
    // SAFETY: as above.
    assert_eq!(unsafe { domain.memory_decrease(&frames[1..]) }, Ok(0), "given back already");
    // SAFETY: as above.
    assert_eq!(unsafe { domain.memory_populate(&mut slots) }, Ok(2));
    assert_eq!(domain.memory_reservation(), Ok((4, 4)));
}

#[test]
fn a_lent_frame_that_was_given_back_counts_until_it_is_unmapped() {
    let (_, a, b) = two();
    let (_, frame) = a.page();
    a.grants().permit(REF, b.id(), frame, Access::ReadOnly).unwrap();
    let (_, handle) = map(&b, a.id(), REF, 0x5000, READ);
    // SAFETY: nobody uses the page any more.
    assert_eq!(unsafe { a.memory_decrease(&[frame]) }, Ok(1));
    assert_eq!(a.memory_reservation().unwrap().0, 1);
    assert_eq!(unmap(&b, handle, 0x5000), GrantStatus::OKAY);
    assert_eq!(a.memory_reservation().unwrap().0, 0);
}

#[test]
fn time_and_timers() {
    let (xen, a, _) = two();
    let start = a.clock().now_ns();
    let port = a.evtchn_bind_virq(Virq::Timer).unwrap();
    a.set_timer(Some(start + 100)).unwrap();
    xen.advance(99);
    assert!(!a.events().any_pending());
    xen.advance(1);
    assert!(a.events().take_pending().eq([port]));
    assert_eq!(a.clock().now_ns(), start + 100);
    assert!(a.clock().unix_ns() > 1_700_000_000_000_000_000);
    assert_eq!(a.timer(), None);
}

#[test]
fn a_blocked_domain_lets_the_rest_of_the_world_run() {
    let (_, a, b) = two();
    let ours = a.evtchn_alloc_unbound(b.id()).unwrap();
    let theirs = b.evtchn_bind_interdomain(a.id(), ours).unwrap();
    a.when_blocked(move || b.evtchn_send(theirs).unwrap());
    a.events().wait(&a);
    assert!(a.events().take_pending().eq([ours]));
    a.shutdown(ShutdownReason::Crash);
    assert_eq!(a.ended(), Some(ShutdownReason::Crash));
}

#[test]
fn faults_are_taken_one_after_the_other() {
    let (xen, a, b) = two();
    xen.inject(a.id(), Call::EvtchnAllocUnbound, Fault::Errno(Errno::NOSPC));
    assert_eq!(a.evtchn_alloc_unbound(b.id()), Err(Errno::NOSPC));
    assert!(a.evtchn_alloc_unbound(b.id()).is_ok());
    xen.inject(b.id(), Call::GrantMap, Fault::Status(GrantStatus::NO_SPACE));
    let (_, frame) = a.page();
    a.grants().permit(REF, b.id(), frame, Access::ReadOnly).unwrap();
    assert_eq!(map(&b, a.id(), REF, 0x5000, READ).0, GrantStatus::NO_SPACE);
    assert_eq!(map(&b, a.id(), REF, 0x5000, READ).0, GrantStatus::OKAY);
    xen.inject(a.id(), Call::MemoryPopulate, Fault::Only(1));
    let mut slots = [PopulateSlot::wanted(Pfn(0)); 3];
    // SAFETY: these numbers have no frames.
    assert_eq!(unsafe { a.memory_populate(&mut slots) }, Ok(1));
    xen.inject(a.id(), Call::GrantSetupTable, Fault::Errno(Errno::NOMEM));
    let mut list = [Mfn(0); 2];
    assert_eq!(a.grant_setup_table(2, &mut list), Err(Errno::NOMEM));
    assert_eq!(a.grant_setup_table(2, &mut list), Ok(()));
    assert_eq!(a.grant_query_size(), Ok((2, 4)));
}

mod random {
    use proptest::prelude::*;

    use super::*;

    /// What the machine must always be, whatever the domains did.
    fn consistent(xen: &FakeXen) -> Result<(), TestCaseError> {
        let world = xen.lock();
        for (id, domain) in &world.domains {
            let frames = world.frames.values().filter(|info| info.owner == *id);
            prop_assert_eq!(frames.count(), domain.pages);
            prop_assert!(domain.pages <= domain.max_pages);
            prop_assert!(domain.alive || domain.mappings.is_empty() && domain.open_ports() == 0);
            for reference in 8..24 {
                let pins = world
                    .domains
                    .values()
                    .flat_map(|mapper| mapper.mappings.values())
                    .filter(|mapping| mapping.is_of(*id, reference))
                    .count();
                prop_assert_eq!(pins != 0, domain.active.contains_key(&reference));
                let marked = domain.grant_area[0].load(reference as usize * 2) & 0x18 != 0;
                prop_assert_eq!(marked, pins != 0);
            }
        }
        for info in world.frames.values() {
            prop_assert!(info.owned || info.mapped != 0, "a frame that nobody has");
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn accounts_add_up(steps in prop::collection::vec((0u8..10, 0usize..3, 0usize..3, 0u32..16), 0..120)) {
            let xen = FakeXen::new();
            let domains = [(); 3].map(|()| xen.domain(12, 1));
            let mut pages: [Vec<Mfn>; 3] = Default::default();
            let mut handles: [Vec<(u32, u64)>; 3] = Default::default();
            for domain in &domains {
                domain.grants().grow_to(1).unwrap();
            }
            for (what, who, other, number) in steps {
                let (domain, peer) = (&domains[who], &domains[other]);
                let reference = GrantRef(8 + number);
                let address = 0x1000 * (u64::from(number) + 1);
                match what {
                    0 if pages[who].len() < 8 && domain.memory_reservation().is_ok_and(|(now, max)| now < max) => {
                        pages[who].push(domain.page().1);
                    }
                    1 => {
                        if let Some(frame) = pages[who].get(number as usize) {
                            let access = if number % 2 == 0 { Access::ReadOnly } else { Access::ReadWrite };
                            // Occupied, or given back.
                            let _ = domain.grants().permit(reference, peer.id(), *frame, access);
                        }
                    }
                    2 => drop(domain.grants().try_revoke(reference)),
                    3 | 4 if !handles[who].iter().any(|(_, at)| *at == address) => {
                        let flags = if what == 3 { READ } else { WRITE };
                        let mut op = [MapGrantRef { host_addr: address, flags, reference: reference.0, dom: peer.id().0,
                            status: GrantStatus::GENERAL_ERROR, handle: 0, dev_bus_addr: 0 }];
                        // SAFETY: the fake maps nothing for real.
                        if unsafe { domain.grant_map(&mut op) }.is_ok() && op[0].status.is_okay() {
                            handles[who].push((op[0].handle, address));
                        }
                    }
                    5 | 6 => {
                        if let Some((handle, address)) = handles[who].pop() {
                            let mut op = [UnmapGrantRef { host_addr: address, dev_bus_addr: 0, handle,
                                status: GrantStatus::GENERAL_ERROR }];
                            // SAFETY: the fake unmaps nothing for real. A dead domain cannot call.
                            if unsafe { domain.grant_unmap(&mut op) }.is_ok() {
                                prop_assert_eq!(op[0].status, GrantStatus::OKAY);
                            }
                        }
                    }
                    7 => {
                        if let Some(frame) = pages[who].pop() {
                            // SAFETY: nobody uses the page.
                            let _ = unsafe { domain.memory_decrease(&[frame]) };
                        }
                    }
                    8 => {
                        if let Ok(port) = domain.evtchn_alloc_unbound(peer.id()) {
                            let _ = peer.evtchn_bind_interdomain(domain.id(), port);
                        }
                    }
                    9 if number == 0 => xen.destroy(domain.id()),
                    _ => {}
                }
                consistent(&xen)?;
            }
            for domain in &domains {
                xen.destroy(domain.id());
            }
            prop_assert!(domains.iter().all(|domain| !xen.knows(domain.id())), "all are gone in the end");
            prop_assert_eq!(xen.leaked_mappings(), 0);
        }
    }
}
