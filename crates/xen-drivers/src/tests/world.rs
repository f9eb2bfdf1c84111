//! A xenstored, M1's backend on it, and clients with connections of their own.

use std::boxed::Box;
use std::cell::RefCell;
use std::collections::BTreeMap;

use xen::{DomId, GrantRef, PageWords, Port};
use xenstore::fake::{ConnectionId, FakeXenstored, Flavour};
use xenstore::{Blocking, Connection, Pause};

use crate::vbdback::{DeviceId, Event, MapOffer, Slot, VbdBackend};

pub(crate) const M1: u16 = 3;
pub(crate) const XVDA: u32 = 51712;

pub(crate) fn page() -> &'static PageWords {
    Box::leak(Box::new(PageWords::new()))
}

/// What M1 lends to those who map: ring, port and info page are `n`, `n` + 100 and `n` + 200.
pub(crate) fn map_offer(n: u32) -> MapOffer {
    MapOffer { ring: GrantRef(n), port: Port(n + 100), info_page: GrantRef(n + 200) }
}

pub(crate) struct World {
    pub(crate) server: RefCell<FakeXenstored>,
    pub(crate) connection: Connection,
    pub(crate) id: ConnectionId,
    pub(crate) backend: VbdBackend<'static>,
    pub(crate) now: u64,
    pub(crate) clients: BTreeMap<u16, Connection>,
}

impl World {
    pub(crate) fn new(flavour: Flavour, devices: usize) -> Self {
        let mut server = FakeXenstored::new(flavour);
        let m1 = page();
        let id = server.introduce(M1, m1);
        Self {
            server: RefCell::new(server),
            connection: Connection::new(m1),
            id,
            backend: VbdBackend::new(DomId(M1), Box::leak(vec![Slot::EMPTY; devices].into_boxed_slice())),
            now: 1,
            clients: BTreeMap::new(),
        }
    }

    /// `xl create` up to the device.
    pub(crate) fn create(&mut self, client: u16, params: &str) {
        let client_page = page();
        self.server.get_mut().introduce(client, client_page);
        self.clients.insert(client, Connection::new(client_page));
        self.server.get_mut().add_vbd(M1, client, XVDA, params, "r");
    }

    /// Lets M1 and xenstored run until nothing moves; what M1's owner hears.
    pub(crate) fn run(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for turn in 0.. {
            assert!(turn < 100_000, "it never comes to rest");
            let mut moved = false;
            while let Some(incoming) = self.connection.poll().expect("an honest xenstored") {
                self.backend.on_message(&incoming.message);
                moved = true;
            }
            while let Some(event) = self.backend.next_event() {
                events.push(event);
                moved = true;
            }
            self.backend.advance(&mut self.connection.client, self.now);
            self.connection.flush().expect("an honest xenstored");
            moved |= self.server.get_mut().run();
            moved |= self.connection.take_notify();
            if !moved {
                return events;
            }
        }
        unreachable!("asserted above")
    }

    /// A little of [`Self::run`]: xenstored takes what was sent, or M1 takes one message, hears of one thing, or asks. Whoever acts
    /// next acts in the middle of what the others are doing.
    pub(crate) fn step(&mut self, which: u8) -> Option<Event> {
        match which % 4 {
            0 => {
                self.server.get_mut().run();
            }
            1 => {
                if let Some(incoming) = self.connection.poll().expect("an honest xenstored") {
                    self.backend.on_message(&incoming.message);
                }
            }
            2 => {
                self.backend.advance(&mut self.connection.client, self.now);
                self.connection.flush().expect("an honest xenstored");
            }
            _ => return self.backend.next_event(),
        }
        None
    }

    /// Everybody but the owner runs, long enough to come to rest; the owner has not looked at its events.
    pub(crate) fn run_without_owner(&mut self) {
        for round in 0..600_u32 {
            assert_eq!(self.step(round.to_le_bytes()[0] % 3), None);
        }
    }

    /// [`Self::run`] until nothing is held back by time either.
    pub(crate) fn run_long(&mut self) -> Vec<Event> {
        let mut events = self.run();
        while let Some(deadline) = self.backend.deadline() {
            assert!(deadline > self.now);
            self.now = deadline;
            events.extend(self.run());
        }
        events
    }

    /// Runs, and takes the one offer that comes.
    pub(crate) fn offered(&mut self) -> DeviceId {
        match self.run().as_slice() {
            [Event::Offered { device, .. }] => *device,
            other => panic!("not one offer: {other:?}"),
        }
    }

    pub(crate) fn accept(&mut self, device: DeviceId) {
        self.backend.accept(device, Some(map_offer(100)), None);
    }

    /// A device up to both sides' state 4.
    pub(crate) fn connected(&mut self, client: u16) -> DeviceId {
        self.create(client, "debian");
        let device = self.offered();
        self.accept(device);
        assert_eq!(self.run_long(), []);
        self.client_says(client, "4");
        assert_eq!(self.run_long(), [Event::Connected(device)]);
        assert_eq!(self.state(client).as_deref(), Some("4"));
        device
    }

    pub(crate) fn client_says(&mut self, client: u16, state: &str) {
        let node = format!("/local/domain/{client}/device/vbd/{XVDA}/state");
        if self.server.get_mut().get(&node).is_some() {
            self.server.get_mut().set(&node, state);
        }
    }

    pub(crate) fn back(client: u16, key: &str) -> String {
        format!("/local/domain/{M1}/backend/vbd/{client}/{XVDA}{key}")
    }

    pub(crate) fn get(&self, client: u16, key: &str) -> Option<String> {
        self.server.borrow().get(&Self::back(client, &format!("/{key}")))
    }

    /// M1's own state for a client's device.
    pub(crate) fn state(&self, client: u16) -> Option<String> {
        self.get(client, "state")
    }

    /// Blocking calls of a client, while M1 runs beside it and takes every offer. What M1 heard is returned as well.
    pub(crate) fn as_client<R>(
        &mut self,
        client: u16,
        body: impl FnOnce(&mut Blocking<'_>) -> R,
    ) -> (R, Vec<Event>) {
        let mut connection = self.clients.remove(&client).expect("a client");
        let mut events = Vec::new();
        let mut sleeps = 0;
        let mut wait = |pause| {
            let news = if pause == Pause::Sleep { self.run_long() } else { self.run() };
            for event in &news {
                match event {
                    Event::Offered { device, .. } => self.accept(*device),
                    Event::Closing(device) => self.backend.closed(*device),
                    _ => {}
                }
            }
            events.extend(news);
            self.server.get_mut().run();
            sleeps += u32::from(pause == Pause::Sleep);
            sleeps < 50
        };
        let result = body(&mut Blocking::new(&mut connection, &mut wait));
        self.clients.insert(client, connection);
        (result, events)
    }
}
