//! The end of a request: its copy, its answer, and what is counted of it.

use mm_proto::{Bitmap, Response, Status, Timing};

use crate::effect::{Copied, Copy, Effect, Effects};
use crate::engine::Engine;
use crate::ids::{ClientId, FrameId, Reference, RequestId, RingId};
use crate::rings::{Ask, RingState, SLOTS};
use crate::serve::Bug;
use crate::stats::{FaultKind, FaultResult, Refused};
use crate::table::NIL;

impl Engine<'_> {
    pub(crate) fn serve_copy(&mut self, request: u32, reference: u32, frame: u32, out: &mut Effects) {
        let row = *self.requests.at(request);
        if row.frame == NIL && !self.store.hold(frame) {
            return self.starve(request);
        }
        let row = self.requests.at_mut(request);
        row.frame = frame;
        row.copying = true;
        let client = ClientId(self.rings.at(request / SLOTS).client);
        let request = RequestId(request);
        out.push(Effect::Copy(Copy { request, client, frame: FrameId(frame), reference }));
    }

    /// Says what came of a [`struct@Copy`]. `out` is emptied first.
    ///
    /// # Errors
    /// [`Bug`] where no such copy was under way.
    pub fn copy_done(&mut self, request: RequestId, copied: Copied, out: &mut Effects) -> Result<(), Bug> {
        out.clear();
        let row = *self.requests.at(request.0);
        if !row.copying || matches!(row.ask, Ask::Capture { .. }) {
            self.bugs += 1;
            return Err(Bug("copy_done for a request that is not being copied"));
        }
        let ring = *self.rings.at(request.0 / SLOTS);
        if ring.state != RingState::Open {
            self.drop_request(request.0);
            return Ok(());
        }
        match copied {
            Copied::Done => {
                self.counters.copies += 1;
                self.clients.at_mut(u32::from(ring.client)).copies += 1;
                let response = self.answer(request.0, Status::Ok);
                self.finish(request.0, response, FaultResult::Ok, out);
            }
            Copied::BadReference => {
                self.refuse(request.0, Status::BadReference, FaultResult::BadReference, out);
            }
        }
        Ok(())
    }

    /// Stamps a response with the time at which it is put on its ring, and counts how long it took.
    pub fn stamp(&mut self, response: &mut Response, now: u64) {
        response.timing.replied = now;
        // An answer to Listen took as long as there was nothing to say.
        if !matches!(response.status, Status::Revoke | Status::Freeze) {
            self.service.record(now.saturating_sub(response.timing.received));
        }
    }

    pub(crate) fn answer(&self, request: u32, status: Status) -> Response {
        let row = self.requests.at(request);
        let timing = Timing { received: row.received, replied: 0 };
        Response { timing, bitmap: Bitmap::EMPTY, ..Response::bare(row.id, status) }
    }

    pub(crate) fn copy_instead(&mut self, request: u32, cause: Refused, out: &mut Effects) {
        self.counters.refusals.count(cause);
        self.refuse(request, Status::CopyInstead, FaultResult::CopyInstead, out);
    }

    pub(crate) fn refuse(&mut self, request: u32, status: Status, result: FaultResult, out: &mut Effects) {
        let response = self.answer(request, status);
        self.finish(request, response, result, out);
    }

    pub(crate) fn finish(
        &mut self,
        request: u32,
        response: Response,
        result: FaultResult,
        out: &mut Effects,
    ) {
        let row = *self.requests.at(request);
        let kind = match (row.ask, row.missed) {
            (Ask::Grant { .. }, false) => FaultKind::GrantResident,
            (Ask::Grant { .. }, true) => FaultKind::GrantRead,
            (Ask::Copy { .. } | Ask::Capture { .. }, false) => FaultKind::CopyResident,
            (Ask::Copy { .. } | Ask::Capture { .. }, true) => FaultKind::CopyRead,
        };
        self.counters.faults.count(kind, result);
        let ring = request / SLOTS;
        if result == FaultResult::Ok {
            let client = u32::from(self.rings.at(ring).client);
            self.clients.at_mut(client).served += 1;
        }
        self.drop_request(request);
        let ring = RingId(u16::try_from(ring).unwrap_or(u16::MAX));
        out.push(Effect::Reply { ring, response });
    }

    /// The request is over.
    pub(crate) fn drop_request(&mut self, request: u32) {
        let row = core::mem::take(self.requests.at_mut(request));
        if row.frame != NIL {
            self.store.release(row.frame);
        }
        self.rings.at_mut(request / SLOTS).slots &= !(1 << (request % SLOTS));
    }

    /// The reference on the wire of a row of the reference table.
    pub(crate) fn wire(&self, reference: u32) -> Reference {
        Reference(self.limits.first_reference.saturating_add(reference))
    }
}
