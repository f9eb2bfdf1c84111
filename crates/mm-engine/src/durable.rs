//! Snapshots that outlive M1: their pages are on the store's disk, under their numbers, and need not stay in memory.
//!
//! The caller writes pages and says so; from then on they are evicted like others and read back through
//! [`Effect::Read`](crate::Effect::Read). Before anything is frozen, it may say which snapshots are on the disk from before.

use crate::engine::Engine;
use crate::frozen::FIRST;
use crate::ids::{SnapshotId, VolumeId};
use crate::snapshots::{SnapshotEntry, SnapshotState};
use crate::store::State;

/// What a look for a snapshot's next page has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextPage {
    /// This one.
    Page(u64),
    /// None yet: go on from here.
    Further(u64),
    /// There is none any more.
    End,
}

impl Engine<'_> {
    /// The first page of a snapshot from this number on that is not on the store's disk, among the next `budget`.
    #[must_use]
    pub fn next_unstored(&self, snapshot: SnapshotId, from: u64, budget: u32) -> NextPage {
        let first = u32::try_from(from.max(u64::from(FIRST))).unwrap_or(u32::MAX);
        let end = FIRST.saturating_add(self.frozen.len());
        for page in first..end.min(first.saturating_add(budget)) {
            if self.frozen.is_in(page, snapshot.0) && !self.frozen.is_stored(page) {
                return NextPage::Page(u64::from(page));
            }
        }
        let next = first.saturating_add(budget);
        if next >= end { NextPage::End } else { NextPage::Further(u64::from(next)) }
    }

    /// Which of 64 pages from this number on are in the snapshot.
    #[must_use]
    pub fn frozen_pages(&self, snapshot: SnapshotId, first: u64) -> u64 {
        (0..64).fold(0, |bits, offset| {
            let page = u32::try_from(first.saturating_add(offset)).unwrap_or(0);
            bits | u64::from(self.frozen.is_in(page, snapshot.0)) << offset
        })
    }

    /// Whether the page is in a snapshot.
    #[must_use]
    pub fn is_frozen(&self, page: u64) -> bool {
        u32::try_from(page).is_ok_and(|page| self.frozen.members(page) != 0)
    }

    /// Numbers that frozen pages can have, from [`mm_proto::FROZEN_FIRST`] on.
    #[must_use]
    pub fn frozen_numbers(&self) -> u32 {
        self.frozen.len()
    }

    /// The bytes of this frozen page are on the store's disk: it need not stay in memory.
    pub fn page_stored(&mut self, page: u64) {
        let (Ok(page), Some(volume)) = (u32::try_from(page), self.frozen_volume) else { return };
        if self.frozen.members(page) == 0 || self.frozen.is_stored(page) {
            return;
        }
        self.frozen.set_stored(page);
        if let Some(frame) = self.store.find(volume, page)
            && self.store.is_pinned(frame)
        {
            self.store.unpin(frame);
            if self.store.frames.at(frame).state == State::Resident {
                self.store.settle(frame);
            }
            self.stalled = false;
        }
    }

    /// A page that was on the store's disk and is in no snapshot any more: take it from there, and say [`Self::page_removed`].
    pub fn next_unwanted(&mut self) -> Option<u64> {
        self.frozen.next_unwanted().map(u64::from)
    }

    /// The page is no longer on the store's disk: its number can be another's.
    pub fn page_removed(&mut self, page: u64) {
        if let Ok(page) = u32::try_from(page) {
            self.give_back_frozen(page);
        }
    }

    /// A snapshot is on the store's disk from before M1 was started, under this number. Its pages follow ([`Self::restore_page`]), then
    /// [`Self::end_restore`]; nothing may be frozen before that. False where the number is not free.
    pub fn restore_snapshot(&mut self, snapshot: SnapshotId, head: u64) -> bool {
        let free = u32::from(snapshot.0) < self.snapshots.len();
        let row = self.snapshots.at_mut(u32::from(snapshot.0).min(63));
        if !free || row.state != SnapshotState::Free || self.frozen_volume.is_none() {
            return false;
        }
        let head = u32::try_from(head).unwrap_or(0);
        let (volume, group) = (u16::MAX, u16::MAX);
        *row = SnapshotEntry { state: SnapshotState::Away, head, volume, group, ..SnapshotEntry::default() };
        true
    }

    /// A page of it. False where this M1 has no such number: it has less memory than the one that froze it.
    pub fn restore_page(&mut self, snapshot: SnapshotId, page: u64) -> bool {
        u32::try_from(page).is_ok_and(|page| self.frozen.restore(page, snapshot.0))
    }

    /// Nothing more is restored. Walks over all frozen pages.
    pub fn end_restore(&mut self) {
        self.frozen.end_restore();
    }

    /// The volume that a restored snapshot lies over is there: clients can be attached.
    pub fn arrive_snapshot(&mut self, snapshot: SnapshotId, volume: VolumeId) {
        let Some(group) = self.volume(volume.0).map(|volume| volume.group.0) else { return };
        let row = self.snapshots.at_mut(u32::from(snapshot.0));
        if row.state == SnapshotState::Away {
            (row.state, row.volume, row.group) = (SnapshotState::Ready, volume.0, group);
        }
    }
}
