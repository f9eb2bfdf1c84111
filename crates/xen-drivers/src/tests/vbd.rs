//! The backend of clients' devices, and a client's side, over a xenstored in memory.

use xen::{DomId, GrantRef, Port};
use xenstore::fake::{Flavour, Quota};
use xenstore::{CallError, Refusal};

use super::world::{M1, World, XVDA};
use crate::Text;
use crate::vbdback::{Event, Info, REMOVE_AFTER_NS, SETTLE_NS, Unusable};
use crate::vbdfront::{self, BackendHealth, ConnectError};

const BOTH: [Flavour; 2] = [Flavour::Ocaml, Flavour::C];

#[test]
fn a_new_device_is_offered_with_what_dom0_says() {
    let mut world = World::new(Flavour::Ocaml, 4);
    assert_eq!(world.run(), []);
    world.create(7, "tmpl+overlay");
    let events = world.run();
    let [Event::Offered { device, info }] = events[..] else { panic!("{events:?}") };
    let params = Text::new(b"tmpl+overlay").expect("short");
    assert_eq!(info, Info { domain: DomId(7), devid: XVDA, params, read_only: true, discard: true });
    assert_eq!(world.backend.info(device), Some(&info));
    assert_eq!(world.state(7).as_deref(), Some("1"), "until the owner has decided");
}

#[test]
fn devices_from_before_are_found() {
    for flavour in BOTH {
        let mut world = World::new(flavour, 64);
        for client in 10..50 {
            world.create(client, "v");
        }
        world.server.get_mut().add_vbd(M1, 20, 51728, "w", "w");
        let events = world.run();
        assert_eq!(events.len(), 41);
        let second = events.iter().find_map(|event| match event {
            Event::Offered { info, .. } if info.devid == 51728 => Some(*info),
            _ => None,
        });
        assert_eq!(second.map(|info| (info.domain, info.read_only)), Some((DomId(20), false)));
    }
}

#[test]
fn the_two_sides_meet() {
    for flavour in BOTH {
        let mut world = World::new(flavour, 4);
        world.create(7, "v");
        let (offer, _) = world.as_client(7, |calls| {
            assert_eq!(crate::devices(calls, "vbd").expect("readable").as_slice(), [XVDA]);
            vbdfront::offer(calls, XVDA)
        });
        let offer = offer.expect("published");
        assert_eq!(offer.backend, DomId(M1));
        assert_eq!((offer.map_ring, offer.port, offer.info_page), (GrantRef(100), Port(200), GrantRef(300)));
        let (connected, events) = world.as_client(7, |calls| vbdfront::connect(calls, &offer));
        assert_eq!(connected, Ok(()));
        assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
        let (health, _) = world.as_client(7, |calls| vbdfront::health(calls, &offer));
        assert_eq!(health, Ok(BackendHealth::Serving));

        world.server.get_mut().detach_vbd(M1, 7, XVDA, false);
        let (health, _) = world.as_client(7, |calls| vbdfront::health(calls, &offer));
        assert_eq!(health, Ok(BackendHealth::Ending));
        let (closed, events) = world.as_client(7, |calls| {
            vbdfront::close(calls, &offer)?;
            calls.wait_for_state(&format!("/local/domain/{M1}/backend/vbd/7/{XVDA}/state"), |s| s.is_none())
        });
        assert!(
            closed == Ok(None) || matches!(closed, Err(CallError::TimedOut)),
            "C xenstored says EACCES: {closed:?}"
        );
        assert!(matches!(events[..], [Event::Closing(_), Event::Gone(_)]), "{events:?}");
        let (health, _) = world.as_client(7, |calls| vbdfront::health(calls, &offer));
        assert_eq!(health, Ok(BackendHealth::Gone));
        assert!(world.backend.is_empty());
    }
}

#[test]
fn a_client_without_map_service_is_told_so() {
    for flavour in BOTH {
        let mut world = World::new(flavour, 4);
        world.create(7, "v");
        // Another backend's device, which has what blkback publishes.
        world.server.get_mut().add_vbd(0, 7, 51728, "/dev/x", "r");
        let back = "/local/domain/0/backend/vbd/7/51728";
        world.server.get_mut().set(&format!("{back}/state"), "2");
        let (offer, _) = world.as_client(7, |calls| vbdfront::offer(calls, 51728));
        assert_eq!(offer, Err(ConnectError::NoMapService));
        world.server.get_mut().set(&format!("{back}/state"), "6");
        let (offer, _) = world.as_client(7, |calls| vbdfront::offer(calls, 51728));
        assert_eq!(offer, Err(ConnectError::Gone));
        world.server.get_mut().set(&format!("{back}/state"), "1");
        let (offer, _) = world.as_client(7, |calls| vbdfront::offer(calls, 51728));
        assert_eq!(offer, Err(ConnectError::Call(CallError::TimedOut)), "one that is refused stays in 1");
    }
}

#[test]
fn states_are_shown_long_enough_for_libxl() {
    let mut world = World::new(Flavour::Ocaml, 4);
    world.create(7, "v");
    let device = world.offered();
    world.accept(device);
    assert_eq!(world.run(), []);
    assert_eq!(world.state(7).as_deref(), Some("2"));
    let settled = world.now + SETTLE_NS;
    world.client_says(7, "4");
    assert_eq!(world.run(), [Event::Connected(device)], "the owner serves at once");
    assert_eq!(world.state(7).as_deref(), Some("2"));
    assert_eq!(world.backend.deadline(), Some(settled));
    world.now = settled;
    world.run();
    assert_eq!(world.state(7).as_deref(), Some("4"));

    world.server.get_mut().detach_vbd(M1, 7, XVDA, true);
    assert_eq!(world.run(), [Event::Closing(device)]);
    assert_eq!(world.state(7).as_deref(), Some("5"), "dom0's; the owner is taking things back");
    world.backend.closed(device);
    assert_eq!(world.run(), []);
    assert_eq!(world.state(7).as_deref(), Some("6"));
    world.now += REMOVE_AFTER_NS;
    assert_eq!(world.run(), [Event::Gone(device)]);
    assert_eq!(world.state(7), None);
    assert!(world.backend.is_empty() && world.backend.info(device).is_none());
}

#[test]
fn a_refused_device_stays_in_state_1_and_says_why() {
    let mut world = World::new(Flavour::Ocaml, 4);
    world.create(7, "nosuch");
    let device = world.offered();
    let reason = "no volume of that name: ".repeat(3) + "ü";
    world.backend.refuse(device, &reason);
    assert_eq!(world.run_long(), []);
    assert_eq!(world.state(7).as_deref(), Some("1"));
    assert_eq!(world.get(7, "error").as_deref(), Some(&reason[..64]));
    world.client_says(7, "4");
    assert_eq!(world.run_long(), [], "it is not served, whatever the client says");
    world.accept(device);
    assert_eq!(world.run_long(), [], "too late");
    assert_eq!(world.get(7, "map-port"), None);
    world.server.get_mut().detach_vbd(M1, 7, XVDA, true);
    assert_eq!(world.run_long(), [Event::Gone(device)]);
    assert_eq!(world.state(7), None);
}

#[test]
fn forged_links_are_never_offered() {
    for (key, value, why) in [
        ("frontend-id", "8", Unusable::NotTheClient),
        ("frontend-id", "7 ", Unusable::NotTheClient),
        ("frontend", "/local/domain/8/device/vbd/51712", Unusable::NotTheFrontend),
        ("frontend", "", Unusable::NotTheFrontend),
        ("params", &"x".repeat(129), Unusable::Params),
    ] {
        let mut world = World::new(Flavour::Ocaml, 4);
        world.create(7, "v");
        world.server.get_mut().set(&World::back(7, &format!("/{key}")), value);
        let events = world.run_long();
        let [Event::Unusable { device, why: told, .. }] = events[..] else { panic!("{key}: {events:?}") };
        assert_eq!(told, why);
        world.accept(device);
        world.client_says(7, "4");
        assert_eq!(world.run_long(), [], "not even if asked");
        world.server.get_mut().detach_vbd(M1, 7, XVDA, true);
        assert_eq!(world.run_long(), [Event::Gone(device)]);
    }
}

#[test]
fn a_device_that_dom0_did_not_make_is_counted_and_no_more() {
    for flavour in BOTH {
        let mut world = World::new(flavour, 4);
        let honest = world.connected(7);
        // Domain 8 has a frontend of its own that it lets M1 read; the backend half there is not.
        world.create(8, "v");
        world.server.get_mut().detach_vbd(M1, 8, XVDA, true);
        assert_eq!(world.run_long(), []);
        // M1 has a disk of its own.
        world.server.get_mut().add_vbd(0, M1, XVDA, "/dev/base", "r");
        assert_eq!(world.run_long(), []);
        world.now += 10_000_000_000;
        let strangers = world.backend.strangers(world.now);
        assert_eq!(strangers, 0, "honest beginnings and ends are nothing of that kind");
        for state in ["1", "4"] {
            let node = format!("/local/domain/8/device/vbd/{XVDA}/state");
            let (written, events) = world.as_client(8, |calls| {
                calls.write(xenstore::Transaction::NONE, &node, state.as_bytes())?;
                calls.set_perms(xenstore::Transaction::NONE, &node, &["n8", "r3"])
            });
            assert_eq!((written, events), (Ok(()), vec![]));
        }
        assert_eq!(world.run_long(), []);
        assert_eq!(world.backend.strangers(world.now + 10_000_000_000), 1);
        assert_eq!(world.backend.len(), 1);
        assert!(world.backend.info(honest).is_some());
    }
}

#[test]
fn names_that_are_no_numbers_are_passed_over() {
    let mut world = World::new(Flavour::Ocaml, 4);
    let root = format!("/local/domain/{M1}/backend/vbd");
    for path in ["x/51712", "-1/51712", "70000/51712", "7/xvda", "7/99999999999"] {
        world.server.get_mut().set(&format!("{root}/{path}/state"), "1");
    }
    assert_eq!(world.run_long(), []);
    assert!(world.backend.is_empty());
    world.create(8, "v");
    world.offered();
}

#[test]
fn a_quota_that_is_reached_closes_the_device_and_says_so() {
    for flavour in BOTH {
        let mut world = World::new(flavour, 4);
        world.create(7, "v");
        let device = world.offered();
        let owned = world.server.get_mut().owned_by(M1);
        world.server.get_mut().set_quota(Quota { nodes: owned + 1, ..Quota::default() });
        world.accept(device);
        let events = world.run_long();
        let why = Unusable::Xenstore(Refusal::Quota);
        assert!(
            matches!(events[..], [Event::Unusable { why: told, .. }, Event::Closing(_)] if told == why),
            "{events:?}"
        );
        assert_ne!(world.state(7).as_deref(), Some("2"));
        world.backend.closed(device);
        world.server.get_mut().detach_vbd(M1, 7, XVDA, true);
        assert_eq!(world.run_long(), [Event::Gone(device)]);
    }
}

#[test]
fn a_full_table_leaves_devices_out_until_there_is_room() {
    let mut world = World::new(Flavour::Ocaml, 2);
    let first = world.connected(7);
    world.create(8, "v");
    world.offered();
    world.create(9, "v");
    let events = world.run_long();
    assert_eq!(events, [Event::TableFull { domain: DomId(9), devid: XVDA }], "once, for all of its nodes");
    world.server.get_mut().detach_vbd(M1, 7, XVDA, true);
    assert_eq!(world.run_long(), [Event::Closing(first)]);
    world.backend.closed(first);
    let events = world.run_long();
    assert!(
        matches!(events[..], [Event::Gone(gone), Event::Offered { info, .. }] if gone == first && info.domain == DomId(9))
    );
}

#[test]
fn many_clients_cost_two_watches_and_three_nodes_each() {
    let mut world = World::new(Flavour::C, 128);
    world.server.get_mut().set_quota(Quota { nodes: 2000, watches: 2, ..Quota::default() });
    world.run();
    for client in 100..200 {
        world.create(client, "v");
    }
    let before = world.server.get_mut().owned_by(M1);
    for event in world.run() {
        let Event::Offered { device, .. } = event else { panic!("{event:?}") };
        world.accept(device);
    }
    world.run_long();
    assert_eq!(world.server.get_mut().owned_by(M1), before + 300);
    assert_eq!(world.server.get_mut().watches_of(world.id), 2);
    for client in 100..200 {
        world.client_says(client, "4");
    }
    assert_eq!(world.run_long().len(), 100);
    for client in 100..200 {
        world.server.get_mut().detach_vbd(M1, client, XVDA, true);
    }
    for event in world.run_long() {
        let Event::Closing(device) = event else { panic!("{event:?}") };
        world.backend.closed(device);
    }
    assert_eq!(world.run_long().len(), 100);
    assert!(world.backend.is_empty());
    let left: usize = (100..200).filter(|client| world.state(*client).is_some()).count();
    assert_eq!(left, 0);
}

#[test]
fn a_device_at_rest_asks_nothing() {
    let mut world = World::new(Flavour::Ocaml, 4);
    world.connected(7);
    let asked = world.server.get_mut().requests_of(world.id);
    for _ in 0..100 {
        world.now += 1_000_000;
        assert_eq!(world.run(), []);
    }
    assert_eq!(world.server.get_mut().requests_of(world.id), asked);
    world.backend.recheck();
    assert_eq!(world.run_long(), []);
    assert!(world.server.get_mut().requests_of(world.id) > asked);
}
