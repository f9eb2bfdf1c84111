//! Overlays: who gets one, what it shows, what it costs.

use super::disk::Disk;
use super::machine::BASE;
use super::model::Value;
use super::{formatted, recover};
use crate::host::Tables;
use crate::*;

const GEOMETRY: Geometry = Geometry { journal: 64, data: 400, overlays: 4, zeroes: 16 };
const BASE_200: Base = Base { pages: 200, ..BASE };

/// An owner that does one thing after the other. Counts flushes of the disk.
struct Owner<'a> {
    store: Store<'a>,
    disk: Disk,
    flushes: u32,
}

impl<'a> Owner<'a> {
    fn open(disk: Disk, tables: &'a mut Tables) -> Self {
        let store = recover(&disk, tables, 8).expect("a store");
        let mut owner = Self { store, disk, flushes: 0 };
        owner.work();
        assert!(owner.store.figures().settled);
        owner.flushes = 0;
        owner
    }

    fn work(&mut self) {
        let mut page = [0; BLOCK];
        loop {
            match self.store.poll(&mut page) {
                Some(Command::Write { ticket, block }) => {
                    let id = self.disk.write(block.0, page);
                    self.disk.finish(id);
                    self.store.completed(ticket, Ok(()));
                }
                Some(Command::Flush { ticket }) => {
                    self.flushes += 1;
                    self.disk.flushed(&self.disk.flush());
                    self.store.completed(ticket, Ok(()));
                }
                None if self.store.has_background_work() => {}
                None => return,
            }
        }
    }

    fn create(&mut self, name: &str, quota: Option<u32>) -> OverlayId {
        self.store.create(name, BASE_200, quota, Lifetime::Persistent).expect("room for one more")
    }

    fn write(&mut self, overlay: OverlayId, block: u32, stamp: u64) -> Result<(), WriteRefused> {
        self.work();
        let place = match self.store.begin_write(overlay, block) {
            // What was superseded has to become durable first.
            Err(WriteRefused::Busy) => {
                self.work();
                self.store.begin_write(overlay, block)?
            }
            other => other?,
        };
        let page = Value::page(stamp);
        let id = self.disk.write(place.disk.0, page);
        self.disk.finish(id);
        self.store.written(place, crc32c(&page), Ok(())).expect("the disk is well");
        Ok(())
    }

    fn flush(&mut self) {
        self.store.flush(7).expect("none waits");
        self.work();
        assert_eq!(self.store.flushed(), Some((7, Ok(()))));
    }

    fn reopen<'b>(self, tables: &'b mut Tables) -> Owner<'b> {
        Owner::open(self.disk, tables)
    }
}

macro_rules! owner {
    ($owner:ident) => {
        let mut tables = Tables::new(&GEOMETRY);
        let mut $owner = Owner::open(formatted(GEOMETRY), &mut tables);
    };
}

#[test]
fn an_overlay_is_open_once_and_over_its_own_base_only() {
    owner!(owner);
    let web = owner.create("web", None);
    assert_eq!(owner.store.create("web", BASE_200, None, Lifetime::Persistent), Err(CreateRefused::Exists));
    assert_eq!(owner.store.create("w+b", BASE_200, None, Lifetime::Persistent), Err(CreateRefused::Name));
    let other = Base { identity: [8; 16], ..BASE_200 };
    assert_eq!(owner.store.open("web", other), Err(OpenRefused::OtherBase));
    assert_eq!(owner.store.open("web", Base { pages: 201, ..BASE_200 }), Err(OpenRefused::OtherBase));
    assert_eq!(owner.store.open("nobody", BASE_200), Err(OpenRefused::Unknown));
    assert_eq!(owner.store.open("web", BASE_200), Ok(web));
    assert_eq!(owner.store.open("web", BASE_200), Err(OpenRefused::InUse));
    assert_eq!(owner.store.delete(web), Err(DeleteRefused::InUse));
    owner.store.close(web);
    assert_eq!(owner.store.open("web", BASE_200), Ok(web));
    // A client that was there when M1 went is not there any more.
    let mut again = Tables::new(&GEOMETRY);
    owner.flush();
    assert_eq!(owner.reopen(&mut again).store.open("web", BASE_200), Ok(web));
}

#[test]
fn an_overlay_shows_its_base_until_it_is_written() {
    owner!(owner);
    let web = owner.create("web", None);
    assert_eq!(owner.store.lookup(web, 5), Ok(Found::Base));
    owner.write(web, 5, 77).expect("room");
    let page = Value::page(77);
    let Ok(found @ Found::At { disk, crc }) = owner.store.lookup(web, 5) else { panic!("not there") };
    assert_eq!((crc, owner.disk.read(disk.0)), (crc32c(&page), &page));
    assert_eq!(owner.store.zero(web, 0, 200), Ok(200));
    assert_eq!(owner.store.lookup(web, 5), Ok(Found::Zero));
    assert_eq!(owner.store.lookup(web, 199), Ok(Found::Zero));
    assert_eq!(owner.store.lookup(web, 200), Err(WriteRefused::Range));
    assert_eq!(owner.store.zero(web, 199, 2), Err(WriteRefused::Range));
    assert_eq!(owner.store.verdict(web, 5, found, 0), Verdict::Stale);
    owner.flush();
    assert_eq!((owner.store.figures().live, owner.store.figures().pending), (0, 0));
}

#[test]
fn a_rotten_block_is_named_and_counted() {
    owner!(owner);
    let web = owner.create("web", None);
    owner.write(web, 5, 77).expect("room");
    let found = owner.store.lookup(web, 5).expect("there");
    assert_eq!(owner.store.verdict(web, 5, found, crc32c(&Value::page(77))), Verdict::Good);
    assert_eq!(owner.store.verdict(web, 5, found, 1), Verdict::Rotten);
    assert_eq!(owner.store.figures().rotten, 1);
    assert_eq!(owner.store.overlays().next().map(|overlay| overlay.rotten), Some(1));
}

#[test]
fn a_flush_flushes_the_disk_once_and_one_that_has_nothing_to_do_not_at_all() {
    owner!(owner);
    let web = owner.create("web", None);
    for round in 1..20 {
        for block in 0..20 {
            owner.write(web, block, u64::from(round * 100 + block)).expect("room");
        }
        let (before, writes) = (owner.flushes, owner.store.figures().journal_blocks);
        owner.flush();
        assert_eq!(owner.store.figures().journal_blocks, writes + 1);
        assert_eq!(owner.flushes, before + 1, "round {round}");
        owner.flush();
        assert_eq!(owner.flushes, before + 1, "round {round}");
    }
}

#[test]
fn a_quota_is_what_an_overlay_may_hold() {
    owner!(owner);
    let (small, other) = (owner.create("small", Some(3)), owner.create("other", None));
    for block in 0..3 {
        owner.write(small, block, u64::from(block) + 1).expect("below the quota");
    }
    assert_eq!(owner.write(small, 3, 9), Err(WriteRefused::Quota));
    owner.write(small, 2, 10).expect("overwriting takes nothing");
    owner.write(other, 3, 11).expect("others have theirs");
    owner.store.zero(small, 0, 1).expect("room");
    owner.write(small, 3, 12).expect("one was given back");
    // Two writes to one block are one block.
    let mut again = Tables::new(&GEOMETRY);
    owner.flush();
    let mut owner = owner.reopen(&mut again);
    owner.store.zero(small, 3, 1).expect("room");
    let places = [owner.store.begin_write(small, 3), owner.store.begin_write(small, 3)];
    assert_eq!(places[1], Err(WriteRefused::Quota));
    for place in places.into_iter().flatten() {
        assert_eq!(owner.store.written(place, 0, Err(IoFailed)), Err(IoFailed));
    }
    owner.write(small, 3, 13).expect("a write that failed takes nothing");
}

#[test]
fn a_full_store_refuses_that_write_and_goes_on() {
    owner!(owner);
    let overlays = [owner.create("a", None), owner.create("b", None), owner.create("c", None)];
    let mut full = 0;
    for (index, overlay) in overlays.into_iter().enumerate() {
        for block in 0..200 {
            match owner.write(overlay, block, index as u64 * 1000 + u64::from(block)) {
                Ok(()) => {}
                Err(WriteRefused::Full) => full += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    // A sixteenth is kept for overwriting.
    assert_eq!(full, 600 - (400 - 25));
    for round in 0..100 {
        owner.write(overlays[0], round, 5000 + u64::from(round)).expect("overwriting goes on");
    }
    owner.store.delete(overlays[1]).expect("closed");
    owner.work();
    let figures = owner.store.figures();
    assert_eq!((figures.live, figures.sweep_left, figures.overlays), (200, 0, 2));
    owner.write(overlays[2], 199, 1).expect("space came back");
    assert_eq!(owner.store.lookup(overlays[1], 0), Err(WriteRefused::Unknown));
}

#[test]
fn a_discard_that_cannot_be_remembered_changes_nothing() {
    owner!(owner);
    let names = ["a", "b", "c", "d"];
    let overlays = names.map(|name| owner.create(name, None));
    assert_eq!(owner.store.create("e", BASE_200, None, Lifetime::Persistent), Err(CreateRefused::TooMany));
    let mut full = 0;
    for overlay in overlays {
        owner.write(overlay, 64, 3).expect("room");
        for block in [0, 64, 128, 192, 1, 65] {
            match owner.store.zero(overlay, block, 1) {
                Ok(1) => assert_eq!(owner.store.lookup(overlay, block), Ok(Found::Zero)),
                Err(WriteRefused::Full) => {
                    assert_ne!(owner.store.lookup(overlay, block), Ok(Found::Zero));
                    full += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((full, owner.store.figures().zero_rows), (0, 16));
    owner.store.delete(overlays[3]).expect("closed");
    owner.work();
    assert_eq!(owner.store.figures().zero_rows, 12);
    let last = owner.create("e", None);
    assert_ne!(last, overlays[3]);
    assert_eq!(owner.store.lookup(last, 0), Ok(Found::Base));
}

#[test]
fn what_is_ephemeral_costs_no_journal_and_is_gone_when_the_store_opens_again() {
    owner!(owner);
    let kept = owner.create("kept", None);
    let gone = owner.store.create("gone", BASE_200, None, Lifetime::Ephemeral).expect("room");
    owner.write(kept, 0, 1).expect("room");
    owner.flush();
    let before = owner.store.figures();
    for round in 0..1000 {
        owner.write(gone, round % 50, u64::from(round) + 2).expect("room");
        assert!(owner.store.figures().live <= 51);
    }
    owner.store.zero(gone, 0, 10).expect("room");
    owner.store.checkpoint();
    owner.work();
    let after = owner.store.figures();
    assert_eq!((after.records, after.pending), (before.records, 0));
    let mut again = Tables::new(&GEOMETRY);
    let owner = owner.reopen(&mut again);
    assert_eq!((owner.store.find("kept"), owner.store.find("gone")), (Some(kept), None));
    assert_eq!((owner.store.figures().live, owner.store.figures().zero_rows), (1, 0));
}

#[test]
fn a_full_image_opens_within_what_was_said() {
    // Tens of thousands of records, several checkpoints, and a cut before the last is flushed.
    owner!(owner);
    let web = owner.create("web", None);
    let mut most = 0;
    for round in 0..20_000_u32 {
        owner.write(web, round % 150, u64::from(round)).expect("room");
        if round % 1111 == 1110 {
            let mut again = Tables::new(&GEOMETRY);
            let store = recover(&owner.disk, &mut again, 8).expect("a store");
            most = most.max(store.figures().recovery.records);
            assert_eq!(store.figures().live, 150);
        }
    }
    let figures = owner.store.figures();
    assert!(figures.checkpoints > 1 && figures.device_flushes > 10, "{figures:?}");
    assert!(most > 2000, "{most} records");
}
