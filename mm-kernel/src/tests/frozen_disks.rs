//! Disks of a client that is frozen: what they had over their bases is its clones', and nobody notices but by waiting a little.

use std::vec::Vec;

use mm_engine::{FreezeFailure, SnapshotState};
use mm_proto::{AbortReason, RequestBody, Status};
use xen_sys::blkif::op;

use super::stock::{ERROR, OKAY, whole};
use super::world::{PAGES, World, XVDA};
use crate::refusals::Reason;
use crate::snapshots::RemoveRefused;

const XVDB: u32 = XVDA + 16;
const OPTIONS: &str =
    "volume=base:xvda,group=g volume=data:xvdb,group=g store_disk=xvdc clients=10 window=16";

/// A client that maps `base` and has `target` besides: their places.
pub(crate) fn source(world: &mut World, target: &str) -> (usize, usize) {
    clone(world, "base", target)
}

/// A client of a snapshot with the same two.
pub(crate) fn clone(world: &mut World, base: &str, target: &str) -> (usize, usize) {
    let client = world.client(base, 0);
    let domain = world.clients[client].domain.clone();
    (client, world.second_disk(&domain, XVDB, target))
}

/// Blocks 1 and 9 written, 2 of zeroes, 10 to 19 discarded, but for 12 that was written then.
pub(crate) fn write(world: &mut World, stock: usize) {
    for (block, value) in [(1, 11), (9, 19), (2, 0), (13, 5)] {
        assert_eq!(world.write_block(stock, block, value), OKAY);
    }
    assert_eq!(world.discard(stock, 10 * 8, 10 * 8), OKAY);
    assert_eq!(world.write_block(stock, 12, 12), OKAY);
}

/// They are there, and the rest is the base's.
#[track_caller]
pub(crate) fn check(world: &mut World, stock: usize) {
    let blocks: Vec<u32> = [1, 9, 2, 13, 10, 19, 12].map(|block| world.read_block(stock, block)).into();
    assert_eq!(blocks, [11, 19, 0, 0, 0, 0, 12]);
    for block in [0, 3, 8, 20, PAGES - 1] {
        assert!(world.shows_base(stock, block, 1), "block {block}");
    }
}

#[test]
fn a_clones_disk_shows_what_the_clients_had_at_the_instant() {
    for target in ["data", "data+mine"] {
        let mut world = World::new(OPTIONS, 120);
        let (client, stock) = source(&mut world, target);
        write(&mut world, stock);
        world.freeze(client, "warm", &[1, 2, 3]);
        // What is written since is the source's alone.
        assert_eq!(world.write_block(stock, 1, 99), OKAY);
        assert_eq!(world.write_block(stock, 3, 98), OKAY);
        let (one, first) = clone(&mut world, "base@warm", "data@warm");
        let (_, second) = clone(&mut world, "base@warm", "data@warm+kept");
        for stock in [first, second] {
            check(&mut world, stock);
            // Its own goes over it.
            assert_eq!(world.write_block(stock, 9, 7), OKAY);
            assert_eq!(world.write_block(stock, 2, 6), OKAY);
            assert_eq!(world.write_block(stock, 12, 0), OKAY);
            assert_eq!(world.discard(stock, 8, 8), OKAY);
            let blocks: Vec<u32> = [9, 2, 12, 1, 13].map(|block| world.read_block(stock, block)).into();
            assert_eq!(blocks, [7, 6, 0, 0, 0]);
        }
        let (_, third) = clone(&mut world, "base@warm", "data@warm");
        check(&mut world, third);
        assert_eq!((world.read_block(stock, 1), world.read_block(stock, 9)), (99, 19));

        // An overlay over a snapshot is one over nothing else.
        let other = world.clients[one].domain.clone();
        world.add_device_with(other.id(), XVDB + 16, "data+kept", "w");
        let reasons: Vec<Reason> = world.m1.refusals.iter().map(|refusal| refusal.reason).collect();
        assert!(matches!(reasons[..], [Reason::OverlayInUse]), "{reasons:?}");
        let Err(RemoveRefused::InUse(_, 3)) = world.m1.remove_snapshot("base", "warm") else {
            panic!("it is in use");
        };
        assert_eq!(world.figures().bugs, 0);
    }
}

#[test]
fn a_clone_that_is_frozen_passes_on_what_it_had_and_depth_stays_one() {
    let mut world = World::new(OPTIONS, 120);
    let (client, stock) = source(&mut world, "data");
    write(&mut world, stock);
    world.freeze(client, "one", &[1]);
    let (client, stock) = clone(&mut world, "base@one", "data@one");
    assert_eq!(world.write_block(stock, 9, 7), OKAY);
    assert_eq!(world.write_block(stock, 1, 0), OKAY);
    world.freeze(client, "two", &[2]);
    let (_, stock) = clone(&mut world, "base@two", "data@two");
    let blocks: Vec<u32> = [1, 9, 2, 12, 13].map(|block| world.read_block(stock, block)).into();
    assert_eq!(blocks, [0, 7, 0, 12, 0]);
    assert!(world.shows_base(stock, 3, 1));
    let unique: Vec<u64> = world.m1.snapshots().map(|snapshot| snapshot.unique).collect();
    // Memory, the block that was written since, and the index.
    assert_eq!(unique[1], 3, "{unique:?}");
}

#[test]
fn writes_wait_while_a_disk_is_copied_and_reads_go_on() {
    let mut world = World::new(OPTIONS, 120);
    let (client, stock) = source(&mut world, "data+mine");
    write(&mut world, stock);
    world.order(client, "warm");
    // What is on the store's disk alone has to be read, and that takes its time.
    world.forget_store_cache();
    world.store_disk.as_mut().expect("a store").stalled = true;
    assert_eq!(world.step(client, RequestBody::Freeze { pages: 1 }).0, Status::Ok);
    let (status, pages) = world.capture(client, &[1]);
    assert_eq!(status, Status::Ok);
    world.stocks[stock].fill(0, 77);
    world.submit(stock, 1, op::WRITE, 8, &[whole(0)]);
    world.submit(stock, 2, op::READ, 8 * 40, &[whole(1)]);
    world.submit_discard(stock, 3, 9 * 8, 8);
    world.run();
    assert_eq!(world.answers(stock), [(2, OKAY)]);
    world.send_step(client, RequestBody::Commit { page: u64::from(pages[0]), standstill: 5 });
    world.run();
    let ready = |world: &World| world.m1.snapshots().any(|snapshot| snapshot.ready);
    assert!(!ready(&world), "it waits for the disk");
    world.store_disk.as_mut().expect("a store").stalled = false;
    world.run();
    assert!(ready(&world));
    let mut answers = world.answers(stock);
    answers.sort_unstable();
    assert_eq!(answers, [(1, OKAY), (3, OKAY)]);
    assert_eq!(world.read_block(stock, 1), 77);
    let (_, cloned) = clone(&mut world, "base@warm", "data@warm");
    check(&mut world, cloned);
}

#[test]
fn where_it_takes_too_long_nothing_comes_of_the_snapshot_and_the_guest_goes_on() {
    let mut world = World::new(OPTIONS, 120);
    let (client, stock) = source(&mut world, "data+mine");
    write(&mut world, stock);
    let frozen = world.figures().pages.frozen;
    world.order(client, "warm");
    world.forget_store_cache();
    world.store_disk.as_mut().expect("a store").stalled = true;
    assert_eq!(world.step(client, RequestBody::Freeze { pages: 1 }).0, Status::Ok);
    world.stocks[stock].fill(0, 77);
    world.submit(stock, 1, op::WRITE, 8, &[whole(0)]);
    world.pass(11_000_000_000);
    let state = world.m1.snapshots().next().expect("it is told of").state;
    assert_eq!(state, SnapshotState::Failed(FreezeFailure::Cancelled));
    world.store_disk.as_mut().expect("a store").stalled = false;
    world.run();
    assert_eq!(world.answers(stock), [(1, OKAY)]);
    assert_eq!(world.read_block(stock, 1), 77);
    world.pass(1_000_000_000);
    assert_eq!(world.figures().pages.frozen, frozen);
    assert_eq!(world.figures().bugs, 0);
}

#[test]
fn a_freeze_that_is_aborted_lets_the_disks_go_at_once() {
    let mut world = World::new(OPTIONS, 120);
    let (client, stock) = source(&mut world, "data+mine");
    write(&mut world, stock);
    world.order(client, "warm");
    world.forget_store_cache();
    world.store_disk.as_mut().expect("a store").stalled = true;
    assert_eq!(world.step(client, RequestBody::Freeze { pages: 1 }).0, Status::Ok);
    world.send_step(client, RequestBody::Abort { reason: AbortReason::Ended });
    world.run();
    world.store_disk.as_mut().expect("a store").stalled = false;
    world.run();
    assert_eq!(world.write_block(stock, 1, 78), OKAY);
    assert_eq!(world.figures().pages.frozen, 0);
    // One whose domain dies in the middle, too.
    world.order(client, "again");
    world.forget_store_cache();
    world.store_disk.as_mut().expect("a store").stalled = true;
    assert_eq!(world.step(client, RequestBody::Freeze { pages: 1 }).0, Status::Ok);
    let domain = world.clients.remove(client).domain.id();
    world.stocks.remove(stock);
    world.xen.destroy(domain);
    for devid in [XVDA, XVDB] {
        world.store.detach_vbd(world.domain.id().0, domain.0, devid, true);
    }
    world.run();
    world.store_disk.as_mut().expect("a store").stalled = false;
    world.pass(3_000_000_000);
    assert_eq!((world.figures().pages.frozen, world.figures().bugs), (0, 0));
}

#[test]
fn a_snapshot_without_room_for_a_disk_is_given_up_and_the_guest_goes_on() {
    let mut world = World::new(OPTIONS, 40);
    let (client, stock) = source(&mut world, "data+mine");
    let mut written = 0;
    for block in 0..PAGES {
        written += u64::from(world.write_block(stock, block, 7) == OKAY);
    }
    assert_eq!(written, PAGES);
    world.order(client, "warm");
    assert_eq!(world.step(client, RequestBody::Freeze { pages: 1 }).0, Status::Ok);
    let state = world.m1.snapshots().next().expect("it is told of").state;
    assert!(matches!(state, SnapshotState::Failed(_)), "{state:?}");
    assert_eq!(world.write_block(stock, 1, 8), OKAY);
    assert_ne!(world.write_block(stock, 1, 8), ERROR);
    assert_eq!(world.figures().pages.frozen, 0);
}
