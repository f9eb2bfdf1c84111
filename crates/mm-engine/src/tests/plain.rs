//! One behaviour at a time.

use mm_client::{AskError, Lookup};
use mm_proto::{Request, RequestBody, Response, Status};

use super::world::{Shape, World, bytes};
use crate::*;

const PAGES: u64 = 5000;

fn world(shape: Shape) -> (World, VolumeId) {
    let mut world = World::new(shape);
    let volume = world.volume(PAGES, 1, Sharing::Map);
    (world, volume)
}

fn roomy() -> Shape {
    Shape { frames: 2000, references: 4096, rows: 200, ..Shape::default() }
}

fn limits(change: impl FnOnce(&mut Limits)) -> Shape {
    let mut shape = roomy();
    change(&mut shape.limits);
    shape
}

/// A client of the one volume.
fn client(world: &mut World, volume: VolumeId) -> usize {
    let peer = world.connect(&[(volume, PAGES)], 512).unwrap();
    world.settle();
    peer
}

/// Touches pages one after the other, and lets everything happen.
fn touch(world: &mut World, peer: usize, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        world.touch(peer, 0, page);
        world.settle();
        world.verify();
        world.check();
    }
}

/// Asks with bare hands, and gives the answer that is there then.
fn raw(world: &mut World, ring: RingId, body: RequestBody) -> Result<Option<Response>, ClientFault> {
    world.send_words(ring, &Request { id: 9, body }.encode())?;
    world.settle_reads();
    let rings = world.peers.iter_mut().flat_map(|peer| &mut peer.rings);
    Ok(rings.into_iter().find(|other| other.id == ring).unwrap().inbox.pop_back())
}

/// A client without `mm-client`, greeted.
fn bare(world: &mut World, volume: VolumeId, window: u32) -> (usize, RingId) {
    let peer = world.connect(&[], 1).unwrap();
    let id = world.engine.attach(world.peers[peer].client, volume).unwrap();
    world.peers[peer].volumes.insert(volume.0);
    world.peers[peer].rings.push(super::world::silent(id, volume));
    raw(world, id, RequestBody::Hello { version: 1, window }).unwrap().unwrap();
    (peer, id)
}

fn served(world: &World) -> u64 {
    world.engine.counters().faults.served()
}

#[test]
fn the_greeting_agrees_on_the_smaller_window_and_comes_once() {
    let (mut world, volume) = world(limits(|limits| limits.window = 64));
    let peer = world.connect(&[], 1).unwrap();
    let id = world.engine.attach(world.peers[peer].client, volume).unwrap();
    world.peers[peer].rings.push(super::world::silent(id, volume));
    let early = raw(&mut world, id, RequestBody::Grant { page: 1, wanted: 1 });
    assert_eq!(early, Err(ClientFault::NotGreeted));
    let other = raw(&mut world, id, RequestBody::Hello { version: 2, window: 512 }).unwrap().unwrap();
    assert_eq!(other.status, Status::Unsupported);
    let hello = raw(&mut world, id, RequestBody::Hello { version: 1, window: 512 }).unwrap().unwrap();
    assert_eq!((hello.status, hello.page), (Status::Ok, 64));
    let again = raw(&mut world, id, RequestBody::Hello { version: 1, window: 512 });
    assert_eq!(again, Err(ClientFault::GreetedTwice));
}

#[test]
fn windows_double_from_16_to_512_while_asks_are_sequential() {
    let (mut world, volume) = world(roomy());
    let (_, ring) = bare(&mut world, volume, 512);
    let mut next = 0;
    let mut counts = Vec::new();
    while next < 1200 {
        let answer = raw(&mut world, ring, RequestBody::Grant { page: next, wanted: 1 }).unwrap().unwrap();
        assert_eq!(answer.status, Status::Ok);
        assert!(answer.page <= next && answer.page.is_multiple_of(u64::from(answer.count)));
        counts.push(answer.count);
        let offset = crate::store::low(next - answer.page);
        let held = (offset..512).take_while(|offset| answer.bitmap.get(*offset)).count() as u64;
        assert!(held > 0);
        next += held;
    }
    counts.dedup();
    assert_eq!(counts, [16, 32, 64, 128, 256, 512]);
    // Elsewhere it starts anew.
    let answer = raw(&mut world, ring, RequestBody::Grant { page: 4003, wanted: 1 }).unwrap().unwrap();
    assert_eq!((answer.page, answer.count), (4000, 16));
    // What can be mapped are the pages that were read: from the page asked for on.
    assert_eq!(answer.bitmap.iter().collect::<Vec<_>>(), (3..14).collect::<Vec<_>>());
}

#[test]
fn a_second_ask_in_a_window_fills_it_and_answers_with_the_same_run() {
    let (mut world, volume) = world(limits(|limits| limits.read_ahead = 1));
    let (_, ring) = bare(&mut world, volume, 512);
    let first = raw(&mut world, ring, RequestBody::Grant { page: 40, wanted: 1 }).unwrap().unwrap();
    let second = raw(&mut world, ring, RequestBody::Grant { page: 35, wanted: 1 }).unwrap().unwrap();
    assert_eq!((first.page, first.reference, first.count), (32, second.reference, 16));
    assert_eq!(first.bitmap.iter().collect::<Vec<_>>(), [8]);
    assert_eq!(second.bitmap.iter().collect::<Vec<_>>(), [3, 8]);
    assert_eq!(world.engine.counters().windows, 1);
}

#[test]
fn several_clients_that_wait_for_a_page_share_one_read() {
    let (mut world, volume) = world(roomy());
    let peers: Vec<_> = (0..5).map(|_| client(&mut world, volume)).collect();
    for peer in &peers {
        world.touch(*peer, 0, 700);
    }
    assert_eq!(world.reads.len(), 1);
    world.settle();
    world.engine.scan_all(&world.table);
    let figures = world.engine.figures();
    assert_eq!((figures.pages_shared, figures.pages_sharing), (1, 4));
    assert_eq!(figures.pages.shared, 1);
    assert_eq!(world.engine.counters().faults.get(FaultKind::GrantRead, FaultResult::Ok), 5);
    for peer in peers {
        assert_eq!(world.engine.client(world.peers[peer].client).unwrap().mapped, 1);
    }
    world.check();
}

#[test]
fn with_windows_of_one_page_every_first_touch_comes_through_the_ring() {
    let (mut world, volume) = world(limits(|limits| limits.window = 1));
    let peer = client(&mut world, volume);
    touch(&mut world, peer, (0..50).chain(30..60).chain([7, 4000]));
    assert_eq!(served(&world), 61);
    assert_eq!(world.engine.counters().windows, 61);
    assert_eq!(world.peers[peer].rings[0].outcomes, [82, 0, 0]);
}

#[test]
fn a_page_that_cannot_be_read_is_an_error_of_its_own_and_may_be_tried_again() {
    let (mut world, volume) = world(roomy());
    let peer = client(&mut world, volume);
    world.bad.insert((volume.0, 102));
    // 100 and 102 are in one run of the disk's; both are asked for before it fails.
    world.touch(peer, 0, 100);
    world.touch(peer, 0, 102);
    world.settle();
    assert_eq!(world.peers[peer].rings[0].outcomes, [1, 0, 1]);
    assert!(matches!(world.peers[peer].rings[0].mm.lookup(100), Lookup::Have(_)));
    world.check();
    touch(&mut world, peer, [102]);
    assert_eq!(world.peers[peer].rings[0].outcomes, [1, 0, 2]);
    world.bad.clear();
    touch(&mut world, peer, [102]);
    assert_eq!(world.peers[peer].rings[0].outcomes, [2, 0, 2]);
    assert_eq!(world.engine.counters().faults.get(FaultKind::GrantRead, FaultResult::ReadError), 2);
    world.end();
}

#[test]
fn frames_that_a_disk_may_still_write_to_are_never_used_again() {
    let mut shape = roomy();
    (shape.frames, shape.limits.reserve, shape.limits.read_ahead) = (40, 4, 8);
    let (mut world, volume) = world(shape);
    let peer = client(&mut world, volume);
    world.touch(peer, 0, 100);
    assert_eq!(world.reads[0].frames.len(), 8);
    world.lose_read();
    world.settle();
    assert_eq!(world.peers[peer].rings[0].outcomes, [0, 0, 1]);
    assert_eq!(world.engine.page_states().stale_pinned, 8);
    // The page itself can be had, elsewhere; and all else, in what is left.
    touch(&mut world, peer, (100..140).chain(1000..1060));
    assert_eq!(world.peers[peer].rings[0].outcomes, [28, 72, 1]);
    world.engine.scan_all(&world.table);
    assert_eq!(world.engine.page_states().stale_pinned, 8);
    world.end();
}

#[test]
fn beyond_the_end_there_is_nothing() {
    let (mut world, volume) = world(roomy());
    let (_, ring) = bare(&mut world, volume, 512);
    for page in [PAGES, u64::from(u32::MAX), u64::MAX] {
        let answer = raw(&mut world, ring, RequestBody::Grant { page, wanted: 512 }).unwrap().unwrap();
        assert_eq!(answer.status, Status::OutOfRange);
        let answer = raw(&mut world, ring, RequestBody::Copy { page, reference: 1 }).unwrap().unwrap();
        assert_eq!(answer.status, Status::OutOfRange);
    }
    let last = raw(&mut world, ring, RequestBody::Grant { page: PAGES - 1, wanted: 512 }).unwrap().unwrap();
    assert_eq!(last.status, Status::Ok);
    assert_eq!(last.bitmap.count(), 1);
    assert_eq!(world.engine.add_volume(1 << 32, GroupId(1), Sharing::Map), Err(Refusal::TooLong));
}

#[test]
fn what_is_only_copied_is_never_lent() {
    let (mut world, volume) = world(roomy());
    let copied = world.volume(100, 1, Sharing::Copy);
    world.engine.copy_only(volume, 20, 24).unwrap();
    let peer = world.connect(&[(volume, PAGES), (copied, 100)], 512).unwrap();
    world.settle();
    for page in 0..32 {
        world.touch(peer, 1, page);
        world.settle();
        touch(&mut world, peer, [page]);
    }
    assert_eq!(world.peers[peer].rings[0].outcomes, [27, 5, 0]);
    assert_eq!(world.peers[peer].rings[1].outcomes, [0, 32, 0]);
    assert_eq!(world.engine.counters().refusals.get(Refused::CopyOnly), 37);
    assert_eq!(world.engine.client(world.peers[peer].client).unwrap().copies, 37);
    let lent: Vec<_> = world.table.entries.iter().filter_map(|entry| entry.permit).collect();
    for (_, frame) in lent {
        let (lent, page) = super::world::whose(world.frames[frame.0 as usize]).unwrap();
        assert!(lent == volume && !(20..=24).contains(&page));
    }
}

#[test]
fn a_client_of_one_group_gets_no_volume_of_another_as_long_as_it_is_known() {
    let (mut world, volume) = world(roomy());
    let same = world.volume(10, 1, Sharing::Map);
    let other = world.volume(10, 2, Sharing::Map);
    let client = world.engine.admit().unwrap();
    let ring = world.engine.attach(client, volume).unwrap();
    assert_eq!(world.engine.attach(client, other), Err(Refusal::OtherGroup));
    world.engine.attach(client, same).unwrap();
    world.engine.detach(ring, &mut world.table);
    assert_eq!(world.engine.attach(client, other), Err(Refusal::OtherGroup));
    world.engine.disconnect(client, &mut world.table);
    assert_eq!(world.engine.client_state(client), ClientState::Free);
    assert_eq!(world.engine.attach(client, other), Err(Refusal::NoClient));
    assert_eq!(world.engine.attach(ClientId(999), volume), Err(Refusal::NoClient));
    assert_eq!(world.engine.counters().refused, 4);
}

#[test]
fn a_retired_volume_is_gone() {
    let (mut world, volume) = world(roomy());
    let (peer, ring) = bare(&mut world, volume, 512);
    world.engine.retire_volume(volume);
    let answer = raw(&mut world, ring, RequestBody::Grant { page: 1, wanted: 1 }).unwrap().unwrap();
    assert_eq!(answer.status, Status::Gone);
    assert_eq!(world.engine.attach(world.peers[peer].client, volume), Err(Refusal::NoVolume));
}

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
fn what_a_client_does_not_let_go_of_stays_charged_to_it_and_is_not_reused() {
    let (mut world, volume) = world(roomy());
    let peer = client(&mut world, volume);
    touch(&mut world, peer, [0, 1, 100]);
    let id = world.peers[peer].client;
    world.disconnect(peer);
    assert_eq!(world.engine.client_state(id), ClientState::Leaving);
    world.engine.scan_all(&world.table);
    let figures = world.engine.client(id).unwrap();
    assert_eq!((figures.stale_pinned, figures.mapped, figures.references), (3, 0, 32));
    assert_eq!(world.engine.page_states().stale_pinned, 3);
    world.engine.sweep(100, &mut world.table);
    world.verify();
    world.check();
    // The same domain comes back: what it kept counts.
    let ring = world.engine.attach(id, volume).unwrap();
    assert_eq!(world.engine.client_state(id), ClientState::Here);
    assert_eq!(world.engine.client(id).unwrap().references, 32);
    world.engine.disconnect(id, &mut world.table);
    assert_eq!(world.engine.client_state(id), ClientState::Leaving);
    assert!(world.send_words(ring, &[0; 32]).is_err());
    // Its death ends it.
    world.bury(0);
    world.engine.sweep(100, &mut world.table);
    assert_eq!(world.engine.client_state(id), ClientState::Free);
    world.end();
}

#[test]
fn faults_of_a_client_have_names() {
    let (mut world, volume) = world(roomy());
    let (_, ring) = bare(&mut world, volume, 512);
    let grant = raw(&mut world, ring, RequestBody::Grant { page: 0, wanted: 1 }).unwrap().unwrap();
    let (_, other) = bare(&mut world, volume, 512);
    let release = |reference, count| RequestBody::Release { reference, count };
    let foreign = Err(ClientFault::ForeignReference);
    assert_eq!(raw(&mut world, other, release(grant.reference, 16)), foreign);
    assert_eq!(raw(&mut world, ring, release(grant.reference + 1, 16)), foreign);
    assert_eq!(raw(&mut world, ring, release(99, 1)), foreign);
    assert_eq!(raw(&mut world, ring, release(u32::MAX - 1, 1)), foreign);
    let ack = RequestBody::RevokeAck { reference: grant.reference, count: 16 };
    assert_eq!(raw(&mut world, ring, ack), Err(ClientFault::NotRevoked));
    assert_eq!(raw(&mut world, ring, RequestBody::Listen), Ok(None));
    assert_eq!(raw(&mut world, ring, RequestBody::Listen), Err(ClientFault::SecondListen));
    let mut words = [0; 32];
    words[1] = 77;
    let unknown = mm_proto::DecodeError::UnknownOperation(77);
    assert_eq!(world.send_words(ring, &words), Err(ClientFault::Malformed(unknown)));
    // Fifteen reads and the Listen fill the ring.
    for page in 0..15 {
        let body = RequestBody::Grant { page: 1000 + 64 * page, wanted: 1 };
        assert_eq!(world.send_words(ring, &Request { id: 0, body }.encode()), Ok(()));
    }
    let body = RequestBody::Grant { page: 3000, wanted: 1 };
    assert_eq!(world.send_words(ring, &Request { id: 0, body }.encode()), Err(ClientFault::TooMany));
    assert_eq!(world.engine.counters().client_faults, 8);
    assert_eq!(raw(&mut world, RingId(77), RequestBody::Listen).err(), Some(ClientFault::NoRing));
    // A partial release clears what it names, and the window stays.
    let before = world.engine.counters().revokes;
    assert_eq!(raw(&mut world, other, RequestBody::Grant { page: 0, wanted: 1 }).unwrap().unwrap().count, 16);
    let row =
        world.engine.clients().find(|(_, figures)| figures.rings == 1 && figures.faults == 1).unwrap().1;
    assert_eq!(row.references, 16);
    assert_eq!(world.engine.counters().revokes, before);
}

#[test]
fn the_engines_own_caller_is_told_of_its_mistakes() {
    let (mut world, volume) = world(roomy());
    let mut out = Effects::new();
    assert!(world.engine.copy_done(RequestId(3), Copied::Done, &mut out).is_err());
    assert!(world.engine.copy_done(RequestId(u32::MAX), Copied::Done, &mut out).is_err());
    let mut frames = heapless::Vec::new();
    frames.push(FrameId(1)).unwrap();
    assert!(world.engine.read_done(&Read { volume, page: 0, frames }, Ok(())).is_err());
    assert_eq!(world.engine.figures().bugs, 3);
}

#[test]
fn service_times_are_counted_from_taking_to_answering() {
    let (mut world, _) = world(roomy());
    for (received, replied) in [(5, 5), (0, 1000), (0, 1001), (0, 5_000_000), (7, u64::MAX), (9, 3)] {
        let mut response = Response::bare(1, Status::Ok);
        response.timing.received = received;
        world.engine.stamp(&mut response, replied);
    }
    let mut revocation = Response::bare(1, Status::Revoke);
    world.engine.stamp(&mut revocation, 77);
    assert_eq!(revocation.timing.replied, 77);
    let histogram = world.engine.service_times();
    assert_eq!(histogram.counts[..2], [3, 1]);
    // 5 ms is more than 1 µs × 2¹² and no more than 1 µs × 2¹³.
    assert_eq!((Histogram::bound(12), Histogram::bound(13)), (Some(4_096_000), Some(8_192_000)));
    assert_eq!(histogram.counts[13], 1);
    assert_eq!(histogram.counts[Histogram::BUCKETS - 1], 1);
    assert_eq!(Histogram::bound(Histogram::BUCKETS - 1), None);
    assert_eq!(histogram.sum, u64::MAX);
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
        assert!(sizes.bytes_per_frame() <= 28.0);
        let bytes = sizes.bytes_per_reference();
        if window == 1 { assert!(bytes <= 40.0) } else { assert!(bytes <= 10.0, "{bytes}") }
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
