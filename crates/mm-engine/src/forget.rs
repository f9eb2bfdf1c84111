//! Many pages are forgotten at once: what somebody wrote who is gone.

use core::ops::Range;

use crate::engine::Engine;
use crate::ids::VolumeId;
use crate::store::State;

impl Engine<'_> {
    /// [`Self::forget`] of all pages in this range. It looks at each frame of the store once, however long the range is.
    pub fn forget_range(&mut self, volume: VolumeId, pages: Range<u64>) {
        for frame in 0..self.store.frames.len() {
            let row = *self.store.frames.at(frame);
            if row.volume == volume.0 && row.state != State::Free && pages.contains(&u64::from(row.page)) {
                let _ = self.forget(volume, u64::from(row.page));
            }
        }
    }
}
