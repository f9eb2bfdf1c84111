//! How block reads end.

use super::world::World;
use crate::ReadFailed;

impl World {
    /// A block read ends, and whoever waited goes on.
    pub(super) fn end_read(&mut self, which: usize) {
        if !self.reads.is_empty() {
            self.end_read_only(which);
            self.advance();
        }
    }

    pub(super) fn end_read_only(&mut self, which: usize) {
        let read = self.reads.swap_remove(which % self.reads.len());
        let pages = read.page..read.page + read.frames.len() as u64;
        let outcome =
            if self.bad.iter().any(|(volume, page)| *volume == read.volume.0 && pages.contains(page)) {
                self.blocks.failed.extend(pages.map(|page| (read.volume.0, page)));
                Err(ReadFailed)
            } else {
                for frame in &read.frames {
                    self.frames[frame.0 as usize] = self.blocks.asked[&frame.0];
                }
                Ok(())
            };
        self.engine.read_done(&read, outcome).unwrap();
    }

    /// A block read never ends.
    pub(super) fn lose_read(&mut self) {
        let Some(read) = self.reads.pop() else { return };
        self.lost.extend(read.frames.iter().map(|frame| frame.0));
        let pages = read.page..read.page + read.frames.len() as u64;
        self.blocks.failed.extend(pages.map(|page| (read.volume.0, page)));
        self.engine.read_lost(&read).unwrap();
        self.advance();
    }
}
