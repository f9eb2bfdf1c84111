//! The block devices that dom0 gives to clients with `disk=['…,backend=m1,target=NAME']`: from discovery to removal.
//!
//! dom0 makes both directories of a device; everything about who the client is comes from ours, which only dom0 and we can write.
//! Two watches serve any number of clients: `backend/vbd` for what the toolstack does, and `/local/domain` for the frontends'
//! states (both xenstoreds deliver from there only what we may read: exactly our frontends). Nothing waits: each device is a
//! small machine with at most one request outstanding, and at most [`IN_FLIGHT`] are outstanding in all.
//!
//! The conversation with the owner: [`Event::Offered`] is answered with [`VbdBackend::accept`] or [`VbdBackend::refuse`];
//! [`Event::Closing`] with [`VbdBackend::closed`] when everything is taken back; [`Event::Gone`] ends the device. The owner may
//! end a device itself with [`VbdBackend::abandon`].

mod place;
mod slot;
mod strangers;

use xen::{DomId, GrantRef, Port};
use xenstore::{Client, Message, Refusal, RequestId, SendError, Transaction, path};

use crate::Text;
use place::Place;
pub use slot::Slot;
use strangers::Strangers;

/// Requests of this module that are outstanding at most: others use the same connection.
pub const IN_FLIGHT: usize = 16;

/// Between our states 2 and 4. libxl waits to *see* 2, and a running domain's frontend could make us leave it too soon
/// (`xl block-attach` would then fail after ten seconds).
pub const SETTLE_NS: u64 = 250_000_000;

/// Between our state 6 and the removal of the directory: libxl waits to see 6 first, and takes a directory that is gone for
/// a failure then (`devstate_callback` in `libxl_event.c`).
pub const REMOVE_AFTER_NS: u64 = 1_000_000_000;

const BACK_TOKEN: &str = "vbd-backend";
const FRONT_TOKEN: &str = "vbd-frontends";

/// Names a device. A device that comes back under the same number has another name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceId {
    index: u16,
    generation: u16,
}

impl DeviceId {
    /// Its place in the table, for a table of the owner's own.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.index)
    }
}

/// What dom0 says about a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// The client, as dom0 named it.
    pub domain: DomId,
    /// Number of the virtual device: 51712 is `xvda`.
    pub devid: u32,
    /// `target=` of the client's configuration.
    pub params: Text<128>,
    /// `access=r`.
    pub read_only: bool,
}

/// Why a device is not served, before its owner was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// `frontend-id` is not the directory's client.
    NotTheClient,
    /// `frontend` is not the client's directory of that device.
    NotTheFrontend,
    /// `params` is not text, or longer than 128 bytes.
    Params,
    /// Our nodes could not be written; with [`Refusal::Quota`]: too many disks (raise `quota-maxentity`). The device is closed
    /// if it was accepted.
    Xenstore(Refusal),
}

impl core::fmt::Display for Unusable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotTheClient => f.write_str("frontend-id is not the client whose directory it is"),
            Self::NotTheFrontend => f.write_str("frontend is not the client's own directory"),
            Self::Params => f.write_str("target= is longer than 128 bytes, or not text"),
            Self::Xenstore(refusal) => write!(f, "cannot publish it: {refusal}"),
        }
    }
}

/// What the owner hears.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// dom0 has made a device: accept or refuse it.
    Offered {
        /// Its name from now on.
        device: DeviceId,
        /// What it is.
        info: Info,
    },
    /// The client has connected.
    Connected(DeviceId),
    /// The client is leaving, has left, or was abandoned: take everything back, then call [`VbdBackend::closed`].
    Closing(DeviceId),
    /// The device is gone; its name means nothing any more.
    Gone(DeviceId),
    /// A device cannot be served.
    Unusable {
        /// Its name.
        device: DeviceId,
        /// What is known of it.
        info: Info,
        /// Why.
        why: Unusable,
    },
    /// The table is full: this device is not served until another goes.
    TableFull {
        /// The client.
        domain: DomId,
        /// Its device.
        devid: u32,
    },
}

/// What the search for devices is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Search {
    WatchBackends,
    WatchFrontends,
    /// List the clients; the next one behind this number is listed then.
    Clients {
        after: Option<u16>,
    },
    /// List a client's devices.
    Devices {
        client: u16,
        then: Option<u16>,
    },
    Idle,
}

/// All devices.
#[derive(Debug)]
pub struct VbdBackend<'t> {
    /// Our own domain: its frontends are of disks that are ours.
    own: DomId,
    slots: &'t mut [Slot],
    search: Search,
    searching: Option<RequestId>,
    /// Search from the start when the present search is over.
    search_again: bool,
    /// Clients whose devices are to be listed.
    clients: heapless::Deque<u16, 16>,
    full: Option<(u16, u32)>,
    /// There was no place for a device: search again when there is.
    left_out: bool,
    /// The devices left out last, of which the owner has heard: each of their nodes fires the watch.
    told: heapless::Deque<(u16, u32), 16>,
    now_ns: u64,
    next: usize,
    /// Nothing is asked, held back or to be asked: [`Self::advance`] need not look at the table. It runs with every fault of
    /// every client, and devices come and go rarely.
    quiet: bool,
    /// No slot has an event.
    silent: bool,
    strangers: Strangers,
}

impl<'t> VbdBackend<'t> {
    /// In the domain `own`, a table of as many devices as `slots` has room for (65535 at most). The first [`Self::advance`] begins to look.
    #[must_use]
    pub fn new(own: DomId, slots: &'t mut [Slot]) -> Self {
        let most = slots.len().min(usize::from(u16::MAX));
        let slots = &mut slots[..most];
        slots.fill(Slot::EMPTY);
        Self {
            own,
            slots,
            search: Search::WatchBackends,
            searching: None,
            search_again: false,
            clients: heapless::Deque::new(),
            full: None,
            left_out: false,
            told: heapless::Deque::new(),
            now_ns: 0,
            next: 0,
            quiet: false,
            silent: false,
            strangers: Strangers::new(),
        }
    }

    /// Devices that are known, served or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| slot.used).count()
    }

    /// Whether no device is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Times that a domain showed us the frontend of a device that dom0 did not make.
    pub fn strangers(&mut self, now_ns: u64) -> u64 {
        self.strangers.total(now_ns)
    }

    /// What is known of a device.
    #[must_use]
    pub fn info(&self, device: DeviceId) -> Option<&Info> {
        let slot = self.slots.get(device.index())?;
        (slot.used && slot.generation == device.generation).then_some(&slot.info)
    }

    /// Takes a message if it is about these devices. Call [`Self::advance`] afterwards.
    pub fn on_message(&mut self, message: &Message<'_>) -> bool {
        let ours = self.hear(message);
        if ours {
            self.stir();
        }
        ours
    }

    fn hear(&mut self, message: &Message<'_>) -> bool {
        match message {
            Message::WatchesLost => {
                self.mark(Place::All);
                self.stir();
                false
            }
            Message::Watch(event) if event.token == BACK_TOKEN => {
                self.mark(place::of_backend(event.path));
                true
            }
            Message::Watch(event) if event.token == FRONT_TOKEN => {
                let place = place::of_frontend(event.path);
                self.mark_known(place);
                if let Place::Device(client, devid) = place
                    && event.path.ends_with("/state")
                    && client != self.own.0
                    && !self.knows(client, devid)
                {
                    self.strangers.notice(client, devid, self.now_ns);
                }
                true
            }
            Message::Watch(_) => false,
            Message::Reply(reply) if Some(reply.id) == self.searching => {
                self.searching = None;
                self.found(reply.outcome);
                true
            }
            Message::Reply(reply) => {
                let asked = self.slots.iter_mut().find(|slot| slot.awaiting == Some(reply.id));
                let Some(slot) = asked else { return false };
                slot.on_reply(reply.outcome, self.now_ns);
                if slot.event == Some(slot::Pending::Gone) && !slot.known {
                    // It was gone before anybody heard of it.
                    slot.close();
                }
                true
            }
        }
    }

    /// Asks what is to be asked, as far as there is room: on every turn of the loop, and at [`Self::deadline`].
    pub fn advance(&mut self, client: &mut Client, now_ns: u64) {
        self.now_ns = now_ns;
        if self.quiet {
            return;
        }
        self.ask(client);
        let busy =
            |slot: &Slot| slot.awaiting.is_some() || slot.has_work(now_ns) || slot.deadline(now_ns).is_some();
        self.quiet = self.search == Search::Idle
            && self.searching.is_none()
            && !self.search_again
            && self.clients.is_empty()
            && !self.slots.iter().any(busy);
    }

    fn ask(&mut self, client: &mut Client) {
        let now_ns = self.now_ns;
        let searching = usize::from(self.searching.is_some());
        let asked = self.slots.iter().filter(|slot| slot.awaiting.is_some()).count();
        let mut room = IN_FLIGHT.saturating_sub(searching + asked);
        if room > 0 && self.searching.is_none() && self.search_on(client).is_ok() {
            room -= 1;
        }
        let count = self.slots.len();
        // From where the last turn stopped, so that nobody is always last.
        for step in 0..count {
            if room == 0 {
                break;
            }
            let index = (self.next + step) % count;
            let slot = &mut self.slots[index];
            if slot.has_work(now_ns) {
                match slot.ask(client) {
                    Ok(()) => room -= 1,
                    Err(SendError::Full) => {
                        self.next = index;
                        return;
                    }
                    // Paths are made of numbers: not met.
                    Err(SendError::TooLong) => slot.dirty = false,
                }
                self.next = index + 1;
            }
        }
    }

    /// When [`Self::advance`] has something to do even if no message comes.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        if self.quiet {
            return None;
        }
        self.slots.iter().filter_map(|slot| slot.deadline(self.now_ns)).min()
    }

    /// The next thing that the owner must know, until there is none.
    pub fn next_event(&mut self) -> Option<Event> {
        if let Some((domain, devid)) = self.full.take() {
            return Some(Event::TableFull { domain: DomId(domain), devid });
        }
        if self.silent {
            return None;
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(pending) = slot.event.take() else { continue };
            let Ok(index) = u16::try_from(index) else { continue };
            let device = DeviceId { index, generation: slot.generation };
            slot.known = true;
            let event = pending.named(device, slot.info);
            match pending {
                slot::Pending::Gone => {
                    slot.close();
                    self.search_again |= core::mem::take(&mut self.left_out);
                    self.told.clear();
                }
                // What was accepted and could not be published is closed the ordinary way.
                slot::Pending::Unusable(_) if slot.holds() => slot.abandon(),
                _ => {}
            }
            self.quiet = false;
            return Some(event);
        }
        self.silent = true;
        None
    }

    /// Publishes what the client maps and binds, and goes to state 2. Only after [`Event::Offered`].
    pub fn accept(&mut self, device: DeviceId, map_ring: GrantRef, port: Port, info_page: GrantRef) {
        if let Some(slot) = self.deciding(device) {
            slot.accept(map_ring, port, info_page);
        }
    }

    /// Does not serve the device: it stays in state 1, so that the toolstack gives up after its ten seconds, and `error` in its
    /// directory says `reason` (at most 64 bytes of it). Only after [`Event::Offered`].
    pub fn refuse(&mut self, device: DeviceId, reason: &str) {
        if let Some(slot) = self.deciding(device) {
            slot.refuse(reason);
        }
    }

    /// Everything lent to the client for this device is taken back, and its port is closed. Only after [`Event::Closing`].
    pub fn closed(&mut self, device: DeviceId) {
        if let Some(slot) = self.slot(device).filter(|slot| slot.releasing()) {
            slot.released();
        }
    }

    /// Ends a device: state 5 at once, and [`Event::Closing`] if something is held for it.
    pub fn abandon(&mut self, device: DeviceId) {
        if let Some(slot) = self.slot(device) {
            slot.abandon();
        }
    }

    /// Looks at every device again, and for new ones; for a timer of some seconds or more. Events should make it superfluous.
    pub fn recheck(&mut self) {
        self.mark(Place::All);
        self.stir();
    }

    fn stir(&mut self) {
        (self.quiet, self.silent) = (false, false);
    }

    fn slot(&mut self, device: DeviceId) -> Option<&mut Slot> {
        self.stir();
        let slot = self.slots.get_mut(device.index())?;
        (slot.used && slot.generation == device.generation).then_some(slot)
    }

    fn deciding(&mut self, device: DeviceId) -> Option<&mut Slot> {
        self.slot(device).filter(|slot| slot.deciding())
    }

    /// Something changed on the backends' side: devices may be new.
    fn mark(&mut self, place: Place) {
        self.mark_known(place);
        match place {
            Place::All => self.search_again = true,
            Place::Client(client) => {
                let queued = self.clients.iter().any(|queued| *queued == client);
                self.search_again |= !queued && self.clients.push_back(client).is_err();
            }
            Place::Device(client, devid) => self.learn(client, devid),
            Place::Elsewhere => {}
        }
    }

    fn mark_known(&mut self, place: Place) {
        for slot in self.slots.iter_mut().filter(|slot| slot.used) {
            slot.dirty |= match place {
                Place::All => true,
                Place::Client(client) => slot.info.domain.0 == client,
                Place::Device(client, devid) => slot.info.domain.0 == client && slot.info.devid == devid,
                Place::Elsewhere => false,
            };
        }
    }

    fn knows(&self, client: u16, devid: u32) -> bool {
        let same = |slot: &Slot| slot.used && slot.info.domain.0 == client && slot.info.devid == devid;
        self.slots.iter().any(same)
    }

    /// A device exists, or did.
    fn learn(&mut self, client: u16, devid: u32) {
        self.strangers.introduced(client, devid);
        if self.knows(client, devid) {
            return;
        }
        match self.slots.iter_mut().find(|slot| !slot.used) {
            Some(slot) => slot.open(DomId(client), devid),
            None => {
                self.left_out = true;
                if !self.told.iter().any(|told| *told == (client, devid)) {
                    if self.told.is_full() {
                        self.told.pop_front();
                    }
                    // There is room: one was taken out.
                    let _ = self.told.push_back((client, devid));
                    self.full = Some((client, devid));
                }
            }
        }
    }

    /// Asks the next thing of the search. `Err`: nothing was asked.
    fn search_on(&mut self, client: &mut Client) -> Result<(), SendError> {
        if self.search == Search::Idle {
            self.search = match (self.clients.pop_front(), core::mem::take(&mut self.search_again)) {
                (Some(client), again) => {
                    self.search_again = again;
                    Search::Devices { client, then: None }
                }
                (None, true) => Search::Clients { after: None },
                (None, false) => return Err(SendError::Full),
            };
        }
        let none = Transaction::NONE;
        let id = match self.search {
            Search::WatchBackends => client.watch("backend/vbd", BACK_TOKEN),
            Search::WatchFrontends => client.watch("/local/domain", FRONT_TOKEN),
            Search::Clients { .. } => client.directory(none, "backend/vbd"),
            Search::Devices { client: domain, .. } => {
                let path = path(format_args!("backend/vbd/{domain}")).map_err(|_| SendError::TooLong)?;
                client.directory(none, &path)
            }
            Search::Idle => return Err(SendError::Full),
        }?;
        self.searching = Some(id);
        Ok(())
    }

    fn found(&mut self, outcome: Result<&[u8], Refusal>) {
        let names = outcome.unwrap_or_default();
        self.search = match self.search {
            Search::WatchBackends => {
                if let Some(refusal) = not_watched(outcome) {
                    log::error!("cannot watch for devices: {refusal}");
                }
                Search::WatchFrontends
            }
            Search::WatchFrontends => {
                if let Some(refusal) = not_watched(outcome) {
                    log::error!("cannot watch clients' frontends: {refusal}");
                }
                Search::Clients { after: None }
            }
            Search::Clients { after } => {
                let behind = |client: &u16| after.is_none_or(|after| *client > after);
                match children::<u16>(names).filter(behind).min() {
                    Some(client) => Search::Devices { client, then: Some(client) },
                    None => Search::Idle,
                }
            }
            Search::Devices { client, then } => {
                for devid in children(names) {
                    self.learn(client, devid);
                }
                then.map_or(Search::Idle, |client| Search::Clients { after: Some(client) })
            }
            Search::Idle => Search::Idle,
        };
    }
}

/// Why a watch is not set; one that was set before is.
fn not_watched(outcome: Result<&[u8], Refusal>) -> Option<Refusal> {
    outcome.err().filter(|refusal| *refusal != Refusal::Exists)
}

/// Numbers among the names in a directory listing.
fn children<T: core::str::FromStr>(listing: &[u8]) -> impl Iterator<Item = T> {
    listing.split(|b| *b == 0).filter_map(xenstore::number)
}
