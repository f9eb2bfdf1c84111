//! blkfront with pages of its own that stay with the backend.

use std::collections::BTreeSet;

use xen::GrantRef;
use xen_ring::PAGE_SIZE;

use super::blk::{Asked, Disk, done, gone, holds};
use super::dom0::{frame, frames};
use crate::blkfront::{
    Completion, Failure, Health, MAX_PAGES, MIN_POOL, Operation, PLAIN_PAGES, RECLAIM_NS, SubmitError,
};

/// A disk with a pool, whose backend knows persistent grants.
fn connected(sectors: u64, pages: usize) -> Disk {
    let mut disk = Disk::with_pool(sectors, pages);
    disk.machine.set_back("feature-persistent", "1");
    disk.connect();
    assert_eq!(disk.machine.said("feature-persistent"), "1");
    disk
}

fn references(asked: &Asked) -> BTreeSet<GrantRef> {
    asked.segments.iter().map(|(reference, ..)| *reference).collect()
}

#[test]
fn pages_are_lent_once_and_used_again() {
    let mut disk = connected(4096, 32);
    let (one, many) = (frames(1), frames(PLAIN_PAGES));
    assert_eq!(disk.machine.lent().len(), 1 + 32, "the ring and the pool");
    disk.read(80, &one, 1).expect("room");
    disk.read(800, &many, 2).expect("room");
    let asked = disk.asked();
    for request in &asked {
        disk.answer(request);
        references(request).iter().for_each(|reference| disk.machine.pin(*reference));
    }
    assert_eq!(disk.completions(), [done(1), done(2)], "what the backend keeps is no quarantine");
    assert!(holds(one[0], 80, 8));
    assert!(many.iter().zip((800..).step_by(8)).all(|(page, sector)| holds(*page, sector, 8)));
    assert_eq!(disk.machine.lent().len(), 1 + 32);
    let known: BTreeSet<_> = asked.iter().flat_map(references).collect();
    for round in 0..50 {
        disk.read(round * 8, &many, round).expect("room");
        let asked = disk.asked();
        assert!(references(&asked[0]).is_subset(&known), "those used last are used next");
        assert_eq!(references(&asked[0]).len(), PLAIN_PAGES);
        disk.answer(&asked[0]);
        assert_eq!(disk.completions(), [done(round)]);
        assert!(many.iter().zip((round * 8..).step_by(8)).all(|(page, sector)| holds(*page, sector, 8)));
    }
}

#[test]
fn an_empty_pool_refuses_until_something_is_done() {
    let mut disk = connected(4096, MAX_PAGES + 4);
    let (many, four, one) = (frames(MAX_PAGES), frames(4), frames(1));
    disk.read(0, &many, 1).expect("room");
    assert_eq!(disk.read(0, &frames(5), 9), Err(SubmitError::Full));
    disk.read(8, &four, 2).expect("room");
    assert_eq!(disk.read(0, &one, 9), Err(SubmitError::Full));
    let asked = disk.asked();
    assert_eq!(asked.len(), 3, "two parts, and the other");
    disk.answer(&asked[2]);
    assert_eq!(disk.completions(), [done(2)]);
    disk.read(16, &one, 3).expect("room");
    asked[..2].iter().for_each(|part| disk.answer(part));
    let asked = disk.asked();
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(1), done(3)]);
    assert!(holds(many[0], 0, 8) && holds(four[2], 24, 8) && holds(one[0], 16, 8));
}

#[test]
fn a_long_request_is_one_for_a_backend_that_knows_indirect_ones() {
    for (said, parts) in [("256", 1), ("16", 1), ("15", 2), ("", 2)] {
        let mut disk = Disk::with_pool(4096, 40);
        disk.machine.set_back("feature-persistent", "1");
        disk.machine.set_back("feature-max-indirect-segments", said);
        disk.connect();
        let many = frames(MAX_PAGES);
        for round in 0..3 {
            for first in [0, 800, 1600] {
                let room = disk.read(first + round, &many, first);
                assert_eq!(room, if first == 1600 { Err(SubmitError::Full) } else { Ok(()) });
            }
            let asked = disk.asked();
            assert_eq!(asked.len(), 2 * parts);
            asked.iter().for_each(|part| disk.answer(part));
            assert_eq!(disk.completions(), [done(0), done(800)]);
            let sectors = (800 + round..).step_by(8);
            assert!(many.iter().zip(sectors).all(|(page, sector)| holds(*page, sector, 8)));
        }
        assert_eq!(disk.indirect, if parts == 1 { 6 } else { 0 });
        assert_eq!(disk.machine.lent().len(), 1 + 40);

        // And one that is written.
        many.iter().for_each(|page| assert!(page.words.write(0, &[0x5a; PAGE_SIZE])));
        disk.driver.submit(Operation::Write, 80, &many, 7).expect("room");
        disk.driver.publish_requests();
        disk.asked().iter().for_each(|part| disk.answer(part));
        assert_eq!(disk.completions(), [done(7)]);
        assert_eq!(disk.bytes[80 * 512..][..MAX_PAGES * PAGE_SIZE], [0x5a; MAX_PAGES * PAGE_SIZE]);
    }
}

#[test]
fn a_backend_without_persistent_grants_is_lent_the_pages_themselves() {
    for said in ["0", "", "yes"] {
        let mut disk = Disk::with_pool(4096, 32);
        disk.machine.set_back("feature-persistent", said);
        disk.connect();
        disk.read(0, &frames(3), 1).expect("room");
        assert_eq!(disk.machine.lent().len(), 4);
        let asked = disk.asked();
        disk.answer(&asked[0]);
        assert_eq!(disk.completions(), [done(1)]);
        assert_eq!(disk.machine.lent().len(), 1);
    }
}

#[test]
fn a_pool_that_is_too_small_is_not_offered() {
    let mut disk = Disk::with_pool(64, MIN_POOL - 1);
    disk.machine.set_back("feature-persistent", "1");
    disk.connect();
    assert_eq!(disk.machine.said("feature-persistent"), "");
    disk.read(0, &frames(1), 1).expect("room");
    let asked = disk.asked();
    disk.answer(&asked[0]);
    assert_eq!((disk.completions(), disk.machine.lent().len()), (vec![done(1)], 1));
}

#[test]
fn what_is_written_is_taken_at_once() {
    let mut disk = connected(64, MIN_POOL);
    let page = frame();
    page.words.store(0, 0x1234_5678);
    disk.driver.submit(Operation::Write, 8, &[page], 1).expect("room");
    disk.driver.publish_requests();
    page.words.store(0, 7);
    let asked = disk.asked();
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(1)]);
    assert_eq!(disk.bytes[8 * 512..8 * 512 + 4], 0x1234_5678_u32.to_le_bytes());
    assert_eq!(page.words.load(0), 7, "nothing is put where something was written from");
}

#[test]
fn nothing_is_taken_from_behind_the_end_of_the_disk_or_from_a_failed_read() {
    let mut disk = connected(20, MIN_POOL);
    let full = frame();
    disk.read(0, &[full], 1).expect("room");
    let asked = disk.asked();
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(1)]);
    let last = frame();
    assert!(last.words.write(0, &[0xee; PAGE_SIZE]));
    disk.read(16, &[last], 2).expect("room");
    let asked = disk.asked();
    assert_eq!((asked[0].sector, asked[0].segments[0].2), (16, 3));
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(2)]);
    assert!(holds(last, 16, 4));
    let mut rest = [0; PAGE_SIZE - 4 * 512];
    assert!(last.words.read(4 * 512, &mut rest));
    assert_eq!(rest, [0xee; PAGE_SIZE - 4 * 512], "what another request had is not shown");

    disk.status = -1;
    disk.read(0, &[last], 3).expect("room");
    let asked = disk.asked();
    disk.answer(&asked[0]);
    let failed = Completion { token: 3, outcome: Err(Failure::Disk), quarantined: false };
    assert_eq!(disk.completions(), [failed]);
    assert!(holds(last, 16, 4), "as it was");
}

#[test]
fn without_references_a_request_is_refused_and_its_pages_are_free_again() {
    let mut disk = Disk::with_pool(4096, MIN_POOL);
    disk.machine.set_back("feature-persistent", "1");
    disk.run();
    disk.machine.set_back("state", "2");
    disk.run();
    let hoard: Vec<_> = std::iter::from_fn(|| disk.machine.platform.refs.reserve()).collect();
    disk.connect();
    assert_eq!(disk.read(0, &frames(3), 1), Err(SubmitError::Full));
    for reference in &hoard[..3] {
        disk.machine.platform.refs.release(*reference);
    }
    assert_eq!(disk.read(0, &frames(4), 1), Err(SubmitError::Full), "three do not do for four");
    disk.read(0, &frames(3), 1).expect("the three that are lent");
    let asked = disk.asked();
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(1)]);
}

#[test]
fn a_backend_that_ends_has_no_page_of_the_callers() {
    let mut disk = connected(64, MIN_POOL);
    let page = frames(1);
    disk.read(0, &page, 1).expect("room");
    let asked = disk.asked();
    references(&asked[0]).iter().for_each(|reference| disk.machine.pin(*reference));
    disk.machine.set_back("state", "6");
    disk.run();
    assert_eq!(disk.completions(), [gone(1, false)], "at once: the page is the caller's again");
    assert_eq!(disk.driver.health(), Health::Reclaiming, "it has the pool's");
    assert_eq!(disk.read(0, &page, 2), Err(SubmitError::NotConnected));
    disk.machine.unpin_all();
    disk.run();
    assert_eq!(disk.driver.health(), Health::Connecting);
    assert_eq!((disk.machine.lent().len(), disk.machine.platform.refs.taken()), (0, 0));

    // The next one knows no persistent grants.
    disk.machine.attach();
    disk.machine.set_back("feature-persistent", "0");
    disk.connect();
    disk.read(8, &page, 3).expect("room");
    let asked = disk.asked();
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(3)]);
    assert!(holds(page[0], 8, 8));
    assert_eq!(disk.machine.lent().len(), 1);
}

#[test]
fn a_backend_that_keeps_pages_of_the_pool_costs_the_disk_and_nothing_else() {
    let mut disk = connected(64, MIN_POOL);
    disk.read(0, &frames(1), 1).expect("room");
    let asked = disk.asked();
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(1)]);
    // It lets go of the ring, and not of the page.
    disk.machine.unpin_all();
    references(&asked[0]).iter().for_each(|reference| disk.machine.pin(*reference));
    disk.machine.set_back("state", "6");
    disk.run();
    disk.machine.now += RECLAIM_NS - 1;
    disk.run();
    assert_eq!(disk.driver.health(), Health::Reclaiming);
    disk.machine.now += 1;
    disk.run();
    assert_eq!((disk.driver.health(), disk.driver.outstanding()), (Health::Dead, 0));
}
