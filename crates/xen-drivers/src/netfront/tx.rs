//! Frames to the backend.

use xen::grant::PermitError;
use xen::{Access, DomId, GrantRef};
use xen_ring::Front;

use super::{Buffer, Buffers, FRAME_MAX, Fault, lend_all, wire};
use crate::{Frame, Lent, Platform};

type Ring = Front<{ wire::TX_REQ }, { wire::TX_RSP }>;
const _: () = assert!(Ring::SLOTS as usize == super::RING_SLOTS);

#[derive(Debug)]
pub(super) struct Tx {
    page: Frame,
    lent: Option<Lent>,
    ring: Option<Ring>,
    buffers: Buffers,
    /// Where the next free buffer is looked for.
    hint: usize,
    /// smoltcp builds a frame here, and it is copied into its page whole.
    pub(super) scratch: [u8; FRAME_MAX],
}

impl Tx {
    pub(super) fn new(page: Frame, buffers: Buffers) -> Self {
        Self { page, lent: None, ring: None, buffers, hint: 0, scratch: [0; FRAME_MAX] }
    }

    pub(super) fn lend(
        &mut self,
        platform: Platform,
        backend: DomId,
    ) -> Result<GrantRef, Option<PermitError>> {
        self.ring = Some(Front::init(self.page.words));
        lend_all(platform, backend, &self.page, &mut self.lent, &mut self.buffers, Access::ReadOnly)
    }

    pub(super) fn reclaim(&mut self, platform: Platform) -> bool {
        self.ring = None;
        platform.reclaim_all(self.buffers.iter_mut().map(|b| &mut b.lent).chain([&mut self.lent]))
    }

    /// Takes back pages that the backend has sent.
    pub(super) fn reap(&mut self) -> Result<(), Fault> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        for _ in 0..Ring::SLOTS {
            let Some(words) = ring.pop_response().map_err(Fault::Ring)? else { break };
            let (id, _) = wire::tx_response(words);
            let buffer = self.buffers.get_mut(usize::from(id)).filter(|buffer| buffer.busy);
            buffer.ok_or(Fault::UnknownId(id))?.busy = false;
        }
        Ok(())
    }

    /// Whether a frame can be sent.
    pub(super) fn free(&mut self) -> bool {
        let start = self.hint;
        let count = self.buffers.len();
        let found = (0..count).map(|i| (start + i) % count).find(|i| !self.buffers[*i].busy);
        self.hint = found.unwrap_or(start);
        found.is_some() && self.ring.as_ref().is_some_and(|ring| ring.free() > 0)
    }

    /// Sends the first `len` bytes of `scratch`. `false`: there was no page for it.
    pub(super) fn send(&mut self, len: usize) -> bool {
        if !self.free() {
            return false;
        }
        let Some(frame) = self.scratch.get(..len) else { return false };
        let Some(Buffer { frame: page, lent: Some(lent), busy }) = self.buffers.get_mut(self.hint) else {
            return false;
        };
        let (Ok(id), Ok(size)) = (u16::try_from(self.hint), u16::try_from(len)) else { return false };
        let request = wire::tx_request(lent.reference().0, id, size);
        let sent = page.words.write(0, frame)
            && self.ring.as_mut().is_some_and(|ring| ring.push_request(&request).is_ok());
        *busy |= sent;
        sent
    }

    pub(super) fn publish(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Front::publish)
    }

    pub(super) fn final_check(&mut self) -> bool {
        self.ring.as_mut().is_some_and(Front::final_check)
    }
}
