//! Snapshots on the store's disk: the next M1 has them, wholly or not at all, wherever this one was cut off.

use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

use mm_engine::SnapshotState;

use super::world::{World, XVDA};
use crate::snapshots::{FreezeRefused, Persist};

const OPTIONS: &str = "volume=base:xvda store_disk=xvdb clients=4 window=16";
const FRAMES: u32 = 90;

type Blocks = Vec<[u32; 1024]>;
/// Pages of a snapshot, and what they hold.
type Content = BTreeMap<u64, u32>;

fn blocks(world: &World) -> Blocks {
    world.store_disk.as_ref().and_then(|disk| disk.blocks.clone()).expect("a store")
}

/// Freezes and waits until it is on the disk.
fn keep(world: &mut World, client: usize, name: &str, contents: &[u32]) -> Content {
    let pages = world.freeze_as(client, name, contents, true);
    world.pass(2_000_000_000);
    let facts: Vec<_> = world.m1.snapshots().filter(|one| one.name == name).collect();
    assert_eq!(facts[0].persist, Persist::Stored);
    pages.into_iter().zip(contents.iter().copied()).collect()
}

/// A clone reads all of it, and nothing else is in it.
fn read_all(world: &mut World, name: &str, content: &Content) {
    let clone = world.client(&std::format!("base@{name}"), 0);
    world.clients[clone].frozen = content.clone();
    for page in content.keys() {
        world.touch(clone, *page);
        assert!(!world.clients[clone].failed.iter().any(|(failed, _)| failed == page), "page {page:#x}");
    }
    world.clients[clone].check();
    let facts: Vec<_> = world.m1.snapshots().filter(|one| one.name == name).collect();
    assert_eq!(facts[0].pages, content.len() as u64);
    world.destroy(clone);
    world.pass(3_000_000_000);
}

fn pages(content: &Content) -> u32 {
    u32::try_from(content.len()).expect("few")
}

fn names(world: &World) -> Vec<String> {
    let mut names: Vec<String> = world.m1.snapshots().map(|one| one.name.into()).collect();
    names.sort();
    names
}

fn live(world: &World) -> u32 {
    let figures = world.m1.overlays.as_ref().expect("a store").store.figures();
    assert_eq!(figures.bugs, 0);
    figures.live
}

fn restart(blocks: Blocks) -> World {
    let mut world = World::over(OPTIONS, FRAMES, blocks);
    world.pass(3_000_000_000);
    world
}

#[test]
fn a_snapshot_on_the_disk_is_there_for_the_next_m1_and_removal_is_for_good() {
    let mut world = World::new(OPTIONS, FRAMES);
    let source = world.client("base", 0);
    let one = keep(&mut world, source, "one", &(1..31).collect::<Vec<_>>());
    let two = keep(&mut world, source, "two", &(28..37).collect::<Vec<_>>());
    world.freeze(source, "gone", &[77]);
    assert_eq!(world.figures().pages.frozen, 1, "what is on the disk need not stay");
    read_all(&mut world, "one", &one);
    let identity = world.m1.snapshots().find(|facts| facts.name == "one").expect("it is there").identity;

    let mut world = restart(blocks(&world));
    assert_eq!(names(&world), ["one", "two"], "what was in memory only is gone");
    let facts = world.m1.snapshots().find(|facts| facts.name == "one").expect("it is there");
    assert_eq!((facts.identity, facts.ready, facts.persist), (identity, true, Persist::Stored));
    read_all(&mut world, "two", &two);
    read_all(&mut world, "one", &one);
    world.m1.remove_snapshot("base", "one").expect("nobody needs it");
    world.pass(8_000_000_000);
    read_all(&mut world, "two", &two);
    // Its header, its bitmap, and its pages; the bitmap of the first stays until its place is used again.
    let left = live(&world);
    assert_eq!(left, 2 + 1 + pages(&two));

    let mut world = restart(blocks(&world));
    assert_eq!(names(&world), ["two"]);
    read_all(&mut world, "two", &two);
    // And new ones beside it: no number is given out twice.
    let source = world.client("base", 0);
    let three = keep(&mut world, source, "three", &[100, 101, 40]);
    world.destroy(source);
    assert!(three.iter().all(|(page, content)| two.get(page).is_none_or(|other| other == content)));
    read_all(&mut world, "two", &two);
    read_all(&mut world, "three", &three);
    let mut world = restart(blocks(&world));
    read_all(&mut world, "three", &three);
    read_all(&mut world, "two", &two);
    for name in ["two", "three"] {
        world.m1.remove_snapshot("base", name).expect("nobody needs it");
    }
    world.pass(8_000_000_000);
    assert!(live(&world) <= 3, "no page is left: {}", live(&world));
    world.figures();
}

#[test]
fn pages_on_the_disk_make_room_in_memory() {
    let mut world = World::new(OPTIONS, FRAMES);
    let source = world.client("base", 0);
    let one = keep(&mut world, source, "one", &(1..40).collect::<Vec<_>>());
    world.destroy(source);
    // Everything else that there is goes through memory meanwhile.
    let reader = world.client("base", 0);
    for page in 0..64 {
        world.touch(reader, page);
        world.clients[reader].drop_page(page);
    }
    world.clients[reader].mm.give_back(40);
    world.run();
    read_all(&mut world, "one", &one);
    let reads = world.m1.engine.counters().pages_read;
    assert!(reads > 64, "some came from the store's disk: {reads}");
}

#[test]
fn without_a_store_nothing_is_kept() {
    let mut world = World::new("volume=base:xvda clients=4", FRAMES);
    let source = world.client("base", 0);
    let domain = world.clients[source].domain.id();
    assert_eq!(world.m1.freeze(domain, "warm", true), Err(FreezeRefused::NoStore));
    let refused = world.create("base+.m1-snapshots");
    assert!(world.published(refused.id(), XVDA).is_none());
}

/// What the disk holds after so many of these writes, where of those after the last flush some are lost.
fn cut(before: &Blocks, log: &[Option<(usize, [u32; 1024])>], lost: fn(usize) -> bool) -> Blocks {
    let mut blocks = before.clone();
    let flushed = log.iter().rposition(Option::is_none).map_or(0, |at| at + 1);
    for (at, write) in log.iter().enumerate() {
        if let Some((place, words)) = write
            && (at < flushed || !lost(at - flushed))
        {
            blocks[*place] = *words;
        }
    }
    blocks
}

const LOSSES: [fn(usize) -> bool; 4] = [|_| false, |_| true, |at| at % 2 == 0, |at| at % 3 != 2];

fn take_log(world: &mut World) -> Vec<Option<(usize, [u32; 1024])>> {
    core::mem::take(&mut world.store_disk.as_mut().expect("a store").log)
}

#[test]
fn wherever_the_power_is_cut_a_snapshot_is_there_wholly_or_not() {
    let mut world = World::new(OPTIONS, FRAMES);
    let source = world.client("base", 0);
    let one = keep(&mut world, source, "one", &(1..9).collect::<Vec<_>>());
    world.pass(6_000_000_000);
    let (before, _) = (blocks(&world), take_log(&mut world));
    let two = keep(&mut world, source, "two", &(5..14).collect::<Vec<_>>());
    let log = take_log(&mut world);
    assert_eq!(cut(&before, &log, LOSSES[0]), blocks(&world));
    let mut seen = [0; 2];
    for writes in 0..=log.len() {
        for lost in LOSSES {
            let mut world = restart(cut(&before, &log[..writes], lost));
            let there = names(&world).contains(&"two".into());
            seen[usize::from(there)] += 1;
            read_all(&mut world, "one", &one);
            if there {
                read_all(&mut world, "two", &two);
            } else {
                // Nothing of it is left.
                assert!(live(&world) <= 2 + 1 + pages(&one), "{writes}: {}", live(&world));
            }
            assert!(there || writes < log.len(), "it was said to be there");
        }
    }
    assert!(seen.iter().all(|count| *count > 4), "{seen:?}");
}

#[test]
fn wherever_the_power_is_cut_a_removal_has_happened_or_not() {
    let mut world = World::new(OPTIONS, FRAMES);
    let source = world.client("base", 0);
    let one = keep(&mut world, source, "one", &(1..9).collect::<Vec<_>>());
    let two = keep(&mut world, source, "two", &(5..14).collect::<Vec<_>>());
    world.pass(6_000_000_000);
    let (before, _) = (blocks(&world), take_log(&mut world));
    world.m1.remove_snapshot("base", "two").expect("nobody needs it");
    world.pass(8_000_000_000);
    // Its numbers are given to others at once.
    let three = keep(&mut world, source, "three", &(30..40).collect::<Vec<_>>());
    let log = take_log(&mut world);
    for writes in 0..=log.len() {
        for lost in LOSSES {
            let mut world = restart(cut(&before, &log[..writes], lost));
            let there = names(&world);
            read_all(&mut world, "one", &one);
            for (name, content) in [("two", &two), ("three", &three)] {
                if there.iter().any(|other| other == name) {
                    read_all(&mut world, name, content);
                }
            }
            assert!(writes < log.len() || there == ["one", "three"], "{there:?}");
        }
    }
}

#[test]
fn a_snapshot_over_another_version_of_its_volume_waits() {
    let mut world = World::new(OPTIONS, FRAMES);
    let source = world.client("base", 0);
    let one = keep(&mut world, source, "one", &[1, 2, 3]);
    let kept = blocks(&world);
    // The volume of that name has another content now.
    let mut world = World::over("volume=other:xvdc volume=base:xvda store_disk=xvdb clients=4", FRAMES, kept);
    world.pass(3_000_000_000);
    let facts = world.m1.snapshots().next().expect("it is known");
    assert_eq!((facts.state, facts.ready, facts.volume), (SnapshotState::Away, false, "base"));
    let refused = world.create("base@one");
    assert!(world.published(refused.id(), XVDA).is_none());
    let reason = world.m1.refusals.iter().last().expect("it is said").reason;
    assert_eq!(reason, crate::refusals::Reason::SnapshotNotReady);
    let mut world = restart(blocks(&world));
    read_all(&mut world, "one", &one);
}

#[test]
fn a_snapshot_that_needs_a_larger_m1_waits_for_one() {
    let mut world = World::new(OPTIONS, FRAMES);
    let source = world.client("base", 0);
    let one = keep(&mut world, source, "one", &(1..31).collect::<Vec<_>>());
    // Fewer frames, and so fewer numbers than it has pages.
    let mut world = World::over(OPTIONS, 40, blocks(&world));
    world.pass(3_000_000_000);
    let facts = world.m1.snapshots().next().expect("it is known");
    assert_eq!((facts.state, facts.ready), (SnapshotState::Away, false));
    let source = world.client("base", 0);
    let domain = world.clients[source].domain.id();
    world.m1.freeze(domain, "two", true).expect("it can be ordered");
    world.run();
    let answer = world.step(source, mm_proto::RequestBody::Freeze { pages: 1 });
    assert_eq!(answer.0, mm_proto::Status::NoRoom, "all numbers that there are are taken");
    let mut world = restart(blocks(&world));
    read_all(&mut world, "one", &one);
}

#[test]
fn a_damaged_directory_costs_that_snapshot_and_no_other() {
    let mut world = World::new(OPTIONS, FRAMES);
    let source = world.client("base", 0);
    keep(&mut world, source, "one", &[1, 2, 3]);
    let two = keep(&mut world, source, "two", &[2, 3, 4]);
    world.pass(6_000_000_000);
    let damaged = |world: &World, part| {
        let overlays = world.m1.overlays.as_ref().expect("a store");
        let disk = overlays.frozen_block(crate::overlays::DIRECTORY + part).expect("it is there");
        let mut damaged = blocks(world);
        damaged[disk as usize][5] ^= 1;
        damaged
    };
    let refused = |world: &mut World| {
        let source = world.client("base", 0);
        let domain = world.clients[source].domain.id();
        let refused = world.m1.freeze(domain, "three", true);
        world.destroy(source);
        assert_eq!(refused, Err(FreezeRefused::Unreadable), "nothing is written over what may be good");
    };
    // Its header: not even its name is known.
    let mut hit = restart(damaged(&world, 0));
    assert_eq!(names(&hit), ["two"]);
    read_all(&mut hit, "two", &two);
    assert!(live(&hit) >= 4 + 4, "nothing is given up");
    refused(&mut hit);
    // Its bitmap: it can be removed.
    let mut hit = restart(damaged(&world, 1));
    assert_eq!(names(&hit), ["one", "two"]);
    let reads = |world: &World| world.m1.snapshots().filter(|facts| facts.ready).count();
    assert_eq!(reads(&hit), 1);
    read_all(&mut hit, "two", &two);
    refused(&mut hit);
    hit.m1.remove_snapshot("base", "one").expect("nobody has it");
    hit.pass(8_000_000_000);
    let mut whole = restart(blocks(&hit));
    assert_eq!(names(&whole), ["two"]);
    assert!(live(&whole) <= 2 + 1 + 3, "{}", live(&whole));
    let source = whole.client("base", 0);
    let three = keep(&mut whole, source, "three", &[50, 51]);
    read_all(&mut whole, "three", &three);
    read_all(&mut whole, "two", &two);
}
