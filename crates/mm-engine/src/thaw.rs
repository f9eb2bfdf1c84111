//! What clones say of their thaw, and what clients report of themselves.

use mm_proto::Bitmap;

use crate::effect::{Contents, Effect, Effects, Grants};
use crate::engine::Engine;
use crate::freeze::FreezeRefused;
use crate::frozen::FIRST;
use crate::ids::{FrameId, SnapshotId};
use crate::rings::RingEntry;
use crate::serve::ClientFault;
use crate::snapshots::{GIVEN_UP, NONE, SnapshotState};
use crate::stats::ClientReport;

impl Engine<'_> {
    /// Whether the ring's `Commit` waits for its answer.
    pub(crate) fn is_committing(&self, row: &RingEntry) -> bool {
        row.freeze < GIVEN_UP && self.snapshots.at(u32::from(row.freeze)).commit.is_some()
    }

    /// `Report`. What was mapped ahead is summed up, for a client that is gone reports no more.
    pub(crate) fn report(&mut self, client: u32, report: ClientReport) {
        let before = core::mem::replace(&mut self.clients.at_mut(client).report, report);
        let more = |now: u64, before: u64, sum: u64| sum.saturating_add(now.saturating_sub(before));
        self.counters.ahead = more(report.ahead, before.ahead, self.counters.ahead);
        self.counters.ahead_used = more(report.ahead_used, before.ahead_used, self.counters.ahead_used);
    }

    /// `Hot`: pages that a program touched soon after its thaw. Those that it does not have are left out.
    pub(crate) fn hot(
        &mut self,
        ring: u32,
        page: u64,
        bitmap: &Bitmap,
        out: &mut Effects,
    ) -> Result<(), ClientFault> {
        let row = *self.rings.at(ring);
        if row.snapshot == NONE {
            return Err(ClientFault::NotOrdered);
        }
        let Ok(page) = u32::try_from(page) else { return Ok(()) };
        let pages = self.volumes.get(usize::from(row.volume)).map_or(0, |volume| volume.pages);
        let mut own = Bitmap::EMPTY;
        for offset in bitmap.iter() {
            let page = page.saturating_add(offset);
            let has = if page >= FIRST { self.frozen.is_in(page, row.snapshot) } else { page < pages };
            if has {
                own.set(offset);
            }
        }
        if own != Bitmap::EMPTY {
            out.push(Effect::Hot { snapshot: SnapshotId(row.snapshot), page, bitmap: own });
        }
        Ok(())
    }

    /// A frame for a page that lists what clones of a snapshot touch first: write it, and say [`Self::hot_filled`].
    ///
    /// # Errors
    /// [`FreezeRefused::NotTaken`] where the snapshot is not ready, or rings are attached that know of another such page;
    /// [`FreezeRefused::NoRoom`].
    pub fn hot_page<G: Grants>(
        &mut self,
        snapshot: SnapshotId,
        grants: &mut G,
    ) -> Result<FrameId, FreezeRefused> {
        let row = *self.snapshots.at(u32::from(snapshot.0));
        if row.state != SnapshotState::Ready || row.hot != 0 && row.rings > 0 {
            return Err(FreezeRefused::NotTaken);
        }
        self.make_room(1, grants)?;
        let frame = self.take(grants).ok_or(FreezeRefused::NoRoom)?;
        self.store.begin_fill(frame);
        self.snapshots.at_mut(u32::from(snapshot.0)).filling += 1;
        Ok(FrameId(frame))
    }

    /// The frame of a [`Self::hot_page`] is filled: gives its number in the frozen part. The page that was there before is gone.
    pub fn hot_filled<C: Contents>(
        &mut self,
        snapshot: SnapshotId,
        frame: FrameId,
        contents: &C,
    ) -> Option<u64> {
        let row = *self.snapshots.at(u32::from(snapshot.0));
        self.snapshots.at_mut(u32::from(snapshot.0)).filling = row.filling.saturating_sub(1);
        let volume = self.frozen_volume.unwrap_or(u16::MAX);
        // Where a page has these bytes already it is another all the same: that one has to stay when this one goes.
        let key = self.frozen.key(row.group, contents.digest(frame));
        let page = if row.state == SnapshotState::Ready { self.frozen.add(key, snapshot.0) } else { None };
        let Some(page) = page else {
            self.store.unpin(frame.0);
            self.store.set_free(frame.0);
            return None;
        };
        self.store.freeze(frame.0, volume, page);
        self.snapshots.at_mut(u32::from(snapshot.0)).hot = page;
        if row.hot != 0 && self.frozen.leave(row.hot, 1 << (snapshot.0 & 63)) {
            self.drop_frozen(row.hot);
        }
        Some(u64::from(page))
    }

    /// `Thawed`: a program goes on.
    pub(crate) fn thawed(&mut self, ring: u32, duration: u64) -> Result<(), ClientFault> {
        let snapshot = self.rings.at(ring).snapshot;
        if snapshot == NONE {
            return Err(ClientFault::NotOrdered);
        }
        self.thaws.record(duration);
        self.snapshots.at_mut(u32::from(snapshot)).figures.thawed += 1;
        Ok(())
    }
}
