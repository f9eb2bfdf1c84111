//! The store as a cache, for M1's own block service: it copies between frames and guests at once, so that nothing has to be kept
//! for it from one call to the next.
//!
//! A page of a volume that rings lead to ([`Sharing::Map`](crate::Sharing::Map)) is the same frame for both services. What
//! guests write goes to pages of volumes that no ring leads to: a frame from [`Engine::fill`] is *dirty*, so neither lent nor
//! evicted, until its owner says that it is safe elsewhere ([`Engine::filled`]), or not needed.

use crate::effect::{Effects, Grants};
use crate::engine::Engine;
use crate::ids::{FrameId, VolumeId};
use crate::serve::Bug;
use crate::snapshots::NONE;
use crate::store::{Class, FORGOTTEN, IDLE, State, WANTED};
use crate::volumes::Sharing;

/// What comes of wanting a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// It is in this frame, until the next call that takes frames.
    Resident(FrameId),
    /// It is being read: ask again after [`Engine::read_done`].
    Reading,
    /// The read that was wanted failed, or there is no such page. To ask again is to try again.
    Failed,
    /// No frame or no read is free: ask again in a later turn.
    NoRoom,
}

/// Why there is no frame to fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FillError {
    /// As many frames are dirty as may be, or everything else is in use: ask again in a later turn.
    NoRoom,
    /// The page is dirty already: it is [`Engine::resident`].
    Dirty,
    /// There is no such page, or rings lead to its volume.
    NoPage,
}

/// What comes of forgetting a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forgot {
    /// It was not there.
    Absent,
    /// It is no longer there. A read of it that is under way goes nowhere.
    Done,
    /// Somebody maps it, or waits for it. It goes when nobody does; until then it is found.
    Later,
    /// It is dirty, and on its way to a disk: nothing has changed.
    Dirty,
}

/// Failures that are remembered at a time, and for how many turns.
const FAILURES: usize = 64;
const TURNS: u32 = 4;

/// Turns in which a read of the volume is left to the block service, which was refused one.
const OWED: u8 = 2;

/// Pages whose reads failed that the block service wanted. It is a short memory: who wanted them asks in the next turn.
#[derive(Default)]
pub(crate) struct Failures {
    turn: u32,
    list: heapless::Deque<(u16, u32, u32), FAILURES>,
}

impl Failures {
    pub(crate) fn note(&mut self, volume: u16, page: u32) {
        if self.list.is_full() {
            self.list.pop_front();
        }
        let _ = self.list.push_back((volume, page, self.turn));
    }

    pub(crate) fn next_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        while self.list.front().is_some_and(|(.., turn)| self.turn.wrapping_sub(*turn) > TURNS) {
            self.list.pop_front();
        }
    }

    /// The number is another volume's from now on.
    pub(crate) fn forget(&mut self, volume: u16) {
        for _ in 0..self.list.len() {
            let Some(entry) = self.list.pop_front() else { break };
            if entry.0 != volume {
                let _ = self.list.push_back(entry);
            }
        }
    }

    /// Whether the read failed, said once.
    fn take(&mut self, volume: u16, page: u32) -> bool {
        let mut found = false;
        for _ in 0..self.list.len() {
            let Some(entry) = self.list.pop_front() else { break };
            if (entry.0, entry.1) == (volume, page) {
                found = true;
            } else {
                let _ = self.list.push_back(entry);
            }
        }
        found
    }
}

impl Engine<'_> {
    /// The frame that holds the page now, clean or dirty. It was used just now.
    pub fn resident(&mut self, volume: VolumeId, page: u64) -> Option<FrameId> {
        let page = u32::try_from(page).ok()?;
        let frame = self.store.find(volume.0, page)?;
        self.use_frame(frame)
    }

    /// As [`Self::resident`]; where the page is not there, begins to read it with `ahead` further pages, unless that is under
    /// way. `out` is emptied first.
    pub fn want<G: Grants>(
        &mut self,
        volume: VolumeId,
        page: u64,
        ahead: u32,
        grants: &mut G,
        out: &mut Effects,
    ) -> Wanted {
        out.clear();
        let Some((page, pages, sharing)) = self.page_of(volume, page) else { return Wanted::Failed };
        if let Some(frame) = self.store.find(volume.0, page) {
            if let Some(frame) = self.use_frame(frame) {
                return Wanted::Resident(frame);
            }
            let row = self.store.frames.at_mut(frame);
            self.counters.misses += u64::from(row.flags & WANTED == 0);
            row.flags |= WANTED;
            return Wanted::Reading;
        }
        let nowhere = match sharing {
            Sharing::Memory => true,
            Sharing::Frozen => !self.frozen.is_stored(page),
            Sharing::Map | Sharing::Copy | Sharing::Private => false,
        };
        if self.failures.take(volume.0, page) || nowhere {
            return Wanted::Failed;
        }
        let Some(frame) = self.take_to_read(volume, grants) else {
            self.counters.no_room += 1;
            return Wanted::NoRoom;
        };
        self.store.begin_read(frame, volume.0, page);
        self.store.frames.at_mut(frame).flags |= WANTED;
        self.counters.misses += 1;
        let end = page.saturating_add(1).saturating_add(ahead.min(self.limits.read_ahead));
        self.read_span(volume.0, NONE, page, end.min(pages), Some(frame), out);
        Wanted::Reading
    }

    /// Whether the page is in memory, or on its way.
    #[must_use]
    pub fn is_known(&self, volume: VolumeId, page: u64) -> bool {
        u32::try_from(page).is_ok_and(|page| self.store.find(volume.0, page).is_some())
    }

    /// Begins to read what of `count` pages from this one on is missing, as far as there is room to spare: nobody waits for them. `out` is
    /// emptied first.
    pub fn want_ahead(&mut self, volume: VolumeId, page: u64, count: u32, out: &mut Effects) {
        out.clear();
        let Some((page, pages, sharing)) = self.page_of(volume, page) else { return };
        if matches!(sharing, Sharing::Map | Sharing::Copy) {
            let end = page.saturating_add(count.min(self.limits.read_ahead)).min(pages);
            self.read_span(volume.0, NONE, page, end, None, out);
        }
    }

    /// A dirty frame for this page, whatever it holds, which the caller is to write. What was cached of the page before, or is
    /// being read, is not found any more.
    ///
    /// # Errors
    /// [`FillError`]; nothing has changed then.
    pub fn fill<G: Grants>(
        &mut self,
        volume: VolumeId,
        page: u64,
        grants: &mut G,
    ) -> Result<FrameId, FillError> {
        let (page, _, sharing) = self.page_of(volume, page).ok_or(FillError::NoPage)?;
        if sharing.has_rings() {
            return Err(FillError::NoPage);
        }
        let before = self.store.find(volume.0, page);
        let before = before.map(|frame| (frame, *self.store.frames.at(frame)));
        if before.is_some_and(|(_, row)| row.state == State::Dirty) {
            return Err(FillError::Dirty);
        }
        if !self.may_be_dirty(sharing == Sharing::Memory, grants) {
            self.counters.no_room += 1;
            return Err(FillError::NoRoom);
        }
        // The frame that holds the page takes the new one. One that is being read into cannot: it is forgotten.
        let frame = match before {
            Some((frame, row)) if row.flags & IDLE != 0 => {
                self.store.idle_remove(frame);
                self.store.unname(frame);
                frame
            }
            _ => {
                let Some(frame) = self.take(grants) else {
                    self.counters.no_room += 1;
                    return Err(FillError::NoRoom);
                };
                if before.is_some() {
                    self.forget_frame(volume.0, page);
                }
                frame
            }
        };
        self.store.name(frame, volume.0, page, State::Dirty);
        self.store.set_class(frame, Class::Dirty);
        self.store.kept += u32::from(sharing == Sharing::Memory);
        self.counters.fills += 1;
        Ok(FrameId(frame))
    }

    /// A dirty page is now on its volume's disk as it is in memory: it is a cached page like others.
    ///
    /// # Errors
    /// [`Bug`] where the frame is not dirty, or its volume has no disk.
    pub fn filled(&mut self, frame: FrameId) -> Result<(), Bug> {
        let row = *self.store.frames.at(frame.0);
        if row.state != State::Dirty || self.is_kept(row.volume) {
            self.bugs += 1;
            return Err(Bug("filled, for a frame that is not dirty or has no disk"));
        }
        self.store.frames.at_mut(frame.0).state = State::Resident;
        self.store.set_class(frame.0, Class::Clean);
        self.store.touch(frame.0);
        self.store.settle(frame.0);
        Ok(())
    }

    /// A dirty page is not needed, or could not be written: the frame is free, and what the page's disk holds is not known.
    ///
    /// # Errors
    /// [`Bug`] where the frame is not dirty.
    pub fn unfill(&mut self, frame: FrameId) -> Result<(), Bug> {
        let row = *self.store.frames.at(frame.0);
        if row.state != State::Dirty {
            self.bugs += 1;
            return Err(Bug("unfill, for a frame that is not dirty"));
        }
        self.store.kept = self.store.kept.saturating_sub(u32::from(self.is_kept(row.volume)));
        self.store.unname(frame.0);
        self.store.set_free(frame.0);
        Ok(())
    }

    /// The page is not worth keeping, or (where no ring leads to its volume) not valid any more.
    pub fn forget(&mut self, volume: VolumeId, page: u64) -> Forgot {
        match u32::try_from(page) {
            // A page of a snapshot is forgotten when its last snapshot is.
            Ok(_) if Some(volume.0) == self.frozen_volume => Forgot::Absent,
            Ok(page) => self.forget_frame(volume.0, page),
            Err(_) => Forgot::Absent,
        }
    }

    pub(crate) fn forget_frame(&mut self, volume: u16, page: u32) -> Forgot {
        let Some(frame) = self.store.find(volume, page) else { return Forgot::Absent };
        let row = *self.store.frames.at(frame);
        let has_rings =
            self.volumes.get(usize::from(volume)).is_some_and(|volume| volume.sharing.has_rings());
        match row.state {
            State::Dirty if self.is_kept(volume) => match self.unfill(FrameId(frame)) {
                Ok(()) => Forgot::Done,
                Err(_) => Forgot::Dirty,
            },
            State::Dirty => Forgot::Dirty,
            State::Resident if row.flags & IDLE != 0 => {
                self.store.idle_remove(frame);
                self.store.unname(frame);
                self.store.set_free(frame);
                Forgot::Done
            }
            _ => {
                self.store.frames.at_mut(frame).flags |= FORGOTTEN;
                // Whoever waits for it gets it, for it is what it was; but what is written to its place must not be mixed with it.
                if has_rings {
                    return Forgot::Later;
                }
                self.store.unname(frame);
                Forgot::Done
            }
        }
    }

    /// Marks a frame that holds its page as used.
    fn use_frame(&mut self, frame: u32) -> Option<FrameId> {
        let row = self.store.frames.at_mut(frame);
        if !matches!(row.state, State::Resident | State::Dirty) {
            return None;
        }
        // Who waited for it has been counted.
        self.counters.hits += u64::from(row.flags & WANTED == 0);
        row.flags &= !WANTED;
        self.store.touch(frame);
        Some(FrameId(frame))
    }

    /// A page that there is: its number, how many the volume has, and of what kind that is.
    fn page_of(&self, volume: VolumeId, page: u64) -> Option<(u32, u32, Sharing)> {
        let volume = self.volume(volume.0)?;
        let page = u32::try_from(page).ok().filter(|page| *page < volume.pages)?;
        Some((page, volume.pages, volume.sharing))
    }

    fn is_kept(&self, volume: u16) -> bool {
        self.volumes.get(usize::from(volume)).is_some_and(|volume| volume.sharing == Sharing::Memory)
    }

    /// A frame for a read that the block service wants, where the volume may have another read.
    fn take_to_read<G: Grants>(&mut self, volume: VolumeId, grants: &mut G) -> Option<u32> {
        let limit = self.limits.reads;
        let row = self.volumes.get_mut(usize::from(volume.0))?;
        let waiting = !row.parked.is_empty();
        if row.reads >= limit {
            row.owed = OWED;
            return None;
        }
        // Where requests of rings wait too, reads are theirs and ours by turns.
        if waiting && row.theirs {
            return None;
        }
        (row.owed, row.theirs) = (0, waiting);
        self.take(grants)
    }

    /// Whether one more frame may be dirty. What is only in memory leaves room for what is on its way to a disk.
    fn may_be_dirty<G: Grants>(&mut self, kept: bool, grants: &mut G) -> bool {
        let share = u64::from(self.store.frames.len()) * u64::from(self.limits.dirty) / 100;
        let most = u32::try_from(share).unwrap_or(u32::MAX).max(self.limits.reserve / 2);
        let dirty = self.store.count(Class::Dirty);
        if dirty >= most || kept && self.store.kept >= most - most / 4 {
            return false;
        }
        // It must leave to the map service what that has lent already. What is on its way to a disk has half of the reserve.
        if !kept && dirty.saturating_sub(self.store.kept) < self.limits.reserve / 2 {
            return true;
        }
        self.store.permitted < self.lendable()
            || self.reclaim(grants) && self.store.permitted < self.lendable()
    }
}
