//! From a request to its answer.

use mm_proto::{DecodeError, RING_SLOTS, Request, RequestBody, Response, Status, VERSION, VERSION_MIN};

use crate::effect::{Effect, Effects, Grants};
use crate::engine::Engine;
use crate::frozen::FIRST;
use crate::ids::RingId;
use crate::queue::join;
use crate::rings::{Ask, RequestEntry, RingState, SLOTS};
use crate::snapshots::NONE;
use crate::stats::{ClientReport, FaultResult, Refused};
use crate::store::State;
use crate::table::NIL;
use crate::volumes::{Life, Sharing};

/// Room that must be left before something is begun: what one step gives at most.
pub(crate) const STEP: usize = 16;
/// Requests whose turn comes in one call.
const TURN: u32 = 64;

/// The client broke the protocol. Its ring is to be closed ([`Engine::detach`]); nobody else notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientFault {
    /// Words that are no request.
    Malformed(DecodeError),
    /// No such ring, or one that is closing: the caller's own slip, where the client did nothing.
    NoRing,
    /// Something before `Hello`.
    NotGreeted,
    /// A second `Hello`.
    GreetedTwice,
    /// More requests outstanding than the ring has slots.
    TooMany,
    /// A second `Listen` while one is outstanding.
    SecondListen,
    /// References that are not (or no longer) part of one window of this ring.
    ForeignReference,
    /// `RevokeAck` of what was not revoked.
    NotRevoked,
    /// A part of a freeze that M1 has not ordered, or that is not in order; or of a thaw, where there is no snapshot.
    NotOrdered,
    /// A frozen page that this client does not have.
    ForeignPage,
}

/// A call of the caller that makes no sense: a mistake in M1, not of any client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bug(pub &'static str);

impl Engine<'_> {
    /// Takes a request that was just copied from a ring. `now` is Xen's system time in nanoseconds. `out` is emptied first.
    ///
    /// # Errors
    /// [`ClientFault`]: close that ring.
    pub fn handle<G: Grants>(
        &mut self,
        now: u64,
        ring: RingId,
        request: &Request,
        grants: &mut G,
        out: &mut Effects,
    ) -> Result<(), ClientFault> {
        out.clear();
        self.counters.requests += 1;
        let result = self.dispatch(now, ring, request, grants, out);
        if result.is_err_and(|fault| fault != ClientFault::NoRing) {
            self.blame(ring);
        }
        result
    }

    /// As [`Self::handle`], from the words of the slot.
    ///
    /// # Errors
    /// [`ClientFault`]: close that ring.
    pub fn handle_words<G: Grants>(
        &mut self,
        now: u64,
        ring: RingId,
        words: &[u32; mm_proto::SLOT_WORDS],
        grants: &mut G,
        out: &mut Effects,
    ) -> Result<(), ClientFault> {
        match Request::decode(words) {
            Ok(request) => self.handle(now, ring, &request, grants, out),
            Err(error) => {
                out.clear();
                self.counters.requests += 1;
                self.blame(ring);
                Err(ClientFault::Malformed(error))
            }
        }
    }

    /// Counts a breach of the protocol that the caller found, such as impossible ring indices. The ring is to be closed.
    pub fn blame(&mut self, ring: RingId) {
        let client = u32::from(self.rings.at(u32::from(ring.0)).client);
        self.counters.client_faults += 1;
        if self.rings.at(u32::from(ring.0)).state != RingState::Free {
            let row = self.clients.at_mut(client);
            row.faults = row.faults.saturating_add(1);
        }
    }

    fn dispatch<G: Grants>(
        &mut self,
        now: u64,
        ring: RingId,
        request: &Request,
        grants: &mut G,
        out: &mut Effects,
    ) -> Result<(), ClientFault> {
        let index = u32::from(ring.0);
        let row = *self.rings.at(index);
        let id = request.id;
        match (row.state, &request.body) {
            (RingState::Free | RingState::Closing, _) => return Err(ClientFault::NoRing),
            (RingState::Silent, RequestBody::Hello { .. }) => {}
            (RingState::Silent, _) => return Err(ClientFault::NotGreeted),
            (RingState::Open, RequestBody::Hello { .. }) => return Err(ClientFault::GreetedTwice),
            (RingState::Open, _) => {}
        }
        let committing = self.is_committing(&row);
        if row.slots.count_ones() + u32::from(row.listen.is_some()) + u32::from(committing) >= RING_SLOTS {
            return Err(ClientFault::TooMany);
        }
        let mut answer = Response::bare(id, Status::Ok);
        answer.timing.received = now;
        match request.body {
            RequestBody::Hello { version, window } => {
                if (VERSION_MIN..=VERSION).contains(&version) {
                    let window = window.clamp(1, self.limits.window);
                    let row = self.rings.at_mut(index);
                    row.state = RingState::Open;
                    row.version = u8::try_from(version).unwrap_or(u8::MAX);
                    row.max_order = u8::try_from(window.ilog2()).unwrap_or(0);
                    answer.page = u64::from(window);
                } else {
                    answer.status = Status::Unsupported;
                }
            }
            RequestBody::Grant { page, wanted } => {
                self.ask(now, index, id, page, wanted, None, grants, out);
                return Ok(());
            }
            RequestBody::Copy { page, reference } => {
                self.ask(now, index, id, page, 1, Some(reference), grants, out);
                return Ok(());
            }
            RequestBody::Listen => {
                if row.listen.is_some() {
                    return Err(ClientFault::SecondListen);
                }
                self.rings.at_mut(index).listen = Some(id);
                self.tell_freeze(index, out);
                return Ok(());
            }
            RequestBody::Release { reference, count } => self.released(index, reference, count, grants)?,
            RequestBody::RevokeAck { reference, count } => {
                self.acknowledged(index, reference, count, grants)?
            }
            RequestBody::Report {
                written,
                kernel,
                mapped,
                local_faults,
                cow_breaks,
                ahead,
                ahead_used,
                reserve,
                populate_failed,
            } => {
                let report = ClientReport {
                    written,
                    kernel,
                    mapped,
                    local_faults,
                    cow_breaks,
                    ahead,
                    ahead_used,
                    reserve,
                    populate_failed,
                };
                self.report(u32::from(row.client), report);
            }
            RequestBody::Freeze { pages } => {
                answer.status = self.freeze_begins(index, now, pages, grants, out)?;
            }
            RequestBody::Capture { count, references } => {
                let references = references.get(..count as usize).unwrap_or_default();
                match self.capture(index, now, id, references, grants, out)? {
                    Some(status) => answer.status = status,
                    None => return Ok(()),
                }
            }
            RequestBody::Keep { page, bitmap } => answer.status = self.keep(index, now, page, &bitmap)?,
            RequestBody::Commit { page, standstill } => {
                match self.commit(index, now, id, page, standstill)? {
                    Some(status) => answer.status = status,
                    None => return Ok(()),
                }
            }
            RequestBody::Abort { reason } => self.abort(index, reason, grants)?,
            RequestBody::Hot { page, bitmap } => self.hot(index, page, &bitmap, out)?,
            RequestBody::Thawed { duration, .. } => self.thawed(index, duration)?,
        }
        out.push(Effect::Reply { ring, response: answer });
        Ok(())
    }

    /// A page is asked for, to be lent or (with a reference of the client's) to be copied.
    #[expect(clippy::too_many_arguments, reason = "the request's own fields, and where everything goes")]
    fn ask<G: Grants>(
        &mut self,
        now: u64,
        ring: u32,
        id: u32,
        page: u64,
        wanted: u32,
        copy: Option<u32>,
        grants: &mut G,
        out: &mut Effects,
    ) {
        let row = *self.rings.at(ring);
        let free = row.slots.trailing_ones();
        let request = ring * SLOTS + free.min(SLOTS - 1);
        self.rings.at_mut(ring).slots |= 1 << free.min(SLOTS - 1);
        let blank = RequestEntry { id, received: now, ..RequestEntry::default() };
        let ask = match copy {
            Some(reference) => Ask::Copy { reference },
            None => Ask::Grant { order: 0 },
        };
        *self.requests.at_mut(request) = RequestEntry { ask, ..blank };
        let Some(base) = self.volumes.get(usize::from(row.volume)) else {
            return self.refuse(request, Status::Gone, FaultResult::Gone, out);
        };
        let (pages, sharing, gone) = (base.pages, base.sharing, base.life != Life::Here);
        let frozen = page >= u64::from(FIRST) && row.snapshot != NONE;
        if gone && !frozen {
            return self.refuse(request, Status::Gone, FaultResult::Gone, out);
        }
        // Of the frozen part, it has what is in its snapshot.
        let reached =
            |page: &u32| if frozen { self.frozen.is_in(*page, row.snapshot) } else { *page < pages };
        let Some(page) = u32::try_from(page).ok().filter(reached) else {
            return self.refuse(request, Status::OutOfRange, FaultResult::OutOfRange, out);
        };
        self.requests.at_mut(request).page = page;
        let order = self.plan(ring, page, wanted);
        if copy.is_none() {
            if sharing == Sharing::Copy || self.is_copy_only(row.volume, page) {
                return self.copy_instead(request, Refused::CopyOnly, out);
            }
            self.requests.at_mut(request).ask = Ask::Grant { order };
        }
        self.serve(request, false, grants, out);
    }

    /// Goes on with a request as far as it can go now. `turn` says that it has waited in the queue of the starved.
    pub(crate) fn serve<G: Grants>(&mut self, request: u32, turn: bool, grants: &mut G, out: &mut Effects) {
        let row = *self.requests.at(request);
        let ring = *self.rings.at(request / SLOTS);
        if ring.state != RingState::Open {
            return self.drop_request(request);
        }
        let volume = self.volume_of(&ring, row.page);
        if self.volume(volume).is_none() {
            return self.refuse(request, Status::Gone, FaultResult::Gone, out);
        }
        let frame = if row.frame == NIL { self.store.find(volume, row.page) } else { Some(row.frame) };
        let Some(frame) = frame else {
            return self.fetch(request, turn, grants, out);
        };
        match self.store.frames.at(frame).state {
            State::Resident => {}
            // No ring leads to a volume that has dirty pages, nor to what has no page yet.
            State::Failed | State::Dirty | State::Filling => {
                return self.refuse(request, Status::ReadError, FaultResult::ReadError, out);
            }
            State::Reading | State::Free => return self.wait(request, frame),
        }
        self.store.touch(frame);
        match row.ask {
            Ask::Grant { order } => self.serve_grant(request, order, frame, grants, out),
            Ask::Copy { reference } => self.serve_copy(request, reference, frame, out),
            // It is with whoever copies, not here.
            Ask::Capture { .. } => self.bugs += 1,
        }
    }

    /// Waits for the read of this frame, with all others that do.
    pub(crate) fn wait(&mut self, request: u32, frame: u32) {
        if !self.store.hold(frame) {
            return self.starve(request);
        }
        let last = self.store.frames.at(frame).first;
        self.store.frames.at_mut(frame).first = join(&mut self.requests, last, request);
        let row = self.requests.at_mut(request);
        row.frame = frame;
        row.missed = true;
    }

    /// Waits for a frame.
    pub(crate) fn starve(&mut self, request: u32) {
        self.counters.starved += 1;
        self.starved.push(&mut self.requests, request);
    }

    fn serve_grant<G: Grants>(
        &mut self,
        request: u32,
        order: u8,
        frame: u32,
        grants: &mut G,
        out: &mut Effects,
    ) {
        let ring = request / SLOTS;
        let page = self.requests.at(request).page;
        let (window, bitmap) = match self.lend(ring, page, order, frame, grants) {
            Ok(lent) => lent,
            Err(cause) => {
                self.press(ring, cause, grants, out);
                return self.copy_instead(request, cause, out);
            }
        };
        let entry = *self.windows.table.at(window);
        let first = entry.page;
        // What comes next is what the client cannot map yet.
        let mut next = page.saturating_sub(first);
        while bitmap.get(next) {
            next += 1;
        }
        let next = first.saturating_add(next);
        self.rings.at_mut(ring).expected = next;
        let mut response = self.answer(request, Status::Ok);
        response.page = u64::from(first);
        response.reference = self.wire(self.windows.base(window)).0;
        response.count = 1 << entry.order;
        response.bitmap = bitmap;
        self.finish(request, response, FaultResult::Ok, out);
        if self.rings.at(ring).growth > crate::windows::GRANULE_ORDER {
            self.read_ahead(ring, next, first.saturating_add(1 << entry.order), out);
        }
    }

    /// Lets those go on whose turn has come. `out` is emptied first. Call it after every round of events until it says
    /// false: then nothing can go on before another event.
    #[must_use]
    pub fn advance<G: Grants>(&mut self, grants: &mut G, out: &mut Effects) -> bool {
        out.clear();
        self.answer_lost_commits(out);
        for _ in 0..TURN {
            if out.room() < STEP {
                return true;
            }
            if self.read_again(out) {
                continue;
            }
            match self.ready.pop(&mut self.requests) {
                Some(request) => self.serve(request, true, grants, out),
                None => break,
            }
        }
        let went_on = self.unpark(grants, out) | self.feed(grants, out);
        went_on || !self.ready.is_empty()
    }
}
