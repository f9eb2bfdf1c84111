//! Export and import, with an M1 that a test plays.

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::{Host, PATIENCE, WINDOW, show};
use crate::commands::exchange;
use crate::failure::Failure;
use crate::snapshot_file::{Disk, Index};

/// A played M1 that has a snapshot of these pages, and shows one at a time.
fn host_with_pages(pages: Vec<(u32, [u8; 4096])>, damaged: bool) -> Host {
    let mut slow = true;
    Host::new(move |words| {
        let json = |value: serde_json::Value| Some(format!("ok {}", show(&value.to_string())));
        let words: Vec<&str> = words.split(' ').collect();
        match words.as_slice() {
            ["snapshots"] => json(json!({ "snapshots": [{ "volume": "base", "name": "first" }] })),
            ["export", "base", "first"] => json(json!({
                "volume": "base", "name": "first", "identity": "07".repeat(16), "volume_identity": "09".repeat(32),
                "head": pages[0].0, "pages": pages.len(), "ordered": 77,
                "disks": [
                    { "devid": 51712, "volume_identity": "09".repeat(32), "blocks": 500, "index": null },
                    { "devid": 51728, "volume_identity": "0a".repeat(32), "blocks": 2000,
                      "index": { "root": pages[1].0, "levels": 2, "count": 3 } },
                ],
            })),
            ["export-pages", identity, from] => {
                assert_eq!(*identity, "07".repeat(16));
                if std::mem::take(&mut slow) {
                    return Some("running 0 of 0".to_owned());
                }
                let from: u32 = from.parse().expect("a number");
                let Some((number, bytes)) = pages.iter().find(|(number, _)| *number >= from) else {
                    return Some("ok 0 end".to_owned());
                };
                assert!(WINDOW[1].write(0, bytes));
                WINDOW[0].store(0, *number);
                WINDOW[0].store(1, mm_store::crc32c(bytes) ^ u32::from(damaged));
                Some(format!("ok 1 {}", number + 1))
            }
            _ => Some("error no such verb".to_owned()),
        }
    })
}

#[test]
fn a_snapshot_is_exported_page_by_page_and_a_file_that_is_none_is_not_imported() {
    let pages: Vec<_> = (0..5_u8).map(|at| ((1 << 31) + 7 * u32::from(at), [at; 4096])).collect();
    let host = host_with_pages(pages.clone(), false);
    let mut m1 = host.m1("m1", PATIENCE).expect("there");
    let path = host.directory.path().join("file");
    exchange::export(&mut m1, "first", &path, PATIENCE, true).expect("exported");
    let file = crate::snapshot_file::Reader::open(&path).expect("good");
    assert_eq!((file.header.identity, file.header.over, file.header.ordered), ([7; 16], [9; 32], 77));
    for (number, bytes) in &pages {
        assert_eq!(file.page(*number).expect("good"), *bytes);
    }
    let index = Index { root: pages[1].0, levels: 2, count: 3 };
    let disks = [
        Disk { devid: 51712, over: [9; 32], blocks: 500, index: None },
        Disk { devid: 51728, over: [10; 32], blocks: 2000, index: Some(index) },
    ];
    assert_eq!(file.header.disks, disks);
    let again = exchange::export(&mut m1, "first", &path, PATIENCE, true);
    assert!(matches!(again, Err(Failure::Host(why)) if why.ends_with("it is there already")));
    // No program's: M1 is not asked.
    let order = exchange::Order { path: &path, name: None, persist: false, limit: PATIENCE, json: true };
    let Err(Failure::Refused(why)) = exchange::import(&mut m1, &order) else { panic!("it is none") };
    assert!(why.ends_with("no snapshot of a program"), "{why}");
    drop((m1, host));

    let host = host_with_pages(pages, true);
    let mut m1 = host.m1("m1", PATIENCE).expect("there");
    let path = host.directory.path().join("file");
    let damaged = exchange::export(&mut m1, "first", &path, PATIENCE, true);
    assert!(matches!(damaged, Err(Failure::Host(why)) if why.contains("damaged on its way")));
    let left: Vec<_> = std::fs::read_dir(host.directory.path()).expect("there").flatten().collect();
    assert!(left.iter().all(|entry| !entry.file_name().to_string_lossy().starts_with("file")), "{left:?}");
}

/// A manifest as `mm-guest` writes it, of a program with files in `/tmp`.
const MANIFEST: &[u8] = include_bytes!("../../../tests/fuzz/corpus/manifest/files");
const FIRST: u32 = 1 << 31;

/// The page of the disk's index.
const INDEX: u32 = FIRST + 1002;

/// A page of an index that begins with these entries.
fn index_of(entries: &[u32]) -> [u8; 4096] {
    block(&entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>())
}

/// A page from these bytes on.
fn block(bytes: &[u8]) -> [u8; 4096] {
    let mut block = [0; 4096];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

/// A file with a snapshot that has this manifest; page n of its program begins with n. Block 5 of its disk is of its own, block 6 is like a page
/// of the program, block 7 is empty.
fn program(path: &std::path::Path) -> Vec<u32> {
    let head_of = |pages: &[u32]| {
        let mut head = block(b"M1FROZEN");
        let (bytes, count) = (u32::try_from(MANIFEST.len()).expect("short"), pages.len());
        let words = [1, bytes, mm_store::crc32c(MANIFEST), u32::try_from(count).expect("one")];
        for (place, word) in head[8..24].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        head[24..56].copy_from_slice(&[9; 32]);
        for (place, page) in head[56..].chunks_exact_mut(4).zip(pages) {
            place.copy_from_slice(&page.to_le_bytes());
        }
        head
    };
    let (manifest, head) = (FIRST + 1000, FIRST + 1001);
    let first = head_of(&[manifest]);
    let page = |number: u32| match number {
        number if number == head => Some(first),
        number if number == manifest => Some(block(MANIFEST)),
        _ => None,
    };
    let pages = mm_guest::Moving::read(head, &[9; 32], page).expect("it is one").pages().expect("few");
    let header = crate::snapshot_file::Header {
        identity: [7; 16],
        over: [9; 32],
        head,
        pages: u32::try_from(pages.len()).expect("few") + 4,
        ordered: 77,
        name: "first".to_owned(),
        volume: "base".to_owned(),
        disks: vec![
            Disk { devid: 51712, over: [9; 32], blocks: 500, index: None },
            Disk {
                devid: 51728,
                over: [10; 32],
                blocks: 1000,
                index: Some(Index { root: INDEX, levels: 1, count: 2 }),
            },
        ],
    };
    let mut file = crate::snapshot_file::Writer::create(path, header).expect("it is new");
    for page in &pages {
        file.add(*page, &block(&page.to_le_bytes())).expect("written");
    }
    file.add(manifest, &block(MANIFEST)).expect("written");
    file.add(head, &first).expect("written");
    file.add(INDEX, &index_of(&[0, 0, 0, 0, 0, INDEX + 1, pages[0], 1])).expect("written");
    file.add(INDEX + 1, &block(b"of the disk")).expect("written");
    file.finish().expect("whole");
    pages
}

/// What a played M1 was given: its frozen part, and the requests.
#[derive(Default)]
struct Given {
    pages: Vec<[u8; 4096]>,
    asked: Vec<String>,
    head: u32,
    /// Pages after which it refuses.
    limit: Option<usize>,
}

fn host_that_imports(given: &Arc<Mutex<Given>>) -> Host {
    let given = Arc::clone(given);
    Host::new(move |words| {
        let mut given = given.lock().expect("no panic");
        given.asked.push(words.to_owned());
        let identity = "0b".repeat(16);
        let words: Vec<&str> = words.split(' ').collect();
        match words.as_slice() {
            ["import", "base", _, over, pages, ..] => {
                assert_eq!(*over, "09".repeat(32));
                assert!(pages.parse::<usize>().is_ok());
                Some(format!("ok {identity}"))
            }
            ["import-pages", which, "1"] if *which == identity => {
                if given.limit.is_some_and(|limit| given.pages.len() >= limit) {
                    return Some("error more pages than were announced: the import is given up".to_owned());
                }
                let mut bytes = [0; 4096];
                assert!(WINDOW[1].read(0, &mut bytes));
                assert_eq!(WINDOW[0].load(1), mm_store::crc32c(&bytes));
                let known = given.pages.iter().position(|page| *page == bytes);
                let place = known.unwrap_or(given.pages.len());
                if known.is_none() {
                    given.pages.push(bytes);
                }
                WINDOW[0].store(0, FIRST + u32::try_from(place).expect("few"));
                Some("ok 1".to_owned())
            }
            ["import-end", which, head] if *which == identity => {
                given.head = head.parse().expect("a number");
                Some("running 3 of 9".to_owned())
            }
            ["import-disk", which, ..] if *which == identity => Some("ok".to_owned()),
            ["import-progress", which] if *which == identity => Some("ok 9 0".to_owned()),
            ["import-cancel", which] if *which == identity => Some("ok".to_owned()),
            _ => Some("error no such verb".to_owned()),
        }
    })
}

#[test]
fn what_an_import_gives_to_m1_is_a_snapshot_with_numbers_of_that_m1() {
    let given = Arc::new(Mutex::new(Given::default()));
    // Pages of others, and one of its own that is there already, between them.
    given.lock().expect("no panic").pages.extend([[1; 4096], block(&FIRST.to_le_bytes()), [2; 4096]]);
    let host = host_that_imports(&given);
    let path = host.directory.path().join("file");
    let pages = program(&path);
    let mut m1 = host.m1("m1", PATIENCE).expect("there");
    let order =
        exchange::Order { path: &path, name: Some("here"), persist: true, limit: PATIENCE, json: true };
    exchange::import(&mut m1, &order).expect("it goes well");
    let (head, held) = {
        let given = given.lock().expect("no panic");
        assert!(given.asked[0].starts_with("import base here ") && given.asked[0].ends_with(" persist"));
        assert!(!given.asked.iter().any(|asked| asked.starts_with("import-cancel")));
        (given.head, given.pages.clone())
    };
    // Its disks, at the beginning and when their pages were there.
    let said = given.lock().expect("no panic").asked.clone();
    let said: Vec<_> = said.iter().filter(|asked| asked.starts_with("import-disk")).collect();
    let tails = [
        format!("51712 {} 500", "09".repeat(32)),
        format!("51728 {} 1000", "0a".repeat(32)),
        format!("51728 {} 1000 ", "0a".repeat(32)),
    ];
    assert!(said.len() == 3 && said[0].ends_with(&tails[0]) && said[1].ends_with(&tails[1]), "{said:?}");
    let index = said[2].split_once(&tails[2]).expect("the same").1;
    let root: u32 = index.strip_suffix(" 1 2").and_then(|root| root.parse().ok()).expect("a number");
    let number = |bytes: &[u8; 4096]| {
        let place = held.iter().position(|held| held == bytes).expect("it was sent");
        FIRST + u32::try_from(place).expect("few")
    };
    let (own, shared) = (number(&block(b"of the disk")), number(&block(&pages[0].to_le_bytes())));
    assert_eq!(root, number(&index_of(&[0, 0, 0, 0, 0, own, shared, 1])));
    let page = |number: u32| held.get(usize::try_from(number.checked_sub(FIRST)?).ok()?).copied();
    let moved = mm_guest::Moving::read(head, &[9; 32], page).expect("a clone can be made of it");
    let mut found: Vec<_> = moved.pages().expect("few").into_iter().filter_map(page).collect();
    let mut expected: Vec<_> = pages.iter().map(|page| block(&page.to_le_bytes())).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(!moved.pages().expect("few").contains(&FIRST), "that one is another's");

    // Where M1 refuses in the middle, it is told to give all of it up.
    given.lock().expect("no panic").limit = Some(4);
    given.lock().expect("no panic").pages.clear();
    let Err(Failure::Refused(why)) = exchange::import(&mut m1, &order) else { panic!("M1 said no") };
    assert!(why.contains("more pages than were announced"), "{why}");
    let asked = given.lock().expect("no panic").asked.clone();
    assert!(asked.last().is_some_and(|asked| asked.starts_with("import-cancel")), "{asked:?}");
}
