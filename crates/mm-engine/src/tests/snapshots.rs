//! Snapshots, one behaviour at a time.

use mm_proto::{AbortReason, Bitmap, RequestBody, Response, Status};

use super::plain::*;
use super::world::{Bytes, Shape, World, silent};
use crate::*;

pub(super) const FIRST: u64 = mm_proto::FROZEN_FIRST;

/// Frames, as plain memory.
pub(super) struct Memory<'a>(pub(super) &'a [Bytes]);

impl Contents for Memory<'_> {
    fn digest(&self, frame: FrameId) -> u64 {
        // A poor one, so that pages that differ are compared now and then.
        self.0[frame.0 as usize].iter().map(|byte| u64::from(*byte)).sum::<u64>() % 97
    }

    fn equal(&self, one: FrameId, other: FrameId) -> bool {
        self.0[one.0 as usize] == self.0[other.0 as usize]
    }
}

/// Bytes of a client's page; no two numbers have the same.
pub(super) fn private(number: u32) -> Bytes {
    let mut bytes = *b"a private page..";
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// A world with one volume, and a frozen part.
fn frozen(shape: Shape) -> (World, VolumeId) {
    let (mut world, volume) = world(shape);
    world.engine.add_frozen().unwrap();
    (world, volume)
}

/// A greeted client, of the volume or of a snapshot of it.
fn client_of(world: &mut World, volume: VolumeId, snapshot: Option<SnapshotId>) -> RingId {
    let peer = world.connect(&[], 1).unwrap();
    let client = world.peers[peer].client;
    let id = match snapshot {
        Some(snapshot) => world.engine.attach_snapshot(client, volume, snapshot).unwrap(),
        None => world.engine.attach(client, volume).unwrap(),
    };
    world.peers[peer].volumes.insert(volume.0);
    world.peers[peer].rings.push(silent(id, volume));
    ask(world, id, RequestBody::Hello { version: 2, window: 512 });
    id
}

fn ask(world: &mut World, ring: RingId, body: RequestBody) -> Response {
    raw(world, ring, body).expect("it is honest").expect("it is answered")
}

fn order(world: &mut World, ring: RingId) -> SnapshotId {
    assert_eq!(raw(world, ring, RequestBody::Listen).unwrap(), None);
    let snapshot = world.engine.order_freeze(ring, world.now, &mut world.out).unwrap();
    world.perform();
    let peers = world.peers.iter_mut().flat_map(|peer| &mut peer.rings);
    let answer = peers.into_iter().find(|other| other.id == ring).unwrap().inbox.pop_back().unwrap();
    assert_eq!(answer.status, Status::Freeze);
    snapshot
}

/// The client's frames have these bytes: M1 copies them. Gives the answer.
fn capture(world: &mut World, ring: RingId, pages: &[u32]) -> Response {
    let references = core::array::from_fn(|at| pages.get(at).copied().unwrap_or(0));
    let body = RequestBody::Capture { count: u32::try_from(pages.len()).unwrap(), references };
    let answered = raw(world, ring, body).expect("it is honest");
    let Some(capture) = world.captures.pop_front() else { return answered.unwrap() };
    for (frame, reference) in &capture.pages {
        world.frames[frame.0 as usize] = private(*reference);
    }
    let outcomes = vec![Copied::Done; capture.pages.len()];
    end_capture(world, ring, &capture, &outcomes).unwrap()
}

fn end_capture(world: &mut World, ring: RingId, capture: &Capture, outcomes: &[Copied]) -> Option<Response> {
    let World { engine, frames, out, now, .. } = world;
    engine.captured(*now, capture.request, outcomes, &Memory(frames), out).unwrap();
    world.perform();
    let peers = world.peers.iter_mut().flat_map(|peer| &mut peer.rings);
    let answer = peers.into_iter().find(|other| other.id == ring)?.inbox.pop_back()?;
    if answer.status == Status::Ok {
        for ((_, reference), page) in capture.pages.iter().zip(answer.captured()) {
            world.frozen.insert(u64::from(page), private(*reference));
        }
    }
    Some(answer)
}

fn commit(world: &mut World, ring: RingId, page: u64) -> Status {
    ask(world, ring, RequestBody::Commit { page, standstill: 5_000_000 }).status
}

/// What a client sees when it maps the page.
fn seen(world: &mut World, ring: RingId, page: u64) -> Result<Bytes, Status> {
    let answer = ask(world, ring, RequestBody::Grant { page, wanted: 1 });
    if answer.status != Status::Ok {
        return Err(answer.status);
    }
    let offset = u32::try_from(page - answer.page).unwrap();
    assert!(answer.bitmap.get(offset));
    let entry = world.table.entries[(answer.reference + offset - world.table.first) as usize];
    let (client, frame) = entry.permit.unwrap();
    let owner = world.peers.iter().find(|peer| peer.rings.iter().any(|other| other.id == ring)).unwrap();
    assert_eq!(client, owner.client);
    Ok(world.frames[frame.0 as usize])
}

/// A snapshot of a client with these private pages. Gives their numbers too.
fn snapshot(world: &mut World, ring: RingId, pages: &[u32]) -> (SnapshotId, Vec<u64>) {
    let snapshot = order(world, ring);
    assert_eq!(ask(world, ring, RequestBody::Freeze { pages: pages.len() as u64 }).status, Status::Ok);
    let mut numbers = Vec::new();
    for some in pages.chunks(16) {
        let answer = capture(world, ring, some);
        assert_eq!(answer.status, Status::Ok);
        numbers.extend(answer.captured()[..some.len()].iter().map(|page| u64::from(*page)));
    }
    assert_eq!(commit(world, ring, numbers[0]), Status::Ok);
    (snapshot, numbers)
}

fn sweep(world: &mut World) {
    while world.engine.sweep(7, &mut world.table) {}
    world.check();
}

#[test]
fn a_clone_reads_what_was_frozen_and_nobody_else_does() {
    let (mut world, volume) = frozen(roomy());
    let source = client_of(&mut world, volume, None);
    let (id, pages) = snapshot(&mut world, source, &(0..40).collect::<Vec<_>>());
    world.check();
    let figures = world.engine.snapshot(id).unwrap();
    assert_eq!((figures.state, figures.pages, figures.unique), (SnapshotState::Ready, 40, 40));
    assert_eq!((figures.progress.captured, figures.progress.standstill), (40, 5_000_000));
    assert_eq!(world.engine.page_states().frozen, 40);
    let clone = client_of(&mut world, volume, Some(id));
    for (number, page) in (0..).zip(&pages) {
        assert_eq!(seen(&mut world, clone, *page), Ok(private(number)));
    }
    assert_eq!(seen(&mut world, clone, 7), Ok(super::world::bytes(volume, 7)), "and the volume's");
    assert_eq!(seen(&mut world, clone, FIRST + 40), Err(Status::OutOfRange));
    assert_eq!(seen(&mut world, clone, FIRST + (1 << 30)), Err(Status::OutOfRange));
    assert_eq!(seen(&mut world, source, pages[0]), Err(Status::OutOfRange), "it was never thawed");
    world.check();
    assert_eq!(world.engine.delete_snapshot(id, &mut world.table), Err(DeleteRefused::InUse));
    assert_eq!(world.engine.attached_to(id).count(), 1);
}

#[test]
fn a_window_of_a_clone_holds_only_pages_of_its_snapshot() {
    let (mut world, volume) = frozen(roomy());
    let source = client_of(&mut world, volume, None);
    let (one, _) = snapshot(&mut world, source, &[1, 2, 3]);
    let (two, pages) = snapshot(&mut world, source, &[4, 2, 5]);
    assert_eq!(pages, [FIRST + 3, FIRST + 1, FIRST + 4], "a page with these bytes was there");
    let figures = |id| world.engine.snapshot(id).unwrap();
    assert_eq!((figures(one).unique, figures(two).unique), (2, 2));
    assert_eq!((world.engine.figures().frozen, world.engine.figures().frozen_unique), (5, 4));
    let clone = client_of(&mut world, volume, Some(two));
    let answer = ask(&mut world, clone, RequestBody::Grant { page: FIRST + 1, wanted: 512 });
    assert_eq!((answer.page, answer.count), (FIRST, 512));
    assert_eq!(answer.bitmap.iter().collect::<Vec<_>>(), [1, 3, 4]);
    assert_eq!(seen(&mut world, clone, FIRST), Err(Status::OutOfRange));
    world.check();
}

#[test]
fn a_deleted_snapshot_frees_what_nobody_else_has() {
    let (mut world, volume) = frozen(roomy());
    let before = world.engine.page_states();
    let source = client_of(&mut world, volume, None);
    let (one, _) = snapshot(&mut world, source, &[1, 2, 3]);
    let (two, pages) = snapshot(&mut world, source, &[4, 2, 5]);
    world.engine.delete_snapshot(one, &mut world.table).unwrap();
    sweep(&mut world);
    assert_eq!(world.engine.snapshot(one), None);
    assert_eq!(world.engine.page_states().frozen, 3);
    let clone = client_of(&mut world, volume, Some(two));
    assert_eq!(seen(&mut world, clone, pages[1]), Ok(private(2)));
    let frame =
        world.engine.store.find(world.engine.frozen_volume().unwrap().0, crate::frozen::FIRST + 1).unwrap();
    // It is mapped when its client goes and the snapshot is deleted: it stays until that is over.
    let client = world.peers.iter().position(|peer| peer.rings[0].id == clone).unwrap();
    let reference = world
        .table
        .entries
        .iter()
        .position(|entry| entry.permit.is_some_and(|(_, permitted)| permitted.0 == frame));
    let reference = world.table.first + u32::try_from(reference.unwrap()).unwrap();
    world.table.map(world.peers[client].client, reference).unwrap();
    world.disconnect(client);
    world.engine.delete_snapshot(two, &mut world.table).unwrap();
    sweep(&mut world);
    let states = world.engine.page_states();
    assert_eq!((states.frozen, states.stale_pinned), (0, 1));
    assert_eq!(world.frames[frame as usize], private(2), "and is what it was");
    world.table.unmap(reference);
    sweep(&mut world);
    assert_eq!(world.engine.page_states(), before);
    // The numbers can be used again.
    let (_, pages) = snapshot(&mut world, source, &[7]);
    assert_eq!(pages, [FIRST + 5]);
}

#[test]
fn the_number_of_a_page_that_is_still_mapped_is_nobodys() {
    // There are 32 numbers.
    let (mut world, volume) = frozen(Shape { frames: 64, ..roomy() });
    let source = client_of(&mut world, volume, None);
    let (one, pages) = snapshot(&mut world, source, &[1, 2]);
    let clone = client_of(&mut world, volume, Some(one));
    let answer = ask(&mut world, clone, RequestBody::Grant { page: pages[1], wanted: 1 });
    let peer = world.peers.iter().position(|peer| peer.rings[0].id == clone).unwrap();
    let reference = answer.reference + 1;
    let frame = world.table.map(world.peers[peer].client, reference).unwrap();
    world.disconnect(peer);
    world.engine.delete_snapshot(one, &mut world.table).unwrap();
    sweep(&mut world);
    let announce = |world: &mut World, pages| {
        let id = order(world, source);
        let status = ask(world, source, RequestBody::Freeze { pages }).status;
        world.engine.cancel(id, &mut world.table);
        world.engine.delete_snapshot(id, &mut world.table).unwrap();
        sweep(world);
        status
    };
    assert_eq!(announce(&mut world, 32), Status::NoRoom);
    assert_eq!(announce(&mut world, 31), Status::Ok);
    let (two, pages) = snapshot(&mut world, source, &(10..41).collect::<Vec<_>>());
    assert!(!pages.contains(&(FIRST + 1)));
    assert_eq!(world.frames[frame.0 as usize], private(2));
    world.engine.delete_snapshot(two, &mut world.table).unwrap();
    world.table.unmap(reference);
    sweep(&mut world);
    sweep(&mut world);
    assert_eq!(announce(&mut world, 32), Status::Ok);
}

#[test]
fn a_clone_of_a_clone_keeps_what_it_did_not_change() {
    let (mut world, volume) = frozen(roomy());
    let source = client_of(&mut world, volume, None);
    let (one, pages) = snapshot(&mut world, source, &[1, 2, 3]);
    let clone = client_of(&mut world, volume, Some(one));
    let two = order(&mut world, clone);
    ask(&mut world, clone, RequestBody::Freeze { pages: 2 });
    let head = u64::from(capture(&mut world, clone, &[9]).captured()[0]);
    let keep = RequestBody::Keep { page: FIRST, bitmap: Bitmap([0b101, 0, 0, 0, 0, 0, 0, 0]) };
    assert_eq!(ask(&mut world, clone, keep).status, Status::Ok);
    assert_eq!(commit(&mut world, clone, head), Status::Ok);
    let figures = world.engine.snapshot(two).unwrap();
    assert_eq!((figures.pages, figures.unique, figures.progress.kept), (3, 1, 2));
    assert_eq!(world.engine.store.promised, 0, "what was not needed is free");
    // The first goes; what the second keeps of it stays.
    let peer = world.peers.iter().position(|peer| peer.rings[0].id == clone).unwrap();
    world.disconnect(peer);
    world.engine.delete_snapshot(one, &mut world.table).unwrap();
    sweep(&mut world);
    let clone = client_of(&mut world, volume, Some(two));
    assert_eq!(seen(&mut world, clone, pages[0]), Ok(private(1)));
    assert_eq!(seen(&mut world, clone, pages[1]), Err(Status::OutOfRange));
    assert_eq!(seen(&mut world, clone, pages[2]), Ok(private(3)));
    assert_eq!(seen(&mut world, clone, head), Ok(private(9)));
}

#[test]
fn without_an_order_nothing_of_a_freeze_is_in_order() {
    let (mut world, volume) = frozen(roomy());
    let bodies = [
        RequestBody::Freeze { pages: 1 },
        RequestBody::Capture { count: 1, references: [1; 16] },
        RequestBody::Keep { page: FIRST, bitmap: Bitmap::first(1) },
        RequestBody::Commit { page: FIRST, standstill: 0 },
        RequestBody::Abort { reason: AbortReason::Ended },
        RequestBody::Hot { page: 0, bitmap: Bitmap::first(1) },
        RequestBody::Thawed { duration: 1, connected: 1 },
    ];
    for body in bodies {
        let ring = client_of(&mut world, volume, None);
        assert_eq!(raw(&mut world, ring, body), Err(ClientFault::NotOrdered), "{body:?}");
        let peer = world.peers.iter().position(|peer| peer.rings[0].id == ring).unwrap();
        world.disconnect(peer);
        sweep(&mut world);
    }
    assert_eq!(world.engine.page_states().frozen, 0);
}

#[test]
fn pages_that_are_not_its_own_are_a_clients_fault() {
    let (mut world, volume) = frozen(roomy());
    let source = client_of(&mut world, volume, None);
    let (one, pages) = snapshot(&mut world, source, &[1, 2, 3]);
    let stranger = client_of(&mut world, volume, None);
    let two = order(&mut world, stranger);
    ask(&mut world, stranger, RequestBody::Freeze { pages: 2 });
    let keep = RequestBody::Keep { page: FIRST, bitmap: Bitmap::first(1) };
    assert_eq!(raw(&mut world, stranger, keep), Err(ClientFault::ForeignPage), "it was not thawed from any");
    let commit = RequestBody::Commit { page: pages[0], standstill: 0 };
    assert_eq!(raw(&mut world, stranger, commit), Err(ClientFault::ForeignPage));
    let clone = client_of(&mut world, volume, Some(one));
    let three = order(&mut world, clone);
    ask(&mut world, clone, RequestBody::Freeze { pages: 2 });
    let keep = RequestBody::Keep { page: FIRST, bitmap: Bitmap::first(4) };
    assert_eq!(raw(&mut world, clone, keep), Err(ClientFault::ForeignPage), "the fourth is not its own");
    for id in [two, three] {
        assert_eq!(world.engine.snapshot(id).unwrap().pages, 0);
    }
}

#[test]
fn a_freeze_that_has_no_room_changes_nothing() {
    let shape = Shape { frames: 64, ..roomy() };
    let (mut world, volume) = frozen(shape);
    let source = client_of(&mut world, volume, None);
    let before = world.engine.page_states();
    // There are 32 numbers for 64 frames.
    for pages in [33, 1 << 33, u64::MAX] {
        let id = order(&mut world, source);
        assert_eq!(ask(&mut world, source, RequestBody::Freeze { pages }).status, Status::NoRoom);
        let state = world.engine.snapshot(id).unwrap().state;
        assert_eq!(state, SnapshotState::Failed(FreezeFailure::NoRoom));
        // Whatever it says of it now is no fault.
        assert_eq!(capture(&mut world, source, &[1]).status, Status::Gone);
        let abort = RequestBody::Abort { reason: AbortReason::Refused };
        assert_eq!(ask(&mut world, source, abort).status, Status::Ok);
        world.engine.delete_snapshot(id, &mut world.table).unwrap();
        sweep(&mut world);
        assert_eq!(world.engine.snapshot(id), None);
        assert_eq!((world.engine.page_states(), world.engine.store.promised), (before, 0));
    }
    // What was announced can be had, and no more.
    let id = order(&mut world, source);
    assert_eq!(ask(&mut world, source, RequestBody::Freeze { pages: 32 }).status, Status::Ok);
    assert_eq!(capture(&mut world, source, &(0..16).collect::<Vec<_>>()).status, Status::Ok);
    assert_eq!(capture(&mut world, source, &(16..32).collect::<Vec<_>>()).status, Status::Ok);
    assert_eq!(capture(&mut world, source, &[32]).status, Status::NoRoom);
    assert_eq!(world.engine.snapshot(id).unwrap().state, SnapshotState::Failed(FreezeFailure::NoRoom));
    sweep(&mut world);
    assert_eq!((world.engine.page_states(), world.engine.store.promised), (before, 0));
}

#[test]
fn a_freeze_that_is_given_up_leaves_nothing_wherever_it_stands() {
    let (mut world, volume) = frozen(roomy());
    let before = world.engine.page_states();
    for step in 0..5 {
        for how in 0..4 {
            let ring = client_of(&mut world, volume, None);
            let id = if step == 0 {
                world.engine.order_freeze(ring, world.now, &mut world.out).unwrap()
            } else {
                order(&mut world, ring)
            };
            if step >= 2 {
                ask(&mut world, ring, RequestBody::Freeze { pages: 20 });
            }
            if step >= 3 {
                capture(&mut world, ring, &[1, 2, 2]);
            }
            let mut late = None;
            if step >= 4 {
                let body = RequestBody::Capture { count: 2, references: [7; 16] };
                assert_eq!(raw(&mut world, ring, body).unwrap(), None);
                late = world.captures.pop_front();
            }
            let peer = world.peers.iter().position(|peer| peer.rings[0].id == ring).unwrap();
            let why = match how {
                0 => {
                    assert!(world.engine.cancel(id, &mut world.table));
                    FreezeFailure::Cancelled
                }
                1 => {
                    world.now += 29_000_000_000;
                    world.engine.expire_freezes(world.now, &mut world.table);
                    assert!(!matches!(world.engine.snapshot(id).unwrap().state, SnapshotState::Failed(_)));
                    world.now += 2_000_000_000;
                    world.engine.expire_freezes(world.now, &mut world.table);
                    FreezeFailure::TimedOut
                }
                2 if step == 0 => continue,
                2 => {
                    ask(&mut world, ring, RequestBody::Abort { reason: AbortReason::Secret });
                    FreezeFailure::Aborted(AbortReason::Secret)
                }
                _ => {
                    world.disconnect(peer);
                    FreezeFailure::ClientGone
                }
            };
            assert_eq!(world.engine.snapshot(id).unwrap().state, SnapshotState::Failed(why), "{step} {how}");
            assert!(!world.engine.cancel(id, &mut world.table), "it is over");
            world.engine.delete_snapshot(id, &mut world.table).unwrap();
            if let Some(capture) = late {
                sweep(&mut world);
                assert!(world.engine.snapshot(id).is_some(), "its frames are being filled");
                let done = [Copied::Done; 2];
                let answer = end_capture(&mut world, ring, &capture, &done);
                assert_eq!(answer.map(|answer| answer.status), (how != 3).then_some(Status::Gone));
            }
            sweep(&mut world);
            assert_eq!(world.engine.snapshot(id), None, "{step} {how}");
            assert_eq!((world.engine.page_states(), world.engine.store.promised), (before, 0));
            if how != 3 {
                world.disconnect(peer);
            }
            sweep(&mut world);
        }
    }
    world.end();
}

#[test]
fn what_is_lent_and_not_mapped_makes_room_for_a_freeze() {
    let (mut world, volume) = frozen(Shape { frames: 1200, ..roomy() });
    let reader = client(&mut world, volume);
    for page in 0..1150 {
        world.touch(reader, 0, page);
        world.settle();
        world.unmap(reader, 0, 0);
    }
    assert!(world.engine.figures().permitted > 1000, "{}", world.engine.figures().permitted);
    let source = client_of(&mut world, volume, None);
    order(&mut world, source);
    assert_eq!(ask(&mut world, source, RequestBody::Freeze { pages: 600 }).status, Status::Ok);
    world.check();
}

#[test]
fn a_frame_that_cannot_be_copied_is_said_and_can_come_again() {
    let (mut world, volume) = frozen(roomy());
    let ring = client_of(&mut world, volume, None);
    order(&mut world, ring);
    ask(&mut world, ring, RequestBody::Freeze { pages: 3 });
    let body = RequestBody::Capture { count: 3, references: [7; 16] };
    assert_eq!(raw(&mut world, ring, body).unwrap(), None);
    let late = world.captures.pop_front().unwrap();
    let outcomes = [Copied::Done, Copied::BadReference, Copied::Done];
    let answer = end_capture(&mut world, ring, &late, &outcomes).unwrap();
    assert_eq!((answer.status, answer.captured()), (Status::BadReference, [0; 16]));
    world.check();
    let answer = capture(&mut world, ring, &[1, 2, 3]);
    assert_eq!(answer.status, Status::Ok);
    assert_eq!(commit(&mut world, ring, u64::from(answer.captured()[0])), Status::Ok);
    world.check();
}

#[test]
fn a_clients_pages_of_one_group_are_not_found_by_another() {
    let (mut world, volume) = frozen(roomy());
    let other = world.volume(100, 2, Sharing::Map);
    let source = client_of(&mut world, volume, None);
    let (one, _) = snapshot(&mut world, source, &[1, 2]);
    let stranger = client_of(&mut world, other, None);
    let (two, pages) = snapshot(&mut world, stranger, &[2, 3]);
    assert_eq!(pages, [FIRST + 2, FIRST + 3]);
    assert_eq!(world.engine.snapshot(two).unwrap().progress.deduplicated, 0);
    let client = world.engine.admit().unwrap();
    assert_eq!(world.engine.attach_snapshot(client, other, one), Err(Refusal::NoSnapshot));
    let client = world.peers.iter().find(|peer| peer.rings[0].id == stranger).unwrap().client;
    assert_eq!(world.engine.attach_snapshot(client, volume, one), Err(Refusal::OtherGroup));
    assert_eq!(world.engine.snapshot(one).unwrap().rings, 0);
}

#[test]
fn a_commit_waits_for_what_else_belongs_to_the_snapshot() {
    let (mut world, volume) = frozen(roomy());
    let ring = client_of(&mut world, volume, None);
    let id = order(&mut world, ring);
    ask(&mut world, ring, RequestBody::Freeze { pages: 1 });
    world.engine.promise(id, 1, &mut world.table).unwrap();
    assert!(world.engine.hold_commit(id));
    let head = u64::from(capture(&mut world, ring, &[1]).captured()[0]);
    let body = RequestBody::Commit { page: head, standstill: 0 };
    assert_eq!(raw(&mut world, ring, body).unwrap(), None);
    let frame = world.engine.freeze_page(id).unwrap();
    world.frames[frame.0 as usize] = private(2);
    let page = world.engine.freeze_filled(id, frame, world.now, &Memory(&world.frames));
    assert_eq!(page, Some(FIRST + 1));
    world.frozen.insert(FIRST + 1, private(2));
    assert_eq!(world.engine.snapshot(id).unwrap().state, SnapshotState::Taking);
    world.engine.release_commit(id, world.now, &mut world.out);
    world.perform();
    assert_eq!(world.engine.snapshot(id).unwrap().state, SnapshotState::Ready);
    let rings = world.peers.iter_mut().flat_map(|peer| &mut peer.rings);
    assert_eq!(rings.last().unwrap().inbox.pop_back().unwrap().status, Status::Ok);
    // And where nothing comes of it, it is answered too.
    let id = order(&mut world, ring);
    ask(&mut world, ring, RequestBody::Freeze { pages: 1 });
    assert!(world.engine.hold_commit(id));
    let head = u64::from(capture(&mut world, ring, &[1]).captured()[0]);
    let body = RequestBody::Commit { page: head, standstill: 0 };
    assert_eq!(raw(&mut world, ring, body).unwrap(), None);
    world.engine.cancel(id, &mut world.table);
    world.advance();
    let rings = world.peers.iter_mut().flat_map(|peer| &mut peer.rings);
    assert_eq!(rings.last().unwrap().inbox.pop_back().unwrap().status, Status::Gone);
    sweep(&mut world);
}

#[test]
fn ten_thousand_clones_of_one_snapshot_cost_each_the_same() {
    const CLONES: u16 = 10_000;
    let shape = Shape {
        frames: 400,
        references: u32::from(CLONES) * 16 + 64,
        rings: u32::from(CLONES) + 1,
        clients: u32::from(CLONES) + 1,
        rows: 1,
        ..roomy()
    };
    let (mut world, volume) = frozen(shape);
    let source = client_of(&mut world, volume, None);
    let (id, pages) = snapshot(&mut world, source, &(0..16).collect::<Vec<_>>());
    let frozen = world.engine.page_states().frozen;
    let mut costs = std::collections::BTreeSet::new();
    let (mut out, mut rings) = (Effects::new(), Vec::new());
    for _ in 0..CLONES {
        let before = *world.engine.counters();
        let free = world.engine.references_free();
        let client = world.engine.admit().unwrap();
        let ring = world.engine.attach_snapshot(client, volume, id).unwrap();
        let mut say = |body| {
            let request = mm_proto::Request { id: 1, body };
            world.engine.handle(7, ring, &request, &mut world.table, &mut out).unwrap();
            let Some(Effect::Reply { response, .. }) = out.iter().next() else { panic!("no answer") };
            *response
        };
        say(RequestBody::Hello { version: 2, window: 16 });
        let answer = say(RequestBody::Grant { page: pages[0], wanted: 16 });
        assert_eq!(answer.bitmap.count(), 16);
        for offset in 0..16 {
            let frame = world.table.map(client, answer.reference + offset).unwrap();
            assert_eq!(world.frames[frame.0 as usize], private(offset));
        }
        let after = *world.engine.counters();
        let taken = free - world.engine.references_free();
        costs.insert((after.permits - before.permits, after.windows - before.windows, taken));
        rings.push((client, ring, answer.reference));
    }
    assert_eq!(costs.len(), 1, "each costs the same: {costs:?}");
    assert_eq!(world.engine.page_states().frozen, frozen, "and no page");
    world.engine.scan_all(&world.table);
    let figures = world.engine.figures();
    assert_eq!((figures.pages_shared, figures.pages_sharing), (16, 16 * (u64::from(CLONES) - 1)));
    assert_eq!(world.engine.snapshot(id).unwrap().rings, u32::from(CLONES));
    assert_eq!(world.engine.delete_snapshot(id, &mut world.table), Err(DeleteRefused::InUse));
    for (client, _, reference) in rings {
        (reference..reference + 16).for_each(|reference| world.table.unmap(reference));
        world.engine.disconnect(client, &mut world.table);
        let _ = world.engine.sweep(4, &mut world.table);
    }
    assert_eq!(world.engine.delete_snapshot(id, &mut world.table), Ok(()));
    sweep(&mut world);
    assert_eq!(world.engine.page_states().frozen, 0);
}
