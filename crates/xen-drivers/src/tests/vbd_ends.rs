//! How devices end, and what comes after.

use xenstore::fake::Flavour;

use super::world::{M1, World, XVDA, map_offer};
use crate::vbdback::{Event, REMOVE_AFTER_NS};

const BOTH: [Flavour; 2] = [Flavour::Ocaml, Flavour::C];

#[test]
fn a_client_that_closes_and_comes_back_is_offered_again() {
    let mut world = World::new(Flavour::Ocaml, 4);
    let device = world.connected(7);
    world.client_says(7, "5");
    assert_eq!(world.run_long(), [Event::Closing(device)]);
    assert_eq!(world.state(7).as_deref(), Some("5"));
    world.client_says(7, "6");
    world.backend.closed(device);
    assert_eq!(world.run_long(), []);
    assert_eq!(world.state(7).as_deref(), Some("6"), "and the directory stays: dom0 wants the device");
    world.client_says(7, "1");
    assert_eq!(world.offered(), device);
    world.backend.accept(device, Some(map_offer(101)), None);
    assert_eq!(world.run_long(), []);
    assert_eq!(world.get(7, "map-ring-ref").as_deref(), Some("101"));
    assert_eq!(world.state(7).as_deref(), Some("2"));
}

#[test]
fn a_client_that_starts_over_without_closing_is_released_first() {
    let mut world = World::new(Flavour::Ocaml, 4);
    let device = world.connected(7);
    world.client_says(7, "1");
    assert_eq!(world.run_long(), [Event::Closing(device)]);
    assert_eq!(world.run_long(), [], "once");
    world.backend.closed(device);
    assert_eq!(world.offered(), device);
}

#[test]
fn a_polite_detach_waits_for_the_client() {
    let mut world = World::new(Flavour::Ocaml, 4);
    let device = world.connected(7);
    world.server.get_mut().detach_vbd(M1, 7, XVDA, false);
    assert_eq!(world.run_long(), []);
    world.client_says(7, "6");
    assert_eq!(world.run_long(), [Event::Closing(device)]);
    world.backend.closed(device);
    assert_eq!(world.run_long(), [Event::Gone(device)]);
}

#[test]
fn a_frontend_that_vanishes_is_a_client_that_died() {
    for flavour in BOTH {
        let mut world = World::new(flavour, 4);
        let device = world.connected(7);
        world.server.get_mut().remove(&format!("/local/domain/7/device/vbd/{XVDA}"));
        assert_eq!(world.run_long(), [Event::Closing(device)], "no other event than that of the removal");
    }
}

#[test]
fn a_directory_that_vanishes_is_forgotten_after_the_release() {
    let mut world = World::new(Flavour::C, 4);
    let device = world.connected(7);
    world.server.get_mut().remove(&format!("/local/domain/{M1}/backend/vbd/7"));
    assert_eq!(world.run_long(), [Event::Closing(device)]);
    world.backend.closed(device);
    assert_eq!(world.run_long(), [Event::Gone(device)]);
    assert_eq!(world.server.get_mut().children(&format!("/local/domain/{M1}/backend/vbd")), [""; 0]);
}

#[test]
fn a_device_that_is_made_anew_in_the_same_place_is_another() {
    let mut world = World::new(Flavour::Ocaml, 4);
    let old = world.connected(7);
    world.server.get_mut().remove(&World::back(7, ""));
    world.server.get_mut().remove(&format!("/local/domain/7/device/vbd/{XVDA}"));
    world.server.get_mut().add_vbd(M1, 7, XVDA, "secret", "w");
    assert_eq!(world.run_long(), [Event::Closing(old)]);
    world.backend.closed(old);
    let events = world.run_long();
    let [Event::Gone(gone), Event::Offered { device, info }] = events[..] else { panic!("{events:?}") };
    assert_eq!((gone, info.params.as_str(), info.read_only), (old, "secret", false));
    assert_ne!(device, old);
    world.backend.accept(old, Some(map_offer(1)), None);
    assert_eq!(
        (world.run_long(), world.get(7, "map-port")),
        (vec![], None),
        "that name means nothing any more"
    );
}

#[test]
fn a_device_that_was_removed_and_attached_at_once_is_another() {
    let mut world = World::new(Flavour::Ocaml, 4);
    let old = world.connected(7);
    world.server.get_mut().detach_vbd(M1, 7, XVDA, true);
    assert_eq!(world.run(), [Event::Closing(old)]);
    world.backend.closed(old);
    assert_eq!(world.run(), []);
    world.now += REMOVE_AFTER_NS;
    // The removal reaches xenstored, and libxl attaches before we have its answer.
    world.step(2);
    world.step(0);
    assert_eq!(world.state(7), None);
    world.server.get_mut().add_vbd(M1, 7, XVDA, "next", "r");
    let events = world.run();
    assert!(
        matches!(events[..], [Event::Gone(gone), Event::Offered { info, .. }] if gone == old && info.params.as_str() == "next")
    );
}

#[test]
fn an_owner_that_looks_late_misses_nothing() {
    let mut world = World::new(Flavour::Ocaml, 4);
    let old = world.connected(7);
    world.server.get_mut().remove(&World::back(7, ""));
    world.run_without_owner();
    assert_eq!(world.step(3), Some(Event::Closing(old)));
    world.backend.closed(old);
    world.run_without_owner();
    // It is gone, the owner does not know that yet, and there is another already.
    world.server.get_mut().add_vbd(M1, 7, XVDA, "next", "r");
    world.run_without_owner();
    assert_eq!(world.step(3), Some(Event::Gone(old)));
    world.run_without_owner();
    assert!(matches!(world.step(3), Some(Event::Offered { info, .. }) if info.params.as_str() == "next"));
}

#[test]
fn abandoning_in_the_middle_of_a_look_is_written_all_the_same() {
    for steps in [&[2][..], &[2, 0], &[2, 0, 1], &[2, 0, 1, 2], &[2, 0, 1, 2, 0]] {
        let mut world = World::new(Flavour::Ocaml, 4);
        let device = world.connected(7);
        world.backend.recheck();
        for step in steps {
            assert_eq!(world.step(*step), None);
        }
        world.backend.abandon(device);
        assert_eq!(world.run_long(), [Event::Closing(device)]);
        assert_eq!(world.state(7).as_deref(), Some("5"), "after {steps:?}");
    }
}

#[test]
fn a_refused_device_is_offered_again_only_as_something_else() {
    let mut world = World::new(Flavour::Ocaml, 4);
    world.create(7, "nosuch");
    let device = world.offered();
    world.backend.refuse(device, "no");
    assert_eq!(world.run_long(), []);
    world.backend.recheck();
    assert_eq!(world.run_long(), []);
    world.server.get_mut().set(&World::back(7, "/params"), "debian");
    assert_eq!(world.offered(), device);
    assert_eq!(
        world.backend.info(device).map(|info| info.params.as_str().to_owned()).as_deref(),
        Some("debian")
    );
}

#[test]
fn an_abandoned_client_is_closed_and_may_only_come_back_by_the_front_door() {
    let mut world = World::new(Flavour::Ocaml, 4);
    let device = world.connected(7);
    world.backend.abandon(device);
    world.backend.abandon(device);
    assert_eq!(world.run_long(), [Event::Closing(device)]);
    world.backend.closed(device);
    assert_eq!(world.run_long(), []);
    assert_eq!(world.state(7).as_deref(), Some("5"), "until the client says that it has ended");
    world.client_says(7, "6");
    assert_eq!(world.run_long(), []);
    assert_eq!(world.state(7).as_deref(), Some("6"));
    world.client_says(7, "4");
    assert_eq!(world.run_long(), []);
    world.client_says(7, "1");
    assert_eq!(world.offered(), device);
}
