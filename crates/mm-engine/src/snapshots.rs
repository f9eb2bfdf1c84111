//! The life of a snapshot: ordered, taken, ready, gone.
//!
//! A snapshot is a set of frozen pages (see [`crate::frozen`]) over one volume. While it is taken it belongs to the ring that takes it,
//! and nobody can be attached to it; if that comes to nothing, all of it goes and nothing else has changed. Its number is the
//! caller's from [`Engine::order_freeze`] until the state is `Free` again after [`Engine::delete_snapshot`].

use mm_proto::{AbortReason, Response, Status};

use crate::cache::Forgot;
use crate::effect::{Effect, Effects, Grants};
use crate::engine::{Engine, Refusal};
use crate::frozen::FIRST;
use crate::ids::{ClientId, RingId, SnapshotId, VolumeId};
use crate::rings::RingState;
use crate::volumes::{GroupId, Sharing, Volume};

/// Snapshots that an engine can have, those that are being taken included.
pub const SNAPSHOTS: usize = 64;
/// No snapshot, where a ring or a request has the number of one.
pub(crate) const NONE: u8 = u8::MAX;
/// In the place of a ring's freeze: M1 has given it up, and the client may not know yet.
pub(crate) const GIVEN_UP: u8 = u8::MAX - 1;
/// A freeze in which nothing happens for so long is given up.
const PATIENCE_NS: u64 = 30_000_000_000;
/// Frozen pages that one sweep looks at, for each row of its budget.
const WALK: u32 = 16;

/// Where a snapshot is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SnapshotState {
    /// The number is nobody's.
    #[default]
    Free,
    /// A ring's client is asked to freeze.
    Ordered,
    /// The client has stopped its program, and its pages are coming.
    Taking,
    /// Complete: clients can be attached.
    Ready,
    /// Nothing came of it; its pages are going or gone. [`Engine::delete_snapshot`] frees the number.
    Failed(FreezeFailure),
    /// On the store's disk since before M1 was started; its volume is not there yet ([`Engine::arrive_snapshot`]).
    Away,
    /// Deleted; its pages are going.
    Leaving,
}

/// Why nothing came of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreezeFailure {
    /// The client said so.
    Aborted(AbortReason),
    /// No room for its pages.
    NoRoom,
    /// Nothing happened for half a minute.
    TimedOut,
    /// The client's device has gone.
    ClientGone,
    /// [`Engine::cancel`].
    Cancelled,
}

/// Why a freeze cannot be ordered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrderRefused {
    /// No such ring, or it is closing.
    NoRing,
    /// The client has not greeted, or speaks version 1.
    NotReady,
    /// The ring is being frozen already.
    Busy,
    /// No room for another snapshot, or there is no frozen part.
    TooMany,
}

/// Why a snapshot cannot be deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteRefused {
    /// The number is nobody's, or it is being deleted.
    NoSnapshot,
    /// It is being taken: [`Engine::cancel`] it first.
    BeingTaken,
    /// Rings are attached to it: [`Engine::attached_to`] says whose.
    InUse,
}

/// One snapshot's row.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotEntry {
    pub(crate) state: SnapshotState,
    pub(crate) group: u16,
    pub(crate) volume: u16,
    /// The ring that takes it; means something while ordered and taken. None where it is imported ([`Engine::begin_import`]).
    pub(crate) ring: Option<u16>,
    /// The client has heard of the order.
    pub(crate) told: bool,
    /// Frames that it may take yet.
    pub(crate) promised: u32,
    /// Frames that are being filled.
    pub(crate) filling: u32,
    /// What has to be ready before it is: see [`Engine::hold_commit`].
    pub(crate) holds: u32,
    /// The `Commit` that waits for that, and when it came.
    pub(crate) commit: Option<(u32, u64)>,
    pub(crate) head: u32,
    pub(crate) hot: u32,
    pub(crate) rings: u32,
    /// When something last happened.
    pub(crate) progress: u64,
    pub(crate) figures: Progress,
}

/// What is counted of a snapshot, from its order on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Pages that the client announced.
    pub announced: u64,
    /// Pages that came: copied from the client, or from its disks.
    pub captured: u64,
    /// Of those, pages whose bytes were there already.
    pub deduplicated: u64,
    /// Pages kept of the snapshot that the client came from.
    pub kept: u64,
    /// When it was ordered, in nanoseconds of Xen's system time.
    pub ordered: u64,
    /// When the client said that the program stands still.
    pub frozen: u64,
    /// When it was complete.
    pub completed: u64,
    /// How long the program stood still, as the client says, in nanoseconds.
    pub standstill: u64,
    /// Programs that went on from it.
    pub thawed: u64,
}

/// A snapshot, as the engine knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotFigures {
    /// Where it is in its life.
    pub state: SnapshotState,
    /// The volume that it lies over.
    pub volume: VolumeId,
    /// Its pages.
    pub pages: u32,
    /// Pages that no other snapshot has.
    pub unique: u32,
    /// Rings that are attached to it.
    pub rings: u32,
    /// The page that a clone begins with; 0 until it is ready.
    pub head: u32,
    /// The page that lists what clones touch first; 0 where there is none.
    pub hot: u32,
    /// The rest.
    pub progress: Progress,
}

impl Engine<'_> {
    /// Adds the frozen part, where the tables have room for one: a volume that rings reach only through snapshots.
    ///
    /// # Errors
    /// [`Refusal::TooManyVolumes`], also where there is no room or it is there already.
    pub fn add_frozen(&mut self) -> Result<VolumeId, Refusal> {
        let count = self.frozen.len();
        if self.frozen_volume.is_some() || count == 0 || self.snapshots.len() == 0 {
            return Err(Refusal::TooManyVolumes);
        }
        let volume = Volume::new(FIRST.saturating_add(count), GroupId(u16::MAX), Sharing::Frozen);
        let id = self.place_volume(volume)?;
        self.frozen_volume = Some(id.0);
        Ok(id)
    }

    /// The volume that the frozen pages are of.
    #[must_use]
    pub fn frozen_volume(&self) -> Option<VolumeId> {
        self.frozen_volume.map(VolumeId)
    }

    /// Asks a ring's client to freeze: its `Listen` is answered now, or as soon as it comes. `out` is emptied first.
    ///
    /// # Errors
    /// [`OrderRefused`]; nothing has changed then.
    pub fn order_freeze(
        &mut self,
        ring: RingId,
        now: u64,
        out: &mut Effects,
    ) -> Result<SnapshotId, OrderRefused> {
        out.clear();
        let index = u32::from(ring.0);
        let row = *self.rings.at(index);
        match row.state {
            RingState::Free | RingState::Closing => return Err(OrderRefused::NoRing),
            RingState::Silent => return Err(OrderRefused::NotReady),
            RingState::Open if row.version < 2 => return Err(OrderRefused::NotReady),
            RingState::Open if !matches!(row.freeze, NONE | GIVEN_UP) => return Err(OrderRefused::Busy),
            RingState::Open => {}
        }
        let group = self.volume(row.volume).ok_or(OrderRefused::NoRing)?.group.0;
        if self.frozen_volume.is_none() {
            return Err(OrderRefused::TooMany);
        }
        let slot = self.free_snapshot().ok_or(OrderRefused::TooMany)?;
        *self.snapshots.at_mut(u32::from(slot)) = SnapshotEntry {
            state: SnapshotState::Ordered,
            group,
            volume: row.volume,
            ring: Some(ring.0),
            progress: now,
            figures: Progress { ordered: now, ..Progress::default() },
            ..SnapshotEntry::default()
        };
        self.rings.at_mut(index).freeze = slot;
        self.tell_freeze(index, out);
        Ok(SnapshotId(slot))
    }

    /// A number that is nobody's.
    pub(crate) fn free_snapshot(&self) -> Option<u8> {
        let free = (0..self.snapshots.len()).find(|at| self.snapshots.at(*at).state == SnapshotState::Free);
        free.and_then(|at| u8::try_from(at).ok())
    }

    /// Passes the order on, where the client listens and has not heard it.
    pub(crate) fn tell_freeze(&mut self, ring: u32, out: &mut Effects) {
        let row = *self.rings.at(ring);
        if row.freeze >= GIVEN_UP {
            return;
        }
        let snapshot = self.snapshots.at_mut(u32::from(row.freeze));
        if snapshot.told || snapshot.state != SnapshotState::Ordered {
            return;
        }
        let Some(id) = row.listen else { return };
        snapshot.told = true;
        self.rings.at_mut(ring).listen = None;
        let ring = RingId(u16::try_from(ring).unwrap_or(u16::MAX));
        out.push(Effect::Reply { ring, response: Response::bare(id, Status::Freeze) });
    }

    /// Gives up a freeze that is under way. False where there is none.
    pub fn cancel<G: Grants>(&mut self, snapshot: SnapshotId, grants: &mut G) -> bool {
        let under_way = self.is_being_taken(snapshot.0);
        if under_way {
            self.fail_freeze(snapshot.0, FreezeFailure::Cancelled, grants);
        }
        under_way
    }

    /// Gives up freezes in which nothing has happened for half a minute. Once a second or so.
    pub fn expire_freezes<G: Grants>(&mut self, now: u64, grants: &mut G) {
        for slot in 0..u8::try_from(self.snapshots.len()).unwrap_or(0) {
            let progress = self.snapshots.at(u32::from(slot)).progress;
            if self.is_being_taken(slot) && now.saturating_sub(progress) >= PATIENCE_NS {
                self.fail_freeze(slot, FreezeFailure::TimedOut, grants);
            }
        }
    }

    pub(crate) fn is_being_taken(&self, slot: u8) -> bool {
        matches!(self.snapshots.at(u32::from(slot)).state, SnapshotState::Ordered | SnapshotState::Taking)
    }

    /// Nothing comes of a freeze: what it has goes, what was promised to it is free.
    pub(crate) fn fail_freeze<G: Grants>(&mut self, slot: u8, why: FreezeFailure, grants: &mut G) {
        let row = self.snapshots.at_mut(u32::from(slot));
        let (ring, told) = (row.ring, row.told);
        row.state = SnapshotState::Failed(why);
        let commit = row.commit.take();
        self.unpromise(slot);
        if let Some(ring) = ring {
            self.counters.freezes_failed += 1;
            if let Some((id, received)) = commit {
                // There is a place for each snapshot's.
                let _ = self.lost_commits.push((RingId(ring), id, received));
            }
            let ring = self.rings.at_mut(u32::from(ring));
            if ring.freeze == slot {
                // A client that has heard of the order may say more of it, and is not to blame.
                ring.freeze = if told { GIVEN_UP } else { NONE };
            }
        }
        self.dying |= 1 << (slot & 63);
        self.reap_snapshots(0, grants);
    }

    /// Answers those who wait for a freeze to be complete that will not be.
    pub(crate) fn answer_lost_commits(&mut self, out: &mut Effects) {
        while out.room() > 0
            && let Some((ring, id, received)) = self.lost_commits.pop()
        {
            if self.rings.at(u32::from(ring.0)).state != RingState::Open {
                continue;
            }
            let mut response = Response::bare(id, Status::Gone);
            response.timing.received = received;
            out.push(Effect::Reply { ring, response });
        }
    }

    /// What was promised and is not needed can be used for anything again.
    pub(crate) fn unpromise(&mut self, slot: u8) {
        let row = self.snapshots.at_mut(u32::from(slot));
        let promised = core::mem::take(&mut row.promised);
        self.store.promised = self.store.promised.saturating_sub(promised);
        self.stalled = false;
    }

    /// Connects a device of the client to a snapshot: to its volume, and to its frozen pages.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn attach_snapshot(
        &mut self,
        client: ClientId,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<RingId, Refusal> {
        let row = *self.snapshots.at(u32::from(snapshot.0));
        if row.state != SnapshotState::Ready || row.volume != volume.0 {
            self.counters.refused += 1;
            return Err(Refusal::NoSnapshot);
        }
        let ring = self.attach(client, volume)?;
        self.rings.at_mut(u32::from(ring.0)).snapshot = snapshot.0;
        self.snapshots.at_mut(u32::from(snapshot.0)).rings += 1;
        self.counters.clones += 1;
        Ok(ring)
    }

    /// The ring is being detached: it needs its snapshot no longer, and takes no other.
    pub(crate) fn leave_snapshots<G: Grants>(&mut self, ring: u32, grants: &mut G) {
        let row = self.rings.at_mut(ring);
        let snapshot = core::mem::replace(&mut row.snapshot, NONE);
        let freeze = core::mem::replace(&mut row.freeze, NONE);
        if snapshot != NONE {
            let row = self.snapshots.at_mut(u32::from(snapshot));
            row.rings = row.rings.saturating_sub(1);
        }
        if freeze < GIVEN_UP {
            // Nobody is there to be answered.
            self.snapshots.at_mut(u32::from(freeze)).commit = None;
            self.fail_freeze(freeze, FreezeFailure::ClientGone, grants);
        }
    }

    /// The clients whose rings are attached to a snapshot, once for each ring.
    pub fn attached_to(&self, snapshot: SnapshotId) -> impl Iterator<Item = ClientId> + '_ {
        (0..self.rings.len())
            .map(|ring| self.rings.at(ring))
            .filter(move |row| row.state != RingState::Free && row.snapshot == snapshot.0)
            .map(|row| ClientId(row.client))
    }

    /// Deletes a snapshot, or forgets one of which nothing came. Pages that no other snapshot has are freed in [`Self::sweep`]; when all
    /// are, the state is `Free`, and the number is the next one's.
    ///
    /// # Errors
    /// [`DeleteRefused`]; nothing has changed then.
    pub fn delete_snapshot<G: Grants>(
        &mut self,
        snapshot: SnapshotId,
        grants: &mut G,
    ) -> Result<(), DeleteRefused> {
        let row = self.snapshots.at_mut(u32::from(snapshot.0));
        match row.state {
            SnapshotState::Free | SnapshotState::Leaving => return Err(DeleteRefused::NoSnapshot),
            SnapshotState::Ordered | SnapshotState::Taking => return Err(DeleteRefused::BeingTaken),
            SnapshotState::Ready if row.rings > 0 => return Err(DeleteRefused::InUse),
            SnapshotState::Ready | SnapshotState::Away | SnapshotState::Failed(_) => {}
        }
        row.state = SnapshotState::Leaving;
        self.dying |= 1 << (snapshot.0 & 63);
        self.reap_snapshots(0, grants);
        Ok(())
    }

    /// A snapshot; none where the number is nobody's.
    #[must_use]
    pub fn snapshot(&self, snapshot: SnapshotId) -> Option<SnapshotFigures> {
        let row = self.snapshots.at(u32::from(snapshot.0));
        let (pages, unique) = self.frozen.pages(snapshot.0);
        (row.state != SnapshotState::Free).then_some(SnapshotFigures {
            state: row.state,
            volume: VolumeId(row.volume),
            pages,
            unique,
            rings: row.rings,
            head: row.head,
            hot: row.hot,
            progress: row.figures,
        })
    }

    /// The snapshots that there are, or that are not gone completely.
    pub fn snapshots(&self) -> impl Iterator<Item = (SnapshotId, SnapshotFigures)> + '_ {
        (0..=u8::MAX)
            .take(self.snapshots.len() as usize)
            .filter_map(|at| self.snapshot(SnapshotId(at)).map(|figures| (SnapshotId(at), figures)))
    }

    /// Whether a snapshot lies over this volume, or is about to.
    #[must_use]
    pub fn has_snapshots(&self, volume: VolumeId) -> bool {
        self.snapshots().any(|(_, figures)| figures.volume == volume)
    }

    /// Takes pages from snapshots that go, on a walk over all frozen pages, and looks whether pages that clients held are free now.
    /// True as long as the walk is worth going on with at once.
    pub(crate) fn reap_snapshots<G: Grants>(&mut self, budget: u32, _grants: &mut G) -> bool {
        for _ in 0..budget.min(self.frozen.leaving()) {
            let Some(page) = self.frozen.next_leaving() else { break };
            self.give_back_frozen(page);
        }
        let len = self.frozen.len();
        let mut left = budget.saturating_mul(WALK).min(len);
        while left > 0 && self.dying != 0 && self.has_dying_pages() {
            left -= 1;
            let page = FIRST.saturating_add(self.frozen.hand);
            self.frozen.hand = if self.frozen.hand + 1 < len { self.frozen.hand + 1 } else { 0 };
            if self.frozen.leave(page, self.dying) {
                self.drop_frozen(page);
            }
        }
        if self.dying == 0 || self.has_dying_pages() {
            return self.dying != 0;
        }
        for slot in 0..u8::try_from(self.snapshots.len()).unwrap_or(0) {
            let row = self.snapshots.at_mut(u32::from(slot));
            // What is being filled for it comes back first.
            if self.dying >> (slot & 63) & 1 == 0 || row.filling > 0 {
                continue;
            }
            self.dying &= !(1 << (slot & 63));
            match row.state {
                SnapshotState::Leaving => *row = SnapshotEntry::default(),
                // Its figures stay to be seen.
                SnapshotState::Failed(_) => {}
                _ => self.bugs += 1,
            }
        }
        false
    }

    fn has_dying_pages(&self) -> bool {
        (0..64).any(|slot| self.dying >> slot & 1 == 1 && self.frozen.pages(slot).0 > 0)
    }

    /// A page is in no snapshot any more.
    pub(crate) fn drop_frozen(&mut self, page: u32) {
        let volume = self.frozen_volume.unwrap_or(u16::MAX);
        if let Some(frame) = self.store.find(volume, page) {
            self.store.unpin(frame);
            // Where a client maps it, or it is being copied or read, it goes when that ends.
            if self.forget_frame(volume, page) == Forgot::Later {
                self.store.settle(frame);
            }
            self.stalled = false;
        }
        if self.frozen.is_stored(page) {
            self.frozen.give_up(page);
        } else {
            self.give_back_frozen(page);
        }
    }

    pub(crate) fn give_back_frozen(&mut self, page: u32) {
        let volume = self.frozen_volume.unwrap_or(u16::MAX);
        let is_mapped = self.store.find(volume, page).is_some();
        self.frozen.give_back(page, is_mapped);
    }
}
