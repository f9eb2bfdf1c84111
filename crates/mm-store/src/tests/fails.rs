//! Disks that fail, and images that are damaged.

use super::machine::BASE;
use super::model::Value;
use super::power::SMALL;
use super::{Random, formatted, full, recover};
use crate::host::Tables;
use crate::*;

const GEOMETRY: Geometry = SMALL.geometry;
const BASE_70: Base = Base { pages: 70, ..BASE };

/// Does what the store wants on a disk that fails from the command of this number on.
fn work(store: &mut Store<'_>, disk: &mut super::disk::Disk, left: &mut u32) {
    let mut page = [0; BLOCK];
    while let Some(command) = store.poll(&mut page) {
        let result = if *left == 0 { Err(IoFailed) } else { Ok(()) };
        *left = left.saturating_sub(1);
        let ticket = match command {
            Command::Write { ticket, block } => {
                let id = disk.write(block.0, page);
                disk.finish(id);
                ticket
            }
            Command::Flush { ticket } => {
                if result.is_ok() {
                    disk.flushed(&disk.flush());
                }
                ticket
            }
        };
        store.completed(ticket, result);
    }
}

#[test]
fn from_the_first_failure_on_flushes_fail_and_reads_go_on() {
    for good in 0..40 {
        let (mut tables, mut disk, mut left) = (Tables::new(&GEOMETRY), formatted(GEOMETRY), u32::MAX);
        let mut store = recover(&disk, &mut tables, 4).expect("a store");
        work(&mut store, &mut disk, &mut left);
        let web = store.create("web", BASE_70, None, Lifetime::Persistent).expect("room");
        left = good;
        let mut seen_error = false;
        for round in 0..60_u32 {
            let page = Value::page(u64::from(round));
            match store.begin_write(web, 1) {
                Ok(place) => {
                    disk.write(place.disk.0, page);
                    let written = store.written(place, crc32c(&page), Ok(()));
                    assert!(written.is_ok(), "begun while the disk was well");
                }
                Err(refused) => assert!(seen_error && refused == WriteRefused::ReadOnly, "{refused:?}"),
            }
            store.flush(u64::from(round)).expect("one at a time");
            work(&mut store, &mut disk, &mut left);
            let (token, result) = store.flushed().expect("an answer");
            assert_eq!(token, u64::from(round));
            assert!(result.is_err() || !seen_error, "a flush was good after one that was not");
            seen_error |= result.is_err();
        }
        assert!(seen_error && store.figures().failed);
        assert!(matches!(store.lookup(web, 1), Ok(Found::At { .. })));
        assert_eq!(store.zero(web, 0, 1), Err(WriteRefused::ReadOnly));
        assert_eq!(store.delete(web), Err(DeleteRefused::ReadOnly));
        assert_eq!(store.create("x", BASE_70, None, Lifetime::Persistent), Err(CreateRefused::ReadOnly));
        let mut again = Tables::new(&GEOMETRY);
        recover(&disk, &mut again, 4).expect("opens again");
    }
}

#[test]
fn too_small_is_said_with_what_is_needed() {
    let disk = formatted(GEOMETRY);
    let pages = [*disk.read(0), *disk.read(1)];
    let mut tables = Tables::new(&GEOMETRY);
    let mut recovery = Recovery::new(tables.memory(), GEOMETRY.blocks() - 1, 4);
    recovery.done(Ok(&pages));
    assert_eq!(recovery.finish().err(), Some(OpenError::DiskTooSmall { needed: GEOMETRY.blocks() }));
    let mut small = Tables::new(&Geometry { data: 99, ..GEOMETRY });
    let mut recovery = Recovery::new(small.memory(), GEOMETRY.blocks(), 4);
    recovery.done(Ok(&pages));
    let needed = TableSizes::new(&GEOMETRY);
    assert_eq!(recovery.finish().err(), Some(OpenError::TablesTooSmall { needed }));
}

#[test]
fn a_block_that_cannot_be_read_is_named() {
    let disk = formatted(GEOMETRY);
    for fails in 0..3 {
        let mut tables = Tables::new(&GEOMETRY);
        let mut recovery = Recovery::new(tables.memory(), disk.blocks(), 4);
        let mut last = None;
        for _ in 0..fails {
            last = recovery.next();
            let reading = last.expect("more to read");
            let pages: Vec<Page> =
                (reading.block..reading.block + reading.blocks).map(|block| *disk.read(block)).collect();
            recovery.done(Ok(&pages));
        }
        let block = recovery.next().expect("more to read").block;
        assert_ne!(last.map(|reading| reading.block), Some(block));
        recovery.done(Err(IoFailed));
        assert_eq!(recovery.next(), None);
        assert_eq!(recovery.finish().err(), Some(OpenError::Read { block }));
    }
}

#[test]
fn rot_in_what_was_flushed_is_named_not_skipped() {
    let (mut tables, mut disk, mut left) = (Tables::new(&GEOMETRY), formatted(GEOMETRY), u32::MAX);
    let mut store = recover(&disk, &mut tables, 4).expect("a store");
    work(&mut store, &mut disk, &mut left);
    for name in ["a", "b", "c"] {
        store.create(name, BASE_70, None, Lifetime::Persistent).expect("room");
        store.flush(0).expect("none waits");
        work(&mut store, &mut disk, &mut left);
    }
    // The first of three journal blocks; the third says that it was durable.
    let block = GEOMETRY.journal_block(store.journal.tail);
    let mut page = *disk.read(block);
    page[100] ^= 1;
    disk.set(block, page);
    let mut again = Tables::new(&GEOMETRY);
    let error = recover(&disk, &mut again, 4).err();
    assert_eq!(error, Some(OpenError::Damaged { block, part: Part::Journal }));
}

/// Images out of histories, and changes of them, with and without right checksums.
#[test]
fn no_image_makes_it_panic_or_read_for_ever() {
    let mut good = 0;
    for seed in 0..full(3, 100) {
        let image = fuzz::image(seed);
        assert!(fuzz::exercise(&image).is_some(), "seed {seed}");
        let mut random = Random::new(seed + 1);
        for _ in 0..full(150, 1000) {
            let mut changed = image.clone();
            for _ in 0..1 + random.below(4) {
                // Most of what matters is at the beginning of a block.
                let block = random.below(30) as usize;
                let at = if random.once_in(3) { random.below(4096) } else { random.below(200) };
                changed[block * BLOCK + at as usize] ^= 1 << random.below(8);
            }
            if !random.once_in(4) {
                fuzz::mend_checksums(&mut changed);
            }
            good += usize::from(fuzz::exercise(&changed).is_some());
        }
    }
    assert!(good > 100, "only {good} were opened");
    let mut random = Random::new(5);
    for blocks in [0, 1, 2, 3, 130] {
        let noise: Vec<u8> = (0..blocks * BLOCK + 9).map(|_| random.next().to_le_bytes()[2]).collect();
        assert_eq!(fuzz::exercise(&noise), None);
    }
}
