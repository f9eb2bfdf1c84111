use super::*;
use crate::Geometry;

const UUID: [u8; 16] = [7; 16];
const GEOMETRY: Geometry = Geometry { journal: 16, data: 100, overlays: 4, zeroes: 64 };

fn superblock() -> Superblock {
    Superblock {
        uuid: UUID,
        generation: 5,
        epoch: 3,
        start: 90,
        durable: 99,
        geometry: GEOMETRY,
        pages: [1, 1, 1],
    }
}

#[test]
fn a_superblock_reads_as_it_was_written() {
    let mut page = [0xee; 4096];
    superblock().write(&mut page);
    assert_eq!(Superblock::read(&page), Ok(superblock()));
}

#[test]
fn every_changed_byte_of_a_superblock_is_noticed() {
    let mut page = [0; 4096];
    superblock().write(&mut page);
    for at in 0..4096 {
        let mut changed = page;
        changed[at] ^= 0x10;
        assert!(Superblock::read(&changed).is_err(), "byte {at}");
    }
}

#[test]
fn the_newer_good_superblock_counts() {
    let (mut old, mut new, nothing) = ([0; 4096], [0; 4096], [0; 4096]);
    superblock().write(&mut old);
    Superblock { generation: 6, ..superblock() }.write(&mut new);
    assert_eq!(Superblock::choose([&new, &old]).map(|s| s.generation), Ok(6));
    let mut torn = new;
    torn[4095] ^= 1;
    assert_eq!(Superblock::choose([&torn, &old]).map(|s| s.generation), Ok(5));
    assert_eq!(Superblock::choose([&nothing, &nothing]), Err(crate::OpenError::NoStore));
    let mut later = new;
    later[12] = 2;
    let sum = crc_without(&later, CRC_AT);
    put_u32(&mut later, CRC_AT, sum);
    assert_eq!(Superblock::choose([&later, &old]), Err(crate::OpenError::Version { found: 2 }));
}

#[test]
fn records_read_as_they_were_written() {
    let name = Text::new("web-1").expect("a name");
    let entry = OverlayEntry { id: 9, alive: true, base: [3; 16], pages: 77, quota: NO_QUOTA, name };
    let records = [
        Record::Map { overlay: 1, logical: 2, disk: 3, crc: 4 },
        Record::Zero { overlay: 1, logical: 2, count: 3 },
        Record::Hide { overlay: 1, logical: 0, count: u32::MAX },
        Record::Create(entry),
        Record::Delete { overlay: 5 },
    ];
    for record in records {
        let mut bytes = [0xaa; MOST_RECORD];
        let length = record.write(&mut bytes);
        assert_eq!(Record::read(&bytes), Ok((record, length)));
        assert_eq!(Record::read(&bytes[..length - 1]), Err(Bad::Content));
    }
    assert_eq!(Record::read(&[9, 0, 4, 0]), Err(Bad::Content));
    assert_eq!(Record::read(&[]), Err(Bad::Content));
}

#[test]
fn names_that_mean_something_to_xl_are_refused() {
    for bad in ["", "a:b", "a+b", "a@b", "a/b", "a b", "é", &"x".repeat(65)] {
        assert_eq!(Text::new(bad), None, "{bad}");
    }
    assert_eq!(Text::new(&"x".repeat(64)).expect("a name").as_str(), "x".repeat(64));
}
