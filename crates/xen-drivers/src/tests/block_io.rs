//! Requests of a stock frontend, from its ring to its pages.

use xen::{Access, GrantRef, Hypervisor};
use xen_sys::blkif::op;

use super::stock::{BLOCKS, Bed, DATA_REFERENCE, DISK, indirect, whole};
use crate::blkback::{Operation, Status};
use crate::blkfront::wire::{self, Segment};
use crate::vbdback::{BlockFeatures, BlockOffer};

const OKAY: i16 = 0;
const ERROR: i16 = -1;
const UNSUPPORTED: i16 = -2;

#[test]
fn what_is_read_is_what_is_on_the_disk() {
    let mut bed = Bed::connected(DISK, 0);
    let segments: Vec<Segment> = (0..11).map(whole).collect();
    assert_eq!(bed.ask_for(op::READ, 16, &segments), OKAY);
    for block in 0..11 {
        assert_eq!(bed.client.data[block].load(0), u32::try_from(block).expect("few") + 2);
    }
    assert_eq!(bed.seen, [(Operation::Read, 16, 88)]);
}

#[test]
fn what_is_written_is_read_again_at_any_alignment() {
    let mut bed = Bed::connected(DISK, 0);
    for word in 0..1024 {
        bed.client.data[0].store(word, 0x100 + u32::try_from(word / 128).expect("few"));
    }
    // Sectors 2 to 7 of a page, to sectors 5 to 10 of the disk: into two blocks.
    let write = Segment { reference: DATA_REFERENCE, first: 2, last: 7 };
    assert_eq!(bed.ask_for(op::WRITE, 5, &[write]), OKAY);
    let sector = |bed: &Bed, sector: usize| bed.disk[sector / 8].words.load(sector % 8 * 128);
    assert_eq!(
        (5..11).map(|at| sector(&bed, at)).collect::<Vec<_>>(),
        [0x102, 0x103, 0x104, 0x105, 0x106, 0x107]
    );
    assert_eq!((sector(&bed, 4), sector(&bed, 11), sector(&bed, 8)), (0, 0, 0x105));
    let parts = [
        Segment { reference: DATA_REFERENCE + 1, first: 7, last: 7 },
        Segment { reference: DATA_REFERENCE + 2, first: 0, last: 4 },
    ];
    assert_eq!(bed.ask_for(op::READ, 5, &parts), OKAY);
    assert_eq!(bed.client.data[1].load(7 * 128), 0x102);
    assert_eq!(
        (0..5).map(|at| bed.client.data[2].load(at * 128)).collect::<Vec<_>>(),
        [0x103, 0x104, 0x105, 0x106, 0x107]
    );
}

#[test]
fn indirect_requests_carry_more() {
    let mut bed = Bed::connected(DISK, 2);
    let segments: Vec<Segment> = (0..32).map(whole).collect();
    for page in 0..32 {
        bed.client.data[page as usize].store(5, 900 + page);
    }
    let answer = bed.ask(indirect(&bed.client, 35, op::WRITE, 64, &segments));
    assert_eq!((answer.operation, answer.status), (op::WRITE, OKAY), "what it contains, not INDIRECT");
    assert_eq!((bed.block(8).words.load(5), bed.block(39).words.load(5)), (900, 931));
    let answer = bed.ask(indirect(&bed.client, 35, op::READ, 8, &segments[..3]));
    assert_eq!((answer.operation, answer.status), (op::READ, OKAY));
    assert_eq!(bed.client.data[2].load(0), 3);
    assert_eq!(bed.seen, [(Operation::Write, 64, 256), (Operation::Read, 8, 24)]);
}

#[test]
fn flushes_barriers_and_discards_get_to_the_owner() {
    let mut bed = Bed::connected(DISK, 0);
    assert_eq!(bed.ask_for(op::FLUSH_DISKCACHE, 999_999, &[]), OKAY);
    // mini-os writes barriers without data, and early frontends flushes with some.
    assert_eq!(bed.ask_for(op::WRITE_BARRIER, 0, &[]), OKAY);
    assert_eq!(bed.ask_for(op::WRITE_BARRIER, 8, &[whole(0)]), OKAY);
    assert_eq!(bed.ask_for(op::FLUSH_DISKCACHE, 8, &[whole(0)]), OKAY);
    let mut discard = wire::request(op::DISCARD, 77, 13, &[]);
    discard[6] = 30;
    assert_eq!(bed.ask(discard).status, OKAY);
    assert_eq!(
        bed.seen,
        [
            (Operation::Flush, 0, 0),
            (Operation::Barrier, 0, 0),
            (Operation::Barrier, 8, 8),
            (Operation::Barrier, 8, 8),
            (Operation::Discard, 13, 30)
        ]
    );
    let words: Vec<u32> = (1..7).map(|block| bed.block(block).words.load(0)).collect();
    assert_eq!(words, [0, 0, 0, 0, 5, 6], "blocks 2 to 4, which lie in it as a whole; 1 was written");
}

#[test]
fn what_makes_no_sense_is_answered_and_gets_no_further() {
    let end = BLOCKS as u64 * 8;
    let part = |first, last| Segment { first, last, ..whole(0) };
    let mut bed = Bed::connected(DISK, 0);
    for (operation, sector, segments, status) in [
        (op::READ, 0, &[][..], ERROR),
        (op::WRITE, 0, &[], ERROR),
        (op::READ, 0, &[part(0, 8)], ERROR),
        (op::READ, 0, &[part(3, 2)], ERROR),
        (op::READ, 0, &[part(255, 255)], ERROR),
        (op::READ, end - 7, &[whole(0)], ERROR),
        (op::WRITE, end, &[part(0, 0)], ERROR),
        (op::READ, u64::MAX, &[part(0, 0)], ERROR),
        (op::WRITE, u64::MAX - 7, &[whole(0)], ERROR),
        (op::FLUSH_DISKCACHE, end, &[whole(0)], ERROR),
        (4, 0, &[], UNSUPPORTED),
        (7, 0, &[whole(0)], UNSUPPORTED),
        (255, 0, &[], UNSUPPORTED),
        (op::DISCARD, 0, &[], ERROR),
    ] {
        assert_eq!(bed.ask_for(operation, sector, segments), status, "{operation} {sector} {segments:?}");
    }
    assert_eq!(bed.ask_for(op::READ, end - 8, &[whole(0)]), OKAY, "the last block");
    assert_eq!(bed.seen, [(Operation::Read, end - 8, 8)]);
    let (_, ring) = bed.ring.as_ref().expect("it goes on");
    assert_eq!(ring.refused(), 14);
}

#[test]
fn counts_and_ranges_of_any_size_are_errors() {
    let mut bed = Bed::connected(DISK, 0);
    for count in [12, 32, 255] {
        let mut words = wire::request(op::READ, 77, 0, &[whole(0); 11]);
        words[0] = u32::from_le_bytes([op::READ, count, 0, 0]);
        assert_eq!(bed.ask(words).status, ERROR, "{count}");
    }
    for count in [0, 33, 512, 4096, u16::MAX] {
        let mut words = indirect(&bed.client, 35, op::READ, 0, &[whole(0)]);
        let [low, high] = count.to_le_bytes();
        words[0] = u32::from_le_bytes([op::INDIRECT, op::READ, low, high]);
        assert_eq!(bed.ask(words).status, ERROR, "{count}");
    }
    for nested in [op::FLUSH_DISKCACHE, op::DISCARD, op::INDIRECT, 255] {
        let answer = bed.ask(indirect(&bed.client, 35, nested, 0, &[whole(0)]));
        assert_eq!((answer.operation, answer.status), (nested, ERROR));
    }
    for (sector, low, high) in
        [(0, 513, 0), (512, 1, 0), (1, u32::MAX, u32::MAX), (u32::MAX, 0, 1), (0, 0, 0)]
    {
        let mut words = wire::request(op::DISCARD, 77, u64::from(sector), &[]);
        (words[6], words[7]) = (low, high);
        assert_eq!(bed.ask(words).status, ERROR, "{sector} {low} {high}");
    }
    assert_eq!(bed.seen, []);
}

#[test]
fn a_disk_that_cannot_be_written_is_read_and_flushed() {
    let mut bed = Bed::connected(BlockOffer { read_only: true, ..DISK }, 0);
    assert_eq!(bed.ask_for(op::READ, 0, &[whole(0)]), OKAY);
    assert_eq!(bed.ask_for(op::FLUSH_DISKCACHE, 0, &[]), OKAY);
    for operation in [op::WRITE, op::WRITE_BARRIER, op::FLUSH_DISKCACHE] {
        assert_eq!(bed.ask_for(operation, 0, &[whole(0)]), ERROR);
    }
    let answer = bed.ask(indirect(&bed.client, 35, op::WRITE, 0, &[whole(0)]));
    assert_eq!((answer.operation, answer.status), (op::WRITE, ERROR));
    let mut discard = wire::request(op::DISCARD, 77, 0, &[]);
    discard[6] = 8;
    assert_eq!(bed.ask(discard).status, UNSUPPORTED, "it was not offered");
    assert_eq!(bed.seen.len(), 2);
}

#[test]
fn what_was_not_offered_is_not_supported() {
    let features = BlockFeatures { indirect_segments: 0, ..BlockFeatures::READ };
    let mut bed = Bed::connected(BlockOffer { features, ..DISK }, 0);
    for operation in [op::WRITE_BARRIER, op::FLUSH_DISKCACHE, op::DISCARD] {
        assert_eq!(bed.ask_for(operation, 0, &[]), UNSUPPORTED);
    }
    let answer = bed.ask(indirect(&bed.client, 35, op::READ, 0, &[whole(0)]));
    assert_eq!((answer.operation, answer.status), (op::INDIRECT, UNSUPPORTED));
    assert_eq!(bed.ask_for(op::WRITE, 0, &[whole(0)]), OKAY);
}

#[test]
fn references_that_are_not_the_clients_to_give_fail_their_request_alone() {
    let mut bed = Bed::connected(DISK, 0);
    bed.client.revoke(DATA_REFERENCE + 1);
    bed.client.grant(DATA_REFERENCE + 1, &bed.client.data[1], Access::ReadOnly);
    let at = |reference| Segment { reference, first: 0, last: 7 };
    for reference in [0, 7, 99, 2000, u32::MAX] {
        assert_eq!(bed.ask_for(op::READ, 0, &[whole(0), at(reference)]), ERROR, "{reference}");
        assert_eq!(bed.ask_for(op::WRITE, 0, &[at(reference)]), ERROR);
    }
    assert_eq!(bed.ask_for(op::READ, 0, &[whole(1)]), ERROR, "M1 may only read it");
    assert_eq!(bed.ask_for(op::WRITE, 0, &[whole(1)]), OKAY);
    let mut words = indirect(&bed.client, 35, op::READ, 0, &[whole(0)]);
    words[7] = 12345;
    assert_eq!(bed.ask(words).status, ERROR, "nor can its segments be had");
    assert_eq!(bed.ask_for(op::READ, 0, &[whole(0)]), OKAY);
}

#[test]
fn what_changes_while_it_is_read_was_read_once() {
    let mut bed = Bed::connected(DISK, 0);
    let (_, mut ring) = bed.ring.take().expect("mapped");
    bed.client.push(wire::request(op::READ, 5, 8, &[whole(0)]));
    let direct = ring.pop().expect("sane").expect("one");
    bed.client.push(indirect(&bed.client, 35, op::READ, 16, &[whole(1), whole(2)]));
    let by_page = ring.pop().expect("sane").expect("one");
    // The client overwrites ring and segments with what would not have passed.
    for word in 16..1024 {
        bed.client.ring_page().store(word, u32::MAX);
    }
    for word in 0..1024 {
        bed.client.data[35].store(word, u32::MAX);
    }
    assert_eq!((direct.sector, direct.sectors, direct.segments().len()), (8, 8, 1));
    let pieces: Vec<_> =
        by_page.pieces().map(|piece| (piece.reference.0, piece.disk_page, piece.bytes)).collect();
    assert_eq!(pieces, [(DATA_REFERENCE + 1, 2, 4096), (DATA_REFERENCE + 2, 3, 4096)]);
    ring.complete(direct.tag, Status::Okay).expect("taken");
    ring.complete(by_page.tag, Status::Error).expect("taken");
    assert!(ring.complete(direct.tag, Status::Okay).is_err(), "twice");
    assert!(ring.publish());
    let answers: Vec<_> = bed.client.answers().iter().map(|answer| (answer.id, answer.status)).collect();
    assert_eq!(answers, [(5, OKAY), (77, ERROR)]);
    ring.close(&mut bed.window);
}

#[test]
fn an_impossible_index_ends_the_device_for_good() {
    for lie in [33, 1000, u32::MAX, 0x8000_0000] {
        let mut bed = Bed::connected(DISK, 0);
        bed.client.ring_page().store(0, lie);
        let events = bed.run();
        assert_eq!(events, [], "the owner has found it out, and said so");
        bed.client.ring_page().store(0, 1);
        let (_, ring) = bed.ring.as_mut().expect("mapped");
        let first = ring.pop();
        assert!(first.is_err(), "what was seen once is not forgotten: {first:?}");
        assert!(!ring.final_check());
        bed.run();
        assert_eq!((bed.m1_state().as_str(), bed.window.mapped()), ("5", 0));
    }
}

#[test]
fn a_ring_full_of_nonsense_is_answered_in_one_go() {
    let mut bed = Bed::connected(DISK, 1);
    for id in 0..64 {
        bed.client.push(wire::request(200, id, 0, &[]));
    }
    bed.serve();
    let answers = bed.client.answers();
    assert_eq!(answers.len(), 64);
    assert!(answers.iter().zip(0..).all(|(answer, id)| (answer.id, answer.status) == (id, UNSUPPORTED)));
}

#[test]
fn an_event_is_sent_only_when_asked_for() {
    let mut bed = Bed::connected(DISK, 0);
    let port = bed.client.port;
    let events = bed.client.domain.events();
    events.unmask(port);
    let rang = |bed: &Bed| bed.client.domain.events().take_pending().any(|raised| raised == port);
    assert_eq!(bed.ask_for(op::READ, 0, &[whole(0)]), OKAY);
    assert!(rang(&bed));
    assert_eq!(bed.ask_for(op::READ, 0, &[whole(0)]), OKAY);
    assert!(!rang(&bed), "rsp_event is behind");
    let ours = bed.ring.as_ref().expect("mapped").1.port();
    assert!(bed.m1.events().take_pending().all(|raised| raised != ours));
    bed.client.domain.evtchn_send(port).expect("bound");
    assert!(bed.m1.events().take_pending().any(|raised| raised == ours), "and the other way");
    assert_eq!(bed.m1.grants().flags(GrantRef(9)), 0, "M1 lends nothing for a disk");
}
