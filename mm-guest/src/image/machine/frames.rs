//! Frames: the pool, and what the domain has of Xen.

use mm_guest::{FrameCount, Frames, OutOfFrames};
use xen_rt::user::Frame;

use super::{KEPT, SLACK, Xen};

impl Frames for Xen {
    type Frame = Frame;

    fn allocate(&mut self) -> Result<Frame, OutOfFrames> {
        let frame = self.allocate_unfilled()?;
        frame.zero();
        Ok(frame)
    }

    fn allocate_unfilled(&mut self) -> Result<Frame, OutOfFrames> {
        self.pool.alloc().map_err(|_| OutOfFrames)
    }

    fn release(&mut self, frame: Frame) {
        self.pool.free(frame);
        if self.pool.available() > self.pool.reserve() + SLACK {
            self.give_back(KEPT);
        }
    }

    fn frames(&self) -> FrameCount {
        let (current, _) = self.hypervisor.memory_reservation().unwrap_or_default();
        let free = self.pool.available() as u64;
        let program = self.space.private_pages() as u64;
        FrameCount {
            ceiling: self.ceiling,
            available: (free + self.pool.given_back() as u64).saturating_sub(self.pool.reserve() as u64),
            kernel: current.saturating_sub(free + program),
            populate_failed: self.pool.counters().populate_failures,
        }
    }

    fn account(&self, each: &mut dyn FnMut(&'static str, u64)) {
        let (current, _) = self.hypervisor.memory_reservation().unwrap_or_default();
        let boot = xen_rt::footprint();
        let counters = self.pool.counters();
        let parts = [
            ("image", boot.image),
            ("start", boot.start),
            ("direct-map", boot.direct_map + counters.tables_made - counters.tables_freed),
            ("heap", crate::heap::pages() as u64),
            ("program-tables", self.space.table_frames() as u64),
            ("spare", self.pool.available() as u64),
            ("mapped", self.space.private_pages() as u64),
        ];
        parts.iter().for_each(|(name, pages)| each(name, *pages));
        let known: u64 = parts.iter().map(|(_, pages)| pages).sum();
        // Windows' rows, rings, xenstore's buffers, tables for grants; copies of `/data`, files in memory.
        each("other", current.saturating_sub(known));
        each("all", current);
    }

    fn heap_left(&self) -> usize {
        crate::heap::left()
    }

    fn read_frame(&self, frame: &Frame, offset: usize, to: &mut [u8]) {
        let inside = frame.words().read(offset, to);
        debug_assert!(inside, "a part of a frame");
    }

    fn write_frame(&mut self, frame: &Frame, offset: usize, from: &[u8]) {
        let inside = frame.words().write(offset, from);
        debug_assert!(inside, "a part of a frame");
    }
}
