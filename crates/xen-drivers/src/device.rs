//! What all frontends have in common: find the backend, follow its state, publish, read what it says about the device.
//!
//! One xenstore request at a time for each device, in the order of [`Stage`]; nothing waits. The directory `device/<class>/<id>`
//! is written by the toolstack and may not be complete, or readable, when we first look (Qubes meets that race often), so
//! whatever is missing is looked for again when a watch fires or [`FrontDevice::recheck`] is called.

use core::fmt::Write;

use heapless::Deque;
use xen::DomId;
use xenstore::handshake::{Frontend, FrontendStep};
use xenstore::{
    Blocking, CallError, Client, Message, PathBuf, Refusal, RequestId, SendError, Transaction, XenbusState,
    number, path,
};

/// A value that we write, or read from a backend.
pub(crate) type Value = heapless::String<32>;

/// Devices of one class that a domain looks at.
pub const DEVICES: usize = 16;

/// Numbers of this domain's own devices of a class (`vif`, `vbd`), lowest first; at most [`DEVICES`].
///
/// # Errors
/// See [`CallError`]; no device at all is not one.
pub fn devices(calls: &mut Blocking<'_>, class: &str) -> Result<heapless::Vec<u32, DEVICES>, CallError> {
    let directory = path(format_args!("device/{class}")).map_err(|_| CallError::Unexpected)?;
    let listing = match calls.list(Transaction::NONE, &directory) {
        Ok(listing) => listing,
        Err(error) if error.is_missing() => return Ok(heapless::Vec::new()),
        Err(error) => return Err(error),
    };
    let names = listing.split(|b| *b == 0).filter_map(number);
    let mut found: heapless::Vec<u32, DEVICES> = names.take(DEVICES).collect();
    found.sort_unstable();
    Ok(found)
}

/// Whose directory a key is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Front,
    Back,
}

/// Keys of one driver at most.
pub(crate) const MOST_KEYS: usize = 8;

/// Calls of [`FrontDevice::advance`] in one turn of a driver: an event, what follows from it, and the next request.
pub(crate) const EVENTS_A_TURN: usize = 4;

/// What the driver of the class does now.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeviceEvent {
    /// Make rings and a port, queue them with [`FrontDevice::write`], the state last.
    Publish,
    /// The backend serves; [`FrontDevice::value`] has what it said.
    Connected,
    /// The backend ends. Stop, take everything back, then call [`FrontDevice::closed`]. State 6 is being written.
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    WatchFront,
    Backend,
    BackendId,
    Unwatch,
    WatchBack,
    State,
    Keys(usize),
    Wait,
}

#[derive(Debug)]
pub(crate) struct FrontDevice {
    front: PathBuf,
    backend: PathBuf,
    backend_id: DomId,
    front_token: Value,
    back_token: Value,
    watched: Option<PathBuf>,
    front_watched: bool,
    stage: Stage,
    awaiting: Option<RequestId>,
    /// What is awaited is the first of `writes`.
    writing: bool,
    dirty: bool,
    machine: Frontend,
    event: Option<DeviceEvent>,
    keys: &'static [(Side, &'static str)],
    values: [Option<Value>; MOST_KEYS],
    writes: Deque<(&'static str, Value), 10>,
}

impl FrontDevice {
    /// The device `device/<class>/<id>`, with the keys to read when its backend serves.
    pub(crate) fn new(class: &str, id: u32, keys: &'static [(Side, &'static str)]) -> Self {
        let mut device = Self {
            front: PathBuf::new(),
            backend: PathBuf::new(),
            backend_id: DomId(0),
            front_token: Value::new(),
            back_token: Value::new(),
            watched: None,
            front_watched: false,
            stage: Stage::WatchFront,
            awaiting: None,
            writing: false,
            dirty: false,
            machine: Frontend::new(),
            event: None,
            keys,
            values: [const { None }; MOST_KEYS],
            writes: Deque::new(),
        };
        // The classes are short words of this crate.
        let _ = write!(device.front, "device/{class}/{id}");
        let _ = write!(device.front_token, "{class}/{id}");
        let _ = write!(device.back_token, "{class}/{id}/backend");
        device
    }

    pub(crate) fn name(&self) -> &str {
        &self.front_token
    }

    pub(crate) fn backend_id(&self) -> DomId {
        self.backend_id
    }

    /// What the key at `index` said when the backend came to serve.
    pub(crate) fn value(&self, index: usize) -> Option<&str> {
        self.values.get(index)?.as_deref()
    }

    /// Queues a write into our own directory.
    pub(crate) fn write(&mut self, key: &'static str, value: impl core::fmt::Display) {
        let mut text = Value::new();
        let fits = write!(text, "{value}").is_ok() && self.writes.push_back((key, text)).is_ok();
        debug_assert!(fits, "values and their number are known");
    }

    pub(crate) fn write_state(&mut self, state: XenbusState) {
        self.write("state", state.value());
    }

    /// Nothing of ours is with the backend any more.
    pub(crate) fn closed(&mut self) {
        self.machine.closed();
        self.dirty = true;
    }

    /// Looks again, as if something had changed.
    pub(crate) fn recheck(&mut self) {
        self.dirty = true;
    }

    /// Takes a message if it is ours.
    pub(crate) fn on_message(&mut self, message: &Message<'_>) -> bool {
        match message {
            Message::WatchesLost => {
                self.dirty = true;
                false
            }
            Message::Watch(event) => {
                let ours =
                    event.token == self.front_token.as_str() || event.token == self.back_token.as_str();
                self.dirty |= ours;
                ours
            }
            Message::Reply(reply) if Some(reply.id) == self.awaiting => {
                self.awaiting = None;
                if !core::mem::take(&mut self.writing) {
                    self.on_reply(reply.outcome);
                } else if let (Some((key, _)), Err(refusal)) = (self.writes.pop_front(), reply.outcome) {
                    log::warn!("{}: cannot write {key}: {refusal}", self.name());
                }
                true
            }
            Message::Reply(_) => false,
        }
    }

    /// Asks the next thing, if nothing is being asked, or says what the driver is to do.
    pub(crate) fn advance(&mut self, client: &mut Client) -> Option<DeviceEvent> {
        if self.awaiting.is_some() {
            return None;
        }
        if self.event.is_some() {
            return self.event.take();
        }
        if self.writes.is_empty() && self.stage == Stage::Wait && self.dirty {
            self.dirty = false;
            self.stage = match (self.front_watched, self.machine.is_published()) {
                (false, _) => Stage::WatchFront,
                (true, true) => Stage::State,
                (true, false) => Stage::Backend,
            };
        }
        match self.ask(client) {
            Ok(id) => {
                self.awaiting = id;
                self.writing = !self.writes.is_empty();
            }
            // Later, when others have had their replies.
            Err(SendError::Full) => {}
            Err(SendError::TooLong) => {
                log::warn!("{}: a path is too long", self.name());
                self.stage = Stage::Wait;
            }
        }
        None
    }

    fn ask(&self, client: &mut Client) -> Result<Option<RequestId>, SendError> {
        let none = Transaction::NONE;
        let at = |side, key: &str| {
            let directory = if side == Side::Front { &self.front } else { &self.backend };
            path(format_args!("{directory}/{key}")).map_err(|_| SendError::TooLong)
        };
        if let Some((key, value)) = self.writes.front() {
            return client.write(none, &at(Side::Front, key)?, value.as_bytes()).map(Some);
        }
        match self.stage {
            Stage::WatchFront => client.watch(&self.front, &self.front_token),
            Stage::Backend => client.read(none, &at(Side::Front, "backend")?),
            Stage::BackendId => client.read(none, &at(Side::Front, "backend-id")?),
            Stage::Unwatch => {
                let old = self.watched.as_ref().unwrap_or(&self.backend);
                client.unwatch(
                    &path(format_args!("{old}/state")).map_err(|_| SendError::TooLong)?,
                    &self.back_token,
                )
            }
            Stage::WatchBack => client.watch(&at(Side::Back, "state")?, &self.back_token),
            Stage::State => client.read(none, &at(Side::Back, "state")?),
            Stage::Keys(index) => match self.keys.get(index) {
                Some((side, key)) => client.read(none, &at(*side, key)?),
                None => return Ok(None),
            },
            Stage::Wait => return Ok(None),
        }
        .map(Some)
    }

    fn on_reply(&mut self, outcome: Result<&[u8], Refusal>) {
        self.stage = match (self.stage, outcome) {
            (Stage::WatchFront, Ok(_) | Err(Refusal::Exists)) => {
                self.front_watched = true;
                Stage::Backend
            }
            (Stage::Backend, Ok(value)) => {
                match core::str::from_utf8(value).ok().and_then(|text| PathBuf::try_from(text).ok()) {
                    Some(backend) if !backend.is_empty() => {
                        self.backend = backend;
                        Stage::BackendId
                    }
                    _ => Stage::Wait,
                }
            }
            (Stage::BackendId, Ok(value)) => match number(value) {
                Some(id) => {
                    self.backend_id = DomId(id);
                    match &self.watched {
                        Some(watched) if *watched == self.backend => Stage::State,
                        Some(_) => Stage::Unwatch,
                        None => Stage::WatchBack,
                    }
                }
                None => Stage::Wait,
            },
            (Stage::Unwatch, _) => {
                self.watched = None;
                Stage::WatchBack
            }
            (Stage::WatchBack, Ok(_) | Err(Refusal::Exists)) => {
                self.watched = Some(self.backend.clone());
                Stage::State
            }
            (Stage::State, Ok(value)) => self.observe(Some(XenbusState::from_value(value))),
            // C xenstored does not say whether a node is missing in a directory that we may not read.
            (Stage::State, Err(Refusal::NotFound | Refusal::Access)) => self.observe(None),
            (Stage::Keys(index), outcome) => {
                let text = outcome.ok().and_then(|value| core::str::from_utf8(value).ok());
                if let Some(place) = self.values.get_mut(index) {
                    *place = text.and_then(|text| Value::try_from(text).ok());
                }
                self.next_key(index + 1)
            }
            (Stage::Wait, _) => Stage::Wait,
            (stage, Err(refusal)) => {
                log::debug!("{}: {stage:?}: {refusal}", self.name());
                Stage::Wait
            }
        };
    }

    fn next_key(&mut self, index: usize) -> Stage {
        if index < self.keys.len() {
            return Stage::Keys(index);
        }
        self.event = Some(DeviceEvent::Connected);
        Stage::Wait
    }

    fn observe(&mut self, backend: Option<XenbusState>) -> Stage {
        match self.machine.observe(backend) {
            FrontendStep::Nothing => {}
            FrontendStep::Restart => self.write_state(XenbusState::Initialising),
            FrontendStep::Publish => self.event = Some(DeviceEvent::Publish),
            FrontendStep::Use => return self.next_key(0),
            FrontendStep::Stop => {
                self.writes.clear();
                self.write_state(XenbusState::Closed);
                self.event = Some(DeviceEvent::Stop);
            }
        }
        Stage::Wait
    }
}
