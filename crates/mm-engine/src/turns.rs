//! Whose turn it is: requests that waited for a block read to be free, or for a frame.

use mm_proto::Status;

use crate::effect::{Effects, Grants};
use crate::engine::Engine;
use crate::rings::{RingState, SLOTS};
use crate::serve::STEP;
use crate::stats::{FaultResult, Refused};
use crate::volumes::Life;

impl Engine<'_> {
    /// Lets requests go on that waited for a free read of their volume; where no frame is to be had, they wait for that from now
    /// on. True if one went on.
    pub(crate) fn unpark<G: Grants>(&mut self, grants: &mut G, out: &mut Effects) -> bool {
        let mut went_on = false;
        for index in 0..self.volumes.len() {
            for _ in 0..STEP {
                let Some(volume) = self.volumes.get_mut(index) else { break };
                if out.room() < STEP || volume.life == Life::Here && !volume.has_read(self.limits.reads) {
                    break;
                }
                let Some(request) = volume.parked.pop(&mut self.requests) else { break };
                volume.theirs = false;
                self.serve(request, true, grants, out);
                went_on = true;
            }
        }
        went_on
    }

    /// Lets requests go on that waited for a frame. True if one went on, so that another look is worth it.
    pub(crate) fn feed<G: Grants>(&mut self, grants: &mut G, out: &mut Effects) -> bool {
        // Where lost frames have used up the reserve and everything else is lent, nothing that ends will make room: an error is
        // better than a wait for a client to let go of something.
        let mut went_on = false;
        while self.is_stuck() && !self.starved.is_empty() && out.room() >= STEP && !self.reclaim(grants) {
            let Some(request) = self.starved.pop(&mut self.requests) else { break };
            went_on = true;
            if self.rings.at(request / SLOTS).state == RingState::Open {
                self.press(request / SLOTS, Refused::Memory, grants, out);
                self.refuse(request, Status::ReadError, FaultResult::ReadError, out);
            } else {
                self.drop_request(request);
            }
        }
        // One that cannot go on yet goes to the end of the queue; the others are not held up by it.
        for _ in 0..STEP {
            if out.room() < STEP || self.store.at_hand() == 0 {
                break;
            }
            let Some(request) = self.starved.pop(&mut self.requests) else { break };
            self.serve(request, true, grants, out);
            let again = self.starved.ends_with(request);
            self.stalled = again && !went_on;
            went_on |= !again;
        }
        went_on
    }

    /// Whether [`Self::advance`] has something to do: a request waits for a frame, and there is one. So it may be after a call
    /// that made frames free, such as [`Self::forget`] or [`Self::filled`].
    #[must_use]
    pub fn can_go_on(&self) -> bool {
        !self.ready.is_empty() || !self.stalled && !self.starved.is_empty() && self.store.at_hand() > 0
    }

    /// Every frame is lent, lost, or kept for what is only in memory, be it written or frozen.
    fn is_stuck(&self) -> bool {
        let store = &self.store;
        let gone = [store.permitted, store.lost, store.kept, store.pinned];
        gone.into_iter().fold(0, u32::saturating_add) >= store.frames.len()
    }
}
