//! Frames from the backend.

use xen::grant::PermitError;
use xen::{Access, DomId, GrantRef};
use xen_ring::{Front, PAGE_SIZE};

use super::{Buffers, FRAME_MAX, Fault, RING_SLOTS, lend_all, wire};
use crate::{Frame, Lent, Platform};
use wire::RxResponse;

type Ring = Front<{ wire::RX_REQ }, { wire::RX_RSP }>;
const _: () = assert!(Ring::SLOTS as usize == RING_SLOTS);

#[derive(Debug)]
pub(super) struct Rx {
    page: Frame,
    lent: Option<Lent>,
    ring: Option<Ring>,
    buffers: Buffers,
    /// Which buffer was posted at each place of the ring. (An extra slot has no id: only its place says whose page it took.)
    posted: [u16; RING_SLOTS],
    produced: usize,
    consumed: usize,
    /// What the next slot is.
    expected: Expected,
    /// The last frame, copied out of its page.
    pub(super) scratch: [u8; FRAME_MAX],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Frame,
    /// An extra of a frame that is dropped; the frame goes on after it, or not.
    Extra {
        more_data: bool,
    },
    /// More of a frame that is dropped.
    Rest,
}

/// What a slot held.
pub(super) enum Slot {
    Empty,
    /// So many bytes are in `scratch`.
    Frame(usize),
    /// Something that was not asked for, or an error: dropped.
    Dropped,
}

impl Rx {
    pub(super) fn new(page: Frame, buffers: Buffers) -> Self {
        Self {
            page,
            lent: None,
            ring: None,
            buffers,
            posted: [0; RING_SLOTS],
            produced: 0,
            consumed: 0,
            expected: Expected::Frame,
            scratch: [0; FRAME_MAX],
        }
    }

    /// Lends all pages, and posts all of them.
    pub(super) fn lend(
        &mut self,
        platform: Platform,
        backend: DomId,
    ) -> Result<GrantRef, Option<PermitError>> {
        self.ring = Some(Front::init(self.page.words));
        (self.produced, self.consumed, self.expected) = (0, 0, Expected::Frame);
        let lent =
            lend_all(platform, backend, &self.page, &mut self.lent, &mut self.buffers, Access::ReadWrite)?;
        for id in 0..self.buffers.len() {
            self.post(id);
        }
        Ok(lent)
    }

    pub(super) fn reclaim(&mut self, platform: Platform) -> bool {
        self.ring = None;
        platform.reclaim_all(self.buffers.iter_mut().map(|b| &mut b.lent).chain([&mut self.lent]))
    }

    /// Takes the next slot, and posts its page again.
    pub(super) fn take(&mut self) -> Result<Slot, Fault> {
        let Some(ring) = &mut self.ring else { return Ok(Slot::Empty) };
        let Some(words) = ring.pop_response().map_err(Fault::Ring)? else { return Ok(Slot::Empty) };
        let place = self.consumed % RING_SLOTS;
        self.consumed = self.consumed.wrapping_add(1);
        if let Expected::Extra { more_data } = self.expected {
            if !wire::extra_has_more(words) {
                self.expected = if more_data { Expected::Rest } else { Expected::Frame };
            }
            self.post(usize::from(self.posted[place]));
            return Ok(Slot::Dropped);
        }
        let response = RxResponse::decode(words);
        // In the order in which they were posted: Linux's netfront goes by the place alone, so every backend keeps to it.
        let id = usize::from(self.posted[place]);
        let buffer = self.buffers.get(id).filter(|_| response.id == self.posted[place]);
        let buffer = buffer.ok_or(Fault::UnknownId(response.id))?;
        let rest = self.expected == Expected::Rest;
        self.expected = match (response.extra_info() && !rest, response.more_data()) {
            (true, more_data) => Expected::Extra { more_data },
            (false, true) => Expected::Rest,
            (false, false) => Expected::Frame,
        };
        let whole = !rest && self.expected == Expected::Frame;
        let slot = match usize::try_from(response.status) {
            Ok(size) => {
                let offset = usize::from(response.offset);
                if offset + size > PAGE_SIZE {
                    return Err(Fault::OutOfPage { offset: response.offset, size: response.status });
                }
                let scratch = self.scratch.get_mut(..size).filter(|_| whole && size > 0);
                if scratch.is_some_and(|scratch| buffer.frame.words.read(offset, scratch)) {
                    Slot::Frame(size)
                } else {
                    Slot::Dropped
                }
            }
            Err(_) => Slot::Dropped,
        };
        self.post(id);
        Ok(slot)
    }

    /// Gives a page to the backend; [`Self::publish`] tells it.
    fn post(&mut self, id: usize) {
        let (Some(ring), Some(buffer), Ok(wire_id)) =
            (&mut self.ring, self.buffers.get(id), u16::try_from(id))
        else {
            return;
        };
        let Some(lent) = &buffer.lent else { return };
        // There are no more buffers than slots, so there is always room.
        if ring.push_request(&wire::rx_request(lent.reference().0, wire_id)).is_ok() {
            self.posted[self.produced % RING_SLOTS] = wire_id;
            self.produced = self.produced.wrapping_add(1);
        }
    }

    pub(super) fn publish(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Front::publish)
    }

    pub(super) fn final_check(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Front::final_check)
    }
}
