//! One device: what is being read or written for it, and where its handshake stands.

mod look;
mod writes;

use xen::DomId;
use xenstore::handshake::{Backend, BackendStep, Observed};
use xenstore::{Client, PathBuf, Refusal, RequestId, SendError, Transaction, XenbusState, path};

use super::offer::Offer;
use super::ring_keys::{BadRing, Key};
use super::{BlockOffer, BlockRingInfo, Event, Info, MapOffer, Unusable};
use crate::Text;
use look::Field;
use writes::{Write, Writes};

/// A device's place in the table. Opaque; [`Slot::EMPTY`] fills the table at boot.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub(super) used: bool,
    pub(super) generation: u16,
    pub(super) info: Info,
    /// The owner has heard of this device.
    pub(super) known: bool,
    machine: Backend,
    /// Something may have changed since the last look.
    pub(super) dirty: bool,
    /// What is read next, or being read.
    look: Option<Field>,
    online: bool,
    /// The device is gone, and another is in its place.
    pub(super) replaced: bool,
    offer: Offer,
    /// The frontend's ring, as far as it is read.
    ring: BlockRingInfo,
    /// The owner has been told of the ring and not answered.
    mapping: bool,
    writes: Writes,
    pub(super) awaiting: Option<RequestId>,
    /// What is awaited is the first of `writes`.
    writing: bool,
    /// What the owner has to hear before anything goes on.
    pub(super) event: Option<Pending>,
}

/// An event before it gets its device's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pending {
    Offered,
    BlockRing,
    Connected,
    Closing,
    Gone,
    Unusable(Unusable),
}

impl Slot {
    /// No device.
    pub const EMPTY: Self = Self {
        used: false,
        generation: 0,
        info: Info { domain: DomId(0), devid: 0, params: Text::EMPTY, read_only: true, discard: false },
        known: false,
        machine: Backend::new(),
        dirty: false,
        look: None,
        online: false,
        replaced: false,
        offer: Offer::NONE,
        ring: BlockRingInfo::EMPTY,
        mapping: false,
        writes: Writes::NONE,
        awaiting: None,
        writing: false,
        event: None,
    };

    pub(super) fn open(&mut self, domain: DomId, devid: u32) {
        *self = Self {
            used: true,
            generation: self.generation.wrapping_add(1),
            info: Info { domain, devid, ..Self::EMPTY.info },
            dirty: true,
            ..Self::EMPTY
        };
    }

    /// Forgets the device. If another is in its place, or may be, that is the slot's from now on.
    pub(super) fn close(&mut self) {
        let Info { domain, devid, .. } = self.info;
        let replaced = self.replaced || self.dirty;
        *self = Self { generation: self.generation, ..Self::EMPTY };
        if replaced {
            self.open(domain, devid);
        }
    }

    /// Whether [`Self::ask`] would have something to ask now.
    pub(super) fn has_work(&self, now_ns: u64) -> bool {
        let free = self.used && self.awaiting.is_none();
        let may_look = self.event.is_none() && (self.look.is_some() || self.may_start_look());
        free && if self.writes.is_empty() { may_look } else { now_ns >= self.writes.hold_until }
    }

    fn may_start_look(&self) -> bool {
        self.dirty && !self.machine.waits_for_owner()
    }

    /// When [`Self::has_work`] will turn true by itself.
    pub(super) fn deadline(&self, now_ns: u64) -> Option<u64> {
        let held = self.used && self.awaiting.is_none() && !self.writes.is_empty();
        (held && self.writes.hold_until > now_ns).then_some(self.writes.hold_until)
    }

    /// Asks the next thing.
    pub(super) fn ask(&mut self, client: &mut Client) -> Result<(), SendError> {
        self.writing = !self.writes.is_empty();
        let id = if self.writing { self.ask_write(client) } else { self.ask_look(client) }?;
        self.awaiting = Some(id);
        Ok(())
    }

    /// A node of the device's directory below ours.
    fn back(&self, key: &str) -> Result<PathBuf, SendError> {
        let Info { domain: DomId(domain), devid, .. } = self.info;
        path(format_args!("backend/vbd/{domain}/{devid}{key}")).map_err(|_| SendError::TooLong)
    }

    /// The reply to what was asked.
    pub(super) fn on_reply(&mut self, outcome: Result<&[u8], Refusal>, now_ns: u64) {
        self.awaiting = None;
        if core::mem::take(&mut self.writing) {
            self.written(outcome.err(), now_ns);
        } else if let Some(field) = self.look {
            self.look = self.read(field, outcome);
        }
    }

    /// Both sides are known; what is to be read besides.
    fn observe(&mut self, seen: Observed) -> Option<Field> {
        match self.machine.observe(seen) {
            BackendStep::Nothing => {}
            BackendStep::Decide => self.event = Some(Pending::Offered),
            BackendStep::Connect => return self.connect(),
            BackendStep::Release { announce } => {
                if announce {
                    self.writes.push(Write::State(XenbusState::Closing), self.awaiting.is_some());
                }
                self.release();
            }
            BackendStep::Close => {
                self.writes.push(Write::State(XenbusState::Closed), self.awaiting.is_some());
                self.dirty = true;
            }
            BackendStep::CloseAndRemove => {
                self.writes.push(Write::State(XenbusState::Closed), self.awaiting.is_some());
                self.writes.push(Write::Remove, false);
            }
            BackendStep::Forget => {
                self.replaced |= seen.present;
                self.event = Some(Pending::Gone);
            }
        }
        None
    }

    /// The frontend has published what it has: a ring, if a disk was offered, or nothing.
    fn connect(&mut self) -> Option<Field> {
        match self.offer.block {
            None => self.connected(),
            Some(_) if self.mapping => {}
            Some(_) => {
                self.ring = BlockRingInfo::of(self.info.domain);
                return Some(Field::Ring(Key::Order));
            }
        }
        None
    }

    fn connected(&mut self) {
        if self.machine.connected() {
            self.writes.push(Write::State(XenbusState::Connected), self.awaiting.is_some());
            self.event = Some(Pending::Connected);
        }
    }

    /// There is no ring: a client of the map service, if that is on offer.
    fn without_ring(&mut self) {
        if self.offer.map.is_some() {
            self.connected();
        } else {
            self.bad_ring(BadRing::Missing);
        }
    }

    fn bad_ring(&mut self, bad: BadRing) {
        let why = Unusable::Ring(bad);
        let mut text: heapless::String<64> = heapless::String::new();
        // Cut to what fits.
        let _ = core::fmt::Write::write_fmt(&mut text, format_args!("{why}"));
        self.writes.push_error(&text);
        // The device is abandoned when its owner hears this.
        self.event = Some(Pending::Unusable(why));
    }

    fn release(&mut self) {
        self.mapping = false;
        self.event = Some(Pending::Closing);
    }

    pub(super) fn accept(&mut self, map: Option<MapOffer>, block: Option<BlockOffer>) {
        let mut block = block.map(BlockOffer::bounded);
        if let Some(block) = &mut block {
            block.features.discard &= self.info.discard;
        }
        self.offer = Offer { map, block };
        self.machine.offered();
        if self.offer.transport(0).is_some() {
            self.writes.push(Write::Transport(0), false);
        }
        self.writes.push(Write::State(XenbusState::InitWait), self.awaiting.is_some());
        self.dirty = true;
    }

    pub(super) fn refuse(&mut self, reason: &str) {
        self.machine.refused();
        self.writes.push_error(reason);
        self.dirty = true;
    }

    pub(super) fn block_ready(&mut self) {
        if core::mem::take(&mut self.mapping) {
            self.writes.push(Write::Properties(0), false);
            self.connected();
        }
    }

    pub(super) fn block_failed(&mut self, reason: &str) {
        if core::mem::take(&mut self.mapping) {
            self.writes.push_error(reason);
            self.abandon();
        }
    }

    /// We end it: [`Pending::Closing`] follows if the owner holds something.
    pub(super) fn abandon(&mut self) {
        if self.machine.abandon() {
            self.look = None;
            self.writes.push(Write::State(XenbusState::Closing), self.awaiting.is_some());
            self.release();
        }
    }

    pub(super) fn released(&mut self) {
        self.machine.released();
        self.dirty = true;
    }

    /// The owner has heard of the offer and not answered.
    pub(super) fn deciding(&self) -> bool {
        self.machine.waits_for_owner() && !self.machine.holds() && self.event.is_none()
    }

    /// The owner has heard that it ends and not taken everything back.
    pub(super) fn releasing(&self) -> bool {
        self.machine.waits_for_owner() && self.machine.holds() && self.event.is_none()
    }

    pub(super) fn holds(&self) -> bool {
        self.machine.holds()
    }

    /// The event for the owner, who has heard of it then.
    pub(super) fn take_event(&mut self, device: super::DeviceId) -> Option<(Pending, Event)> {
        let pending = self.event.take()?;
        self.known = true;
        let info = self.info;
        let event = match (pending, self.offer.block) {
            (Pending::Offered, _) => Event::Offered { device, info },
            (Pending::BlockRing, Some(disk)) => {
                self.mapping = true;
                Event::BlockRing { device, ring: self.ring, disk }
            }
            // Not met: a ring is looked for only where a disk is on offer.
            (Pending::BlockRing, None) => return None,
            (Pending::Connected, _) => Event::Connected(device),
            (Pending::Closing, _) => Event::Closing(device),
            (Pending::Gone, _) => Event::Gone(device),
            (Pending::Unusable(why), _) => Event::Unusable { device, info, why },
        };
        Some((pending, event))
    }
}
