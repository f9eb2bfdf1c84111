//! What the owner of the devices says.

use super::place::Place;
use super::{BlockOffer, DeviceId, MapOffer, Slot, VbdBackend};

impl VbdBackend<'_> {
    /// Publishes what the client can use, the map service, a disk or both, and goes to state 2. Only after [`Event::Offered`].
    ///
    /// With a disk on offer, a frontend that has a ring is answered with [`Event::BlockRing`], and one that has none is connected
    /// as a client of the map service, if that is on offer.
    ///
    /// [`Event::Offered`]: super::Event::Offered
    /// [`Event::BlockRing`]: super::Event::BlockRing
    pub fn accept(&mut self, device: DeviceId, map: Option<MapOffer>, block: Option<BlockOffer>) {
        if let Some(slot) = self.deciding(device) {
            slot.accept(map, block);
        }
    }

    /// Does not serve the device: it stays in state 1, so that the toolstack gives up after its ten seconds, and `error` in its
    /// directory says `reason` (at most 64 bytes of it). Only after [`Event::Offered`](super::Event::Offered).
    pub fn refuse(&mut self, device: DeviceId, reason: &str) {
        if let Some(slot) = self.deciding(device) {
            slot.refuse(reason);
        }
    }

    /// The ring of [`Event::BlockRing`](super::Event::BlockRing) is mapped and bound: publishes the disk, and goes to state 4.
    /// Nothing if the client has gone on meanwhile; then [`Event::Closing`](super::Event::Closing) comes.
    pub fn block_ready(&mut self, device: DeviceId) {
        if let Some(slot) = self.slot(device) {
            slot.block_ready();
        }
    }

    /// That ring cannot be used: `error` says `reason` (at most 64 bytes of it), and the device is closed, as by
    /// [`Self::abandon`].
    pub fn block_failed(&mut self, device: DeviceId, reason: &str) {
        if let Some(slot) = self.slot(device) {
            slot.block_failed(reason);
        }
    }

    /// Everything lent to the client for this device is taken back, everything of its own unmapped, and its ports are closed. Only after
    /// [`Event::Closing`](super::Event::Closing).
    pub fn closed(&mut self, device: DeviceId) {
        if let Some(slot) = self.slot(device).filter(|slot| slot.releasing()) {
            slot.released();
        }
    }

    /// Ends a device: state 5 at once, and [`Event::Closing`](super::Event::Closing) if something is held for it.
    pub fn abandon(&mut self, device: DeviceId) {
        if let Some(slot) = self.slot(device) {
            slot.abandon();
        }
    }

    /// Looks at every device again, and for new ones; for a timer of some seconds or more. Events should make it superfluous.
    pub fn recheck(&mut self) {
        self.mark(Place::All);
        self.stir();
    }

    pub(super) fn stir(&mut self) {
        (self.quiet, self.silent) = (false, false);
    }

    fn slot(&mut self, device: DeviceId) -> Option<&mut Slot> {
        self.stir();
        let slot = self.slots.get_mut(device.index())?;
        (slot.used && slot.generation == device.generation).then_some(slot)
    }

    fn deciding(&mut self, device: DeviceId) -> Option<&mut Slot> {
        self.slot(device).filter(|slot| slot.deciding())
    }
}
