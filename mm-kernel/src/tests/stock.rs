//! A stock frontend: what a Linux does with a disk that M1 gives it.

use std::string::ToString;
use std::vec::Vec;

use xen::fake::FakeDomain;
use xen::{Access, DomId, GrantRef, Hypervisor, PageWords, Port};
use xen_ring::Front;
use xen_sys::blkif::{REQUEST_WORDS, RESPONSE_WORDS, op};

use super::disk::{WORDS, word};
use super::world::{World, XVDA};

pub(crate) const OKAY: i16 = 0;
pub(crate) const ERROR: i16 = -1;

/// References of its ring page, and of its data pages.
const RING: u32 = 8;
const DATA: u32 = 100;
/// Pages of data.
const PAGES: usize = 16;

pub(crate) struct Stock {
    pub(crate) domain: FakeDomain,
    ring: Front<REQUEST_WORDS, RESPONSE_WORDS, 16>,
    port: Port,
    devid: u32,
    page: &'static PageWords,
    pub(crate) data: &'static [PageWords],
}

/// Sectors of a data page.
#[derive(Clone, Copy)]
pub(crate) struct Part(pub(crate) u32, pub(crate) u8, pub(crate) u8);

/// All of a data page.
pub(crate) fn whole(page: u32) -> Part {
    Part(page, 0, 7)
}

impl World {
    /// A new domain with a disk, up to state 4 on both sides. Its place in `stocks`.
    pub(crate) fn stock(&mut self, target: &str, mode: &str) -> usize {
        let domain = self.create_with(target, mode);
        self.stock_of(domain, XVDA)
    }

    /// Another device of a domain that is there.
    pub(crate) fn second_disk(&mut self, domain: &FakeDomain, devid: u32, target: &str) -> usize {
        self.add_device_with(domain.id(), devid, target, "w");
        self.stock_of(domain.clone(), devid)
    }

    fn stock_of(&mut self, domain: FakeDomain, devid: u32) -> usize {
        let m1 = self.domain.id();
        let refused: Vec<_> = self.m1.refusals.iter().map(|refusal| refusal.reason).collect();
        assert_eq!(self.backend(domain.id(), devid, "state").as_deref(), Some("2"), "{refused:?}");
        self.stocks.push(Stock::new(domain, m1, devid));
        let place = self.stocks.len() - 1;
        self.connect(place);
        place
    }

    /// The frontend publishes its ring, and both sides connect.
    fn connect(&mut self, place: usize) {
        let (id, port) = (self.stocks[place].domain.id(), self.stocks[place].port);
        let devid = self.stocks[place].devid;
        for (key, value) in [
            ("ring-ref", RING.to_string()),
            ("event-channel", port.0.to_string()),
            ("protocol", "x86_64-abi".to_string()),
        ] {
            self.store.set(&std::format!("/local/domain/{}/device/vbd/{devid}/{key}", id.0), &value);
        }
        self.says(id, devid, "3");
        self.pass(1_000_000_000);
        assert_eq!(self.backend(id, devid, "state").as_deref(), Some("4"));
        self.says(id, devid, "4");
    }

    /// The frontend closes, and another one begins: what a boot loader and the kernel that it starts do.
    pub(crate) fn reconnect(&mut self, place: usize) {
        let id = self.stocks[place].domain.id();
        self.says(id, XVDA, "5");
        self.pass(1_000_000_000);
        self.says(id, XVDA, "6");
        self.pass(1_000_000_000);
        self.says(id, XVDA, "1");
        self.pass(1_000_000_000);
        assert_eq!(self.backend(id, XVDA, "state").as_deref(), Some("2"));
        let m1 = self.domain.id();
        self.stocks[place].renew(m1);
        self.connect(place);
    }

    /// Puts a request on the ring, and lets nobody run.
    pub(crate) fn submit(&mut self, place: usize, id: u64, operation: u8, sector: u64, parts: &[Part]) {
        let mut words = [0; REQUEST_WORDS];
        let count = u8::try_from(parts.len()).expect("few");
        words[0] = u32::from_le_bytes([operation, count, 0, 0]);
        words[2] = u32::try_from(id).expect("small");
        words[4] = u32::try_from(sector).expect("a small disk");
        for (pair, Part(page, first, last)) in words[6..].chunks_mut(2).zip(parts) {
            pair.copy_from_slice(&[DATA + page, u32::from_le_bytes([*first, *last, 0, 0])]);
        }
        self.push(place, &words);
    }

    /// The same of a discard.
    pub(crate) fn submit_discard(&mut self, place: usize, id: u64, sector: u64, sectors: u64) {
        let mut words = [0; REQUEST_WORDS];
        words[0] = u32::from(op::DISCARD);
        words[2] = u32::try_from(id).expect("small");
        words[4] = u32::try_from(sector).expect("a small disk");
        words[6] = u32::try_from(sectors).expect("a small disk");
        self.push(place, &words);
    }

    fn push(&mut self, place: usize, words: &[u32; REQUEST_WORDS]) {
        let stock = &mut self.stocks[place];
        stock.ring.push_request(words).expect("room");
        if stock.ring.publish() {
            stock.domain.evtchn_send(stock.port).expect("bound");
        }
    }

    /// What M1 has answered since: number and status of each.
    pub(crate) fn answers(&mut self, place: usize) -> Vec<(u64, i16)> {
        let ring = &mut self.stocks[place].ring;
        let mut found = Vec::new();
        loop {
            while let Some(words) = ring.pop_response().expect("M1 is honest") {
                let [_, _, low, high] = words[2].to_le_bytes();
                found.push((u64::from(words[0]), i16::from_le_bytes([low, high])));
            }
            if !ring.final_check() {
                return found;
            }
        }
    }

    /// One request to its end.
    pub(crate) fn ask(&mut self, place: usize, operation: u8, sector: u64, parts: &[Part]) -> i16 {
        self.submit(place, 7, operation, sector, parts);
        self.one_answer(place)
    }

    pub(crate) fn discard(&mut self, place: usize, sector: u64, sectors: u64) -> i16 {
        self.submit_discard(place, 7, sector, sectors);
        self.one_answer(place)
    }

    fn one_answer(&mut self, place: usize) -> i16 {
        self.run();
        let mut answers = self.answers(place);
        if answers.is_empty() {
            // It waits for memory, for as long as M1 lets it.
            self.pass(3_000_000_000);
            answers = self.answers(place);
        }
        let [(7, status)] = answers[..] else { panic!("one answer: {answers:?}") };
        status
    }

    /// Writes a block full of this word.
    pub(crate) fn write_block(&mut self, place: usize, block: u64, value: u32) -> i16 {
        self.stocks[place].fill(0, value);
        self.ask(place, op::WRITE, block * 8, &[whole(0)])
    }

    /// Reads a block that is full of one word.
    #[track_caller]
    pub(crate) fn read_block(&mut self, place: usize, block: u64) -> u32 {
        self.stocks[place].fill(1, 0xdead_beef);
        assert_eq!(self.ask(place, op::READ, block * 8, &[whole(1)]), OKAY);
        let page = &self.stocks[place].data[1];
        assert!((0..WORDS).all(|index| page.load(index) == page.load(0)), "one word all over");
        page.load(0)
    }

    /// Whether a block shows the base disk of this number.
    pub(crate) fn shows_base(&mut self, place: usize, block: u64, disk: u32) -> bool {
        assert_eq!(self.ask(place, op::READ, block * 8, &[whole(1)]), OKAY);
        let page = &self.stocks[place].data[1];
        (0..WORDS).all(|index| page.load(index) == word(disk, block, index))
    }

    /// `xl destroy`.
    pub(crate) fn destroy_stock(&mut self, place: usize) {
        let domain = self.stocks.remove(place).domain;
        self.xen.destroy(domain.id());
        self.remove_device(domain.id(), true);
        self.pass(1_000_000_000);
    }
}

impl Stock {
    fn new(domain: FakeDomain, m1: DomId, devid: u32) -> Self {
        domain.grants().grow_to(1).expect("one frame");
        let grant = |reference, page: &PageWords| {
            let mfn = domain.mfn_of(page);
            domain.grants().permit(GrantRef(reference), m1, mfn, Access::ReadWrite).expect("free");
        };
        let (page, data) = (domain.pages(1), domain.pages(PAGES));
        grant(RING, &page[0]);
        for (reference, page) in (DATA..).zip(data) {
            grant(reference, page);
        }
        let ring = Front::init_pages(&[&page[0]]).expect("one page");
        let port = domain.evtchn_alloc_unbound(m1).expect("a port");
        Self { domain, ring, port, devid, page: &page[0], data }
    }

    /// Another ring on the same page, and another port.
    fn renew(&mut self, m1: DomId) {
        self.domain.evtchn_close(self.port).expect("its own");
        self.ring = Front::init_pages(&[self.page]).expect("one page");
        self.port = self.domain.evtchn_alloc_unbound(m1).expect("a port");
    }

    /// An index of requests that cannot be.
    pub(crate) fn break_ring(&self) {
        self.page.store(0, 1 << 20);
        self.domain.evtchn_send(self.port).expect("bound");
    }

    pub(crate) fn fill(&self, page: usize, value: u32) {
        for index in 0..WORDS {
            self.data[page].store(index, value);
        }
    }
}
