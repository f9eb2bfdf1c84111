//! One device: what is being read or written for it, and where its handshake stands.

use xen::{DomId, GrantRef, Port};
use xenstore::handshake::{Backend, BackendStep, Observed};
use xenstore::{Client, Refusal, RequestId, SendError, Transaction, XenbusState, path};

use super::{Event, Info, REMOVE_AFTER_NS, SETTLE_NS, Unusable};
use crate::Text;

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
    writes: [Option<Write>; WRITES],
    /// When the first of `writes` may go, at the earliest.
    hold_until: u64,
    pub(super) awaiting: Option<RequestId>,
    /// What is awaited is the first of `writes`.
    writing: bool,
    /// What the owner has to hear before anything goes on.
    pub(super) event: Option<Pending>,
}

/// Nodes and states that can wait to be written: what is published, two states, and a removal.
const WRITES: usize = 8;

/// Nodes in the order in which they are read; the first four only while nothing is held for the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    FrontendId,
    Frontend,
    Params,
    Mode,
    State,
    Online,
    FrontendState,
}

#[derive(Clone, Copy, Debug)]
enum Write {
    Number(&'static str, u32),
    Error(Text<64>),
    State(XenbusState),
    Remove,
}

/// An event before it gets its device's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pending {
    Offered,
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
        info: Info { domain: DomId(0), devid: 0, params: Text::EMPTY, read_only: true },
        known: false,
        machine: Backend::new(),
        dirty: false,
        look: None,
        online: false,
        replaced: false,
        writes: [None; WRITES],
        hold_until: 0,
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
        free && if self.writes[0].is_some() { now_ns >= self.hold_until } else { may_look }
    }

    fn may_start_look(&self) -> bool {
        self.dirty && !self.machine.waits_for_owner()
    }

    /// When [`Self::has_work`] will turn true by itself.
    pub(super) fn deadline(&self, now_ns: u64) -> Option<u64> {
        let held = self.used && self.awaiting.is_none() && self.writes[0].is_some();
        (held && self.hold_until > now_ns).then_some(self.hold_until)
    }

    /// Asks the next thing.
    pub(super) fn ask(&mut self, client: &mut Client) -> Result<(), SendError> {
        let none = Transaction::NONE;
        let Info { domain: DomId(domain), devid, .. } = self.info;
        let too_long = |_| SendError::TooLong;
        let back = |key: &str| path(format_args!("backend/vbd/{domain}/{devid}/{key}")).map_err(too_long);
        let id = match self.writes[0] {
            Some(Write::Number(key, value)) => {
                let text = path(format_args!("{value}")).map_err(too_long)?;
                client.write(none, &back(key)?, text.as_bytes())
            }
            Some(Write::Error(text)) => client.write(none, &back("error")?, text.as_str().as_bytes()),
            Some(Write::State(state)) => client.write(none, &back("state")?, state.value().as_bytes()),
            Some(Write::Remove) => {
                client.rm(none, &path(format_args!("backend/vbd/{domain}/{devid}")).map_err(too_long)?)
            }
            None => {
                let first = if self.machine.holds() { Field::State } else { Field::FrontendId };
                let field = self.look.unwrap_or(first);
                if self.look.is_none() {
                    self.dirty = false;
                }
                self.look = Some(field);
                match field {
                    Field::FrontendId => client.read(none, &back("frontend-id")?),
                    Field::Frontend => client.read(none, &back("frontend")?),
                    Field::Params => client.read(none, &back("params")?),
                    Field::Mode => client.read(none, &back("mode")?),
                    Field::State => client.read(none, &back("state")?),
                    Field::Online => client.read(none, &back("online")?),
                    Field::FrontendState => {
                        let front = path(format_args!("/local/domain/{domain}/device/vbd/{devid}/state"));
                        client.read(none, &front.map_err(too_long)?)
                    }
                }
            }
        }?;
        self.awaiting = Some(id);
        self.writing = self.writes[0].is_some();
        Ok(())
    }

    /// The reply to what was asked.
    pub(super) fn on_reply(&mut self, outcome: Result<&[u8], Refusal>, now_ns: u64) {
        self.awaiting = None;
        if core::mem::take(&mut self.writing) {
            if let Some(write) = self.writes[0].take() {
                self.writes.rotate_left(1);
                self.written(write, outcome.err(), now_ns);
            }
        } else if let Some(field) = self.look {
            self.look = self.read(field, outcome);
        }
    }

    fn written(&mut self, write: Write, refusal: Option<Refusal>, now_ns: u64) {
        match (write, refusal) {
            (Write::State(XenbusState::InitWait), None) => self.hold_until = now_ns.saturating_add(SETTLE_NS),
            (Write::State(XenbusState::Closed), None) => {
                self.hold_until = now_ns.saturating_add(REMOVE_AFTER_NS);
            }
            (Write::Remove, _) => self.dirty = true,
            (_, None) => {}
            // The directory went away under us: the next look sees that.
            (_, Some(Refusal::NotFound | Refusal::Access)) => self.dirty = true,
            (_, Some(refusal)) => {
                self.writes = [None; WRITES];
                self.dirty = true;
                self.event = self.event.or(Some(Pending::Unusable(Unusable::Xenstore(refusal))));
            }
        }
    }

    /// Takes one value in; what is read next.
    fn read(&mut self, field: Field, outcome: Result<&[u8], Refusal>) -> Option<Field> {
        let missing = matches!(outcome, Err(Refusal::NotFound | Refusal::Access));
        if outcome.is_err() && !missing {
            // Xenstored is in trouble. The owner's timer looks again.
            return None;
        }
        let value = outcome.unwrap_or_default();
        match field {
            // Gone, or not complete yet: then an event follows that makes us learn of it again.
            Field::FrontendId | Field::Frontend | Field::Params | Field::Mode | Field::State if missing => {
                self.observe(Observed { present: false, online: false, frontend: None });
                None
            }
            Field::FrontendId if xenstore::number(value) == Some(self.info.domain.0) => Some(Field::Frontend),
            Field::FrontendId => self.unusable(Unusable::NotTheClient),
            Field::Frontend => {
                let expected =
                    path(format_args!("/local/domain/{}/device/vbd/{}", self.info.domain.0, self.info.devid));
                let right = expected.is_ok_and(|expected| expected.as_bytes() == value);
                if right { Some(Field::Params) } else { self.unusable(Unusable::NotTheFrontend) }
            }
            Field::Params => match Text::new(value) {
                Some(params) => {
                    self.reconsider(params != self.info.params);
                    self.info.params = params;
                    Some(Field::Mode)
                }
                None => self.unusable(Unusable::Params),
            },
            Field::Mode => {
                let read_only = value != b"w";
                self.reconsider(read_only != self.info.read_only);
                self.info.read_only = read_only;
                Some(Field::State)
            }
            Field::State if self.machine.published() && value == b"1" => {
                // We wrote more than that: the toolstack has made the device anew, perhaps as something else.
                self.observe(Observed { present: false, online: false, frontend: None });
                self.replaced = true;
                None
            }
            Field::State => Some(Field::Online),
            Field::Online => {
                self.online = value == b"1";
                Some(Field::FrontendState)
            }
            Field::FrontendState => {
                let frontend = (!missing).then(|| XenbusState::from_value(value));
                self.observe(Observed { present: true, online: self.online, frontend });
                None
            }
        }
    }

    /// The toolstack's nodes make no sense: never served, but removed when it asks for that.
    fn unusable(&mut self, why: Unusable) -> Option<Field> {
        if !self.machine.is_refused() {
            self.machine.refused();
            self.event = Some(Pending::Unusable(why));
        }
        Some(Field::State)
    }

    /// What was refused as something else is offered again.
    fn reconsider(&mut self, changed: bool) {
        if changed && self.machine.is_refused() {
            self.machine = Backend::new();
        }
    }

    fn observe(&mut self, seen: Observed) {
        match self.machine.observe(seen) {
            BackendStep::Nothing => {}
            BackendStep::Decide => self.event = Some(Pending::Offered),
            BackendStep::Connect => {
                self.write(Write::State(XenbusState::Connected));
                self.event = Some(Pending::Connected);
            }
            BackendStep::Release { announce } => {
                if announce {
                    self.write(Write::State(XenbusState::Closing));
                }
                self.event = Some(Pending::Closing);
            }
            BackendStep::Close => {
                self.write(Write::State(XenbusState::Closed));
                self.dirty = true;
            }
            BackendStep::CloseAndRemove => {
                self.write(Write::State(XenbusState::Closed));
                self.write(Write::Remove);
            }
            BackendStep::Forget => {
                self.replaced |= seen.present;
                self.event = Some(Pending::Gone);
            }
        }
    }

    fn write(&mut self, write: Write) {
        // A state replaces one that was not written yet: nobody needs to see it.
        if let (Write::State(_), Some(last)) = (&write, self.writes.iter_mut().flatten().last())
            && self.awaiting.is_none()
            && matches!(last, Write::State(_))
        {
            *last = write;
            return;
        }
        let place = self.writes.iter_mut().find(|place| place.is_none());
        debug_assert!(place.is_some(), "there is a place for each step of the handshake");
        if let Some(place) = place {
            *place = Some(write);
        }
    }

    pub(super) fn accept(&mut self, ring: GrantRef, port: Port, info: GrantRef) {
        self.machine.offered();
        self.write(Write::Number("map-ring-ref", ring.0));
        self.write(Write::Number("map-port", port.0));
        self.write(Write::Number("info-ref", info.0));
        self.write(Write::State(XenbusState::InitWait));
        self.dirty = true;
    }

    pub(super) fn refuse(&mut self, reason: &str) {
        self.machine.refused();
        let end = (0..=reason.len().min(64)).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        if let Some(text) = Text::new(&reason.as_bytes()[..end]) {
            self.write(Write::Error(text));
        }
        self.dirty = true;
    }

    /// We end it: [`Pending::Closing`] follows if the owner holds something.
    pub(super) fn abandon(&mut self) {
        if self.machine.abandon() {
            self.look = None;
            self.write(Write::State(XenbusState::Closing));
            self.event = Some(Pending::Closing);
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
}

impl Pending {
    pub(super) fn named(self, device: super::DeviceId, info: Info) -> Event {
        match self {
            Self::Offered => Event::Offered { device, info },
            Self::Connected => Event::Connected(device),
            Self::Closing => Event::Closing(device),
            Self::Gone => Event::Gone(device),
            Self::Unusable(why) => Event::Unusable { device, info, why },
        }
    }
}
