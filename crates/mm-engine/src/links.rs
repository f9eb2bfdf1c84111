//! The lists that frames are on: of the entries that permit a frame, and of frames that nothing needs.

use crate::store::{Class, IDLE, PERMITTED, Store};
use crate::table::NIL;

/// One reference's row: its place in the list of the frame that it permits, 8 bytes.
#[derive(Clone, Copy, Debug)]
pub struct RefEntry {
    next: u32,
    /// The reference before, or [`HEAD`] and the frame.
    prev: u32,
}

const HEAD: u32 = 1 << 31;
const UNLINKED: u32 = NIL - 1;

impl Default for RefEntry {
    fn default() -> Self {
        Self { next: UNLINKED, prev: UNLINKED }
    }
}

impl Store<'_> {
    pub(crate) fn is_permitted(&self, frame: u32) -> bool {
        self.frames.at(frame).flags & PERMITTED != 0
    }

    pub(crate) fn is_linked(&self, reference: u32) -> bool {
        self.refs.at(reference).next != UNLINKED
    }

    /// The entry of this reference now permits this resident frame.
    pub(crate) fn link(&mut self, reference: u32, frame: u32) {
        if self.frames.at(frame).flags & IDLE != 0 {
            self.idle_remove(frame);
        }
        let row = self.frames.at_mut(frame);
        if row.flags & PERMITTED == 0 {
            row.flags |= PERMITTED;
            row.first = NIL;
            self.permitted = self.permitted.saturating_add(1);
        }
        let next = core::mem::replace(&mut row.first, reference);
        *self.refs.at_mut(reference) = RefEntry { next, prev: HEAD | frame };
        if next != NIL {
            self.refs.at_mut(next).prev = reference;
        }
    }

    /// The entry of this reference was cleared.
    pub(crate) fn unlink(&mut self, reference: u32) {
        let RefEntry { next, prev } = core::mem::take(self.refs.at_mut(reference));
        if next == UNLINKED {
            return;
        }
        if next != NIL {
            self.refs.at_mut(next).prev = prev;
        }
        if prev & HEAD == 0 {
            self.refs.at_mut(prev).next = next;
            return;
        }
        let frame = prev & !HEAD;
        let row = self.frames.at_mut(frame);
        row.first = next;
        if next == NIL {
            row.flags &= !PERMITTED;
            self.permitted = self.permitted.saturating_sub(1);
            self.set_class(frame, Class::Clean);
            self.settle(frame);
        }
    }

    /// The references that permit this frame, newest first.
    pub(crate) fn permitting(&self, frame: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = if self.is_permitted(frame) { self.frames.at(frame).first } else { NIL };
        core::iter::from_fn(move || {
            let reference = (at != NIL).then_some(at)?;
            at = self.refs.at(reference).next;
            Some(reference)
        })
        .take(self.refs.len() as usize)
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
