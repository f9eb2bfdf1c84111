//! Requests on the ring that have no answer yet.

use mm_proto::RING_SLOTS;

const SLOTS: usize = RING_SLOTS as usize;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Hello,
    Grant {
        page: u64,
    },
    Copy {
        page: u64,
        reference: u32,
    },
    Listen,
    /// A step of a freeze: one at a time.
    Freeze,
    /// A release, an acknowledgement or a report: the answer says nothing.
    Notice,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    id: u32,
    asked: Asked,
    since: u64,
}

/// One slot for each slot of the ring.
#[derive(Debug)]
pub(crate) struct Outstanding {
    slots: [Option<Slot>; SLOTS],
    generation: u32,
}

impl Outstanding {
    pub(crate) fn new() -> Self {
        Self { slots: [None; SLOTS], generation: 0 }
    }

    /// Slots without a request.
    pub(crate) fn free(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_none()).count()
    }

    /// Takes a slot and gives the number of the request. None where the ring is full.
    pub(crate) fn begin(&mut self, asked: Asked, now: u64) -> Option<u32> {
        let (index, slot) = (0u32..).zip(self.slots.iter_mut()).find(|(_, slot)| slot.is_none())?;
        let id = self.generation.wrapping_mul(RING_SLOTS).wrapping_add(index);
        self.generation = self.generation.wrapping_add(1);
        *slot = Some(Slot { id, asked, since: now });
        Some(id)
    }

    /// What the request with this number had asked. None where there is none.
    pub(crate) fn end(&mut self, id: u32) -> Option<Asked> {
        let slot = self.slots.get_mut((id % RING_SLOTS) as usize)?;
        let asked = slot.filter(|slot| slot.id == id)?.asked;
        *slot = None;
        Some(asked)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Asked> + '_ {
        self.slots.iter().flatten().map(|slot| slot.asked)
    }

    /// Since when the oldest request waits that M1 should have answered by now.
    pub(crate) fn oldest(&self) -> Option<u64> {
        let waiting = self.slots.iter().flatten().filter(|slot| slot.asked != Asked::Listen);
        waiting.map(|slot| slot.since).min()
    }
}
