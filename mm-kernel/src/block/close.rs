//! A client's disk ends.

use mm_store::OverlayId;
use xen_drivers::vbdback::DeviceId;

use super::hold::Hold;
use super::{Block, Over, memory_number};
use crate::effects::Hands;

impl Block {
    /// Unmaps its ring and forgets its requests; the frontend may come back with another.
    pub(crate) fn disconnect(&mut self, index: usize) {
        let Some(disk) = self.disks.get_mut(index).and_then(Option::as_mut) else { return };
        if let Some(ring) = disk.ring.take() {
            ring.close(self.window);
        }
        (disk.jobs, disk.pending, disk.barred) = (0, false, false);
        (disk.hold, disk.urgent) = (Hold::NEW, false);
        for job in self.jobs.iter_mut() {
            if job.as_ref().is_some_and(|job| job.disk == index) {
                *job = None;
            }
        }
        // There is room for what others have left on their rings.
        self.knocked |= core::mem::take(&mut self.held_back);
    }

    /// The overlay that a device has already: its client has come back.
    pub(crate) fn overlay_of(&self, id: DeviceId) -> Option<OverlayId> {
        match self.disks.get(id.index()).and_then(Option::as_ref).filter(|disk| disk.id == id)?.over {
            Over::Store(overlay) => Some(overlay),
            _ => None,
        }
    }

    /// The place of the version that a device has already.
    pub(crate) fn volume_of(&self, id: DeviceId) -> Option<usize> {
        let disk = self.disks.get(id.index()).and_then(Option::as_ref);
        disk.filter(|disk| disk.id == id).map(|disk| disk.volume)
    }

    /// The device is gone for good, and what was written to it in memory with it.
    pub(crate) fn remove(&mut self, index: usize, hands: &mut Hands<'_>) {
        self.disconnect(index);
        let Some(disk) = self.disks.get_mut(index).and_then(Option::take) else { return };
        match (disk.over, &mut self.memory) {
            (Over::Memory(first), Some(memory)) => {
                hands.engine.forget_range(memory.volume, first..first.saturating_add(self.span));
                memory.hidden.forget(memory_number(index));
            }
            (Over::Store(overlay), _) => {
                if let Some(overlays) = &mut hands.overlays {
                    overlays.close(overlay);
                }
            }
            _ => {}
        }
    }
}
