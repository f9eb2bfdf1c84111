//! Clients go: politely, by force, in the middle of something, and without letting go. Everything comes back.

use super::world::World;

const OPTIONS: &str = "volume=base:xvda clients=4 window=16";

#[test]
fn a_client_that_dies_in_the_middle_leaves_nothing_and_disturbs_nobody() {
    let mut world = World::new(OPTIONS, 40);
    let rest = world.rest();
    let other = world.client("base", 0);
    world.touch(other, 5);
    let with_one = world.rest();
    let dying = world.client("base", 0);
    world.touch(dying, 5);
    world.touch(dying, 30);
    // Requests on the ring and reads at the disk, and then it is gone.
    world.disks[0].stalled = true;
    for page in [50, 51, 60] {
        world.clients[dying].touch(page);
    }
    world.run();
    world.clients[dying].touch(7);
    world.destroy(dying);
    world.disks[0].stalled = false;
    world.pass(5_000_000_000);
    assert_eq!(world.rest(), with_one);
    world.touch(other, 60);
    world.clients[other].check();
    world.destroy(other);
    world.pass(5_000_000_000);
    assert_eq!(world.rest(), rest);
    assert_eq!(world.xen.leaked_mappings(), 0);
}

#[test]
fn what_a_client_keeps_is_counted_as_its_own_until_it_lets_go() {
    let mut world = World::new(OPTIONS, 40);
    let rest = world.rest();
    let client = world.client("base", 0);
    for page in [5, 6, 40] {
        world.touch(client, page);
    }
    // The toolstack takes the device away, and the domain lives on with what it maps.
    let kept = world.clients.remove(client);
    world.remove_device(kept.domain.id(), true);
    world.pass(3_000_000_000);
    let now = world.figures();
    assert_eq!((now.pages.stale_pinned, now.pages.shared, now.clients), (3, 0, 1));
    assert_eq!(world.m1.devices.stuck(), 1, "its ring page is its own too");
    assert_eq!(world.backend(kept.domain.id(), super::world::XVDA, "state"), None, "dom0 need not wait");
    kept.check();
    // Nobody gets its pages, however much they are wanted.
    let other = world.client("base", 0);
    for page in 0..64 {
        world.touch(other, page);
        world.clients[other].drop_page(page);
    }
    kept.check();
    kept.let_go();
    world.destroy(other);
    world.pass(5_000_000_000);
    assert_eq!(world.rest(), rest);
}

#[test]
fn a_kept_page_comes_back_when_its_client_dies() {
    let mut world = World::new(OPTIONS, 40);
    let rest = world.rest();
    let client = world.client("base", 0);
    world.touch(client, 5);
    let kept = world.clients.remove(client);
    world.remove_device(kept.domain.id(), true);
    world.pass(2_000_000_000);
    assert_ne!(world.rest(), rest);
    world.xen.destroy(kept.domain.id());
    world.pass(3_000_000_000);
    assert_eq!(world.rest(), rest);
}

#[test]
fn after_many_clients_everything_is_where_it_was() {
    let mut world = World::new(OPTIONS, 40);
    let rest = world.rest();
    for round in 0..40_u64 {
        let clients = 1 + round % 3;
        for _ in 0..clients {
            let client = world.client("base", 0);
            for step in 0..4 {
                world.touch(client, (round * 7 + step * 11) % 64);
            }
        }
        while !world.clients.is_empty() {
            if round % 2 == 0 {
                world.destroy(0);
            } else {
                let leaving = world.clients.remove(0);
                let id = leaving.domain.id();
                leaving.let_go();
                world.says(id, super::world::XVDA, "6");
                world.remove_device(id, false);
                world.xen.destroy(id);
            }
        }
        world.pass(4_000_000_000);
        assert_eq!(world.rest(), rest, "after round {round}");
    }
    assert_eq!(world.xen.leaked_mappings(), 0);
}
