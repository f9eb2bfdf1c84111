//! Where a thawed program's pages come from until it writes them: runs of its address space that show runs of the frozen part.

use alloc::vec::Vec;
use core::ops::Range;

use mm_proto::FROZEN_FIRST;
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::page::VolumePage;

/// Pages from `start` on show pages of the frozen part from `first` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenRun {
    pub(crate) start: u64,
    pub(crate) pages: u32,
    pub(crate) first: u32,
}

impl FrozenRun {
    fn end(&self) -> u64 {
        self.start + u64::from(self.pages)
    }

    fn volume(&self, page: u64) -> VolumePage {
        VolumePage(u64::from(self.first) + page - self.start)
    }

    /// The part of it that lies in the range.
    fn part(&self, range: &Range<u64>) -> Option<Self> {
        let (start, end) = (self.start.max(range.start), self.end().min(range.end));
        (start < end).then(|| Self {
            start,
            pages: (end - start) as u32,
            first: self.first + (start - self.start) as u32,
        })
    }

    /// A run of the frozen part, and of a program's half of the address space?
    fn is_sound(&self) -> bool {
        let frozen = u64::from(self.first)..u64::from(self.first) + u64::from(self.pages);
        frozen.start >= FROZEN_FIRST
            && frozen.end <= 2 * FROZEN_FIRST
            && self.pages > 0
            && self.start.checked_add(self.pages.into()).is_some()
    }
}

/// All runs, ascending, none overlapping.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenMap {
    runs: Vec<FrozenRun>,
}

impl FrozenMap {
    /// Whether the runs are what this kernel would have made: they may come from anywhere.
    pub(crate) fn is_sound(&self) -> bool {
        // Only a sound run has an end.
        self.runs.iter().all(FrozenRun::is_sound)
            && self.runs.windows(2).all(|pair| pair[0].end() <= pair[1].start)
    }

    fn index(&self, page: u64) -> usize {
        self.runs.partition_point(|run| run.end() <= page)
    }

    fn run(&self, page: u64) -> Option<&FrozenRun> {
        self.runs.get(self.index(page)).filter(|run| run.start <= page)
    }

    /// What `page` shows.
    pub(crate) fn find(&self, page: u64) -> Option<VolumePage> {
        self.run(page).map(|run| run.volume(page))
    }

    /// The pages around `page` that come from the frozen part as it does, one after another; or, where it does not, those around it
    /// that do not either.
    pub(crate) fn extent(&self, page: u64) -> Range<u64> {
        if let Some(run) = self.run(page) {
            return run.start..run.end();
        }
        let next = self.index(page);
        let before = next.checked_sub(1).map_or(0, |index| self.runs[index].end());
        before..self.runs.get(next).map_or(u64::MAX, |run| run.start)
    }

    /// Runs of pages that show some of this run of the frozen part.
    pub(crate) fn showing(&self, frozen: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.runs.iter().filter_map(move |run| {
            let first = u64::from(run.first);
            let (low, high) = (frozen.start.max(first), frozen.end.min(first + u64::from(run.pages)));
            (low < high).then(|| run.start + low - first..run.start + high - first)
        })
    }

    /// Every page that is frozen in the range, with what it shows.
    pub(crate) fn pages(&self, range: Range<u64>) -> impl Iterator<Item = (u64, VolumePage)> {
        let first = self.index(range.start);
        let runs = self.runs[first..].iter().map_while(move |run| run.part(&range));
        runs.flat_map(|run| (run.start..run.end()).map(move |page| (page, run.volume(page))))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Makes room for what [`FrozenMap::remove`] and [`FrozenMap::relocate`] may add.
    pub(crate) fn reserve(&mut self, more: usize) -> Result<(), Errno> {
        Ok(self.runs.try_reserve(more)?)
    }

    /// These pages show nothing frozen from now on. Room for one more run was reserved.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        let first = self.index(range.start);
        let past = self.runs.partition_point(|run| run.start < range.end);
        if first >= past {
            return;
        }
        let head = self.runs[first].part(&(0..range.start));
        let tail = self.runs[past - 1].part(&(range.end..u64::MAX));
        self.runs.splice(first..past, head.into_iter().chain(tail));
    }

    /// What the pages of the range show is shown from `to` on, where nothing was. Room for one more run than there are in the
    /// range was reserved, and one for its removal.
    pub(crate) fn relocate(&mut self, range: Range<u64>, to: u64) {
        let first = self.index(range.start);
        let moved: Vec<FrozenRun> = self.runs[first..]
            .iter()
            .map_while(|run| run.part(&range))
            .map(|run| FrozenRun { start: run.start - range.start + to, ..run })
            .collect();
        self.remove(range);
        let place = self.index(to);
        self.runs.splice(place..place, moved);
    }

    /// Runs in the range.
    pub(crate) fn count(&self, range: Range<u64>) -> usize {
        let first = self.index(range.start);
        self.runs[first..].iter().take_while(|run| run.start < range.end).count()
    }

    /// These runs and these pages, which are ascending and in none of them.
    pub(crate) fn merged(&self, pages: impl Iterator<Item = (u64, u32)>) -> Result<Self, Errno> {
        let mut merged = Self::default();
        let mut old = self.pages(0..u64::MAX).peekable();
        for (page, frozen) in pages {
            while let Some((before, shown)) = old.next_if(|(old, _)| *old < page) {
                merged.push(before, shown.0 as u32)?;
            }
            merged.push(page, frozen)?;
        }
        for (page, shown) in old {
            merged.push(page, shown.0 as u32)?;
        }
        Ok(merged)
    }

    /// Adds a page behind all that are there.
    pub(crate) fn push(&mut self, page: u64, frozen: u32) -> Result<(), Errno> {
        if let Some(last) = self.runs.last_mut()
            && last.end() == page
            && last.first + last.pages == frozen
        {
            last.pages += 1;
            return Ok(());
        }
        self.runs.try_reserve(1)?;
        self.runs.push(FrozenRun { start: page, pages: 1, first: frozen });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F: u32 = 1 << 31;

    fn map(pages: &[(u64, u32)]) -> FrozenMap {
        let mut map = FrozenMap::default();
        for (page, frozen) in pages {
            map.push(*page, F + frozen).unwrap();
        }
        map
    }

    #[test]
    fn pages_that_follow_each_other_are_one_run() {
        let map = map(&[(5, 0), (6, 1), (7, 2), (9, 3), (10, 9)]);
        assert_eq!(map.runs.len(), 3);
        assert!(map.is_sound());
        assert_eq!(map.find(6), Some(VolumePage(u64::from(F) + 1)));
        assert_eq!(map.find(8), None);
        assert_eq!((map.extent(6), map.extent(8), map.extent(11)), (5..8, 8..9, 11..u64::MAX));
        let showing: Vec<_> = map.showing(u64::from(F) + 1..u64::from(F) + 4).collect();
        assert_eq!(showing, [6..8, 9..10]);
        assert_eq!(map.pages(7..10).map(|(page, _)| page).collect::<Vec<_>>(), [7, 9]);
    }

    #[test]
    fn removing_and_relocating_agree_with_a_table_of_pages() {
        let mut map = map(&[(5, 0), (6, 1), (7, 2), (9, 3), (10, 9), (11, 10), (20, 11)]);
        let mut model: alloc::collections::BTreeMap<u64, u64> =
            map.pages(0..u64::MAX).map(|(page, frozen)| (page, frozen.0)).collect();
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for turn in 0..300 {
            let start = random(20);
            let range = start..start + 1 + random(6);
            if random(2) == 0 {
                map.remove(range.clone());
                model.retain(|page, _| !range.contains(page));
            } else {
                let to = 100 * (turn + 1);
                map.relocate(range.clone(), to);
                let moved: Vec<_> = model.range(range.clone()).map(|(p, f)| (*p, *f)).collect();
                model.retain(|page, _| !range.contains(page));
                model.extend(moved.into_iter().map(|(page, frozen)| (page - range.start + to, frozen)));
                // And back, so that there is something again.
                let length = range.end - range.start;
                map.remove(range.clone());
                map.relocate(to..to + length, range.start);
                let moved: Vec<_> = model.range(to..to + length).map(|(p, f)| (*p, *f)).collect();
                model.retain(|page, _| *page < to);
                model.extend(moved.into_iter().map(|(page, frozen)| (page - to + range.start, frozen)));
            }
            assert!(map.is_sound());
            let now: Vec<_> = map.pages(0..u64::MAX).map(|(page, frozen)| (page, frozen.0)).collect();
            assert_eq!(now, model.clone().into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_comes_from_elsewhere_is_looked_at() {
        for run in [
            FrozenRun { start: 5, pages: 0, first: F },
            FrozenRun { start: 5, pages: 1, first: 3 },
            FrozenRun { start: 5, pages: 2, first: u32::MAX },
            FrozenRun { start: u64::MAX, pages: 1, first: F },
        ] {
            assert!(!FrozenMap { runs: alloc::vec![run] }.is_sound(), "{run:?}");
        }
        let run = |start| FrozenRun { start, pages: 2, first: F };
        assert!(!FrozenMap { runs: alloc::vec![run(5), run(6)] }.is_sound());
    }
}
