//! The directory of snapshots on the store's disk: a header and a bitmap for each (docs/STORE.md, §5).

use mm_proto::FROZEN_FIRST;
use mm_store::{BLOCK, Page, crc32c};

use super::{DISKS, Identity};
use crate::config::{NAME_MAX, Name};
use crate::overlays::DIRECTORY;

const MAGIC: [u8; 8] = *b"M1SNAPSH";
const VERSION: u32 = 1;
/// Blocks of the overlay for each place of the directory.
const SPAN: u32 = 1 << 17;
/// Pages that a block of a bitmap is about.
pub(crate) const BITMAP_PAGES: u32 = 8 * 4096;

/// What the header of a snapshot says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) identity: Identity,
    /// Which version of which volume it lies over.
    pub(crate) base: [u8; 16],
    pub(crate) volume: Name,
    pub(crate) name: Name,
    /// Page that a clone begins with.
    pub(crate) head: u32,
    /// Number of pages, and the last of them.
    pub(crate) pages: u32,
    pub(crate) last: u32,
    /// Of the bitmap: see [`chain`].
    pub(crate) crc: u32,
    /// Seconds since 1970 when it was ordered.
    pub(crate) ordered: u64,
    /// The disks that the client had.
    pub(crate) disks: heapless::Vec<DiskEntry, DISKS>,
}

/// A disk of the client's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DiskEntry {
    pub(crate) devid: u32,
    pub(crate) volume: Name,
    pub(crate) base: [u8; 16],
    /// Where the index of what it had over its base is (`block::Image`); none where it had nothing.
    pub(crate) image: Option<[u32; 3]>,
}

/// Where the disks begin, and bytes of each.
const DISK: (usize, usize) = (256, 96);
const _: () = assert!(DISK.0 + DISK.1 * DISKS <= BLOCK);

impl Header {
    /// Blocks of the bitmap.
    pub(crate) fn bitmaps(&self) -> u32 {
        number(self.last) / BITMAP_PAGES + 1
    }

    pub(crate) fn encode(&self) -> Page {
        let mut page = [0; BLOCK];
        page[..8].copy_from_slice(&MAGIC);
        put(&mut page, 12, VERSION);
        page[16..32].copy_from_slice(&self.identity);
        page[32..48].copy_from_slice(&self.base);
        for (at, word) in [(48, self.head), (52, self.pages), (56, self.last), (60, self.crc)] {
            put(&mut page, at, word);
        }
        page[64..72].copy_from_slice(&self.ordered.to_le_bytes());
        put(&mut page, 72, u32::try_from(self.disks.len()).unwrap_or(0));
        put_text(&mut page, 80, &self.name);
        put_text(&mut page, 128, &self.volume);
        for (index, disk) in self.disks.iter().enumerate() {
            let at = DISK.0 + index * DISK.1;
            put(&mut page, at, disk.devid);
            page[at + 4..at + 20].copy_from_slice(&disk.base);
            put(&mut page, at + 20, u32::from(disk.image.is_some()));
            for (word, value) in disk.image.unwrap_or_default().into_iter().enumerate() {
                put(&mut page, at + 24 + 4 * word, value);
            }
            put_text(&mut page, at + 48, &disk.volume);
        }
        let crc = crc32c(&page);
        put(&mut page, 8, crc);
        page
    }

    /// `None` where it is no header, or not one of this version.
    pub(crate) fn decode(page: &Page) -> Option<Self> {
        let mut bare = *page;
        put(&mut bare, 8, 0);
        if page[..8] != MAGIC || get(page, 8) != crc32c(&bare) || get(page, 12) != VERSION {
            return None;
        }
        let text = |at: usize| {
            let length = usize::try_from(get(page, at)).ok().filter(|length| *length <= NAME_MAX)?;
            let text = core::str::from_utf8(&page[at + 4..at + 4 + length]).ok()?;
            super::legal(text)
        };
        let count = usize::try_from(get(page, 72)).ok().filter(|count| *count <= DISKS)?;
        let mut disks = heapless::Vec::new();
        for index in 0..count {
            let at = DISK.0 + index * DISK.1;
            let mut base = [0; 16];
            base.copy_from_slice(&page[at + 4..at + 20]);
            let words = core::array::from_fn(|word| get(page, at + 24 + 4 * word));
            let image = (get(page, at + 20) == 1).then_some(words);
            // As many as there can be.
            let _ = disks.push(DiskEntry { devid: get(page, at), volume: text(at + 48)?, base, image });
        }
        let (mut identity, mut base, mut ordered) = ([0; 16], [0; 16], [0; 8]);
        identity.copy_from_slice(&page[16..32]);
        base.copy_from_slice(&page[32..48]);
        ordered.copy_from_slice(&page[64..72]);
        let header = Self {
            identity,
            base,
            volume: text(128)?,
            name: text(80)?,
            head: get(page, 48),
            pages: get(page, 52),
            last: get(page, 56),
            crc: get(page, 60),
            ordered: u64::from_le_bytes(ordered),
            disks,
        };
        let frozen = |page: u32| u64::from(page) >= FROZEN_FIRST && page <= header.last;
        (frozen(header.head) && header.last < u32::MAX && header.pages > 0).then_some(header)
    }
}

/// The checksum of a bitmap, block after block, from 0 on: of the sum so far and the block.
pub(crate) fn chain(sum: u32, page: &Page) -> u32 {
    let mut bytes = [0; BLOCK + 4];
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes[4..].copy_from_slice(page);
    crc32c(&bytes)
}

/// The block of the overlay that holds the header of a place.
pub(crate) fn header_block(place: u8) -> u32 {
    DIRECTORY + u32::from(place) * SPAN
}

/// The block that holds this part of its bitmap.
pub(crate) fn bitmap_block(place: u8, index: u32) -> u32 {
    header_block(place) + 1 + index
}

/// A page's number in the frozen part, from 0 on.
pub(crate) fn number(page: u32) -> u32 {
    page & !(1 << 31)
}

fn put(page: &mut Page, at: usize, word: u32) {
    page[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

fn put_text(page: &mut Page, at: usize, text: &Name) {
    put(page, at, u32::try_from(text.len()).unwrap_or(0));
    page[at + 4..at + 4 + text.len()].copy_from_slice(text.as_bytes());
}

fn get(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            identity: [3; 16],
            base: [4; 16],
            volume: Name::try_from("base").expect("short"),
            name: Name::try_from("warm").expect("short"),
            head: 0x8000_0005,
            pages: 9,
            last: 0x8000_8000,
            crc: 77,
            ordered: 1 << 33,
            disks: (0..8)
                .map(|at| DiskEntry {
                    devid: 51712 + at,
                    volume: Name::try_from("data").expect("short"),
                    base: [9; 16],
                    image: (at % 2 == 0).then_some([0x8000_0001, 2, at]),
                })
                .collect(),
        }
    }

    #[test]
    fn a_header_survives_and_a_changed_one_is_none() {
        let page = header().encode();
        assert_eq!(Header::decode(&page), Some(header()));
        assert_eq!(header().bitmaps(), 2);
        for at in (0..BLOCK).step_by(7) {
            let mut changed = page;
            changed[at] ^= 1;
            assert_eq!(Header::decode(&changed), None, "byte {at}");
        }
        assert_eq!(Header::decode(&[0; BLOCK]), None);
        let beyond = Header { head: 0x8000_9000, ..header() };
        assert_eq!(
            Header::decode(&beyond.encode()),
            None,
            "it would begin with a page that it does not have"
        );
    }

    #[test]
    fn places_do_not_overlap() {
        assert_eq!(header_block(0), 1 << 31);
        assert_eq!(bitmap_block(0, 65535) + 1, header_block(0) + 65537);
        assert!(bitmap_block(62, 65535) < header_block(63));
    }
}
