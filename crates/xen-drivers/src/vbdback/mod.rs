//! The block devices that dom0 gives to clients with `disk=['…,backend=m1,target=NAME']`: from discovery to removal.
//!
//! dom0 makes both directories of a device; everything about who the client is comes from ours, which only dom0 and we can write.
//! Two watches serve any number of clients: `backend/vbd` for what the toolstack does, and `/local/domain` for the frontends'
//! states (both xenstoreds deliver from there only what we may read: exactly our frontends). Nothing waits: each device is a
//! small machine with at most one request outstanding, and at most [`IN_FLIGHT`] are outstanding in all.
//!
//! Two kinds of clients come by the same door. A kernel that knows the map protocol publishes no ring: it maps ours. A stock blkfront
//! publishes its own, of one page or several, in its state 3 or at once in 4.
//!
//! The conversation with the owner: [`Event::Offered`] is answered with [`VbdBackend::accept`] or [`VbdBackend::refuse`];
//! [`Event::BlockRing`] with [`VbdBackend::block_ready`] or [`VbdBackend::block_failed`]; [`Event::Closing`] with [`VbdBackend::closed`] when everything is taken back; [`Event::Gone`] ends the device. The owner may
//! end a device itself with [`VbdBackend::abandon`].

mod device;
mod offer;
mod owner;
mod place;
mod ring_keys;
mod search;
mod slot;
mod strangers;

use xen::DomId;
use xenstore::{Client, Message, RequestId, SendError};

pub use device::{DeviceId, Event, Info, Unusable};
pub use offer::{BlockFeatures, BlockOffer, MapOffer};
use place::Place;
pub use ring_keys::{BadRing, BlockRingInfo};
use search::Search;
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
            let Ok(index) = u16::try_from(index) else { continue };
            let device = DeviceId { index, generation: slot.generation };
            let Some((pending, event)) = slot.take_event(device) else { continue };
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
}
