//! One behaviour at a time: who waits goes on as soon as he can, and nothing turns in vain.

use super::plain::*;
use super::world::{Shape, World};
use crate::*;

/// A store that is lent and mapped but for the reserve, all of which is being read into; others wait for frames.
fn crowded() -> (World, VolumeId, usize) {
    let mut shape = Shape { rings: 16, clients: 16, ..roomy() };
    (shape.frames, shape.limits.reserve, shape.limits.read_ahead) = (24, 4, 1);
    let (mut world, volume) = world(shape);
    let rich = client(&mut world, volume);
    touch(&mut world, rich, 0..20);
    for page in 0..20 {
        let peer = client_quietly(&mut world, volume);
        world.touch(peer, 0, 1000 + page);
    }
    (world, volume, rich)
}

/// A client that is greeted, and whose other requests wait.
fn client_quietly(world: &mut World, volume: VolumeId) -> usize {
    if world.peers.len() < 12 {
        let peer = world.connect(&[(volume, PAGES)], 512).unwrap();
        while world.deliver(peer, 0) {}
        return peer;
    }
    1 + world.peers.len() % 11
}

#[test]
fn the_sweep_says_when_somebody_who_waits_for_a_frame_can_go_on() {
    let (mut world, _, rich) = crowded();
    world.advance();
    assert_eq!((world.reads.len(), world.engine.frames_at_hand()), (4, 0));
    assert!(world.engine.counters().starved > 0);
    assert!(!world.engine.sweep(64, &mut world.table), "nothing can go on: the caller sleeps");
    // The pages are still lent, but nobody maps them: only the sweep will find out.
    while !world.peers[rich].rings[0].maps.is_empty() {
        world.unmap(rich, 0, 0);
    }
    // The first look finds them used lately.
    let more = world.engine.sweep(64, &mut world.table) || world.engine.sweep(64, &mut world.table);
    assert!(more && world.engine.can_go_on());
    world.advance();
    assert!(world.reads.len() > 4, "they went on at once, without another event");
    assert!(!world.engine.can_go_on());
    let turns = (0..20).take_while(|_| {
        world.advance();
        world.engine.sweep(64, &mut world.table)
    });
    assert!(turns.count() < 20, "as soon as nothing can go on, it sleeps");
    world.settle();
    world.end();
}

#[test]
fn all_who_wait_for_frames_go_on_when_there_are_some() {
    let mut shape = Shape { rings: 100, clients: 100, ..roomy() };
    (shape.frames, shape.limits.reserve, shape.limits.read_ahead, shape.limits.reads) = (70, 2, 1, 100);
    let (mut world, volume) = world(shape);
    let store = world.volume(1000, 1, Sharing::Private);
    // Everything is being read for the block service, so that more requests wait than one step serves.
    for page in 0..70 {
        assert_eq!(world.want((store.0, page), 0), Wanted::Reading);
    }
    for peer in 0..60 {
        assert_eq!(world.connect(&[(volume, PAGES)], 512), Some(peer));
        while world.deliver(peer, 0) {}
        world.touch(peer, 0, 50 * peer as u64);
    }
    assert_eq!(world.engine.counters().starved, 60);
    // One call of the engine's for each read, and then `advance` until it says that nothing can go on.
    for read in std::mem::take(&mut world.reads) {
        world.engine.read_done(&read, Ok(())).unwrap();
        for frame in &read.frames {
            world.frames[frame.0 as usize] = world.expected(read.volume, read.page);
        }
    }
    world.advance();
    assert_eq!(world.reads.len(), 60);
    world.settle();
    world.end();
}

#[test]
fn who_waits_for_a_free_read_makes_nobody_turn_in_vain() {
    let mut shape = Shape { rings: 80, clients: 40, ..roomy() };
    (shape.limits.reads, shape.limits.read_ahead) = (2, 1);
    let (mut world, volume) = world(shape);
    let other = world.volume(PAGES, 1, Sharing::Map);
    for peer in 0..30 {
        assert_eq!(world.connect(&[(volume, PAGES), (other, PAGES)], 512), Some(peer));
        while world.deliver(peer, 0) || world.deliver(peer, 1) {}
        world.touch(peer, 0, 50 * peer as u64);
    }
    assert_eq!(world.reads.len(), 2);
    assert!(!world.engine.can_go_on() && !world.engine.sweep(64, &mut world.table));
    // Another volume's disk is not held up by it.
    world.touch(0, 1, 7);
    assert_eq!(world.reads.len(), 3);
    for _ in 0..10 {
        world.end_read(0);
        assert_eq!(world.reads.iter().filter(|read| read.volume == volume).count(), 2);
    }
    world.settle();
    world.end();
}
