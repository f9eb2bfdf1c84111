//! netfront against a netback that follows the rules, starves it, lies, and comes again.

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address};
use xen::GrantRef;
use xen_ring::{Back, Full, PAGE_SIZE};

use super::dom0::{Machine, frame, frames};
use crate::netfront::{Counters, FRAME_MAX, Health, NetFront, RECLAIM_NS};

const TX: usize = 4;
const RX: usize = 8;
const NOW: Instant = Instant::ZERO;

struct Card {
    machine: Machine,
    driver: NetFront,
    rx_ring: crate::Frame,
    tx: Option<Back<3, 1>>,
    rx: Option<Back<2, 2>>,
    /// Pages that netback has for frames: id and reference.
    posted: std::collections::VecDeque<(u16, GrantRef)>,
}

impl Card {
    fn new() -> Self {
        let machine = Machine::new("vif");
        let rx_ring = frame();
        let driver = NetFront::new(machine.platform, 0, [frame(), rx_ring], &frames(TX), &frames(RX));
        Self { machine, driver, rx_ring, tx: None, rx: None, posted: std::collections::VecDeque::new() }
    }

    fn run(&mut self) {
        let machine = &mut self.machine;
        for turn in 0.. {
            assert!(turn < 10_000, "it never comes to rest");
            let mut moved = false;
            while let Some(incoming) = machine.connection.poll().expect("an honest xenstored") {
                self.driver.on_message(&incoming.message);
                moved = true;
            }
            self.driver.advance(&mut machine.connection.client, machine.now);
            machine.connection.flush().expect("an honest xenstored");
            moved |= machine.server.run();
            moved |= machine.connection.take_notify();
            if !moved {
                return;
            }
        }
    }

    /// netback's part, with a vif script that says `connected`.
    fn connect(&mut self) {
        self.run();
        self.machine.set_back("state", "2");
        self.run();
        assert_eq!(self.machine.front_state(), "4", "netfront goes there at once");
        for (key, value) in
            [("request-rx-copy", "1"), ("feature-rx-notify", "1"), ("feature-no-csum-offload", "1")]
        {
            assert_eq!(self.machine.said(key), value);
        }
        for key in ["feature-sg", "feature-gso-tcpv4", "feature-ipv6-csum-offload", "multi-queue-num-queues"]
        {
            assert_eq!(self.machine.said(key), "", "not offered");
        }
        self.tx = Some(Back::attach(self.machine.map_ring("tx-ring-ref")));
        self.rx = Some(Back::attach(self.machine.map_ring("rx-ring-ref")));
        self.machine.bind();
        self.posted.clear();
        self.take_posted();
        assert_eq!(self.posted.len(), RX, "all pages, before netback looks");
        assert_eq!(self.driver.health(), Health::Connecting);
        self.machine.set_back("state", "4");
        self.run();
        assert_eq!(self.driver.health(), Health::Connected);
        assert!(self.machine.notified());
    }

    fn connected() -> Self {
        let mut card = Self::new();
        card.connect();
        card
    }

    fn take_posted(&mut self) {
        let rx = self.rx.as_mut().expect("connected");
        while let Some([id, reference]) = rx.pop_request().expect("an honest frontend") {
            self.posted.push_back((u16::try_from(id).expect("no flags"), GrantRef(reference)));
        }
        let _ = rx.final_check();
    }

    /// A slot of the rx ring; its page is filled with `bytes` at `offset`.
    fn slot(&mut self, bytes: &[u8], offset: u16, flags: u16, status: i16) {
        let (id, reference) = self.posted.pop_front().expect("a page");
        let page = self.machine.resolve(reference, true);
        assert!(page.write(usize::from(offset), bytes));
        self.raw_slot(id, offset, flags, status).expect("a slot");
    }

    fn raw_slot(&mut self, id: u16, offset: u16, flags: u16, status: i16) -> Result<(), Full> {
        let [a, b] = status.to_le_bytes();
        let status = u16::from_le_bytes([a, b]);
        let words = [u32::from(id) | u32::from(offset) << 16, u32::from(flags) | u32::from(status) << 16];
        let rx = self.rx.as_mut().expect("connected");
        rx.push_response(&words)?;
        let _ = rx.publish();
        Ok(())
    }

    fn deliver(&mut self, bytes: &[u8]) {
        self.slot(bytes, 0, 0, i16::try_from(bytes.len()).expect("a frame"));
    }

    /// What smoltcp would get.
    fn receive(&mut self) -> Option<Vec<u8>> {
        self.driver.receive(NOW).map(|(rx, _)| rx.consume(<[u8]>::to_vec))
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        let token = self.driver.transmit(NOW);
        let sent =
            token.map(|token| token.consume(bytes.len(), |space| space.copy_from_slice(bytes))).is_some();
        self.driver.flush();
        sent
    }

    /// Frames that netback got; it does not answer yet.
    fn sent(&mut self) -> Vec<(u16, Vec<u8>)> {
        let mut all = Vec::new();
        while let Some([reference, offset_flags, id_size]) =
            self.tx.as_mut().expect("connected").pop_request().expect("an honest frontend")
        {
            assert_eq!(offset_flags, 0, "whole frames at the start of a page, checksums made");
            let (id, size) = (u16::try_from(id_size & 0xffff).expect("masked"), id_size >> 16);
            let mut bytes = vec![0; size as usize];
            assert!(
                size as usize <= PAGE_SIZE
                    && self.machine.resolve(GrantRef(reference), false).read(0, &mut bytes)
            );
            all.push((id, bytes));
        }
        all
    }

    fn answer_tx(&mut self, id: u16) {
        let tx = self.tx.as_mut().expect("connected");
        tx.push_response(&[u32::from(id)]).expect("a slot");
        let _ = tx.publish();
    }
}

#[test]
fn a_card_connects_and_knows_its_address() {
    let mut card = Card::connected();
    assert_eq!(card.driver.mac(), Some([0, 0x16, 0x3e, 1, 2, 0xf]));
    assert_eq!(card.driver.capabilities().max_transmission_unit, FRAME_MAX);
    assert_eq!(card.machine.lent().len(), TX + RX + 2);
    assert!(card.receive().is_none());
}

#[test]
fn a_script_that_fails_leaves_it_waiting() {
    let mut card = Card::new();
    card.run();
    card.machine.set_back("state", "2");
    card.run();
    assert_eq!(card.driver.health(), Health::Connecting);
    assert!(card.driver.transmit(NOW).is_none() && card.driver.receive(NOW).is_none());
}

#[test]
fn frames_go_both_ways_and_pages_go_round() {
    let mut card = Card::connected();
    for round in 0..1000_u16 {
        let frame: Vec<u8> = (0..60 + round % 1455).map(|i| i.wrapping_mul(round).to_le_bytes()[0]).collect();
        card.deliver(&frame);
        assert_eq!(card.receive().as_deref(), Some(&frame[..]));
        assert!(card.send(&frame));
        let sent = card.sent();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].1, frame);
        card.answer_tx(sent[0].0);
        card.take_posted();
        assert_eq!(card.posted.len(), RX, "never starved");
    }
    let expected = Counters { rx_frames: 1000, tx_frames: 1000, ..Counters::default() };
    assert_eq!(card.driver.counters(), expected);
}

#[test]
fn pages_are_shown_to_netback_only_by_flush() {
    let mut card = Card::connected();
    for i in (0..).take(RX) {
        card.deliver(&[i; 64]);
    }
    let mut got = 0;
    while card.receive().is_some() {
        got += 1;
        card.take_posted();
    }
    assert_eq!((got, card.posted.len()), (RX, 0), "one poll is bounded by the pages");
    card.driver.flush();
    assert!(card.machine.notified());
    card.take_posted();
    assert_eq!(card.posted.len(), RX);
    assert!(!card.driver.look_again());
}

#[test]
fn without_free_pages_nothing_is_sent_and_answers_are_dropped() {
    let mut card = Card::connected();
    for _ in 0..TX {
        assert!(card.send(&[1; 60]));
    }
    assert!(!card.send(&[1; 60]));
    card.deliver(&[2; 60]);
    let (rx, tx) = card.driver.receive(NOW).expect("reception goes on");
    rx.consume(|_| ());
    tx.consume(60, |space| space.fill(3));
    assert_eq!(card.driver.counters().tx_dropped, 1);
    let sent = card.sent();
    assert_eq!(sent.len(), TX);
    card.answer_tx(sent[2].0);
    assert!(card.driver.look_again(), "a page came free");
    assert!(card.send(&[4; 60]));
    assert_eq!(card.sent()[0].0, sent[2].0);
}

#[test]
fn what_was_not_asked_for_is_dropped_and_its_pages_go_round() {
    const MORE: u16 = 4;
    const EXTRA: u16 = 8;
    let mut card = Card::connected();
    let good = [9; 100];
    // An error; nothing; too long; a frame in two slots; one with an extra; one with two extras and a second slot.
    card.slot(&[], 0, 0, -1);
    card.slot(&[], 0, 0, 0);
    card.slot(&[7; 2000], 0, 0, 2000);
    card.deliver(&good);
    card.driver.flush();
    let mut heard: Vec<_> = std::iter::from_fn(|| card.receive()).collect();
    card.slot(&[7; 90], 0, MORE, 90);
    card.slot(&[7; 90], 0, 0, 90);
    card.deliver(&good);
    heard.extend(std::iter::from_fn(|| card.receive()));
    card.driver.flush();
    card.take_posted();
    card.slot(&[7; 90], 0, EXTRA, 90);
    // The extra has no id: whatever is there is its type and flags.
    card.posted.pop_front();
    card.raw_slot(0x0001, 0, 0, 0).expect("a slot");
    card.deliver(&good);
    card.slot(&[7; 90], 0, EXTRA | MORE, 90);
    card.posted.pop_front();
    card.raw_slot(0x0101, 0, 0, 0).expect("a slot");
    card.posted.pop_front();
    card.raw_slot(0x0001, 0, 0, 0).expect("a slot");
    card.slot(&[7; 90], 0, 0, 90);
    heard.extend(std::iter::from_fn(|| card.receive()));
    card.driver.flush();
    card.take_posted();
    card.deliver(&good);
    heard.extend(std::iter::from_fn(|| card.receive()));
    assert_eq!(heard, vec![good.to_vec(); 4]);
    assert_eq!(card.driver.counters().faults, 0);
    assert_eq!(card.driver.counters().rx_dropped, 11);
    card.driver.flush();
    card.take_posted();
    assert_eq!(card.posted.len(), RX);
}

#[test]
fn a_frame_may_lie_anywhere_in_its_page() {
    let mut card = Card::connected();
    card.slot(&[5; 96], 4000, 0, 96);
    assert_eq!(card.receive(), Some(vec![5; 96]));
}

#[test]
fn lies_end_the_connection_and_the_next_one_works() {
    type Lie = fn(&mut Card);
    let lies: [(&str, Lie); 5] = [
        ("an unknown page", |card| card.raw_slot(8, 0, 0, 60).expect("a slot")),
        ("a page out of turn", |card| card.raw_slot(1, 0, 0, 60).expect("a slot")),
        ("beyond the page", |card| card.raw_slot(0, 4090, 0, 60).expect("a slot")),
        ("an impossible index", |card| card.rx_ring.words.store(2, 1000)),
        ("a page sent that was not", |card| {
            assert!(card.send(&[1; 60]));
            card.sent();
            card.answer_tx(3);
        }),
    ];
    for (what, lie) in lies {
        let mut card = Card::connected();
        lie(&mut card);
        while card.receive().is_some() {
            card.driver.flush();
        }
        assert_eq!(card.driver.counters().faults, 1, "{what}");
        assert_eq!(card.driver.health(), Health::Reclaiming, "{what}");
        card.run();
        assert_eq!(card.machine.front_state(), "6", "{what}");
        card.machine.unpin_all();
        card.machine.set_back("state", "6");
        card.run();
        assert_eq!(card.machine.lent().len(), 0, "{what}");
        card.connect();
        card.deliver(&[3; 60]);
        assert_eq!(card.receive(), Some(vec![3; 60]), "{what}");
    }
}

#[test]
fn a_backend_that_ends_may_come_again() {
    for state in ["5", "6", "gone"] {
        let mut card = Card::connected();
        assert!(card.send(&[1; 60]));
        if state == "gone" {
            let back = card.machine.back("");
            card.machine.server.remove(&back);
        } else {
            card.machine.set_back("state", state);
        }
        card.run();
        assert_eq!(card.driver.health(), Health::Reclaiming);
        assert!(!card.send(&[1; 60]) && card.receive().is_none());
        card.machine.unpin_all();
        card.run();
        assert_eq!(card.driver.health(), Health::Connecting);
        assert_eq!((card.machine.lent().len(), card.machine.open_ports()), (0, 0));
        card.machine.attach();
        card.connect();
        for _ in 0..TX {
            assert!(card.send(&[2; 60]), "what the old backend had is free again");
        }
    }
}

#[test]
fn a_backend_that_keeps_pages_costs_the_card() {
    let mut card = Card::connected();
    card.machine.set_back("state", "6");
    card.run();
    card.machine.now += RECLAIM_NS;
    card.run();
    assert_eq!(card.driver.health(), Health::Dead, "it has the rings");
}

#[test]
fn smoltcp_answers_through_it() {
    let mut card = Card::connected();
    let mac = EthernetAddress(card.driver.mac().expect("connected"));
    let mut interface = Interface::new(Config::new(HardwareAddress::Ethernet(mac)), &mut card.driver, NOW);
    interface.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(Ipv4Address::new(10, 0, 0, 2).into(), 24)).expect("room");
    });
    // Who has 10.0.0.2? Tell 10.0.0.1.
    let asker = [2, 0, 0, 0, 0, 1];
    let mut request =
        [[0xff; 6].as_slice(), &asker, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &asker, &[10, 0, 0, 1]].concat();
    request.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
    card.deliver(&request);
    let mut storage = [];
    let mut sockets = SocketSet::new(&mut storage[..]);
    interface.poll(NOW, &mut card.driver, &mut sockets);
    card.driver.flush();
    let sent = card.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1[..14], [asker.as_slice(), &mac.0, &[8, 6]].concat());
    assert_eq!(sent[0].1[20..32], [&[0, 2], mac.0.as_slice(), &[10, 0, 0, 2]].concat());
}
