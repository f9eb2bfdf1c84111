//! Snapshots that come from another M1: their pages are given by the caller, and no ring takes part.
//!
//! Such a snapshot is *taken* like another: it begins with a promise of room, its pages come through [`Engine::freeze_page`] and
//! [`Engine::freeze_filled`], which give them numbers of this engine's, and until it is complete nobody can be attached to it. If nothing
//! is said of it for half a minute, or it is cancelled, all of it goes.

use crate::durable::NextPage;
use crate::effect::Grants;
use crate::engine::Engine;
use crate::frozen::FIRST;
use crate::ids::{SnapshotId, VolumeId};
use crate::snapshots::{Progress, SnapshotEntry, SnapshotState};

/// Why an import does not begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImportRefused {
    /// No such volume, or no snapshot can lie over it.
    NoVolume,
    /// No room for another snapshot, or there is no frozen part.
    TooMany,
    /// No room for its pages.
    NoRoom,
}

/// Why an import is not complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndRefused {
    /// No such import is under way.
    NotTaken,
    /// A page is being filled.
    Filling,
    /// The page that clones are to begin with is not one of its pages.
    ForeignHead,
}

impl Engine<'_> {
    /// Begins a snapshot over a volume, of at most so many pages, for which room is kept.
    ///
    /// # Errors
    /// [`ImportRefused`]; nothing has changed then.
    pub fn begin_import<G: Grants>(
        &mut self,
        volume: VolumeId,
        pages: u64,
        now: u64,
        grants: &mut G,
    ) -> Result<SnapshotId, ImportRefused> {
        let over = self.volume(volume.0).filter(|volume| volume.sharing.has_rings());
        let group = over.ok_or(ImportRefused::NoVolume)?.group.0;
        if self.frozen_volume.is_none() {
            return Err(ImportRefused::TooMany);
        }
        let slot = self.free_snapshot().ok_or(ImportRefused::TooMany)?;
        *self.snapshots.at_mut(u32::from(slot)) = SnapshotEntry {
            state: SnapshotState::Taking,
            group,
            volume: volume.0,
            progress: now,
            figures: Progress { announced: pages, ordered: now, frozen: now, ..Progress::default() },
            ..SnapshotEntry::default()
        };
        if self.promise(SnapshotId(slot), pages, grants) != Ok(()) {
            *self.snapshots.at_mut(u32::from(slot)) = SnapshotEntry::default();
            return Err(ImportRefused::NoRoom);
        }
        Ok(SnapshotId(slot))
    }

    /// All of its pages are there: clients can be attached. `head` is the page that clones begin with.
    ///
    /// # Errors
    /// [`EndRefused`]; nothing has changed then.
    pub fn end_import(&mut self, snapshot: SnapshotId, head: u64, now: u64) -> Result<(), EndRefused> {
        let row = *self.snapshots.at(u32::from(snapshot.0));
        if row.state != SnapshotState::Taking || row.ring.is_some() {
            return Err(EndRefused::NotTaken);
        }
        if row.filling > 0 {
            return Err(EndRefused::Filling);
        }
        let head = u32::try_from(head).ok().filter(|head| self.frozen.is_in(*head, snapshot.0));
        self.snapshots.at_mut(u32::from(snapshot.0)).head = head.ok_or(EndRefused::ForeignHead)?;
        self.complete(snapshot.0, now);
        Ok(())
    }

    /// The first page of a snapshot from this number on, among the next `budget`. The page that lists what clones touch first is left out:
    /// it is M1's own, and may become another.
    #[must_use]
    pub fn next_page(&self, snapshot: SnapshotId, from: u64, budget: u32) -> NextPage {
        let hot = self.snapshots.at(u32::from(snapshot.0)).hot;
        let first = u32::try_from(from.max(u64::from(FIRST))).unwrap_or(u32::MAX);
        let end = FIRST.saturating_add(self.frozen.len());
        let next = first.saturating_add(budget);
        match (first..end.min(next)).find(|page| *page != hot && self.frozen.is_in(*page, snapshot.0)) {
            Some(page) => NextPage::Page(u64::from(page)),
            None if next >= end => NextPage::End,
            None => NextPage::Further(u64::from(next)),
        }
    }

    /// Whether a page is one of a snapshot's.
    #[must_use]
    pub fn has_page(&self, snapshot: SnapshotId, page: u64) -> bool {
        u32::try_from(page).is_ok_and(|page| self.frozen.is_in(page, snapshot.0))
    }

    /// Whether it is one that is being imported.
    #[must_use]
    pub fn is_import(&self, snapshot: SnapshotId) -> bool {
        let row = self.snapshots.at(u32::from(snapshot.0));
        row.state == SnapshotState::Taking && row.ring.is_none()
    }
}
