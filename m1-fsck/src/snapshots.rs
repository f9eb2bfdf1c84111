//! The directory of snapshots (docs/STORE.md, §5).

use mm_store::{BLOCK, Found, OverlayId, Page, Store, crc32c};
use serde::Serialize;

use crate::image::Image;
use crate::list::hex;

/// The overlay that holds them.
const OVERLAY: &str = ".m1-snapshots";
/// Where the directory begins, the blocks of each place, and the places.
const DIRECTORY: u32 = 1 << 31;
const SPAN: u32 = 1 << 17;
const PLACES: u32 = 64;

/// A snapshot, or a place whose header is no good.
#[derive(Serialize)]
pub(crate) struct Snapshot {
    pub(crate) place: u32,
    /// What is wrong with it, if anything.
    pub(crate) damage: Option<&'static str>,
    pub(crate) volume: String,
    pub(crate) name: String,
    pub(crate) identity: String,
    /// Blocks of 4 KiB.
    pub(crate) blocks: u32,
    /// Disks that its client had besides.
    pub(crate) disks: u32,
    /// Seconds since 1970.
    pub(crate) ordered: u64,
}

/// All that are there.
pub(crate) fn list(image: &Image, store: &Store<'_>) -> Vec<Snapshot> {
    let Some(overlay) = store.find(OVERLAY) else { return Vec::new() };
    (0..PLACES).filter_map(|place| one(image, store, overlay, place)).collect()
}

fn one(image: &Image, store: &Store<'_>, overlay: OverlayId, place: u32) -> Option<Snapshot> {
    let Ok(Found::At { disk, crc }) = store.lookup(overlay, DIRECTORY + place * SPAN) else { return None };
    let mut pages: [Page; 1] = [[0; BLOCK]];
    let read = image.read(disk.0, &mut pages);
    let [page] = pages;
    let damage = if read.is_err() {
        Some("its header cannot be read")
    } else if crc32c(&page) != crc {
        Some("its header is rotten")
    } else {
        wrong(&page)
    };
    let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
    let text = |at: usize| {
        let length = (word(at) as usize).min(32);
        String::from_utf8_lossy(&page[at + 4..at + 4 + length]).into_owned()
    };
    if damage.is_some() {
        let (volume, name, identity) = Default::default();
        return Some(Snapshot { place, damage, volume, name, identity, blocks: 0, disks: 0, ordered: 0 });
    }
    Some(Snapshot {
        place,
        damage,
        volume: text(128),
        name: text(80),
        identity: hex(&page[16..32]),
        blocks: word(52),
        disks: word(72),
        ordered: u64::from(word(64)) | u64::from(word(68)) << 32,
    })
}

/// What is wrong with a header whose block is as it was written.
fn wrong(page: &Page) -> Option<&'static str> {
    let mut bare = *page;
    bare[8..12].fill(0);
    let crc = u32::from_le_bytes([page[8], page[9], page[10], page[11]]);
    if page[..8] != *b"M1SNAPSH" || crc32c(&bare) != crc {
        return Some("it is no header");
    }
    (page[12..16] != 1_u32.to_le_bytes()).then_some("its version is not known to this program")
}
