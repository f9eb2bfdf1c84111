//! A client's disk ends.

use super::{Block, Over};
use crate::effects::Hands;

impl Block {
    /// Unmaps its ring and forgets its requests; the frontend may come back with another.
    pub(crate) fn disconnect(&mut self, index: usize) {
        let Some(disk) = self.disks.get_mut(index).and_then(Option::as_mut) else { return };
        if let Some(ring) = disk.ring.take() {
            ring.close(self.window);
        }
        (disk.jobs, disk.pending) = (0, false);
        for job in self.jobs.iter_mut() {
            if job.as_ref().is_some_and(|job| job.disk == index) {
                *job = None;
            }
        }
    }

    /// The device is gone for good, and what was written to it in memory with it.
    pub(crate) fn remove(&mut self, index: usize, hands: &mut Hands<'_>) {
        self.disconnect(index);
        let Some(disk) = self.disks.get_mut(index).and_then(Option::take) else { return };
        if let (Over::Memory(first), Some(volume)) = (disk.over, self.memory) {
            hands.engine.forget_range(volume, first..first.saturating_add(self.span));
        }
    }
}
