//! The end of a volume: nothing of it is given out any more, and when nothing is left of it its number is the next volume's.

use crate::engine::Engine;
use crate::ids::VolumeId;
use crate::rings::RingState;
use crate::snapshots::SnapshotState;
use crate::store::State;
use crate::volumes::{Life, Sharing};

impl Engine<'_> {
    /// Answers every further request for pages of the volume with `Gone`, and refuses further rings. What is mapped stays. From now
    /// on [`Self::sweep`] forgets its pages, looking at each frame of the store once, and frees its number where it finds that no
    /// ring leads to it, no snapshot lies over it, nothing of it is being read and no page of it is in memory. Where something was left,
    /// calling this again has it look again.
    pub fn retire_volume(&mut self, volume: VolumeId) {
        let Some(row) = self.volumes.get_mut(usize::from(volume.0)) else { return };
        if row.sharing == Sharing::Frozen {
            return;
        }
        match row.life {
            // A walk that is under way does not see all of it.
            Life::Here => row.life = Life::Retired { seen: true },
            Life::Retired { .. } => {}
            Life::Free => return,
        }
        if self.leaving.is_none() {
            self.begin_walk();
        }
    }

    /// Whether the number is a volume's: not once it was retired and nothing is left of it. Then it is given to the next.
    #[must_use]
    pub fn has_volume(&self, volume: VolumeId) -> bool {
        self.volumes.get(usize::from(volume.0)).is_some_and(|volume| volume.life != Life::Free)
    }

    fn begin_walk(&mut self) {
        self.leaving = Some(0);
        for volume in &mut self.volumes {
            if let Life::Retired { seen } = &mut volume.life {
                *seen = false;
            }
        }
    }

    /// Looks at some frames. True as long as the walk goes on.
    pub(crate) fn retire_step(&mut self, budget: u32) -> bool {
        let Some(first) = self.leaving else { return false };
        let frames = self.store.frames.len();
        let end = first.saturating_add(budget).min(frames);
        for frame in first..end {
            let row = *self.store.frames.at(frame);
            // What failed is found by no page.
            if matches!(row.state, State::Free | State::Failed) || !self.is_retired(row.volume) {
                continue;
            }
            let _ = self.forget_frame(row.volume, row.page);
            let row = *self.store.frames.at(frame);
            if row.state != State::Free
                && let Some(volume) = self.volumes.get_mut(usize::from(row.volume))
            {
                volume.life = Life::Retired { seen: true };
            }
        }
        if end < frames {
            self.leaving = Some(end);
            return true;
        }
        self.leaving = None;
        for ring in 0..self.rings.len() {
            let row = *self.rings.at(ring);
            if row.state != RingState::Free
                && let Some(volume) = self.volumes.get_mut(usize::from(row.volume))
                && volume.life != Life::Here
            {
                volume.life = Life::Retired { seen: true };
            }
        }
        // A snapshot that lies over it needs its number, to be known by.
        for slot in 0..self.snapshots.len() {
            let row = *self.snapshots.at(slot);
            if row.state != SnapshotState::Free
                && let Some(volume) = self.volumes.get_mut(usize::from(row.volume))
                && volume.life != Life::Here
            {
                volume.life = Life::Retired { seen: true };
            }
        }
        for (number, volume) in (0..).zip(&mut self.volumes) {
            if volume.life == (Life::Retired { seen: false }) && volume.reads == 0 && volume.parked.is_empty()
            {
                volume.life = Life::Free;
                self.failures.forget(number);
            }
        }
        false
    }

    fn is_retired(&self, volume: u16) -> bool {
        self.volumes
            .get(usize::from(volume))
            .is_some_and(|volume| matches!(volume.life, Life::Retired { .. }))
    }
}
