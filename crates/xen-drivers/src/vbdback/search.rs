//! The search for devices: which there are, and which of them something happened to.

use xen::DomId;
use xenstore::{Client, Refusal, SendError, Transaction, path};

use super::place::Place;
use super::{BACK_TOKEN, FRONT_TOKEN, Slot, VbdBackend};

/// What the search for devices is at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Search {
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

impl VbdBackend<'_> {
    /// Something changed on the backends' side: devices may be new.
    pub(super) fn mark(&mut self, place: Place) {
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

    pub(super) fn mark_known(&mut self, place: Place) {
        for slot in self.slots.iter_mut().filter(|slot| slot.used) {
            slot.dirty |= match place {
                Place::All => true,
                Place::Client(client) => slot.info.domain.0 == client,
                Place::Device(client, devid) => slot.info.domain.0 == client && slot.info.devid == devid,
                Place::Elsewhere => false,
            };
        }
    }

    pub(super) fn knows(&self, client: u16, devid: u32) -> bool {
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
    pub(super) fn search_on(&mut self, client: &mut Client) -> Result<(), SendError> {
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

    pub(super) fn found(&mut self, outcome: Result<&[u8], Refusal>) {
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
