//! Manifests of snapshots as a client's kernel wrote them, or anything else, which `m1ctl import` writes anew with other numbers.

use std::collections::BTreeMap;

use mm_guest::Moving;
use mm_proto::FROZEN_FIRST;

const BLOCK: usize = 4096;
/// The volume.
const OVER: [u8; 32] = [9; 32];
/// Pages that are moved; a manifest can name many more.
const PAGES: usize = 10_000;

/// What is read, moved and read again is the same with other numbers.
pub fn run(data: &[u8]) {
    let blocks: Vec<[u8; BLOCK]> = data.chunks(BLOCK).map(block).collect();
    let first = u32::try_from(FROZEN_FIRST).expect("31 bits");
    let numbers: Vec<u32> = (first + 1..).take(blocks.len()).collect();
    let head = head(data, &numbers);
    let Some(mut moving) = read(&head, &numbers, &blocks) else { return };
    let Ok(pages) = moving.pages() else { return };
    assert!(pages.windows(2).all(|pair| pair[0] < pair[1]), "each once, ascending");
    // Whatever their numbers, each gets one of its own.
    let moved: BTreeMap<u32, u32> = pages.iter().map(|page| (*page, page.wrapping_mul(7) | first)).collect();
    if pages.len() > PAGES || pages.iter().any(|page| *page < first) {
        return;
    }
    let most = moving.own_pages();
    let Some(manifest) = moving.manifest(&moved) else { return };
    assert!(manifest.len() < most, "{} of {most}", manifest.len());
    let numbers: Vec<u32> = (first + 1..).take(manifest.len()).collect();
    assert_eq!(moving.head(&numbers[1..]), None);
    let head = moving.head(&numbers).expect("as many");
    let again = read(&head, &numbers, &manifest).expect("it was written here");
    let mut expected: Vec<u32> = moved.into_values().collect();
    expected.sort_unstable();
    assert_eq!(again.pages(), Ok(expected));
}

fn read(head: &[u8; BLOCK], numbers: &[u32], blocks: &[[u8; BLOCK]]) -> Option<Moving> {
    let first = u32::try_from(FROZEN_FIRST).ok()?;
    let page = |number: u32| match numbers.binary_search(&number) {
        Ok(at) => Some(blocks[at]),
        Err(_) => (number == first).then_some(*head),
    };
    Moving::read(first, &OVER, page).ok()
}

fn block(part: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..part.len()].copy_from_slice(part);
    block
}

/// A head as `mm-guest/src/freeze/manifest.rs` has it, with a checksum that is right.
fn head(manifest: &[u8], pages: &[u32]) -> [u8; BLOCK] {
    let mut head = [0; BLOCK];
    head[..8].copy_from_slice(b"M1FROZEN");
    let bytes = u32::try_from(manifest.len()).unwrap_or(u32::MAX);
    let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
    let words = [1, bytes, mm_store::crc32c(manifest), count];
    for (place, word) in head[8..24].chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    head[24..56].copy_from_slice(&OVER);
    for (place, page) in head[56..].chunks_exact_mut(4).zip(pages) {
        place.copy_from_slice(&page.to_le_bytes());
    }
    head
}
