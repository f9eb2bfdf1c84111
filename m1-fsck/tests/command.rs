//! The program as a user has it: what it prints, and its exit codes.

use std::path::Path;
use std::process::{Command, Output};

use mm_store::fuzz;

fn fsck(arguments: &[&str], image: &Path) -> (i32, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_m1-fsck"))
        .args(arguments)
        .arg(image)
        .output()
        .expect("m1-fsck starts");
    let text = String::from_utf8(stdout).expect("text") + &String::from_utf8(stderr).expect("text");
    (status.code().expect("an exit code"), text)
}

#[test]
fn a_new_store_is_clean_and_empty() {
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("store");
    let (code, text) = fsck(&["format"], &image);
    assert!(code == 8 && text.contains("--size"), "{code} {text}");
    let (code, text) = fsck(&["format", "--size", "8M"], &image);
    assert!(code == 0 && text.contains("data blocks"), "{code} {text}");
    let (code, text) = fsck(&["check"], &image);
    assert!(code == 0 && text.contains("clean"), "{code} {text}");
    let (code, text) = fsck(&["list", "--json"], &image);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, json["overlays"].as_array().map(Vec::len)), (0, Some(0)));
    assert_eq!(json["data_blocks"], json["free_blocks"]);
    // What is there is not written over by mistake.
    let (code, text) = fsck(&["format"], &image);
    assert!(code == 8 && text.contains("--force"), "{code} {text}");
    assert_eq!(fsck(&["format", "--force"], &image).0, 0);
}

#[test]
fn a_store_after_a_cut_of_power_is_clean_and_lists_its_overlays() {
    let directory = tempfile::tempdir().expect("a directory");
    for seed in 0..6 {
        let image = directory.path().join("store");
        std::fs::write(&image, fuzz::image(seed)).expect("written");
        let (code, text) = fsck(&["check"], &image);
        assert!(code == 0 && text.contains("records replayed"), "{code} {text}");
        let (code, text) = fsck(&["list"], &image);
        assert!(code == 0 && text.contains("01010101"), "{code} {text}");
        // Looking changes nothing.
        assert!(std::fs::read(&image).expect("readable") == fuzz::image(seed));
    }
}

#[test]
fn rot_is_named_and_is_exit_code_4() {
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("store");
    let mut named = 0;
    for block in 2..110 {
        let mut bytes = fuzz::image(1);
        if let Some(byte) = bytes.get_mut(block * 4096 + 77) {
            *byte ^= 4;
        }
        std::fs::write(&image, bytes).expect("written");
        let (code, text) = fsck(&["check"], &image);
        assert!([0, 4].contains(&code), "{code} {text}");
        assert_eq!(code == 4, text.contains("rotten") || text.contains("damaged"), "{code} {text}");
        named += i32::from(text.contains(&format!("(disk block {block})")));
    }
    assert!(named > 10, "{named} rotten blocks were named");
}

#[test]
fn what_is_no_store_is_exit_code_8_and_misuse_16() {
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("noise");
    for length in [0, 4096, 1 << 20] {
        std::fs::write(&image, vec![0xaa; length]).expect("written");
        assert_eq!(fsck(&["check"], &image).0, 8);
        assert_eq!(fsck(&["list"], &image).0, 8);
    }
    assert_eq!(fsck(&["check"], &directory.path().join("nothing")).0, 8);
    assert_eq!(fsck(&["format", "--size", "100K"], &directory.path().join("small")).0, 8);
    assert_eq!(fsck(&["mend"], &image).0, 16);
    assert_eq!(fsck(&["check", "--help"], &image).0, 0);
}

/// A store with a directory of snapshots whose places hold these blocks.
fn with_snapshots(headers: &[(u32, [u8; 4096])]) -> Vec<u8> {
    use mm_store::{Base, Command, Geometry, Lifetime, Recovery, crc32c, format_block, host::Tables};

    const BLOCKS: u32 = 512;
    let geometry = Geometry::for_disk(BLOCKS).expect("large enough");
    let mut disk = vec![[0; 4096]; BLOCKS as usize];
    for which in [0, 1] {
        format_block(geometry, [7; 16], which, &mut disk[which as usize]);
    }
    let mut tables = Tables::new(&geometry);
    let mut recovery = Recovery::new(tables.memory(), BLOCKS, 8);
    while let Some(reading) = recovery.next() {
        let first = reading.block as usize;
        recovery.done(Ok(&disk[first..first + reading.blocks as usize]));
    }
    let mut store = recovery.finish().expect("an empty store");
    let work = |store: &mut mm_store::Store<'_>, disk: &mut Vec<[u8; 4096]>| {
        let mut page = [0; 4096];
        while let Some(command) = store.poll(&mut page) {
            let ticket = match command {
                Command::Write { ticket, block } => {
                    disk[block.0 as usize] = page;
                    ticket
                }
                Command::Flush { ticket } => ticket,
            };
            store.completed(ticket, Ok(()));
        }
    };
    work(&mut store, &mut disk);
    let base = Base { identity: *b"M1 snapshots   1", pages: u32::MAX };
    let overlay = store.create(".m1-snapshots", base, None, Lifetime::Persistent).expect("there is room");
    for (place, header) in headers {
        let at = store.begin_write(overlay, (1 << 31) + (place << 17)).expect("there is room");
        disk[at.disk.0 as usize] = *header;
        store.written(at, crc32c(header), Ok(())).expect("it is good");
    }
    store.flush(1).expect("nobody else waits");
    work(&mut store, &mut disk);
    disk.concat()
}

#[test]
fn snapshots_are_listed_and_damaged_ones_named() {
    let mut header = [0; 4096];
    header[..8].copy_from_slice(b"M1SNAPSH");
    header[12] = 1;
    header[16..32].fill(0xab);
    header[52] = 9;
    header[72] = 1;
    for (at, name) in [(80, "warm"), (128, "base")] {
        header[at] = 4;
        header[at + 4..at + 8].copy_from_slice(name.as_bytes());
    }
    let crc = mm_store::crc32c(&header);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    let mut strange = header;
    strange[9] ^= 1;
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("store");
    std::fs::write(&image, with_snapshots(&[(3, header), (63, strange)])).expect("written");
    assert_eq!(fsck(&["check"], &image).0, 0);
    let (code, text) = fsck(&["list"], &image);
    assert!(code == 0 && text.contains("warm") && text.contains("place 63: it is no header"), "{text}");
    let (_, text) = fsck(&["list", "--json"], &image);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let first = &json["snapshots"][0];
    assert_eq!((&first["place"], &first["blocks"], &first["disks"]), (&3.into(), &9.into(), &1.into()));
    assert_eq!((&first["volume"], &first["name"]), (&"base".into(), &"warm".into()));
    assert_eq!(first["identity"], "ab".repeat(16));
    assert_eq!(json["snapshots"].as_array().map(Vec::len), Some(2));
}
