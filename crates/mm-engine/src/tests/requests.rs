//! One behaviour at a time: requests and their answers.

use mm_client::Lookup;
use mm_proto::{RequestBody, Status};

use super::plain::*;
use crate::*;

#[test]
fn the_greeting_agrees_on_the_smaller_window_and_comes_once() {
    let (mut world, volume) = world(limits(|limits| limits.window = 64));
    let peer = world.connect(&[], 1).unwrap();
    let id = world.engine.attach(world.peers[peer].client, volume).unwrap();
    world.peers[peer].rings.push(super::world::silent(id, volume));
    let early = raw(&mut world, id, RequestBody::Grant { page: 1, wanted: 1 });
    assert_eq!(early, Err(ClientFault::NotGreeted));
    let other = raw(&mut world, id, RequestBody::Hello { version: 3, window: 512 }).unwrap().unwrap();
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
