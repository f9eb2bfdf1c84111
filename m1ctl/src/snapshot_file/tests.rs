//! Files as they were written, and whatever else somebody may call one.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

const FIRST: u32 = 1 << 31;

fn header(pages: u32) -> Header {
    Header {
        identity: [3; 16],
        over: [4; 32],
        head: FIRST,
        pages,
        ordered: 1 << 33,
        name: "warm".to_owned(),
        volume: "base".to_owned(),
        disks: vec![
            Disk { devid: 51712, over: [4; 32], blocks: 77, index: None },
            Disk {
                devid: 51728,
                over: [5; 32],
                blocks: 1 << 20,
                index: Some(Index { root: FIRST, levels: 2, count: 9 }),
            },
        ],
    }
}

fn page(place: u32) -> Page {
    let mut page = [0; BLOCK];
    page[..4].copy_from_slice(&place.to_le_bytes());
    page
}

/// A file of so many pages, every third number.
fn written(pages: u32) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let mut file = Writer::create(&path, header(pages)).expect("it is new");
    for place in 0..pages {
        file.add(FIRST + 3 * place, &page(place)).expect("written");
    }
    assert!(!path.exists(), "it has its name when it is whole");
    file.finish().expect("whole");
    (directory, path)
}

/// Everything that a file says is read.
fn read(path: &Path) -> Result<()> {
    let file = Reader::open(path)?;
    for (number, _) in &file.rows {
        file.page(*number)?;
    }
    Ok(())
}

/// A file whose header and table say this under checksums that are right, and a page for each row.
fn said(path: &Path, header: &Header, rows: &[(u32, u32)]) {
    let mut table = Vec::new();
    for (number, sum) in rows {
        table.extend(number.to_le_bytes());
        table.extend(sum.to_le_bytes());
    }
    table.resize(table.len().next_multiple_of(BLOCK), 0);
    let mut bytes = header.encode(checksum(&table)).to_vec();
    bytes.extend(table);
    bytes.resize(bytes.len() + rows.len() * BLOCK, 0);
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn what_was_written_is_read() {
    for pages in [1, 511, 512, 513] {
        let (directory, path) = written(pages);
        let file = Reader::open(&path).expect("good");
        assert_eq!(file.header, header(pages));
        for place in 0..pages {
            assert_eq!(file.page(FIRST + 3 * place).expect("good"), page(place));
        }
        let Err(Failure::Refused(why)) = file.page(FIRST + 1) else { panic!("there is none") };
        assert!(why.ends_with("it lacks page 0x80000001"), "{why}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 1, "nothing else is left");
    }
}

#[test]
fn files_of_version_1_are_read_and_those_of_others_are_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let bare = Header { disks: Vec::new(), ..header(1) };
    said(&path, &bare, &[(FIRST, checksum(&[0; BLOCK]))]);
    let mut bytes = std::fs::read(&path).expect("there");
    for version in [0, 1, 2, 3] {
        let mut block: Page = bytes[..BLOCK].try_into().expect("a block");
        put(&mut block, 12, version);
        put(&mut block, 8, 0);
        let sum = checksum(&block);
        put(&mut block, 8, sum);
        bytes[..BLOCK].copy_from_slice(&block);
        std::fs::write(&path, &bytes).expect("written");
        let header = Reader::open(&path).ok().map(|file| file.header);
        assert_eq!(header, [1, 2].contains(&version).then(|| bare.clone()), "{version}");
    }
}

#[test]
fn disks_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let index = |levels| Some(Index { root: FIRST, levels, count: 1 });
    let disk = Disk { devid: 51728, over: [5; 32], blocks: 1024, index: index(1) };
    let rows = [(FIRST, checksum(&[0; BLOCK]))];
    let opens = |disks: Vec<Disk>| {
        said(&path, &Header { disks, ..header(1) }, &rows);
        Reader::open(&path).map(|file| file.header.disks.len())
    };
    assert_eq!(opens(vec![disk.clone(); 8]).expect("eight can be"), 8);
    for wrong in [
        Disk { index: index(0), ..disk.clone() },
        Disk { index: index(2), ..disk.clone() },
        Disk { index: index(u32::MAX), ..disk.clone() },
        Disk { blocks: 1 << 40, ..disk.clone() },
    ] {
        let why = opens(vec![wrong]).expect_err("it is refused").to_string();
        assert!(why.ends_with("its disks make no sense"), "{why}");
    }
}

#[test]
fn a_file_that_is_not_finished_is_not_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let mut file = Writer::create(&path, header(2)).expect("it is new");
    file.add(FIRST, &page(0)).expect("written");
    assert!(file.add(FIRST, &page(1)).is_err(), "out of order");
    assert!(file.add(3, &page(1)).is_err(), "no frozen page");
    assert!(file.finish().is_err(), "a page is missing");
    drop(Writer::create(&path, header(2)).expect("it is new"));
    assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 0);
    std::fs::write(&path, "mine").expect("written");
    assert!(Writer::create(&path, header(2)).is_err(), "nothing is written over");
}

#[test]
fn one_at_a_time_writes_a_file_and_what_a_killed_one_left_is_in_nobodys_way() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    std::fs::write(directory.path().join("file.partial"), "left").expect("written");
    let mut first = Writer::create(&path, header(1)).expect("it is new");
    let Err(Failure::Host(why)) = Writer::create(&path, header(1)) else { panic!("one writes it") };
    assert!(why.ends_with("another export writes it"), "{why}");
    first.add(FIRST, &page(1)).expect("written");
    // Whoever puts a file there meanwhile keeps it.
    std::fs::write(&path, "mine").expect("written");
    assert!(first.finish().is_err(), "nothing is written over");
    assert_eq!(std::fs::read(&path).expect("there"), b"mine");
    assert_eq!(std::fs::read_dir(directory.path()).expect("there").count(), 1, "nothing else is left");
}

#[test]
fn tables_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let zero = checksum(&[0; BLOCK]);
    said(&path, &header(2), &[(FIRST, zero), (FIRST + 1, zero)]);
    read(&path).expect("good");
    let why = |header: &Header, rows: &[(u32, u32)]| {
        said(&path, header, rows);
        read(&path).expect_err("it is refused").to_string()
    };
    let table = "its table makes no sense";
    assert!(why(&header(2), &[(FIRST, zero), (FIRST, zero)]).ends_with(table));
    assert!(why(&header(2), &[(FIRST + 1, zero), (FIRST, zero)]).ends_with(table));
    assert!(why(&header(2), &[(7, zero), (FIRST, zero)]).ends_with(table));
    assert!(why(&header(1), &[(FIRST + 1, zero)]).ends_with(table), "its head is missing");
    assert!(why(&header(1), &[(FIRST, zero ^ 1)]).ends_with("page 0x80000000 is damaged"));
    let length = "it is cut short, or longer than it says";
    for pages in [0, 3, 600, u32::MAX] {
        assert!(why(&header(pages), &[(FIRST, zero), (FIRST + 1, zero)]).ends_with(length), "{pages}");
    }
    for name in ["", "a b", "a/b", "\u{e4}"] {
        let header = Header { name: name.to_owned(), ..header(1) };
        assert!(why(&header, &[(FIRST, zero)]).ends_with("its name is none"), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_anywhere_is_noticed(pages in 1_u32..4, place in any::<prop::sample::Index>(), bit in 0..8) {
        let (_directory, path) = written(pages);
        let mut bytes = std::fs::read(&path).expect("there");
        let at = place.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        std::fs::write(&path, bytes).expect("written");
        prop_assert!(read(&path).is_err(), "byte {}", at);
    }

    #[test]
    fn a_file_of_another_length_is_refused(pages in 1_u32..4, place in any::<prop::sample::Index>(), more in 1_usize..5000) {
        let (_directory, path) = written(pages);
        let bytes = std::fs::read(&path).expect("there");
        std::fs::write(&path, &bytes[..place.index(bytes.len())]).expect("written");
        prop_assert!(read(&path).is_err());
        let mut longer = bytes;
        longer.resize(longer.len() + more, 0);
        std::fs::write(&path, longer).expect("written");
        prop_assert!(read(&path).is_err());
    }

    #[test]
    fn random_bytes_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..10_000), begin in any::<bool>()) {
        if begin && bytes.len() > 16 {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[12..16].copy_from_slice(&VERSION.to_le_bytes());
        }
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, bytes).expect("written");
        prop_assert!(read(&path).is_err());
    }
}
