//! Snapshots that go from one M1 to another.

use std::collections::BTreeMap;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use mm_proto::FROZEN_FIRST;
use mm_store::crc32c;
use serde_json::Value;

use super::{ask, bulk, window};
use crate::snapshots::Persist;
use crate::tests::freeze::frozen_word;
use crate::tests::frozen_disks;
use crate::tests::world::{World, XVDA};

const OPTIONS: &str = "volume=base:xvda clients=8 window=16";
const STORE: &str = "volume=base:xvda store_disk=xvdb clients=4 window=16";
const NOBODY: &str = "00000000000000000000000000000000";

/// A snapshot in a file.
struct File {
    volume_identity: String,
    head: u32,
    pages: BTreeMap<u32, [u8; 4096]>,
    disks: Vec<Value>,
}

/// Requests have numbers of their own.
fn request(world: &mut World, words: &str) -> String {
    let id = world.m1.control.counters().answered + 10_000;
    let reply = ask(world, &format!("{id} {words}"));
    reply.strip_prefix(&format!("{id} ")).expect("the answer to this").to_string()
}

fn export(world: &mut World, name: &str) -> File {
    let id = world.m1.control.counters().answered + 10_000;
    let told: Value = serde_json::from_str(&bulk(world, &format!("{id} export base {name}"))).expect("JSON");
    let (identity, pages) = (told["identity"].as_str().expect("text"), told["pages"].as_u64().expect("many"));
    let mut file = File {
        volume_identity: told["volume_identity"].as_str().expect("text").into(),
        head: told["head"].as_u64().and_then(|head| head.try_into().ok()).expect("a page"),
        pages: BTreeMap::new(),
        disks: told["disks"].as_array().expect("a list").clone(),
    };
    let mut from = String::from("0");
    for _ in 0..10_000 {
        let answer = request(world, &format!("export-pages {identity} {from}"));
        let words: Vec<&str> = answer.split(' ').collect();
        if words[0] == "running" {
            world.run();
            continue;
        }
        assert_eq!(words[0], "ok", "{answer}");
        let shown = window(world);
        for index in 0..words[1].parse().expect("a number") {
            let mut bytes = [0; 4096];
            assert!(shown[index + 1].read(0, &mut bytes));
            assert_eq!(shown[0].load(2 * index + 1), crc32c(&bytes));
            assert_eq!(file.pages.insert(shown[0].load(2 * index), bytes), None, "each once");
        }
        if words[2] == "end" {
            assert_eq!(file.pages.len() as u64, pages);
            return file;
        }
        from = words[2].into();
    }
    panic!("it has no end");
}

fn begin(world: &mut World, file: &File, name: &str, more: &str) -> String {
    let (over, pages) = (&file.volume_identity, file.pages.len());
    request(world, &format!("import base {name} {over} {pages}{more}"))
}

/// Sends a page; gives its number, or why it has none.
fn send(world: &mut World, identity: &str, bytes: &[u8; 4096], sum: u32) -> Result<u32, String> {
    let shown = window(world);
    assert!(shown[1].write(0, bytes));
    shown[0].store(0, 0);
    shown[0].store(1, sum);
    let answer = request(world, &format!("import-pages {identity} 1"));
    if answer == "ok 1" { Ok(shown[0].load(0)) } else { Err(answer) }
}

/// Imports a file; gives the number that each page has now.
fn import(world: &mut World, file: &File, name: &str, more: &str) -> BTreeMap<u32, u32> {
    let begun = begin(world, file, name, more);
    let identity = begun.strip_prefix("ok ").expect(&begun);
    let mut numbers = BTreeMap::new();
    for (page, bytes) in &file.pages {
        let refused = world.create(&format!("base@{name}"));
        assert!(world.published(refused.id(), XVDA).is_none(), "it is not visible before it is whole");
        world.xen.destroy(refused.id());
        world.remove_device(refused.id(), true);
        numbers.insert(*page, send(world, identity, bytes, crc32c(bytes)).expect("it is taken"));
    }
    let mut answer = request(world, &format!("import-end {identity} {}", numbers[&file.head]));
    while answer.starts_with("running") {
        world.pass(1_000_000_000);
        answer = request(world, &format!("import-progress {identity}"));
    }
    assert!(answer.starts_with(&format!("ok {} ", numbers.len())), "{answer}");
    numbers
}

/// What the test's page with these bytes was made of.
fn content(bytes: &[u8; 4096]) -> u32 {
    let first = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (0..1000).find(|content| frozen_word(*content, 0) == first).expect("a page of these tests")
}

/// A clone reads exactly the pages of the file, under their numbers here, and no other frozen page.
fn clone_reads(world: &mut World, name: &str, file: &File, numbers: &BTreeMap<u32, u32>) {
    let clone = world.client(&format!("base@{name}"), 0);
    let head = world.clients[clone].info().snapshot.expect("it is attached to one").head;
    assert_eq!(head, numbers[&file.head]);
    let own: BTreeMap<u64, u32> =
        file.pages.iter().map(|(page, bytes)| (u64::from(numbers[page]), content(bytes))).collect();
    world.clients[clone].frozen = own.clone();
    for page in FROZEN_FIRST..FROZEN_FIRST + 40 {
        world.touch(clone, page);
        let failed = world.clients[clone].failed.iter().any(|(failed, _)| *failed == page);
        assert_eq!(failed, !own.contains_key(&page), "page {page:#x}");
    }
    world.clients[clone].check();
    world.destroy(clone);
    world.pass(3_000_000_000);
}

/// A file of a first M1, of these pages.
fn file(contents: &[u32]) -> File {
    let mut world = World::new(OPTIONS, 120);
    let source = world.client("base", 0);
    world.freeze(source, "other", &[500, 501, 3]);
    world.freeze(source, "warm", contents);
    let file = export(&mut world, "warm");
    let mut found: Vec<u32> = file.pages.values().map(content).collect();
    found.sort_unstable();
    assert_eq!(found, contents);
    file
}

#[test]
fn a_snapshot_goes_to_another_m1_twice_beside_those_that_it_has() {
    let file = file(&(1..21).collect::<Vec<_>>());
    let mut world = World::new(OPTIONS, 120);
    let source = world.client("base", 0);
    // Numbers are in use, and two pages are there already.
    let own = world.freeze(source, "own", &[700, 5, 701, 6]);
    let first = import(&mut world, &file, "one", "");
    assert!(first.iter().any(|(there, here)| there != here), "numbers are this M1's");
    let second = import(&mut world, &file, "two", "");
    assert_eq!(first, second, "equal pages are there once");
    clone_reads(&mut world, "one", &file, &first);
    clone_reads(&mut world, "two", &file, &second);
    let facts: Vec<_> = world.m1.snapshots().map(|one| (one.name, one.pages, one.unique)).collect();
    assert_eq!(facts, [("own", 4, 2), ("one", 20, 0), ("two", 20, 0)]);
    let identities: Vec<_> = world.m1.snapshots().map(|one| one.identity).collect();
    assert!(identities[1] != identities[2], "no two have the same");
    for name in ["one", "own"] {
        world.m1.remove_snapshot("base", name).expect("nobody needs it");
        world.pass(3_000_000_000);
    }
    clone_reads(&mut world, "two", &file, &second);
    // And on from here.
    let again = export(&mut world, "two");
    assert_eq!(again.pages.len(), file.pages.len());
    world.m1.remove_snapshot("base", "two").expect("nobody needs it");
    world.pass(3_000_000_000);
    assert_eq!(world.figures().pages.frozen, 0);
    assert!(own.len() == 4);
}

#[test]
fn an_import_that_makes_no_sense_leaves_nothing_behind() {
    let file = file(&[1, 2, 3]);
    let mut world = World::new(OPTIONS, 80);
    let rest = world.rest();
    let page = file.pages[&file.head];
    let other = format!("{}7", &file.volume_identity[..63]);
    for (words, why) in [
        ("import base warm".into(), "usage: import VOLUME NAME VOLUME-IDENTITY PAGES [persist]"),
        (format!("import base warm {} 3 more", file.volume_identity), "usage: import"),
        (format!("import base warm {}0 3", file.volume_identity), "usage: import"),
        (format!("import base warm +{} 3", &file.volume_identity[1..]), "usage: import"),
        (format!("import base warm {other} 3"), "the volume of this name is another one"),
        (format!("import other warm {} 3", file.volume_identity), "no volume is called so"),
        (format!("import base w@rm {} 3", file.volume_identity), "a snapshot's name has"),
        (format!("import base warm {} 3 persist", file.volume_identity), "there is no store"),
        (format!("import base warm {} 41", file.volume_identity), "M1 has no room"),
        (format!("import base warm {} 99999999999999", file.volume_identity), "M1 has no room"),
        (format!("import-pages {NOBODY} 1"), "no such import"),
        (format!("import-pages {NOBODY} 0"), "usage: import-pages"),
        (format!("import-pages {NOBODY} 2"), "usage: import-pages"),
        (format!("import-end {NOBODY} 2147483648"), "no such import"),
        (format!("import-progress {NOBODY}"), "no such import"),
        (format!("import-cancel {NOBODY}"), "no such import"),
        (format!("export-pages {NOBODY} 0"), "no such snapshot"),
        ("export base warm".into(), "no such snapshot"),
    ] {
        // What lies in the window is a good page.
        let shown = window(&world);
        assert!(shown[1].write(0, &page));
        shown[0].store(1, crc32c(&page));
        let answer = request(&mut world, &words);
        assert!(answer.starts_with(&format!("error {why}")), "{words}: {answer}");
        assert_eq!(world.m1.snapshots().count(), 0);
    }
    let begun = |world: &mut World| {
        let begun = begin(world, &file, "warm", "");
        begun.strip_prefix("ok ").expect(&begun).to_string()
    };
    let gone = |world: &mut World, identity: &str| {
        assert_eq!(
            send(world, identity, &page, crc32c(&page)),
            Err("error no such import is under way (any more)".into())
        );
        world.pass(2_000_000_000);
        assert_eq!((world.m1.snapshots().count(), world.figures().pages.frozen), (0, 0));
    };
    // A page that was damaged on its way.
    let identity = begun(&mut world);
    let taken = begin(&mut world, &file, "warm", "");
    assert!(taken.starts_with("error the volume has a snapshot of this name"), "{taken}");
    assert_eq!(request(&mut world, "rm base warm"), "error it is being taken");
    send(&mut world, &identity, &page, crc32c(&page)).expect("it is good");
    let answer = send(&mut world, &identity, &page, crc32c(&page) ^ 1).expect_err("it is not");
    assert_eq!(answer, "error the checksum of page 0 is wrong: the import is given up");
    gone(&mut world, &identity);
    // More pages than were announced.
    let identity = begun(&mut world);
    for content in 0..3_u8 {
        send(&mut world, &identity, &[content; 4096], crc32c(&[content; 4096])).expect("it was announced");
    }
    let answer = send(&mut world, &identity, &page, crc32c(&page)).expect_err("one too many");
    assert_eq!(answer, "error more pages than were announced: the import is given up");
    gone(&mut world, &identity);
    // A beginning that is not its own.
    let source = world.client("base", 0);
    let foreign = world.freeze(source, "own", &[9])[0];
    for head in ["0".into(), "2147483700".into(), "4294967296".into(), foreign.to_string()] {
        let identity = begun(&mut world);
        send(&mut world, &identity, &page, crc32c(&page)).expect("it is good");
        let answer = request(&mut world, &format!("import-end {identity} {head}"));
        assert_eq!(
            answer, "error it begins with a page that it does not have: the import is given up",
            "{head}"
        );
        assert_eq!(
            request(&mut world, &format!("import-progress {identity}")),
            "error no such import is under way (any more)"
        );
    }
    world.m1.remove_snapshot("base", "own").expect("nobody needs it");
    world.destroy(source);
    // Whoever brought it has gone, or thinks better of it.
    let identity = begun(&mut world);
    send(&mut world, &identity, &page, crc32c(&page)).expect("it is good");
    world.pass(25_000_000_000);
    send(&mut world, &identity, &page, crc32c(&page)).expect("it goes on");
    world.pass(32_000_000_000);
    gone(&mut world, &identity);
    let identity = begun(&mut world);
    send(&mut world, &identity, &page, crc32c(&page)).expect("it is good");
    assert_eq!(request(&mut world, &format!("import-cancel {identity}")), "ok");
    gone(&mut world, &identity);
    assert_eq!(world.rest(), rest);
    assert_eq!(world.m1.engine.figures().bugs, 0);
}

const DISKS: &str = "volume=base:xvda,group=g volume=data:xvdb,group=g clients=8 window=16";

/// The request that says what a file's disk had, where its pages have these numbers.
fn disk_request(file: &File, identity: &str, numbers: &BTreeMap<u32, u32>, world: &mut World) -> String {
    let disk = file.disks.iter().find(|disk| !disk["index"].is_null()).expect("one was written");
    let (root, devid) = (disk["index"]["root"].as_u64().expect("a page"), &disk["devid"]);
    assert_eq!(disk["index"]["levels"], 1, "few blocks");
    let mut index = file.pages[&u32::try_from(root).expect("a page")];
    for entry in index.chunks_exact_mut(4) {
        let number = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        if number > 1 {
            entry.copy_from_slice(&numbers[&number].to_le_bytes());
        }
    }
    let root = send(world, identity, &index, crc32c(&index)).expect("it is taken");
    let over = disk["volume_identity"].as_str().expect("text");
    format!("import-disk {identity} {devid} {over} {} {root} 1 {}", disk["blocks"], disk["index"]["count"])
}

#[test]
fn what_a_client_had_written_to_its_disk_goes_with_it() {
    let mut world = World::new(DISKS, 120);
    let (client, stock) = frozen_disks::source(&mut world, "data");
    frozen_disks::write(&mut world, stock);
    world.freeze(client, "warm", &[1, 2, 3]);
    let file = export(&mut world, "warm");
    assert_eq!(file.disks.len(), 2, "the volume itself is one of them");

    let mut world = World::new(DISKS, 120);
    let other = world.client("base", 0);
    world.freeze(other, "own", &[700, 5, 701, 6]);
    let rest = world.figures().pages.frozen;
    let begun = begin(&mut world, &file, "here", "");
    let identity = begun.strip_prefix("ok ").expect(&begun).to_string();
    let mut numbers = BTreeMap::new();
    // The index is written anew.
    let root = file.disks.iter().find_map(|disk| disk["index"]["root"].as_u64()).expect("one was written");
    for (page, bytes) in file.pages.iter().filter(|(page, _)| u64::from(**page) != root) {
        numbers.insert(*page, send(&mut world, &identity, bytes, crc32c(bytes)).expect("it is taken"));
    }
    let disk = disk_request(&file, &identity, &numbers, &mut world);
    assert_eq!(request(&mut world, &disk), "ok");
    let end = request(&mut world, &format!("import-end {identity} {}", numbers[&file.head]));
    assert!(end.starts_with("ok "), "{end}");
    let (_, clone) = frozen_disks::clone(&mut world, "base@here", "data@here");
    frozen_disks::check(&mut world, clone);
    assert_eq!(world.write_block(clone, 9, 7), 0);
    let (_, second) = frozen_disks::clone(&mut world, "base@here", "data@here");
    frozen_disks::check(&mut world, second);
    assert_eq!(world.figures().bugs, 0);

    // What makes no sense ends it, and nothing is left.
    for (disk, why) in [
        (disk.replacen("51728", "51728x", 1), "usage: import-disk"),
        (disk.rsplit_once(' ').expect("words").0.to_string(), "usage: import-disk"),
        (disk.rsplitn(4, ' ').last().expect("words").to_string() + " 7 1 1", "what it has of disk 51728"),
        (disk.rsplitn(4, ' ').last().expect("words").to_string() + " 2147483648 0 1", "what it has of disk"),
        (disk.rsplitn(3, ' ').last().expect("words").to_string() + " 2 1", "what it has of disk 51728"),
        (disk.rsplitn(2, ' ').last().expect("words").to_string() + " 99999", "what it has of disk 51728"),
        (disk.clone(), "what it has of disk 51728"),
        (disk.replace(" 51728 ", " 51728 0"), "usage: import-disk"),
        (disk.rsplitn(5, ' ').last().expect("words").to_string() + " 5", "no volume here is what"),
    ] {
        // Its root is a page of another snapshot's.
        let begun = begin(&mut world, &file, "next", "");
        let next = begun.strip_prefix("ok ").expect(&begun).to_string();
        let answer = request(&mut world, &disk.replace(&identity, &next));
        assert!(answer.starts_with(&format!("error {why}")), "{disk}: {answer}");
        let given_up = !why.starts_with("usage");
        assert_eq!(given_up, answer.ends_with("the import is given up"), "{answer}");
        assert_eq!(
            request(&mut world, &format!("import-cancel {next}")).starts_with("ok"),
            !given_up,
            "{answer}"
        );
    }
    let begun = begin(&mut world, &file, "many", "");
    let identity = begun.strip_prefix("ok ").expect(&begun).to_string();
    let (over, blocks) = (&file.disks[0]["volume_identity"], &file.disks[0]["blocks"]);
    let over = over.as_str().expect("text");
    for devid in (0..8).chain([3]) {
        assert_eq!(request(&mut world, &format!("import-disk {identity} {devid} {over} {blocks}")), "ok");
    }
    let answer = request(&mut world, &format!("import-disk {identity} 8 {over} {blocks}"));
    assert!(answer.starts_with("error a snapshot has 8 disks at most"), "{answer}");
    world.pass(2_000_000_000);
    assert_eq!(world.m1.snapshots().map(|one| one.name).collect::<Vec<_>>(), ["own", "here"]);
    assert!(rest < world.figures().pages.frozen);
}

#[test]
fn what_clones_touch_first_stays_here() {
    let mut world = World::new(OPTIONS, 120);
    let source = world.client("base", 0);
    let pages = world.freeze(source, "warm", &[1, 2, 3]);
    let clone = world.client("base@warm", 0);
    let bitmap = mm_proto::Bitmap([0b101, 0, 0, 0, 0, 0, 0, 0]);
    let client = &mut world.clients[clone];
    let request = client.mm.notice(mm_proto::RequestBody::Hot { page: FROZEN_FIRST, bitmap }, client.now());
    client.send(&request.expect("there is room"));
    world.pass(4_000_000_000);
    assert!(world.m1.snapshots().next().is_some_and(|facts| facts.hot && facts.pages == 4));
    let file = export(&mut world, "warm");
    assert_eq!(file.pages.keys().map(|page| u64::from(*page)).collect::<Vec<_>>(), pages);
}

#[test]
fn a_snapshot_that_is_not_ready_is_not_exported() {
    let mut world = World::new(OPTIONS, 120);
    let source = world.client("base", 0);
    world.order(source, "warm");
    assert_eq!(request(&mut world, "export base warm"), "error the snapshot is not ready");
    let domain = world.clients[source].domain.id();
    assert!(world.m1.cancel_freeze(domain, "warm"));
    world.run();
    assert_eq!(request(&mut world, "export base warm"), "error the snapshot is not ready");
}

#[test]
fn what_is_on_the_disk_is_exported_from_there_and_imports_last_if_they_are_to() {
    let mut world = World::new(STORE, 90);
    let source = world.client("base", 0);
    world.freeze_as(source, "warm", &(1..31).collect::<Vec<_>>(), true);
    world.pass(2_000_000_000);
    let blocks =
        |world: &World| world.store_disk.as_ref().and_then(|disk| disk.blocks.clone()).expect("a store");
    // The next M1 has none of it in memory.
    let mut world = World::over(STORE, 90, blocks(&world));
    world.pass(3_000_000_000);
    let file = export(&mut world, "warm");
    assert_eq!(file.pages.len(), 30);

    let mut world = World::new(STORE, 90);
    let source = world.client("base", 0);
    world.freeze(source, "own", &[700, 5, 701, 6]);
    let numbers = import(&mut world, &file, "lasting", " persist");
    let facts = world.m1.snapshots().find(|one| one.name == "lasting").expect("it is there");
    assert_eq!(facts.persist, Persist::Stored);
    let mut world = World::over(STORE, 90, blocks(&world));
    world.pass(3_000_000_000);
    assert_eq!(world.m1.snapshots().map(|one| one.name).collect::<Vec<_>>(), ["lasting"]);
    clone_reads(&mut world, "lasting", &file, &numbers);
    // What was begun and not ended before the power was cut is not there.
    let begun = request(&mut world, &format!("import base half {} 3 persist", file.volume_identity));
    let identity = begun.strip_prefix("ok ").expect(&begun).to_string();
    send(&mut world, &identity, &[7; 4096], crc32c(&[7; 4096])).expect("it is good");
    world.pass(6_000_000_000);
    let mut world = World::over(STORE, 90, blocks(&world));
    world.pass(3_000_000_000);
    assert_eq!(world.m1.snapshots().map(|one| one.name).collect::<Vec<_>>(), ["lasting"]);
    assert_eq!(world.figures().pages.frozen, 0);
}
