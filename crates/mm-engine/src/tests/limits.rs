//! One behaviour at a time: what happens when something runs out.

use mm_client::{AskError, Lookup};
use mm_proto::RequestBody;

use super::plain::*;
use super::world::{Shape, bytes};
use crate::*;

#[test]
fn at_its_quota_of_references_a_client_is_asked_for_a_window_that_it_does_not_map() {
    let (mut world, volume) = world(limits(|limits| limits.client_references = 48));
    let peer = client(&mut world, volume);
    touch(&mut world, peer, [0, 100, 200]);
    // All of it is mapped: nothing can be had but a copy.
    touch(&mut world, peer, [300]);
    assert_eq!(world.peers[peer].rings[0].outcomes, [3, 1, 0]);
    assert_eq!(world.engine.counters().revocations, 0);
    // Page 100 is not mapped any more: its window is revoked when another is needed, which then is to be had.
    world.unmap(peer, 0, 1);
    touch(&mut world, peer, [300, 301]);
    assert_eq!(world.peers[peer].rings[0].outcomes, [4, 2, 0]);
    let counters = world.engine.counters();
    assert_eq!((counters.revocations, counters.acknowledged), (1, 1));
    assert_eq!(counters.refusals.get(Refused::ReferenceQuota), 2);
    assert_eq!(world.peers[peer].rings[0].mm.lookup(100), Lookup::Missing);
    assert_eq!(world.engine.client(world.peers[peer].client).unwrap().references, 48);
}

#[test]
fn at_its_quota_of_pages_what_a_client_does_not_map_makes_room() {
    let (mut world, volume) = world(limits(|limits| (limits.client_pages, limits.read_ahead) = (3, 1)));
    let peer = client(&mut world, volume);
    touch(&mut world, peer, [0, 100, 200, 300]);
    assert_eq!(world.peers[peer].rings[0].outcomes, [3, 1, 0]);
    assert_eq!(world.engine.counters().refusals.get(Refused::PageQuota), 1);
    world.unmap(peer, 0, 0);
    touch(&mut world, peer, [300]);
    assert_eq!(world.peers[peer].rings[0].outcomes, [4, 1, 0]);
    // The reference of the page that made room is still the client's, for that page only, once another is let go.
    let Lookup::Have(reference) = world.peers[peer].rings[0].mm.lookup(0) else { panic!() };
    world.unmap(peer, 0, 0);
    touch(&mut world, peer, [0, 0]);
    assert_eq!(world.peers[peer].rings[0].mm.lookup(0), Lookup::Have(reference));
    world.end();
}

#[test]
fn when_references_run_out_the_one_with_most_is_asked() {
    let (mut world, volume) = world(Shape { references: 256, ..roomy() });
    let rich = client(&mut world, volume);
    touch(&mut world, rich, (0..16).map(|i| i * 100));
    let poor = client(&mut world, volume);
    touch(&mut world, poor, [7, 8]);
    // The rich one maps all that it holds; it was asked all the same, since it holds so much more.
    assert_eq!(world.engine.counters().revocations, 1);
    assert_eq!(world.peers[poor].rings[0].outcomes, [1, 1, 0]);
    assert_eq!(world.peers[rich].rings[0].maps.len(), 15);
    world.end();
}

#[test]
fn who_does_not_listen_keeps_what_it_has_and_others_get_copies() {
    let (mut world, volume) = world(Shape { references: 256, ..roomy() });
    let (_, deaf) = bare(&mut world, volume, 512);
    for page in 0..16 {
        raw(&mut world, deaf, RequestBody::Grant { page: page * 100, wanted: 1 }).unwrap().unwrap();
    }
    let peer = client(&mut world, volume);
    touch(&mut world, peer, 5..25);
    assert_eq!(world.peers[peer].rings[0].outcomes, [0, 20, 0]);
    assert_eq!(world.engine.counters().refusals.get(Refused::References), 20);
}

#[test]
fn with_all_memory_lent_and_mapped_copies_still_go_on() {
    let mut shape = roomy();
    (shape.frames, shape.limits.reserve, shape.limits.read_ahead) = (20, 2, 1);
    let (mut world, volume) = world(shape);
    let peer = client(&mut world, volume);
    touch(&mut world, peer, 0..60);
    assert_eq!(world.peers[peer].rings[0].outcomes, [18, 42, 0]);
    assert_eq!(world.engine.counters().refusals.get(Refused::Memory), 42);
    // What is no longer mapped makes room at once, without asking.
    world.unmap(peer, 0, 5);
    touch(&mut world, peer, [1000, 1001]);
    assert_eq!(world.peers[peer].rings[0].outcomes[0], 19);
    world.end();
}

#[test]
fn clean_pages_go_before_anything_else_and_those_in_use_last() {
    let mut shape = roomy();
    (shape.frames, shape.limits.reserve) = (64, 4);
    let (mut world, volume) = world(shape);
    let peer = client(&mut world, volume);
    touch(&mut world, peer, [0]);
    for page in (100..4000).step_by(50) {
        world.copy(peer, 0, page);
        world.settle();
        if page % 200 == 0 {
            world.copy(peer, 0, 1000);
            world.settle();
        }
    }
    world.check();
    // The mapped page stayed, and so did the one that was copied now and then; others did not.
    let (store, counters) = (&world.engine.store, world.engine.counters());
    assert!(store.resident(volume.0, 0).is_some());
    assert!(store.resident(volume.0, 1000).is_some());
    assert!(store.resident(volume.0, 100).is_none());
    assert!(counters.evictions > 50);
    assert_eq!(counters.revokes, 0, "idle pages were enough");
    assert_eq!(world.frames[store.resident(volume.0, 1000).unwrap() as usize], bytes(volume, 1000));
}

#[test]
fn references_come_in_as_the_grant_table_grows() {
    let mut engine = super::world::engine(roomy());
    // In steps that are no multiple of anything.
    for (ready, there) in [(10, 0), (16, 16), (500, 496), (499, 496), (4096, 4096), (u32::MAX, 4096)] {
        engine.extend_references(ready);
        assert_eq!((engine.figures().references, engine.figures().references_free), (there, there));
    }
}

#[test]
fn the_tables_cost_what_they_may() {
    for window in [1, 16, 512] {
        let sizes = TableSizes::new(1 << 18, 1 << 17, 100, 100, window);
        // Fifteen words more, so that lines of buckets are lines of the cache. Frozen pages are ten bytes of it.
        assert!(sizes.bytes_per_frame() <= 37.001, "{}", sizes.bytes_per_frame());
        assert!(sizes.with_frozen(0, 0).bytes_per_frame() <= 28.001);
        let bytes = sizes.bytes_per_reference();
        if window == 1 { assert!(bytes <= 40.0) } else { assert!(bytes <= 2.5, "{bytes}") }
    }
    for pages in [0, 1, 100, 4096, 100_000] {
        let sizes = TableSizes::fit(pages, 1000, 10, 10, 512, 8);
        let more = TableSizes::new(u32::try_from(sizes.frames).unwrap() + 1, 1000, 10, 10, 512);
        let total = |sizes: &TableSizes| sizes.frames + sizes.pages() + (sizes.frames * 8).div_ceil(4096);
        assert!(sizes.frames == 0 || total(&sizes) <= pages as usize);
        assert!(total(&more) > pages as usize);
    }
}

#[test]
fn a_client_without_room_for_windows_is_told_so_and_copies() {
    let mut shape = roomy();
    shape.rows = 18;
    let (mut world, volume) = world(shape);
    let peer = client(&mut world, volume);
    touch(&mut world, peer, (0..18).map(|i| i * 100));
    assert_eq!(world.peers[peer].rings[0].mm.ask(4000, 1, 0), Err(AskError::TableFull));
    touch(&mut world, peer, [4000]);
    assert_eq!(world.peers[peer].rings[0].outcomes, [18, 1, 0]);
    // One that is not mapped any more is given back to make room.
    world.unmap(peer, 0, 3);
    touch(&mut world, peer, [4000, 4001]);
    assert_eq!(world.engine.counters().releases, 1);
    assert!(world.peers[peer].rings[0].outcomes[0] >= 19);
    world.end();
}

#[test]
fn a_page_that_is_lent_to_many_and_mapped_by_none_comes_back() {
    let mut shape = Shape { references: 4096, rings: 200, clients: 200, ..roomy() };
    (shape.frames, shape.limits.reserve, shape.limits.read_ahead) = (64, 2, 1);
    let (mut world, volume) = world(shape);
    let peers: Vec<_> = (0..200).map(|_| client(&mut world, volume)).collect();
    touch(&mut world, peers[0], [1, 0]);
    for peer in &peers[1..] {
        world.touch(*peer, 0, 1);
        world.settle();
    }
    world.unmap(peers[0], 0, 1);
    world.check();
    // Both pages are lent to all; the other one is mapped, so the windows stay. A look has a bounded number of them in it.
    let frame = world.engine.store.resident(volume.0, 0).unwrap();
    assert_eq!(world.engine.store.permits(frame), 200);
    let looks = (1..20).find(|_| world.engine.reclaim(&mut world.table)).unwrap();
    assert!((4..=6).contains(&looks), "{looks}");
    assert!(!world.engine.store.is_permitted(frame));
    world.check();
    world.end();
}
