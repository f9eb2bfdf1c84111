//! Freeze, clone, remove: on a whole M1.

use std::string::ToString;
use std::vec::Vec;

use mm_engine::{FreezeFailure, SnapshotState};
use mm_proto::{AbortReason, Bitmap, FROZEN_FIRST, HotPage, RequestBody, Status};

use super::world::World;
use crate::snapshots::{FreezeRefused, RemoveRefused};

const OPTIONS: &str = "volume=base:xvda clients=8 window=16";
const OPTIONS_TWO: &str = "volume=base:xvda volume=other:xvdb clients=8 window=16";

/// A clone of `base@NAME`, which knows what these frozen pages hold.
fn clone(world: &mut World, name: &str, pages: &[u64], contents: &[u32]) -> usize {
    let clone = world.client(&std::format!("base@{name}"), 0);
    world.clients[clone].frozen = pages.iter().copied().zip(contents.iter().copied()).collect();
    clone
}

fn touch_all(world: &mut World, client: usize, pages: &[u64]) {
    for page in pages {
        world.touch(client, *page);
    }
    world.clients[client].check();
}

#[test]
fn a_clone_maps_what_was_frozen_and_the_volume() {
    let mut world = World::new(OPTIONS, 80);
    let source = world.client("base", 0);
    world.touch(source, 5);
    let contents: Vec<u32> = (100..120).collect();
    let pages = world.freeze(source, "warm", &contents);
    let facts: Vec<_> = world.m1.snapshots().collect();
    assert_eq!(facts.len(), 1);
    assert_eq!((facts[0].name, facts[0].volume, facts[0].ready), ("warm", "base", true));
    assert_eq!((facts[0].pages, facts[0].unique, facts[0].standstill), (20, 20, 3_000_000));
    let identity = facts[0].identity;
    for _ in 0..3 {
        let clone = clone(&mut world, "warm", &pages, &contents);
        let info = world.clients[clone].info();
        let snapshot = info.snapshot.expect("it is attached to one");
        assert_eq!((u64::from(snapshot.head), snapshot.hot, snapshot.identity), (pages[0], 0, identity));
        assert_eq!(info.pages, super::world::PAGES);
        touch_all(&mut world, clone, &pages);
        touch_all(&mut world, clone, &[5, 6]);
        let heartbeat = world.clients[clone].info().heartbeat;
        world.run();
        assert!(world.clients[clone].info().heartbeat > heartbeat, "M1 lives for clones too");
    }
    let figures = world.figures();
    assert_eq!((figures.pages.shared, figures.pages.frozen), (22, 0), "one frame for all clones");
    world.clients[source].check();
    assert_eq!(world.clients[source].info().snapshot, None);
}

#[test]
fn a_snapshot_that_clones_need_is_not_removed_and_then_all_of_it_is() {
    let mut world = World::new(OPTIONS, 80);
    let rest = world.rest();
    let free = world.figures().pages;
    let source = world.client("base", 0);
    let pages = world.freeze(source, "warm", &[1, 2, 3]);
    world.destroy(source);
    let one = clone(&mut world, "warm", &pages, &[1, 2, 3]);
    let two = clone(&mut world, "warm", &pages, &[1, 2, 3]);
    touch_all(&mut world, one, &pages);
    let mut domains: Vec<_> = [one, two].iter().map(|at| world.clients[*at].domain.id()).collect();
    let Err(RemoveRefused::InUse(mut named, all)) = world.m1.remove_snapshot("base", "warm") else {
        panic!("it is in use");
    };
    domains.sort_unstable();
    named.sort_unstable();
    assert_eq!((named.as_slice(), all), (domains.as_slice(), 2));
    let text = RemoveRefused::InUse(named, 9).to_string();
    assert!(text.starts_with("running domains need it:") && text.ends_with("and 7 more"), "{text}");
    world.destroy(two);
    world.destroy(one);
    world.pass(3_000_000_000);
    assert_eq!(world.m1.remove_snapshot("base", "cold"), Err(RemoveRefused::Unknown));
    assert_eq!(world.m1.remove_snapshot("base", "warm"), Ok(()));
    world.pass(3_000_000_000);
    assert_eq!(world.m1.snapshots().count(), 0);
    assert_eq!((world.rest(), world.figures().pages.frozen), (rest, 0));
    let now = world.figures().pages;
    assert_eq!((now.free + now.clean, now.metadata), (free.free + free.clean, free.metadata));
}

#[test]
fn who_left_and_maps_its_info_page_still_keeps_the_snapshot() {
    let mut world = World::new(OPTIONS, 80);
    let rest = world.rest();
    let source = world.client("base", 0);
    let pages = world.freeze(source, "warm", &[1, 2, 3]);
    world.destroy(source);
    let clone = clone(&mut world, "warm", &pages, &[1, 2, 3]);
    let kept = world.clients.remove(clone);
    let domain = kept.domain.id();
    world.remove_device(domain, true);
    world.pass(3_000_000_000);
    // Its place would be the next snapshot's, and so would be the page that it sees.
    let Err(RemoveRefused::InUse(named, 1)) = world.m1.remove_snapshot("base", "warm") else {
        panic!("it is in use");
    };
    assert_eq!(named.as_slice(), [domain]);
    kept.let_go();
    assert_eq!(world.m1.remove_snapshot("base", "warm"), Ok(()));
    world.pass(3_000_000_000);
    assert_eq!(world.rest(), rest);
}

#[test]
fn clones_of_clones_share_what_was_not_written_since() {
    let mut world = World::new(OPTIONS, 80);
    let source = world.client("base", 0);
    let first = world.freeze(source, "one", &[1, 2, 3, 4]);
    let clone_one = clone(&mut world, "one", &first, &[1, 2, 3, 4]);
    world.order(clone_one, "two");
    assert_eq!(world.step(clone_one, RequestBody::Freeze { pages: 2 }).0, Status::Ok);
    // The second page was written since, and the last is gone.
    let (status, captured) = world.capture(clone_one, &[9, 8]);
    assert_eq!(status, Status::Ok);
    world.keep(clone_one, &[first[0], first[2]]);
    world.commit(clone_one, u64::from(captured[0]));
    let facts: Vec<_> = world.m1.snapshots().map(|one| (one.pages, one.unique, one.kept)).collect();
    assert_eq!(facts, [(4, 2, 0), (4, 2, 2)]);
    let pages = [u64::from(captured[0]), u64::from(captured[1]), first[0], first[2]];
    let clone_two = clone(&mut world, "two", &pages, &[9, 8, 1, 3]);
    touch_all(&mut world, clone_two, &pages);
    world.destroy(clone_one);
    world.pass(3_000_000_000);
    assert_eq!(world.m1.remove_snapshot("base", "one"), Ok(()));
    world.pass(1_000_000_000);
    touch_all(&mut world, clone_two - 1, &pages);
    let facts: Vec<_> = world.m1.snapshots().map(|one| (one.pages, one.unique)).collect();
    assert_eq!(facts, [(4, 4)]);
}

#[test]
fn two_domains_are_frozen_at_once() {
    let mut world = World::new(OPTIONS_TWO, 80);
    let (one, two) = (world.client("base", 0), world.client("other", 1));
    world.order(one, "warm");
    world.order(two, "warm");
    assert_eq!(world.m1.freeze(world.clients[one].domain.id(), "again", false), Err(FreezeRefused::Busy));
    for client in [one, two] {
        assert_eq!(world.step(client, RequestBody::Freeze { pages: 2 }).0, Status::Ok);
    }
    let heads: Vec<u64> =
        [one, two].map(|client| u64::from(world.capture(client, &[7, 8]).1[0])).into_iter().collect();
    assert_ne!(heads[0], heads[1], "they are of two groups");
    world.commit(two, heads[1]);
    world.commit(one, heads[0]);
    let clone = clone(&mut world, "warm", &heads[..1], &[7]);
    touch_all(&mut world, clone, &heads[..1]);
    assert_eq!(world.m1.snapshots().filter(|one| one.ready).count(), 2);
}

#[test]
fn a_source_killed_in_the_middle_leaves_nothing() {
    let mut world = World::new(OPTIONS, 80);
    let rest = world.rest();
    for step in 0..4 {
        let source = world.client("base", 0);
        let domain = world.clients[source].domain.id();
        world.order(source, "warm");
        if step >= 1 {
            assert_eq!(world.step(source, RequestBody::Freeze { pages: 20 }).0, Status::Ok);
        }
        if step >= 2 {
            assert_eq!(world.capture(source, &[1, 2, 3]).0, Status::Ok);
        }
        if step >= 3 {
            // What it lends goes with it, and the request is still on the ring.
            let body = world.lend_to_capture(source, &[4, 5]);
            world.send_step(source, body);
        }
        world.destroy(source);
        world.pass(3_000_000_000);
        let progress = world.m1.freeze_progress(domain, "warm").expect("it is said how it ended");
        assert_eq!(progress.state, SnapshotState::Failed(FreezeFailure::ClientGone), "{step}");
        assert_eq!((world.rest(), world.figures().pages.frozen), (rest.clone(), 0));
        let refused = world.create("base@warm");
        assert!(world.published(refused.id(), super::world::XVDA).is_none(), "it never becomes visible");
        world.xen.destroy(refused.id());
        world.remove_device(refused.id(), true);
        assert_eq!(world.m1.remove_snapshot("base", "warm"), Ok(()), "what is left of it is its name");
    }
}

#[test]
fn a_clone_killed_in_the_middle_of_its_thaw_disturbs_nobody() {
    let mut world = World::new(OPTIONS, 80);
    let source = world.client("base", 0);
    let contents: Vec<u32> = (1..30).collect();
    let pages = world.freeze(source, "warm", &contents);
    let rest = world.rest();
    let survivor = clone(&mut world, "warm", &pages, &contents);
    touch_all(&mut world, survivor, &pages[..10]);
    for killed_after in [0, 1, 20] {
        let dying = clone(&mut world, "warm", &pages, &contents);
        touch_all(&mut world, dying, &pages[..killed_after]);
        world.clients[dying].touch(pages[25]);
        world.destroy(dying);
        world.pass(3_000_000_000);
        touch_all(&mut world, survivor, &pages[..10]);
    }
    world.destroy(survivor);
    world.pass(5_000_000_000);
    assert_eq!(world.rest(), rest);
}

#[test]
fn without_room_a_freeze_is_refused_and_nothing_has_changed() {
    let mut world = World::new(OPTIONS, 40);
    let source = world.client("base", 0);
    let domain = world.clients[source].domain.id();
    let before = world.figures().pages;
    world.order(source, "warm");
    assert_eq!(world.step(source, RequestBody::Freeze { pages: 21 }).0, Status::NoRoom);
    let progress = world.m1.freeze_progress(domain, "warm").expect("it is said");
    assert_eq!(progress.state, SnapshotState::Failed(FreezeFailure::NoRoom));
    assert_eq!(world.figures().pages, before);
    assert_eq!(world.step(source, RequestBody::Abort { reason: AbortReason::Refused }).0, Status::Ok);
    // Under the same name it can be tried again.
    world.freeze(source, "warm", &[1, 2, 3]);
    assert_eq!(world.m1.freeze(domain, "warm", false), Err(FreezeRefused::Exists));
}

#[test]
fn what_cannot_be_frozen_is_refused_by_name() {
    let mut world = World::new(OPTIONS, 40);
    let source = world.client("base", 0);
    let domain = world.clients[source].domain.id();
    for wrong in ["", "a@b", "0123456789012345678901234567890123"] {
        assert_eq!(world.m1.freeze(domain, wrong, false), Err(FreezeRefused::Name));
    }
    assert_eq!(world.m1.freeze(xen::DomId(77), "warm", false), Err(FreezeRefused::NoDomain));
    // One that has not greeted yet.
    let early = world.create("base");
    world.says(early.id(), super::world::XVDA, "4");
    assert_eq!(world.m1.freeze(early.id(), "warm", false), Err(FreezeRefused::NotAble));
    for name in ["a", "b", "c", "d"] {
        world.freeze(source, name, &[1]);
    }
    assert_eq!(world.m1.freeze(domain, "e", false), Err(FreezeRefused::TooMany));
    assert_eq!(world.m1.snapshots().map(|one| one.unique).sum::<u64>(), 0, "all four have the same page");
    let refused = world.create("base@nothing");
    assert!(world.published(refused.id(), super::world::XVDA).is_none());
    let reason = world.m1.refusals.iter().last().expect("it is said").reason;
    assert_eq!(reason, crate::refusals::Reason::UnknownSnapshot);
}

#[test]
fn an_order_that_nobody_obeys_is_given_up() {
    let mut world = World::new(OPTIONS, 40);
    let source = world.client("base", 0);
    let domain = world.clients[source].domain.id();
    world.order(source, "warm");
    world.pass(25_000_000_000);
    assert_eq!(world.step(source, RequestBody::Freeze { pages: 3 }).0, Status::Ok);
    world.pass(25_000_000_000);
    let progress = world.m1.freeze_progress(domain, "warm").expect("it goes on");
    assert_eq!(progress.state, SnapshotState::Taking);
    world.pass(7_000_000_000);
    let progress = world.m1.freeze_progress(domain, "warm").expect("it is said");
    assert_eq!(progress.state, SnapshotState::Failed(FreezeFailure::TimedOut));
    assert_eq!(world.capture(source, &[1]).0, Status::Gone);
    assert_eq!(world.step(source, RequestBody::Abort { reason: AbortReason::Refused }).0, Status::Ok);
    world.order(source, "warm");
    assert!(world.m1.cancel_freeze(domain, "warm"));
    assert!(!world.m1.cancel_freeze(domain, "warm"));
    assert_eq!(world.figures().pages.frozen, 0);
}

#[test]
fn a_frame_that_is_not_lent_is_said_to_be_bad() {
    let mut world = World::new(OPTIONS, 40);
    let source = world.client("base", 0);
    world.order(source, "warm");
    assert_eq!(world.step(source, RequestBody::Freeze { pages: 2 }).0, Status::Ok);
    let references = [300; mm_proto::CAPTURE_MAX];
    let answer = world.step(source, RequestBody::Capture { count: 2, references });
    assert_eq!(answer, (Status::BadReference, [0; mm_proto::CAPTURE_MAX]));
    let (status, pages) = world.capture(source, &[1, 2]);
    assert_eq!(status, Status::Ok);
    world.commit(source, u64::from(pages[0]));
}

#[test]
fn what_the_first_clone_touches_is_told_to_the_next() {
    let mut world = World::new(OPTIONS, 80);
    let source = world.client("base", 0);
    let pages = world.freeze(source, "warm", &[1, 2, 3]);
    let first = clone(&mut world, "warm", &pages, &[1, 2, 3]);
    for body in [
        RequestBody::Hot { page: FROZEN_FIRST, bitmap: Bitmap([0b1101, 0, 0, 0, 0, 0, 0, 0]) },
        RequestBody::Hot { page: 0, bitmap: Bitmap([0b10, u64::MAX, 0, 0, 0, 0, 0, 0]) },
        RequestBody::Thawed { duration: 4_000_000, connected: 1_000_000 },
    ] {
        let client = &mut world.clients[first];
        let request = client.mm.notice(body, client.now()).expect("there is room");
        client.send(&request);
        world.run();
    }
    world.pass(4_000_000_000);
    let info = world.clients[first].info().snapshot.expect("it is attached to one");
    assert!(info.hot != 0, "it is published");
    let second = clone(&mut world, "warm", &pages, &[1, 2, 3]);
    let hot = u64::from(world.clients[second].info().snapshot.expect("it is attached to one").hot);
    let m1 = &mut world.m1;
    let frozen = m1.engine.frozen_volume().expect("it is there");
    let frame = m1.engine.resident(frozen, hot).expect("it is in memory");
    let (words, _) = m1.lending.frame(frame).expect("of the store");
    let listed = HotPage::decode(|index| words.load(index));
    let found: Vec<_> = listed.iter().map(|(page, bitmap)| (page, *bitmap)).collect();
    // Page 3 of the frozen part is the list itself by now, and was nobody's before; beyond 64 the volume has none.
    let wanted =
        [(0x8000_0000, Bitmap([0b101, 0, 0, 0, 0, 0, 0, 0])), (0, Bitmap([0b10, 0, 0, 0, 0, 0, 0, 0]))];
    assert_eq!(found, wanted);
    let facts: Vec<_> = world.m1.snapshots().map(|one| (one.thawed, one.hot, one.clones)).collect();
    assert_eq!(facts, [(1, true, 2)]);
    assert_eq!(world.m1.engine.thaws().counts.iter().sum::<u64>(), 1);
    world.figures();
}
