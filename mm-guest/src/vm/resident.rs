//! Which pages of the program are present, and which of those are shared: two bits for each page of every 2 MiB region
//! that was touched. It lets a range be walked in time that depends on what is there, not on its length.

use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;

use crate::errno::Errno;

/// Pages of a region: what one last-level page table maps.
const REGION: u64 = 512;

/// What is behind a page-table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Absent,
    /// A frame of this domain.
    Private,
    /// A page lent by M1.
    Shared,
}

struct Region {
    index: u64,
    present: [u64; 8],
    shared: [u64; 8],
}

/// The set of present pages.
#[derive(Default)]
pub(crate) struct Resident {
    regions: Vec<Region>,
    /// Where a region was found last: one fault looks several times.
    recent: Cell<usize>,
    private: u64,
    shared: u64,
}

impl Resident {
    /// Private pages that are present (W), and shared ones (R).
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.private, self.shared)
    }

    /// Makes sure that [`Resident::set`] can record `page`.
    pub(crate) fn prepare(&mut self, page: u64) -> Result<(), Errno> {
        let index = page / REGION;
        if let Err(place) = self.find(index) {
            self.regions.try_reserve(1)?;
            self.regions.insert(place, Region { index, present: [0; 8], shared: [0; 8] });
        }
        Ok(())
    }

    fn find(&self, index: u64) -> Result<usize, usize> {
        let recent = self.recent.get();
        if self.regions.get(recent).is_some_and(|region| region.index == index) {
            return Ok(recent);
        }
        let found = self.regions.binary_search_by_key(&index, |region| region.index);
        self.recent.set(found.unwrap_or_else(|place| place));
        found
    }

    pub(crate) fn get(&self, page: u64) -> Presence {
        let Ok(place) = self.find(page / REGION) else { return Presence::Absent };
        let (word, bit) = position(page);
        let region = &self.regions[place];
        match (region.present[word] >> bit & 1, region.shared[word] >> bit & 1) {
            (0, _) => Presence::Absent,
            (_, 0) => Presence::Private,
            _ => Presence::Shared,
        }
    }

    /// Records what is behind `page`. Its region was prepared, unless it becomes absent.
    pub(crate) fn set(&mut self, page: u64, now: Presence) {
        let Ok(place) = self.find(page / REGION) else { return };
        match self.get(page) {
            Presence::Absent => {}
            Presence::Private => self.private -= 1,
            Presence::Shared => self.shared -= 1,
        }
        match now {
            Presence::Absent => {}
            Presence::Private => self.private += 1,
            Presence::Shared => self.shared += 1,
        }
        let (word, bit) = position(page);
        let region = &mut self.regions[place];
        let put = |words: &mut [u64; 8], value: bool| {
            words[word] = words[word] & !(1 << bit) | u64::from(value) << bit;
        };
        put(&mut region.present, now != Presence::Absent);
        put(&mut region.shared, now == Presence::Shared);
    }

    /// Which of the aligned block of 64 pages around `page` are absent: bit `i` for its page `i`.
    pub(crate) fn absent_around(&self, page: u64) -> u64 {
        match self.find(page / REGION) {
            Ok(place) => !self.regions[place].present[position(page).0],
            Err(_) => u64::MAX,
        }
    }

    /// Records that these absent pages of the block around `page` are shared now. Their region was prepared.
    pub(crate) fn set_shared_around(&mut self, page: u64, pages: u64) {
        let Ok(place) = self.find(page / REGION) else { return };
        let (word, _) = position(page);
        let region = &mut self.regions[place];
        region.present[word] |= pages;
        region.shared[word] |= pages;
        self.shared += u64::from(pages.count_ones());
    }

    /// Forgets regions in the range of pages in which nothing is present.
    pub(crate) fn prune(&mut self, range: Range<u64>) {
        let low = self.regions.partition_point(|region| region.index < range.start / REGION);
        let high = self.regions.partition_point(|region| region.index * REGION < range.end);
        for place in (low..high).rev() {
            if self.regions[place].present == [0; 8] {
                self.regions.remove(place);
            }
        }
    }

    /// The first present page in the range.
    pub(crate) fn next(&self, range: Range<u64>) -> Option<u64> {
        let first = self.regions.partition_point(|region| region.index < range.start / REGION);
        for region in &self.regions[first..] {
            let base = region.index * REGION;
            if base >= range.end {
                return None;
            }
            for (word, bits) in region.present.iter().enumerate() {
                let low = base + 64 * word as u64;
                let skip = range.start.saturating_sub(low).min(64);
                let bits = if skip == 64 { 0 } else { bits >> skip << skip };
                if bits != 0 {
                    let page = low + u64::from(bits.trailing_zeros());
                    return (page < range.end).then_some(page);
                }
            }
        }
        None
    }
}

fn position(page: u64) -> (usize, u32) {
    ((page % REGION / 64) as usize, (page % 64) as u32)
}
