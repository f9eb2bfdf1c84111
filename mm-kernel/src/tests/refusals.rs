//! Devices that M1 does not serve stay in state 1, say why, and are listed.

use super::world::{World, XVDA};

fn refused(world: &mut World, target: &str) -> std::string::String {
    let domain = world.create(target);
    assert_eq!(world.backend(domain.id(), XVDA, "state").as_deref(), Some("1"), "xl gives up on it");
    assert!(world.published(domain.id(), XVDA).is_none());
    world.backend(domain.id(), XVDA, "error").expect("it says why")
}

#[test]
fn each_reason_is_told_and_listed() {
    let mut world = World::new("volume=base:xvda volume=other:xvdb clients=8", 24);
    let rest = world.rest();
    assert_eq!(refused(&mut world, "nosuch"), "no volume has this name");
    assert_eq!(refused(&mut world, "base+mine"), "overlays (+) need a store: store_disk= names its disk");
    assert_eq!(refused(&mut world, "base@warm"), "the volume has no snapshot (@) of this name");
    let client = world.client("base", 0);
    let id = world.clients[client].domain.id();
    world.add_device(id, 51728, "other");
    let error = world.backend(id, 51728, "error").expect("it says why");
    assert_eq!(error, "the client has a volume of another group already");
    world.touch(client, 1);
    let listed: std::vec::Vec<_> = world
        .m1
        .refusals
        .iter()
        .map(|refusal| std::format!("{} {}", refusal.target, refusal.reason))
        .collect();
    assert_eq!(listed.len(), 4, "{listed:?}");
    assert_eq!(listed[3], "other the client has a volume of another group already");
    let held = world.rest();
    assert_ne!(held, rest);
    assert_eq!(world.m1.refusals.total(), 4);
}

#[test]
fn no_more_clients_than_configured() {
    let mut world = World::new("volume=base:xvda clients=2", 24);
    for _ in 0..2 {
        world.client("base", 0);
    }
    let third = world.create("base");
    assert_ne!(world.backend(third.id(), XVDA, "state").as_deref(), Some("2"));
    assert_eq!(world.m1.refusals.total(), 1);
    // A place that comes free is its.
    world.destroy(0);
    world.pass(5_000_000_000);
    assert!(world.published(third.id(), XVDA).is_some());
}

#[test]
fn a_volume_whose_disk_says_nothing_yet_makes_its_clients_wait() {
    let mut late = World::stalled("volume=base:xvda clients=2", 24);
    let domain = late.create("base");
    assert_eq!(late.backend(domain.id(), XVDA, "state").as_deref(), Some("1"));
    assert_eq!(late.m1.refusals.total(), 0);
    late.disks[0].stalled = false;
    late.pass(1_000_000_000);
    assert!(late.published(domain.id(), XVDA).is_some());
}
