//! Requests on the ring: in one part or more, out again, and back from a backend that has gone.

use xen::Access;
use xen::grant::PermitError;
use xen_ring::Front;
use xenstore::XenbusState;

use super::pool::Chain;
use super::wire::{self, PAGE_SECTORS, Response, SEGMENTS, Segment};
use super::{
    BlkFront, Completion, Failure, Geometry, Health, MAX_PAGES, MAX_REQUESTS, Operation, PARTS, PLAIN_PAGES,
    SubmitError,
};
use crate::{Frame, Lent};

/// Parts that are prepared: each slot, and the words for the ring.
type Ready = heapless::Vec<(usize, [u32; wire::REQ]), PARTS>;

/// A request that the backend has, or had.
#[derive(Debug)]
pub(super) struct Slot {
    /// `None`: the slot is free.
    request: Option<Outstanding>,
    /// Of the request in the slot, or of the next one: a late answer to an earlier one is not taken for its answer.
    generation: u32,
    /// The caller's pages, where they are lent.
    lent: [Option<Lent>; SEGMENTS],
    /// The pool's, where those are.
    chain: Chain,
}

/// A request, or a part of one.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    token: u64,
    operation: u8,
    /// Its backend has gone.
    orphan: bool,
    /// This part is over.
    over: bool,
    /// Where the first part is: what follows is only told there.
    first: usize,
    /// Parts that are not over.
    left: usize,
    outcome: Result<(), Failure>,
    quarantined: bool,
}

impl Outstanding {
    fn new(token: u64, operation: u8, first: usize, parts: usize) -> Self {
        Self {
            token,
            operation,
            orphan: false,
            over: false,
            first,
            left: parts,
            outcome: Ok(()),
            quarantined: false,
        }
    }
}

impl BlkFront {
    /// Queues a read, write or flush of whole pages from `first_sector` on; [`Self::publish_requests`] sends it.
    ///
    /// If the disk ends within the last page, only what exists of it is read or written. The pages must stay as they are until the
    /// request is over: what is read may come to them at its end, what is written may be taken at once.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn submit(
        &mut self,
        operation: Operation,
        first_sector: u64,
        pages: &[Frame],
        token: u64,
    ) -> Result<(), SubmitError> {
        if self.health != Health::Connected {
            return Err(SubmitError::NotConnected);
        }
        let last = last_sector(operation, first_sector, pages, &self.geometry)?;
        let mut ready = Ready::new();
        if let Err(error) = self.prepare_all(operation, first_sector, (pages, last), &mut ready) {
            // Nobody has heard of this request yet: everything comes back.
            for (index, _) in &ready {
                self.take_back(*index, false);
            }
            return Err(error);
        }
        let first = ready.first().map_or(0, |(index, _)| *index);
        for (index, words) in &ready {
            let pushed = self.ring.as_mut().map(|ring| ring.push_request(words));
            debug_assert_eq!(pushed, Some(Ok(())), "there was room for all");
            if let Some(slot) = self.slots.get_mut(*index) {
                slot.request = Some(Outstanding::new(token, operation.code(), first, ready.len()));
            }
        }
        Ok(())
    }

    /// Prepares each part of a request, for which the ring has room.
    fn prepare_all(
        &mut self,
        operation: Operation,
        first_sector: u64,
        (pages, last): (&[Frame], u8),
        ready: &mut Ready,
    ) -> Result<(), SubmitError> {
        let most = if self.indirect { MAX_PAGES } else { PLAIN_PAGES };
        let parts = pages.len().div_ceil(most).max(1);
        self.ring.as_ref().filter(|ring| ring.free() as usize >= parts).ok_or(SubmitError::Full)?;
        let mut rest = (first_sector, pages);
        for _ in 0..parts {
            let (sector, pages) = rest;
            let (part, others) = pages.split_at(pages.len().min(most));
            let last = if others.is_empty() { last } else { 7 };
            let is_ready = |index| ready.iter().any(|(taken, _)| *taken == index);
            let mut slots = (0..).zip(&self.slots);
            let free = slots.find(|(index, slot)| slot.is_free() && !is_ready(*index));
            let (index, _) = free.ok_or(SubmitError::Full)?;
            let words = self.prepare(index, operation, sector, part, last)?;
            // As many as there are parts at most.
            let _ = ready.push((index, words));
            rest = (sector + most as u64 * PAGE_SECTORS, others);
        }
        Ok(())
    }

    /// Lends the pages of one part, whose slot is free, and makes its request for the ring. Where it fails nothing is lent.
    fn prepare(
        &mut self,
        index: usize,
        operation: Operation,
        sector: u64,
        pages: &[Frame],
        last: u8,
    ) -> Result<[u32; wire::REQ], SubmitError> {
        let Self { slots, pool, platform, device, persistent, .. } = self;
        let slot = slots.get_mut(index).ok_or(SubmitError::Full)?;
        let id = index as u64 | u64::from(slot.generation) << 8;
        let write = operation == Operation::Write;
        let peer = (*platform, device.backend_id());
        let plain = pages.len() <= PLAIN_PAGES;
        if *persistent && pool.left() < pages.len() + usize::from(!plain) {
            return Err(SubmitError::Full);
        }
        let mut segments: heapless::Vec<Segment, MAX_PAGES> = heapless::Vec::new();
        let mut lend = |i: usize, page: &Frame| {
            let here = if i + 1 == pages.len() { last } else { 7 };
            let reference = if *persistent {
                pool.take(&mut slot.chain, peer, page.words, here + 1, write)?
            } else {
                let access = if write { Access::ReadOnly } else { Access::ReadWrite };
                let place = slot.lent.get_mut(i).ok_or(None)?;
                place.insert(platform.lend(peer.1, page.mfn, access)?).reference()
            };
            // As many as pages.
            let _ = segments.push(Segment { reference: reference.0, first: 0, last: here });
            Ok(())
        };
        let lent = pages.iter().enumerate().try_for_each(|(i, page)| lend(i, page));
        let words = lent.and_then(|()| {
            if plain {
                return Ok(wire::request(operation.code(), id, sector, &segments));
            }
            let described = pool.describe(&mut slot.chain, peer, &segments)?;
            Ok(wire::indirect(operation.code(), id, sector, segments.len(), described.0))
        });
        words.map_err(|reason: Option<PermitError>| {
            self.take_back(index, false);
            let full = matches!(reason, None | Some(PermitError::OutOfRange));
            if full { SubmitError::Full } else { SubmitError::Unshareable }
        })
    }

    /// Ends a part's hold of its pages; with `read`, what was read goes where it was wanted. True: the backend keeps one of the caller's,
    /// which stays lent for good.
    fn take_back(&mut self, index: usize, read: bool) -> bool {
        let Some(slot) = self.slots.get_mut(index) else { return false };
        self.pool.put_back(&mut slot.chain, read);
        let mut kept = false;
        for place in &mut slot.lent {
            // Dropped here, its reference is never used again.
            kept |= !self.platform.reclaim(place) && place.take().is_some();
        }
        kept
    }

    /// Queues word to the backend that sectors hold nothing any more; [`Self::publish_requests`] sends it. What they hold when
    /// it is done is not known.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub fn discard(&mut self, first_sector: u64, sectors: u64, token: u64) -> Result<(), SubmitError> {
        let ring = self
            .ring
            .as_mut()
            .filter(|_| self.health == Health::Connected)
            .ok_or(SubmitError::NotConnected)?;
        if !self.geometry.discard || self.geometry.read_only {
            return Err(SubmitError::Unsupported);
        }
        let end =
            first_sector.checked_add(sectors).filter(|end| sectors > 0 && *end <= self.geometry.sectors);
        end.ok_or(SubmitError::OutOfRange)?;
        let (place, slot) = (0..)
            .zip(&mut self.slots)
            .find(|(_, slot)| slot.is_free())
            .filter(|_| ring.free() > 0)
            .ok_or(SubmitError::Full)?;
        let id = place as u64 | u64::from(slot.generation) << 8;
        let request = wire::discard(id, first_sector, sectors);
        ring.push_request(&request).map_err(|xen_ring::Full| SubmitError::Full)?;
        slot.request = Some(Outstanding::new(token, wire::op::DISCARD, place, 1));
        Ok(())
    }

    /// Shows the queued requests to the backend.
    pub fn publish_requests(&mut self) {
        if let Some(ring) = &mut self.ring
            && ring.publish()
            && let Some(port) = self.port
        {
            let _ = self.platform.hypervisor.evtchn_send(port);
        }
    }

    /// The next request that is over, until there is none. After `None`, ask [`Self::look_again`] before sleeping.
    pub fn next_completion(&mut self) -> Option<Completion> {
        if self.health == Health::Connected {
            match self.pop() {
                Ok(completion) => return completion,
                Err(fault) => {
                    self.faults += 1;
                    log::warn!("{}: the backend broke the ring: {fault:?}", self.device.name());
                    self.device.write_state(XenbusState::Closed);
                    self.stop();
                }
            }
        }
        self.next_orphan()
    }

    /// Asks for an event at the next response. `true`: there is one already.
    #[must_use = "sleeping without looking loses an event"]
    pub fn look_again(&mut self) -> bool {
        self.health == Health::Connected && self.ring.as_mut().is_some_and(Front::final_check)
    }

    /// The next request that is over; each answer is to a part that is not.
    fn pop(&mut self) -> Result<Option<Completion>, Fault> {
        loop {
            let Some(ring) = &mut self.ring else { return Ok(None) };
            let Some(words) = ring.pop_response().map_err(Fault::Ring)? else { return Ok(None) };
            let response = Response::decode(words);
            let unknown = Fault::UnknownId(response.id);
            let index = usize::try_from(response.id & 0xff).map_err(|_| unknown)?;
            let slot = self.slots.get(index).ok_or(unknown)?;
            let request = slot.request.filter(|request| !request.over).ok_or(unknown)?;
            if response.id >> 8 != u64::from(slot.generation) {
                return Err(unknown);
            }
            if response.operation != request.operation {
                return Err(Fault::WrongOperation(response.operation));
            }
            let outcome = match response.status {
                wire::rsp::OKAY => Ok(()),
                wire::rsp::EOPNOTSUPP => Err(Failure::Unsupported),
                _ => Err(Failure::Disk),
            };
            if let Some(completion) = self.part_over(index, outcome) {
                return Ok(Some(completion));
            }
        }
    }

    /// A part is over; so is its request if it was the last of it.
    fn part_over(&mut self, index: usize, outcome: Result<(), Failure>) -> Option<Completion> {
        let kept = self.take_back(index, outcome.is_ok());
        let slot = self.slots.get_mut(index)?;
        let part = slot.request.as_mut()?;
        part.over = true;
        let first = part.first;
        if first != index {
            slot.free();
        }
        let slot = self.slots.get_mut(first)?;
        let request = slot.request.as_mut()?;
        request.left = request.left.saturating_sub(1);
        request.quarantined |= kept;
        request.outcome = request.outcome.and(outcome);
        if request.left > 0 {
            return None;
        }
        let Outstanding { token, outcome, quarantined, .. } = *request;
        slot.free();
        Some(Completion { token, outcome, quarantined })
    }

    /// Requests whose backend has gone: those whose pages are back, and after a while the others.
    fn next_orphan(&mut self) -> Option<Completion> {
        if self.orphans == 0 {
            return None;
        }
        let give_up = self.health == Health::Dead;
        for index in 0..MAX_REQUESTS {
            let slot = self.slots.get_mut(index)?;
            if !slot.request.is_some_and(|part| part.orphan && !part.over) {
                continue;
            }
            if self.platform.reclaim_all(slot.lent.iter_mut()) || give_up {
                self.orphans -= 1;
                if let Some(completion) = self.part_over(index, Err(Failure::BackendGone)) {
                    return Some(completion);
                }
            }
        }
        None
    }
}

impl Slot {
    pub(super) const FREE: Self =
        Self { request: None, generation: 0, lent: [const { None }; SEGMENTS], chain: Chain::EMPTY };

    /// Whether a request that is not over begins in this slot, which is at `index`.
    pub(super) fn begins(&self, index: usize) -> bool {
        self.request.is_some_and(|request| request.first == index)
    }

    pub(super) fn is_free(&self) -> bool {
        self.request.is_none()
    }

    /// Its backend has gone: whether it had something in this slot.
    pub(super) fn abandon(&mut self) -> bool {
        let part = self.request.as_mut().filter(|part| !part.orphan && !part.over);
        part.map(|part| part.orphan = true).is_some()
    }

    /// The next request in it has another number.
    fn free(&mut self) {
        self.request = None;
        self.generation = self.generation.wrapping_add(1);
    }
}

/// How the backend broke the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Ring(xen_ring::RingFault),
    UnknownId(u64),
    WrongOperation(u8),
}

/// Checks a request against the disk; the last sector within its last page.
fn last_sector(
    operation: Operation,
    first_sector: u64,
    pages: &[Frame],
    disk: &Geometry,
) -> Result<u8, SubmitError> {
    if operation == Operation::Flush {
        return match (disk.flush, pages.is_empty()) {
            (true, true) => Ok(0),
            (true, false) => Err(SubmitError::OutOfRange),
            (false, _) => Err(SubmitError::Unsupported),
        };
    }
    if operation == Operation::Write && disk.read_only {
        return Err(SubmitError::Unsupported);
    }
    let before_last = pages.len().checked_sub(1).filter(|_| pages.len() <= MAX_PAGES);
    let before_last = before_last.and_then(|n| u64::try_from(n).ok()).ok_or(SubmitError::OutOfRange)?;
    let start = first_sector.checked_add(before_last * PAGE_SECTORS).ok_or(SubmitError::OutOfRange)?;
    let left = disk.sectors.checked_sub(start).filter(|left| *left > 0).ok_or(SubmitError::OutOfRange)?;
    u8::try_from(left.min(PAGE_SECTORS) - 1).map_err(|_| SubmitError::OutOfRange)
}
