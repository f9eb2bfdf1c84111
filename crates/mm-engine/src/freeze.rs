//! What a client says while it is frozen: its pages come, those that it did not change are kept, and the snapshot is complete.

use mm_proto::{AbortReason, Bitmap, CAPTURE_MAX, Response, Status};

use crate::effect::{Capture, Contents, Copied, Effect, Effects, Grants};
use crate::engine::Engine;
use crate::frozen::FIRST;
use crate::ids::{ClientId, FrameId, RequestId, RingId, SnapshotId};
use crate::rings::{Ask, RequestEntry, RingState, SLOTS};
use crate::serve::{Bug, ClientFault};
use crate::snapshots::{FreezeFailure, GIVEN_UP, NONE, SnapshotState};
use crate::table::NIL;

/// Looks for frames that nobody maps, for one freeze: so many, and one more for each eight pages. Each looks at 64 frames.
const RECLAIMS: u32 = 64;

/// Why there is no frame for a page of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreezeRefused {
    /// The snapshot is not being taken (any more).
    NotTaken,
    /// No frame, or no number for another frozen page.
    NoRoom,
}

impl Engine<'_> {
    /// The snapshot that a ring's client is part of taking. `Ok(None)`: M1 has given it up, and the client may not know.
    fn taking(&self, ring: u32) -> Result<Option<u8>, ClientFault> {
        match self.rings.at(ring).freeze {
            NONE => Err(ClientFault::NotOrdered),
            GIVEN_UP => Ok(None),
            slot => Ok(Some(slot).filter(|_| self.snapshots.at(u32::from(slot)).told)),
        }
    }

    /// As [`Self::taking`], and the client has said `Freeze`.
    fn being_taken(&mut self, ring: u32, now: u64) -> Result<Option<u8>, ClientFault> {
        let slot = self.taking(ring)?;
        let taken = slot.filter(|slot| {
            let row = self.snapshots.at(u32::from(*slot));
            row.state == SnapshotState::Taking && row.commit.is_none()
        });
        if let Some(slot) = taken {
            self.snapshots.at_mut(u32::from(slot)).progress = now;
        }
        Ok(taken)
    }

    /// `Freeze`: the instant. Room is promised, or the freeze has failed.
    pub(crate) fn freeze_begins<G: Grants>(
        &mut self,
        ring: u32,
        now: u64,
        pages: u64,
        grants: &mut G,
        out: &mut Effects,
    ) -> Result<Status, ClientFault> {
        let Some(slot) = self.taking(ring)? else { return Ok(Status::Gone) };
        let row = self.snapshots.at_mut(u32::from(slot));
        if row.state != SnapshotState::Ordered {
            return Err(ClientFault::NotOrdered);
        }
        row.state = SnapshotState::Taking;
        (row.progress, row.figures.frozen, row.figures.announced) = (now, now, pages);
        if self.promise(SnapshotId(slot), pages, grants).is_err() {
            self.fail_freeze(slot, FreezeFailure::NoRoom, grants);
            return Ok(Status::NoRoom);
        }
        out.push(Effect::Instant(SnapshotId(slot)));
        Ok(Status::Ok)
    }

    /// Keeps room for this many more pages of a snapshot that is being taken.
    ///
    /// # Errors
    /// [`FreezeRefused`]; nothing has changed then.
    pub fn promise<G: Grants>(
        &mut self,
        snapshot: SnapshotId,
        pages: u64,
        grants: &mut G,
    ) -> Result<(), FreezeRefused> {
        if self.snapshots.at(u32::from(snapshot.0)).state != SnapshotState::Taking {
            return Err(FreezeRefused::NotTaken);
        }
        let pages = u32::try_from(pages).map_err(|_| FreezeRefused::NoRoom)?;
        self.make_room(pages, grants)?;
        self.store.promised = self.store.promised.saturating_add(pages);
        let row = self.snapshots.at_mut(u32::from(snapshot.0));
        row.promised = row.promised.saturating_add(pages);
        Ok(())
    }

    /// Makes sure that so many frozen pages can be added.
    pub(crate) fn make_room<G: Grants>(&mut self, pages: u32, grants: &mut G) -> Result<(), FreezeRefused> {
        // Frames that are being filled have no number yet.
        let filling: u32 = (0..self.snapshots.len()).map(|at| self.snapshots.at(at).filling).sum();
        let numbers = self.frozen.free().saturating_sub(self.store.promised).saturating_sub(filling);
        if pages > numbers {
            return Err(FreezeRefused::NoRoom);
        }
        let mut looks = 0;
        while self.store.permitted.saturating_add(pages) > self.lendable() {
            let could = pages <= self.lendable();
            looks += 1;
            if !could || looks > RECLAIMS.saturating_add(pages / 8) {
                return Err(FreezeRefused::NoRoom);
            }
            self.reclaim_more(true, grants);
        }
        Ok(())
    }

    /// `Capture`: frames for the pages, and the copies to be made. Answers at once only where that cannot be.
    pub(crate) fn capture<G: Grants>(
        &mut self,
        ring: u32,
        now: u64,
        id: u32,
        references: &[u32],
        grants: &mut G,
        out: &mut Effects,
    ) -> Result<Option<Status>, ClientFault> {
        let Some(slot) = self.being_taken(ring, now)? else { return Ok(Some(Status::Gone)) };
        let mut capture = Capture {
            request: RequestId(0),
            client: ClientId(self.rings.at(ring).client),
            pages: heapless::Vec::new(),
        };
        for reference in references {
            let Ok(frame) = self.frame_to_freeze(slot) else {
                for (frame, _) in capture.pages {
                    self.unfreeze(slot, frame.0);
                }
                self.fail_freeze(slot, FreezeFailure::NoRoom, grants);
                return Ok(Some(Status::NoRoom));
            };
            // As many as a request has.
            let _ = capture.pages.push((FrameId(frame), *reference));
        }
        let free = self.rings.at(ring).slots.trailing_ones().min(SLOTS - 1);
        let request = ring * SLOTS + free;
        self.rings.at_mut(ring).slots |= 1 << free;
        // The frames are found from the request, one after the other.
        let mut first = NIL;
        for (frame, _) in capture.pages.iter().rev() {
            self.store.frames.at_mut(frame.0).second = first;
            first = frame.0;
        }
        *self.requests.at_mut(request) = RequestEntry {
            id,
            received: now,
            ask: Ask::Capture { snapshot: slot },
            frame: first,
            copying: true,
            ..RequestEntry::default()
        };
        capture.request = RequestId(request);
        out.push(Effect::Capture(capture));
        Ok(None)
    }

    /// Says what came of an [`Effect::Capture`], one outcome for each page in order. `out` is emptied first.
    ///
    /// # Errors
    /// [`Bug`] where no such capture was under way.
    pub fn captured<C: Contents>(
        &mut self,
        now: u64,
        request: RequestId,
        outcomes: &[Copied],
        contents: &C,
        out: &mut Effects,
    ) -> Result<(), Bug> {
        out.clear();
        let row = *self.requests.at(request.0);
        let Ask::Capture { snapshot } = row.ask else {
            self.bugs += 1;
            return Err(Bug("captured for a request that captures nothing"));
        };
        let (mut frames, mut at) = (heapless::Vec::<u32, CAPTURE_MAX>::new(), row.frame);
        while at != NIL && frames.push(at).is_ok() {
            at = self.store.frames.at(at).second;
        }
        let ring = request.0 / SLOTS;
        let good = frames.len() == outcomes.len() && outcomes.iter().all(|copied| *copied == Copied::Done);
        let goes_on = self.snapshots.at(u32::from(snapshot)).state == SnapshotState::Taking;
        let mut pages = [0; CAPTURE_MAX];
        let status = match (goes_on, good) {
            (false, _) => Status::Gone,
            (true, false) => Status::BadReference,
            (true, true) => Status::Ok,
        };
        for (page, frame) in pages.iter_mut().zip(&frames) {
            if status == Status::Ok {
                *page = self.fix(snapshot, *frame, contents);
            } else {
                self.unfreeze(snapshot, *frame);
                if goes_on {
                    self.promise_again(snapshot);
                }
            }
        }
        self.snapshots.at_mut(u32::from(snapshot)).progress = now;
        let response = self.answer(request.0, status).with_captured(&pages);
        let open = self.rings.at(ring).state == RingState::Open;
        self.requests.at_mut(request.0).frame = NIL;
        self.drop_request(request.0);
        if open {
            let ring = RingId(u16::try_from(ring).unwrap_or(u16::MAX));
            out.push(Effect::Reply { ring, response });
        }
        Ok(())
    }

    /// A frame for a page of the snapshot, of those that were promised to it.
    fn frame_to_freeze(&mut self, slot: u8) -> Result<u32, FreezeRefused> {
        let row = self.snapshots.at(u32::from(slot));
        if row.promised == 0 {
            return Err(FreezeRefused::NoRoom);
        }
        let (frame, evicted) = self.store.take().ok_or(FreezeRefused::NoRoom)?;
        self.counters.evictions += u64::from(evicted);
        let row = self.snapshots.at_mut(u32::from(slot));
        row.promised -= 1;
        row.filling += 1;
        self.store.promised = self.store.promised.saturating_sub(1);
        self.store.begin_fill(frame);
        Ok(frame)
    }

    /// A frame that was to be filled for a snapshot is free.
    fn unfreeze(&mut self, slot: u8, frame: u32) {
        let row = self.snapshots.at_mut(u32::from(slot));
        row.filling = row.filling.saturating_sub(1);
        self.store.unpin(frame);
        self.store.set_free(frame);
        self.stalled = false;
    }

    /// A page was not to be had, and may come again.
    fn promise_again(&mut self, slot: u8) {
        self.snapshots.at_mut(u32::from(slot)).promised += 1;
        self.store.promised = self.store.promised.saturating_add(1);
    }

    /// A filled frame becomes a page of the snapshot, unless its bytes are there already. Gives the page's number; 0 where there is
    /// none, which the promise rules out.
    fn fix<C: Contents>(&mut self, slot: u8, frame: u32, contents: &C) -> u32 {
        let volume = self.frozen_volume.unwrap_or(u16::MAX);
        let group = self.snapshots.at(u32::from(slot)).group;
        let key = self.frozen.key(group, contents.digest(FrameId(frame)));
        let known = self.frozen.alike(key).find(|page| {
            self.group_of(*page) == Some(group)
                && self
                    .store
                    .resident(volume, *page)
                    .is_some_and(|other| contents.equal(FrameId(other), FrameId(frame)))
        });
        let row = self.snapshots.at_mut(u32::from(slot));
        row.figures.captured += 1;
        if let Some(page) = known {
            row.figures.deduplicated += 1;
            self.frozen.join(page, slot);
            self.unfreeze(slot, frame);
            return page;
        }
        row.filling = row.filling.saturating_sub(1);
        match self.frozen.add(key, slot) {
            Some(page) => {
                self.store.freeze(frame, volume, page);
                page
            }
            None => {
                self.bugs += 1;
                self.store.unpin(frame);
                self.store.set_free(frame);
                0
            }
        }
    }

    /// Whose a frozen page is: all snapshots that it is in are of one group.
    pub(crate) fn group_of(&self, page: u32) -> Option<u16> {
        let members = self.frozen.members(page);
        (members != 0).then(|| self.snapshots.at(members.trailing_zeros()).group)
    }

    /// `Keep`: pages of the snapshot that the client came from.
    pub(crate) fn keep(
        &mut self,
        ring: u32,
        now: u64,
        page: u64,
        bitmap: &Bitmap,
    ) -> Result<Status, ClientFault> {
        let Some(slot) = self.being_taken(ring, now)? else { return Ok(Status::Gone) };
        let parent = self.rings.at(ring).snapshot;
        let first = u32::try_from(page).map_err(|_| ClientFault::ForeignPage)?;
        let numbers = || bitmap.iter().map(|offset| first.saturating_add(offset));
        if parent == NONE || !numbers().all(|page| self.frozen.is_in(page, parent)) {
            return Err(ClientFault::ForeignPage);
        }
        let mut kept = 0;
        for page in numbers() {
            kept += u64::from(self.frozen.join(page, slot));
        }
        self.snapshots.at_mut(u32::from(slot)).figures.kept += kept;
        Ok(Status::Ok)
    }

    /// `Commit`: complete, as far as the client is concerned. `None`: the answer comes when nothing holds it up any more.
    pub(crate) fn commit(
        &mut self,
        ring: u32,
        now: u64,
        id: u32,
        head: u64,
        standstill: u64,
    ) -> Result<Option<Status>, ClientFault> {
        let Some(slot) = self.being_taken(ring, now)? else { return Ok(Some(Status::Gone)) };
        let head = u32::try_from(head).ok().filter(|head| self.frozen.is_in(*head, slot));
        let head = head.ok_or(ClientFault::ForeignPage)?;
        let row = self.snapshots.at_mut(u32::from(slot));
        // An honest client waits for the numbers of its pages.
        if row.filling > 0 && row.holds == 0 {
            return Err(ClientFault::NotOrdered);
        }
        (row.head, row.figures.standstill) = (head, standstill);
        if row.holds > 0 {
            row.commit = Some((id, now));
            return Ok(None);
        }
        self.complete(slot, now);
        Ok(Some(Status::Ok))
    }

    pub(crate) fn complete(&mut self, slot: u8, now: u64) {
        self.unpromise(slot);
        let row = self.snapshots.at_mut(u32::from(slot));
        row.state = SnapshotState::Ready;
        row.commit = None;
        row.figures.completed = now;
        let (ring, standstill) = (row.ring, row.figures.standstill);
        // What is imported was frozen elsewhere.
        if let Some(ring) = ring {
            self.rings.at_mut(u32::from(ring)).freeze = NONE;
            self.counters.freezes += 1;
            self.standstills.record(standstill);
        }
    }

    /// Something else belongs to this snapshot, which is being taken: it is not ready before [`Self::release_commit`]. False where it is not
    /// being taken.
    pub fn hold_commit(&mut self, snapshot: SnapshotId) -> bool {
        let row = self.snapshots.at_mut(u32::from(snapshot.0));
        let taken = row.state == SnapshotState::Taking;
        row.holds += u32::from(taken);
        taken
    }

    /// What [`Self::hold_commit`] was called for is there. `out` is emptied first.
    pub fn release_commit(&mut self, snapshot: SnapshotId, now: u64, out: &mut Effects) {
        out.clear();
        let row = self.snapshots.at_mut(u32::from(snapshot.0));
        if row.state != SnapshotState::Taking {
            return;
        }
        (row.holds, row.progress) = (row.holds.saturating_sub(1), now);
        let commit = row.commit.filter(|_| row.holds == 0);
        let (Some((id, received)), Some(ring)) = (commit, row.ring.map(RingId)) else { return };
        self.complete(snapshot.0, now);
        let mut response = Response::bare(id, Status::Ok);
        response.timing.received = received;
        out.push(Effect::Reply { ring, response });
    }

    /// `Abort`: the client says that nothing comes of it.
    pub(crate) fn abort<G: Grants>(
        &mut self,
        ring: u32,
        reason: AbortReason,
        grants: &mut G,
    ) -> Result<(), ClientFault> {
        self.taking(ring)?;
        let slot = self.rings.at(ring).freeze;
        if slot != GIVEN_UP {
            self.fail_freeze(slot, FreezeFailure::Aborted(reason), grants);
        }
        self.rings.at_mut(ring).freeze = NONE;
        Ok(())
    }

    /// A frame for a page that M1 itself puts into a snapshot that is being taken, of those that were promised ([`Self::promise`]): write it, and
    /// say [`Self::freeze_filled`] or [`Self::freeze_unfilled`].
    ///
    /// # Errors
    /// [`FreezeRefused`]; nothing has changed then.
    pub fn freeze_page(&mut self, snapshot: SnapshotId) -> Result<FrameId, FreezeRefused> {
        if self.snapshots.at(u32::from(snapshot.0)).state != SnapshotState::Taking {
            return Err(FreezeRefused::NotTaken);
        }
        self.frame_to_freeze(snapshot.0).map(FrameId)
    }

    /// The frame is filled: it is this page of the frozen part, which is in the snapshot. `None` where the snapshot is not being taken any
    /// more; the frame is free then.
    pub fn freeze_filled<C: Contents>(
        &mut self,
        snapshot: SnapshotId,
        frame: FrameId,
        now: u64,
        contents: &C,
    ) -> Option<u64> {
        let row = self.snapshots.at_mut(u32::from(snapshot.0));
        if row.state != SnapshotState::Taking {
            self.unfreeze(snapshot.0, frame.0);
            return None;
        }
        row.progress = now;
        let page = self.fix(snapshot.0, frame.0, contents);
        (page >= FIRST).then_some(u64::from(page))
    }

    /// The frame is not needed. It is promised again.
    pub fn freeze_unfilled(&mut self, snapshot: SnapshotId, frame: FrameId) {
        self.unfreeze(snapshot.0, frame.0);
        if self.snapshots.at(u32::from(snapshot.0)).state == SnapshotState::Taking {
            self.promise_again(snapshot.0);
        }
    }
}
