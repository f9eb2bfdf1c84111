//! One behaviour at a time: the store as the block service's cache.

use super::plain::*;
use super::world::{Shape, World};
use crate::*;

/// A volume that is lent, one below a store, and one without a disk.
fn block_world(shape: Shape) -> (World, [VolumeId; 3]) {
    let (mut world, base) = world(shape);
    let store = world.volume(1000, 1, Sharing::Private);
    let memory = world.volume(1000, 1, Sharing::Memory);
    (world, [base, store, memory])
}

fn small(frames: u32, reserve: u32) -> Shape {
    let mut shape = roomy();
    (shape.frames, shape.limits.reserve, shape.limits.read_ahead) = (frames, reserve, 1);
    shape
}

fn pages(world: &World) -> PageStates {
    world.check();
    world.engine.page_states()
}

#[test]
fn a_page_read_by_a_guest_and_mapped_by_a_client_is_one_frame() {
    let (mut world, [base, ..]) = block_world(roomy());
    assert_eq!(world.engine.resident(base, 70), None);
    assert_eq!(world.want((base.0, 70), 3), Wanted::Reading);
    assert_eq!(world.want((base.0, 70), 3), Wanted::Reading);
    assert_eq!(world.reads.len(), 1, "one read for all who wait");
    world.settle_reads();
    let Wanted::Resident(frame) = world.want((base.0, 70), 3) else { panic!() };
    let peer = client(&mut world, base);
    touch(&mut world, peer, [70]);
    assert_eq!(world.peers[peer].rings[0].maps[0].frame, frame);
    assert_eq!(world.engine.resident(base, 70), Some(frame));
    // The three pages ahead came along.
    assert!((71..74).all(|page| world.engine.resident(base, page).is_some()));
    assert_eq!(world.engine.resident(base, 74), None);
    let counters = world.engine.counters();
    assert_eq!((counters.misses, counters.hits, counters.pages_read), (1, 4, 4));
    // And the other way round.
    touch(&mut world, peer, [500]);
    let frame = world.peers[peer].rings[0].maps[1].frame;
    assert_eq!(world.want((base.0, 500), 0), Wanted::Resident(frame));
}

#[test]
fn a_read_that_failed_is_told_once_and_then_tried_again() {
    let (mut world, [base, ..]) = block_world(roomy());
    world.bad.insert((base.0, 71));
    assert_eq!(world.want((base.0, 70), 3), Wanted::Reading);
    assert_eq!(world.want((base.0, 71), 3), Wanted::Reading);
    world.settle_reads();
    // Each is read again alone, so that a bad page is only its own; those ahead nobody wanted.
    assert!(matches!(world.want((base.0, 70), 0), Wanted::Resident(_)));
    assert_eq!(world.want((base.0, 71), 0), Wanted::Failed);
    assert_eq!(world.engine.resident(base, 72), None);
    world.bad.clear();
    assert_eq!(world.want((base.0, 71), 0), Wanted::Reading);
    world.settle_reads();
    assert!(matches!(world.want((base.0, 71), 0), Wanted::Resident(_)));
    // A disk that went away is a failure too.
    assert_eq!(world.want((base.0, 90), 0), Wanted::Reading);
    world.lose_read();
    assert_eq!(world.want((base.0, 90), 0), Wanted::Failed);
    // What nobody asks about is not told to somebody much later.
    world.bad.insert((base.0, 95));
    assert_eq!(world.want((base.0, 95), 0), Wanted::Reading);
    world.settle_reads();
    world.bad.clear();
    for _ in 0..10 {
        world.engine.sweep(1, &mut world.table);
    }
    assert_eq!(world.want((base.0, 95), 0), Wanted::Reading);
    assert_eq!(world.want((base.0, PAGES), 0), Wanted::Failed);
}

#[test]
fn a_page_is_dirty_until_it_is_on_its_disk() {
    let (mut world, [base, store, _]) = block_world(small(20, 2));
    let frame = world.fill((store.0, 5)).unwrap();
    assert_eq!(pages(&world).dirty, 1);
    assert_eq!(world.engine.resident(store, 5), Some(frame));
    assert_eq!(world.fill((store.0, 5)), Err(FillError::Dirty));
    assert_eq!(world.forget((store.0, 5)), Forgot::Dirty);
    // Whatever else is read, it stays.
    for page in 0..100 {
        world.want((base.0, page), 0);
        world.settle_reads();
    }
    assert_eq!(world.want((store.0, 5), 0), Wanted::Resident(frame));
    world.written((store.0, 5), true);
    assert_eq!((pages(&world).dirty, world.engine.resident(store, 5)), (0, Some(frame)));
    for page in 100..200 {
        world.want((base.0, page), 0);
        world.settle_reads();
    }
    assert_eq!(world.engine.resident(store, 5), None, "a clean page makes room");
    // It comes back from the disk as it was written: `want` compares.
    assert_eq!(world.want((store.0, 5), 0), Wanted::Reading);
    world.settle_reads();
    assert!(matches!(world.want((store.0, 5), 0), Wanted::Resident(_)));
    // One that could not be written is gone.
    let frame = world.fill((store.0, 6)).unwrap();
    world.written((store.0, 6), false);
    assert_eq!(world.engine.resident(store, 6), None);
    assert!(world.engine.unfill(frame).is_err());
    assert!(world.engine.filled(frame).is_err());
    assert_eq!(world.engine.figures().bugs, 2);
}

#[test]
fn what_is_written_replaces_what_was_cached_or_is_being_read() {
    let (mut world, [base, store, _]) = block_world(roomy());
    assert_eq!(world.want((store.0, 8), 3), Wanted::Reading);
    world.settle_reads();
    let Wanted::Resident(cached) = world.want((store.0, 8), 0) else { panic!() };
    assert_eq!(world.fill((store.0, 8)), Ok(cached), "the frame of the page takes the new one");
    // One that was read ahead, and is written before the read ends.
    assert_eq!(world.want((store.0, 20), 3), Wanted::Reading);
    world.fill((store.0, 21)).unwrap();
    world.settle_reads();
    assert!(matches!(world.want((store.0, 21), 0), Wanted::Resident(_)));
    assert!(matches!(world.want((store.0, 20), 0), Wanted::Resident(_)));
    world.check();
    assert_eq!(world.fill((base.0, 1)), Err(FillError::NoPage), "what is lent never changes");
    assert_eq!(world.fill((store.0, 1000)), Err(FillError::NoPage));
}

#[test]
fn a_freed_block_is_forgotten_even_while_it_is_read() {
    let (mut world, [_, store, _]) = block_world(roomy());
    assert_eq!(world.want((store.0, 8), 3), Wanted::Reading);
    assert_eq!(world.forget((store.0, 9)), Forgot::Done);
    assert_eq!(world.forget((store.0, 9)), Forgot::Absent);
    let free = pages(&world).free;
    // It is wanted again, with what another has written there, while the first read is still under way.
    assert_eq!(world.want((store.0, 9), 0), Wanted::Reading);
    world.end_read(1);
    assert!(matches!(world.want((store.0, 9), 0), Wanted::Resident(_)));
    world.settle_reads();
    assert!(matches!(world.want((store.0, 9), 0), Wanted::Resident(_)));
    assert_eq!(pages(&world).free, free, "one frame came back, one was taken");
    assert_eq!(world.forget((store.0, 8)), Forgot::Done);
    assert_eq!(pages(&world).free, free + 1);
}

#[test]
fn who_is_gone_leaves_nothing_in_memory() {
    let (mut world, [_, _, memory]) = block_world(roomy());
    for page in [3, 4, 5, 40, 41] {
        world.fill((memory.0, page)).unwrap();
    }
    world.engine.forget_range(memory, 4..41);
    let mut there = |page: &u64| world.engine.resident(memory, *page).is_some();
    assert_eq!((0..1000).filter(&mut there).collect::<Vec<_>>(), [3, 41]);
    assert_eq!(world.engine.page_states().dirty, 2);
}

#[test]
fn a_forgotten_page_that_is_lent_stays_until_it_is_released() {
    let (mut world, [base, ..]) = block_world(small(200, 2));
    let peer = client(&mut world, base);
    touch(&mut world, peer, [32]);
    assert_eq!(world.forget((base.0, 32)), Forgot::Later);
    assert!(world.engine.resident(base, 32).is_some());
    let free = pages(&world).free;
    world.unmap(peer, 0, 0);
    world.peers[peer].rings[0].mm.give_back(1);
    world.pump(peer, 0);
    assert_eq!(world.engine.resident(base, 32), None);
    assert_eq!(pages(&world).free, free + 1);
    world.end();
}

#[test]
fn no_ring_leads_to_private_volumes() {
    let (mut world, [_, store, memory]) = block_world(roomy());
    let client = world.engine.admit().unwrap();
    assert_eq!(world.engine.attach(client, store), Err(Refusal::Private));
    assert_eq!(world.engine.attach(client, memory), Err(Refusal::Private));
}

#[test]
fn what_is_only_in_memory_stays_dirty_and_leaves_room_for_what_goes_to_disks() {
    let (mut world, [base, store, memory]) = block_world(small(100, 4));
    assert_eq!(world.want((memory.0, 1), 0), Wanted::Failed, "there is no disk to read it from");
    let frame = world.fill((memory.0, 1)).unwrap();
    let full = (2..200).find(|page| world.fill((memory.0, *page)).is_err()).unwrap();
    assert_eq!((full, pages(&world).dirty), (39, 38), "three quarters of half of the store");
    let full = (0..200).find(|page| world.fill((store.0, *page)).is_err()).unwrap();
    assert_eq!((full, pages(&world).dirty), (12, 50));
    // The map service goes on, with what is left.
    let peer = client(&mut world, base);
    touch(&mut world, peer, 0..60);
    assert_eq!(world.peers[peer].rings[0].outcomes[2], 0);
    let lent = world.engine.figures().permitted;
    assert_eq!(lent, 100 - 4 - 50 + 2, "two of the dirty ones are in the reserve");
    // What a guest discards is free again.
    assert_eq!(world.forget((memory.0, 1)), Forgot::Done);
    assert_eq!(pages(&world).dirty, 49);
    let frame2 = world.engine.resident(memory, 2).unwrap();
    world.end();
    assert!([frame, frame2].into_iter().all(|frame| world.engine.filled(frame).is_err()));
}

#[test]
fn with_everything_lent_and_mapped_writes_to_disks_still_go_on() {
    let (mut world, [base, store, memory]) = block_world(small(40, 8));
    let peer = client(&mut world, base);
    touch(&mut world, peer, 0..60);
    assert_eq!(world.engine.figures().permitted, 32);
    assert_eq!(world.fill((memory.0, 0)), Err(FillError::NoRoom));
    let full = (0..40).find(|page| world.fill((store.0, *page)).is_err()).unwrap();
    assert_eq!(full, 4, "half of the reserve");
    // The other half is for reads.
    assert_eq!(world.want((store.0, 900), 0), Wanted::Reading);
    world.settle_reads();
    world.written((store.0, 0), true);
    world.fill((store.0, 4)).unwrap();
    assert_eq!(world.engine.counters().no_room, 2);
    // What is lent, but not mapped any more, makes room.
    while !world.peers[peer].rings[0].maps.is_empty() {
        world.unmap(peer, 0, 0);
    }
    world.fill((memory.0, 0)).unwrap();
    world.fill((store.0, 5)).unwrap();
    world.end();
}

#[test]
fn reads_of_rings_and_of_guests_take_turns() {
    let mut shape = small(500, 4);
    shape.limits.reads = 1;
    let (mut world, [base, ..]) = block_world(shape);
    let peers: Vec<_> = (0..4).map(|_| client(&mut world, base)).collect();
    for (peer, page) in peers.iter().flat_map(|peer| (0..4).map(move |page| (*peer, page))) {
        world.touch(peer, 0, 100 * (peer as u64 * 4 + page));
    }
    // A guest wants one page after the other, and looks once in each turn.
    let (mut page, mut got, mut reads) = (2000, 0, Vec::new());
    for turn in 0..30 {
        if turn % 2 == 0 {
            reads.extend(world.reads.first().map(|read| read.page));
            world.end_read(0);
        }
        if matches!(world.want((base.0, page), 0), Wanted::Resident(_)) {
            (page, got) = (page + 50, got + 1);
        }
        world.engine.sweep(4, &mut world.table);
        world.advance();
    }
    assert!(got >= 6, "the guest got {got} pages");
    assert!(reads.iter().filter(|page| **page < 2000).count() >= 6, "{reads:?}");
    world.settle();
    world.end();
}
