//! A disk served by dom0's blkback: whole pages, up to 32 requests at once, nothing waits.
//!
//! M1 reads its base volumes with it. Requests carry the caller's token; what a page holds is the caller's business.
//!
//! With a pool of pages ([`PoolPage`]), and a backend that knows persistent grants, the pool's pages are lent and the caller's are
//! not: a backend maps each of them once, and never has a page of the store. Else the caller's own pages are lent for each
//! request. A request of more than [`PLAIN_PAGES`] is an indirect one on the ring where there is a pool and the backend knows
//! those, and else goes in parts that are over together.
//!
//! Ends: when the backend goes, every outstanding request comes back once, as [`Failure::BackendGone`]; pages of the caller's that the
//! backend still has mapped are waited for, for [`RECLAIM_NS`], and then reported as quarantined. If the ring page or the pool's cannot
//! be had back, the disk is [`Health::Dead`] for good.

mod pool;
pub(crate) mod wire;

pub use pool::PoolPage;
use pool::{Chain, Pool};
use xen::grant::PermitError;
use xen::{Access, Port};
use xen_ring::Front;
use xenstore::{Client, Message, XenbusState};

use crate::device::{DeviceEvent, EVENTS_A_TURN, FrontDevice, MOST_KEYS, Side};
use crate::{Frame, Lent, Platform};
use wire::{PAGE_SECTORS, Response, SEGMENTS, Segment};

/// Pages of one request at most.
pub const MAX_PAGES: usize = 16;
/// Pages of one request that is one on the ring whatever the backend knows; more may be two.
pub const PLAIN_PAGES: usize = SEGMENTS;
/// Requests at once.
pub const MAX_REQUESTS: usize = 32;
/// Pages of a pool that is used: for one request, and for what an indirect one says of its pages.
pub const MIN_POOL: usize = MAX_PAGES + 1;
/// Parts of one request at most.
const PARTS: usize = MAX_PAGES.div_ceil(SEGMENTS);
/// How long a backend that has gone may keep pages before they are given up for good.
pub const RECLAIM_NS: u64 = 5_000_000_000;

/// VDISK_READONLY in `info`.
const VDISK_READONLY: u32 = 4;

const KEYS: &[(Side, &str)] = &[
    (Side::Back, "sectors"),
    (Side::Back, "info"),
    (Side::Back, "sector-size"),
    (Side::Back, "feature-flush-cache"),
    (Side::Back, "params"),
    (Side::Back, "feature-discard"),
    (Side::Back, "feature-persistent"),
    (Side::Back, "feature-max-indirect-segments"),
];
const _: () = assert!(KEYS.len() <= MOST_KEYS);

type Ring = Front<{ wire::REQ }, { wire::RSP }>;
const _: () = assert!(Ring::SLOTS as usize == MAX_REQUESTS);

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// From the disk into the pages.
    Read,
    /// From the pages to the disk.
    Write,
    /// Everything that was written is durable afterwards. No pages.
    Flush,
}

impl Operation {
    fn code(self) -> u8 {
        match self {
            Self::Read => wire::op::READ,
            Self::Write => wire::op::WRITE,
            Self::Flush => wire::op::FLUSH_DISKCACHE,
        }
    }
}

/// Why a request was not taken. Nothing was lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitError {
    /// All slots or grant references are in use: try again after a completion.
    Full,
    /// There is no backend now.
    NotConnected,
    /// No pages, too many, or beyond the end of the disk.
    OutOfRange,
    /// A write to a disk that is read-only, or a flush that the backend does not know.
    Unsupported,
    /// A page may not be lent: the caller's own mistake.
    Unshareable,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The disk could not do it.
    Disk,
    /// The backend does not know the operation.
    Unsupported,
    /// The backend ended before it answered. A write may or may not have reached the disk.
    BackendGone,
}

/// A request is over.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// What it was submitted with.
    pub token: u64,
    /// How it went.
    pub outcome: Result<(), Failure>,
    /// The backend still has pages of it mapped: none of them may be used again, or believed.
    pub quarantined: bool,
}

/// Where a disk stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Looks for its backend, or waits for it.
    Connecting,
    /// Takes requests.
    Connected,
    /// The backend has gone; pages are being taken back.
    Reclaiming,
    /// The backend kept pages, or there was no reference or port for it. This disk can't be used again.
    Dead,
}

/// What the backend says about the disk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Geometry {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// The disk's own sectors, in bytes: for information.
    pub sector_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Flushes are known.
    pub flush: bool,
    /// Discards are known.
    pub discard: bool,
}

/// A request that the backend has, or had.
#[derive(Debug)]
struct Slot {
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

/// A disk.
#[derive(Debug)]
pub struct BlkFront {
    platform: Platform,
    device: FrontDevice,
    ring_page: Frame,
    ring_lent: Option<Lent>,
    ring: Option<Ring>,
    port: Option<Port>,
    health: Health,
    reclaim_until: Option<u64>,
    geometry: Geometry,
    pool: Pool,
    /// The pool is used with this backend, and indirect requests.
    persistent: bool,
    indirect: bool,
    slots: [Slot; MAX_REQUESTS],
    /// Requests in `slots` whose backend has gone.
    orphans: usize,
    faults: u64,
}

impl BlkFront {
    /// The disk `device/vbd/<devid>`; `ring_page` and `pool` are the driver's from now on. A pool of fewer than [`MIN_POOL`] is not
    /// used.
    #[must_use]
    pub fn new(platform: Platform, devid: u32, ring_page: Frame, pool: &'static mut [PoolPage]) -> Self {
        Self {
            platform,
            device: FrontDevice::new("vbd", devid, KEYS),
            ring_page,
            ring_lent: None,
            ring: None,
            port: None,
            health: Health::Connecting,
            reclaim_until: None,
            geometry: Geometry::default(),
            pool: Pool::new(pool, MIN_POOL),
            persistent: false,
            indirect: false,
            slots: core::array::from_fn(|_| Slot {
                request: None,
                generation: 0,
                lent: [const { None }; SEGMENTS],
                chain: Chain::EMPTY,
            }),
            orphans: 0,
            faults: 0,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// What the backend said when it connected; zeros before.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What dom0 calls the thing behind the disk (`params`), cut at 32 bytes; for people.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.device.value(4)
    }

    /// The port whose events are this disk's.
    #[must_use]
    pub fn port(&self) -> Option<Port> {
        self.port
    }

    /// Requests without a completion.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        let first =
            |(index, slot): (usize, &Slot)| slot.request.is_some_and(|request| request.first == index);
        self.slots.iter().enumerate().filter(|slot| first(*slot)).count()
    }

    /// Times that the backend broke the ring's rules and was disconnected.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Takes a xenstore message if it is this disk's. Call [`Self::advance`] afterwards.
    pub fn on_message(&mut self, message: &Message<'_>) -> bool {
        self.device.on_message(message)
    }

    /// Looks at xenstore again; cheap, for a timer of some seconds.
    pub fn recheck(&mut self) {
        self.device.recheck();
    }

    /// Moves connecting and ending on: on every turn of the loop, and at least once a second. `now_ns` only goes up.
    pub fn advance(&mut self, client: &mut Client, now_ns: u64) {
        for _ in 0..EVENTS_A_TURN {
            match self.device.advance(client) {
                Some(DeviceEvent::Publish) => self.publish(),
                Some(DeviceEvent::Connected) => self.connected(),
                Some(DeviceEvent::Stop) => self.stop(),
                None => break,
            }
        }
        if self.health == Health::Reclaiming {
            self.reclaim(now_ns);
        }
    }

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
        let most = if self.indirect { MAX_PAGES } else { PLAIN_PAGES };
        let parts = pages.len().div_ceil(most).max(1);
        let mut ready: heapless::Vec<(usize, [u32; wire::REQ]), PARTS> = heapless::Vec::new();
        let mut free = (0..).zip(&self.slots).filter(|(_, slot)| slot.request.is_none());
        let places: [Option<usize>; PARTS] = core::array::from_fn(|_| free.next().map(|(index, _)| index));
        let room = self.ring.as_ref().is_some_and(|ring| ring.free() as usize >= parts);
        let mut outcome = if room { Ok(()) } else { Err(SubmitError::Full) };
        let mut rest = (first_sector, pages);
        for place in places.iter().take(parts) {
            let (sector, pages) = rest;
            let (part, others) = pages.split_at(pages.len().min(most));
            let last = if others.is_empty() { last } else { 7 };
            let words = outcome
                .and(place.ok_or(SubmitError::Full))
                .and_then(|index| Ok((index, self.prepare(index, operation, sector, part, last)?)));
            // As many as there are places.
            outcome = words.map(|words| ready.push(words).unwrap_or_default());
            rest = (sector + most as u64 * PAGE_SECTORS, others);
        }
        if let Err(error) = outcome {
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
                slot.request = Some(Outstanding::new(token, operation.code(), first, parts));
            }
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
            .find(|(_, slot)| slot.request.is_none())
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

    fn publish(&mut self) {
        let backend = self.device.backend_id();
        self.ring = Some(Front::init(self.ring_page.words));
        let lent = self.platform.lend(backend, self.ring_page.mfn, Access::ReadWrite);
        let port = self.platform.open_port(backend);
        match (lent, port) {
            (Ok(lent), Ok(port)) => {
                self.device.write("ring-ref", lent.reference().0);
                self.device.write("event-channel", port.0);
                self.device.write("protocol", "x86_64-abi");
                if !self.pool.is_empty() {
                    self.device.write("feature-persistent", 1);
                }
                self.device.write_state(XenbusState::Initialised);
                self.ring_lent = Some(lent);
                self.port = Some(port);
            }
            (lent, port) => {
                log::error!("{}: no ring or port to be had: {lent:?} {port:?}", self.device.name());
                self.ring_lent = lent.ok();
                self.port = port.ok();
                self.health = Health::Dead;
            }
        }
    }

    fn connected(&mut self) {
        fn number<T: core::str::FromStr>(text: Option<&str>) -> Option<T> {
            xenstore::number(text?.as_bytes())
        }
        let Some(sectors) = number(self.device.value(0)) else {
            log::error!("{}: the backend does not say how large the disk is", self.device.name());
            return;
        };
        self.geometry = Geometry {
            sectors,
            sector_size: number(self.device.value(2)).unwrap_or(512),
            read_only: number::<u32>(self.device.value(1)).is_some_and(|info| info & VDISK_READONLY != 0),
            flush: number::<u32>(self.device.value(3)).is_some_and(|flag| flag != 0),
            discard: number::<u32>(self.device.value(5)).is_some_and(|flag| flag != 0),
        };
        self.persistent =
            !self.pool.is_empty() && number::<u32>(self.device.value(6)).is_some_and(|flag| flag != 0);
        self.indirect = self.persistent
            && number::<usize>(self.device.value(7)).is_some_and(|segments| segments >= MAX_PAGES);
        if self.persistent {
            self.pool.lend(self.platform, self.device.backend_id());
        }
        self.device.write_state(XenbusState::Connected);
        self.health = Health::Connected;
    }

    fn stop(&mut self) {
        if let Some(port) = self.port.take() {
            self.platform.close_port(port);
        }
        for slot in &mut self.slots {
            if let Some(request) = slot.request.as_mut().filter(|part| !part.orphan && !part.over) {
                request.orphan = true;
                self.orphans += 1;
            }
        }
        if self.health != Health::Reclaiming && self.health != Health::Dead {
            self.health = Health::Reclaiming;
            self.reclaim_until = None;
        }
    }

    fn reclaim(&mut self, now_ns: u64) {
        let until = *self.reclaim_until.get_or_insert(now_ns.saturating_add(RECLAIM_NS));
        let ring_back = self.platform.reclaim(&mut self.ring_lent);
        let pool_back = self.pool.reclaim(self.platform);
        let pages_back = self.slots.iter().all(|slot| slot.request.is_none());
        if ring_back {
            self.ring = None;
        }
        if ring_back && pool_back && pages_back {
            self.health = Health::Connecting;
            self.device.closed();
        } else if now_ns >= until {
            log::error!("{}: the backend has gone and kept pages; giving them up", self.device.name());
            self.health = Health::Dead;
        }
    }
}

impl Slot {
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
