//! Which frames are to be had: those that no entry permits and nothing needs are on a list, used longest ago first.

use crate::store::{IDLE, PERMITTED, PINNED, Store};
use crate::table::NIL;

impl Store<'_> {
    pub(crate) fn is_permitted(&self, frame: u32) -> bool {
        self.frames.at(frame).flags & PERMITTED != 0
    }

    /// Whether lending it takes no frame from anything else.
    pub(crate) fn is_lent_or_stays(&self, frame: u32) -> bool {
        self.frames.at(frame).flags & (PERMITTED | PINNED) != 0
    }

    /// Entries that permit the frame.
    pub(crate) fn permits(&self, frame: u32) -> u32 {
        if self.is_permitted(frame) { self.frames.at(frame).first } else { 0 }
    }

    /// One entry more permits this resident frame.
    pub(crate) fn link(&mut self, frame: u32) {
        if self.frames.at(frame).flags & IDLE != 0 {
            self.idle_remove(frame);
        }
        let row = self.frames.at_mut(frame);
        if row.flags & PERMITTED == 0 {
            row.flags |= PERMITTED;
            row.first = 0;
            let pinned = row.flags & PINNED != 0;
            let count = if pinned { &mut self.pinned_permitted } else { &mut self.permitted };
            *count = count.saturating_add(1);
        }
        let row = self.frames.at_mut(frame);
        row.first = row.first.saturating_add(1);
    }

    /// One entry that permitted it was cleared.
    pub(crate) fn unlink(&mut self, frame: u32) {
        let row = self.frames.at_mut(frame);
        row.first = row.first.saturating_sub(1);
        if row.first > 0 {
            return;
        }
        row.flags &= !PERMITTED;
        row.first = NIL;
        let (pinned, class) = (row.flags & PINNED != 0, row.class);
        let count = if pinned { &mut self.pinned_permitted } else { &mut self.permitted };
        *count = count.saturating_sub(1);
        let unmapped = self.unmapped_class(frame);
        if class != unmapped {
            self.set_class(frame, unmapped);
        }
        self.settle(frame);
    }

    pub(crate) fn idle_push(&mut self, frame: u32) {
        let before = core::mem::replace(&mut self.newest, frame);
        let row = self.frames.at_mut(frame);
        row.flags |= IDLE;
        (row.first, row.second) = (before, NIL);
        if before == NIL {
            self.oldest = frame;
        } else {
            self.frames.at_mut(before).second = frame;
        }
        self.idle = self.idle.saturating_add(1);
    }

    pub(crate) fn idle_remove(&mut self, frame: u32) {
        let row = self.frames.at_mut(frame);
        let (older, newer) = (row.first, row.second);
        row.flags &= !IDLE;
        (row.first, row.second) = (NIL, NIL);
        if older == NIL {
            self.oldest = newer;
        } else {
            self.frames.at_mut(older).second = newer;
        }
        if newer == NIL {
            self.newest = older;
        } else {
            self.frames.at_mut(newer).first = older;
        }
        self.idle = self.idle.saturating_sub(1);
    }
}
