//! A disk of M1 that dom0 takes away, and what it gives instead.

use mm_client::PageError;

use super::world::{PAGES, World};
use crate::volumes::VolumeState;

/// Longer than reads wait for a disk that is away.
const LONG_NS: u64 = 11_000_000_000;

fn state(world: &World) -> VolumeState {
    world.m1.volumes[0].state
}

/// A volume with a client that has page 3 (and what M1 read with it), whose disk is then taken away.
fn without_disk() -> (World, usize) {
    let mut world = World::new("volume=base:xvda clients=4 window=1", 32);
    let client = world.client("base", 0);
    world.touch(client, 3);
    world.detach_disk();
    assert_eq!(state(&world), VolumeState::Serving, "it may come back at once");
    (world, client)
}

#[test]
fn without_its_disk_a_volume_gives_what_is_cached_and_errors_in_time() {
    let (mut world, client) = without_disk();
    world.clients[client].touch(40);
    world.run();
    assert_eq!(world.clients[client].failed, [], "it waits a little");
    world.pass(LONG_NS);
    assert_eq!(world.clients[client].failed, [(40, PageError::Read)]);
    assert_eq!(state(&world), VolumeState::DiskGone);
    let second = world.client("base", 0);
    world.touch(second, 3);
    assert_eq!(world.figures().pages_sharing, 1);
    world.touch(second, 41);
    assert_eq!(world.clients[second].failed, [(41, PageError::Read)], "others do not wait again");
}

#[test]
fn a_disk_that_comes_back_in_time_costs_nothing_but_the_wait() {
    let (mut world, client) = without_disk();
    world.clients[client].touch(40);
    world.pass(LONG_NS / 4);
    world.attach_disk(0, PAGES);
    assert_eq!(world.clients[client].failed, []);
    assert!(world.clients[client].maps.contains_key(&40));
    world.clients[client].check();
    assert_eq!(state(&world), VolumeState::Serving);
}

#[test]
fn a_disk_that_comes_back_late_is_served_again() {
    let (mut world, client) = without_disk();
    world.pass(LONG_NS);
    assert_eq!(state(&world), VolumeState::DiskGone);
    world.attach_disk(0, PAGES);
    assert_eq!(state(&world), VolumeState::Serving);
    world.touch(client, 50);
    world.clients[client].check();
    assert_eq!(world.clients[client].failed, []);
}

#[test]
fn another_disk_in_its_place_is_never_read_as_the_same_volume() {
    for (number, pages) in [(1, PAGES), (0, PAGES - 1)] {
        let (mut world, client) = without_disk();
        world.clients[client].touch(40);
        world.attach_disk(number, pages);
        assert_eq!(state(&world), VolumeState::OtherDisk);
        assert_eq!(world.disks[0].reads, [0], "only what identifies it was read");
        assert_eq!(world.clients[client].failed, [(40, PageError::Read)]);
        world.clients[client].check();
        // The right one again.
        world.detach_disk();
        world.attach_disk(0, PAGES);
        assert_eq!(state(&world), VolumeState::Serving);
        world.touch(client, 41);
        world.clients[client].check();
    }
}
