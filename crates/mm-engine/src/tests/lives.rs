//! One behaviour at a time: beginnings, ends, and who is to blame.

use mm_proto::{Request, RequestBody, Response, Status};

use super::plain::*;
use super::world::World;
use crate::*;

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

/// Until nothing is left to do.
fn sweep(world: &mut World) {
    while world.engine.sweep(7, &mut world.table) {}
    world.check();
}

#[test]
fn the_number_of_a_retired_volume_is_free_when_nothing_is_left_of_it() {
    let (mut world, volume) = world(roomy());
    let peer = client(&mut world, volume);
    touch(&mut world, peer, [0, 1, 100]);
    world.engine.retire_volume(volume);
    sweep(&mut world);
    assert!(world.engine.has_volume(volume), "it has a ring");
    world.verify();
    world.disconnect(peer);
    world.engine.retire_volume(volume);
    sweep(&mut world);
    assert!(world.engine.has_volume(volume), "its pages are mapped by somebody who is leaving");
    world.bury(0);
    sweep(&mut world);
    world.engine.retire_volume(volume);
    sweep(&mut world);
    assert!(!world.engine.has_volume(volume));
    assert_eq!(world.engine.figures().pages.clean, 0, "nothing of it is cached");
    assert_eq!(world.volume(500, 1, Sharing::Map), volume);
    world.end();
}

#[test]
fn a_hundred_volumes_come_and_go() {
    let (mut world, first) = world(roomy());
    world.engine.retire_volume(first);
    for pages in 100..200 {
        sweep(&mut world);
        let volume = world.volume(pages, 1, Sharing::Map);
        assert_eq!(volume, first);
        // Nothing of the one before is taken for it.
        let peer = client(&mut world, volume);
        touch(&mut world, peer, [0, 99]);
        world.verify();
        world.disconnect(peer);
        world.bury(0);
        sweep(&mut world);
        world.engine.retire_volume(volume);
    }
    // One that is being read has to wait for that.
    sweep(&mut world);
    let volume = world.volume(100, 1, Sharing::Map);
    let mut out = crate::Effects::new();
    assert_eq!(world.engine.want(volume, 5, 0, &mut world.table, &mut out), crate::Wanted::Reading);
    world.engine.retire_volume(volume);
    sweep(&mut world);
    assert!(world.engine.has_volume(volume));
    let Some(crate::Effect::Read(read)) = out.iter().next().cloned() else { panic!("a read was begun") };
    world.engine.read_done(&read, Ok(())).unwrap();
    world.engine.retire_volume(volume);
    sweep(&mut world);
    assert!(!world.engine.has_volume(volume));
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
