//! blkfront against a backend that follows the rules, fast or slow, and that ends.

use xen::GrantRef;
use xen_ring::{Back, PAGE_SIZE};

use super::dom0::{Machine, frame, frames};
use crate::Frame;
use crate::blkfront::{
    BlkFront, Completion, Failure, Geometry, Health, MAX_PAGES, MAX_REQUESTS, Operation, PLAIN_PAGES,
    PoolPage, RECLAIM_NS, SubmitError,
};

/// A disk in dom0, with blkback's end of the ring.
pub(crate) struct Disk {
    pub(crate) machine: Machine,
    pub(crate) driver: BlkFront,
    pub(crate) ring_page: Frame,
    back: Option<Back<28, 4>>,
    pub(crate) bytes: Vec<u8>,
    /// Indirect requests so far.
    pub(crate) indirect: usize,
    /// Status of the next answers.
    pub(crate) status: i16,
}

/// A request as blkback reads it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) operation: u8,
    pub(crate) id: u64,
    pub(crate) sector: u64,
    pub(crate) segments: Vec<(GrantRef, u8, u8)>,
}

fn content(sector: u64, byte: usize) -> u8 {
    (sector * 7 + byte as u64 * 13).to_le_bytes()[0]
}

/// A pool of so many pages.
pub(crate) fn pool(pages: usize) -> &'static mut [PoolPage] {
    frames(pages).into_iter().map(PoolPage::new).collect::<Vec<_>>().leak()
}

impl Disk {
    pub(crate) fn new(sectors: u64) -> Self {
        Self::with_pool(sectors, 0)
    }

    pub(crate) fn with_pool(sectors: u64, pages: usize) -> Self {
        let machine = Machine::new("vbd");
        let ring_page = frame();
        let driver = BlkFront::new(machine.platform, 0, ring_page, pool(pages));
        let bytes = (0..sectors).flat_map(|sector| (0..512).map(move |byte| content(sector, byte))).collect();
        Self { machine, driver, ring_page, back: None, bytes, indirect: 0, status: 0 }
    }

    /// Lets driver and xenstored run until nothing moves.
    pub(crate) fn run(&mut self) {
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

    /// A little of [`Self::run`]: whoever acts next acts in the middle of what the others are doing.
    pub(crate) fn step(&mut self, which: u8) {
        let machine = &mut self.machine;
        match which % 3 {
            0 => {
                machine.server.run();
            }
            1 => {
                if let Some(incoming) = machine.connection.poll().expect("an honest xenstored") {
                    self.driver.on_message(&incoming.message);
                }
            }
            _ => {
                self.driver.advance(&mut machine.connection.client, machine.now);
                machine.connection.flush().expect("an honest xenstored");
            }
        }
    }

    /// blkback's part of connecting.
    pub(crate) fn connect(&mut self) {
        self.run();
        self.machine.set_back("state", "2");
        self.run();
        assert_eq!(self.machine.front_state(), "3");
        assert_eq!(self.machine.said("protocol"), "x86_64-abi");
        self.back = Some(Back::attach(self.machine.map_ring("ring-ref")));
        self.machine.bind();
        let sectors = (self.bytes.len() / 512).to_string();
        for (key, value) in [
            ("sectors", sectors.as_str()),
            ("sector-size", "512"),
            ("info", "0"),
            ("feature-flush-cache", "1"),
        ] {
            self.machine.set_back(key, value);
        }
        self.machine.set_back("state", "4");
        self.run();
        assert_eq!(self.machine.front_state(), "4");
        assert_eq!(self.driver.health(), Health::Connected);
    }

    pub(crate) fn connected(sectors: u64) -> Self {
        let mut disk = Self::new(sectors);
        disk.connect();
        disk
    }

    /// Takes the requests that were sent.
    pub(crate) fn asked(&mut self) -> Vec<Asked> {
        let back = self.back.as_mut().expect("connected");
        let mut all = Vec::new();
        while let Some(words) = back.pop_request().expect("an honest frontend") {
            let [mut operation, mut count, low, high] = words[0].to_le_bytes();
            let mut rest: Vec<u32> = words[6..].to_vec();
            if operation == 6 {
                // `blkif_request_indirect`
                operation = count;
                count = u8::try_from(u16::from_le_bytes([low, high])).expect("few");
                assert!(usize::from(count) > PLAIN_PAGES, "it would have fitted into one");
                let page = self.machine.resolve(GrantRef(words[7]), false);
                rest = (0..2 * usize::from(count)).map(|word| page.load(word)).collect();
                self.indirect += 1;
            }
            let long = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
            let segment = |i: usize| {
                let [first, last, ..] = rest[2 * i + 1].to_le_bytes();
                (GrantRef(rest[2 * i]), first, last)
            };
            let segments = (0..usize::from(count)).map(segment).collect();
            all.push(Asked { operation, id: long(2), sector: long(4), segments });
        }
        let _ = back.final_check();
        all
    }

    /// Does what was asked, and answers.
    pub(crate) fn answer(&mut self, asked: &Asked) {
        let mut sector = usize::try_from(asked.sector).expect("small");
        for (reference, first, last) in &asked.segments {
            let page = self.machine.resolve(*reference, asked.operation == 0);
            let (offset, len) = (usize::from(*first) * 512, usize::from(last - first + 1) * 512);
            let bytes = &mut self.bytes[sector * 512..sector * 512 + len];
            if self.status == 0 {
                assert!(if asked.operation == 0 {
                    page.write(offset, bytes)
                } else {
                    page.read(offset, bytes)
                });
            }
            sector += len / 512;
        }
        self.respond(asked.id, asked.operation, self.status);
    }

    /// Whatever blkback may say.
    pub(crate) fn respond(&mut self, id: u64, operation: u8, status: i16) {
        let [a, b] = status.to_le_bytes();
        let [c, d, e, f, g, h, i, j] = id.to_le_bytes();
        let words = [[c, d, e, f], [g, h, i, j], [operation, 0, a, b], [0; 4]].map(u32::from_le_bytes);
        let back = self.back.as_mut().expect("connected");
        back.push_response(&words).expect("one was taken");
        let _ = back.publish();
    }

    pub(crate) fn read(&mut self, sector: u64, pages: &[Frame], token: u64) -> Result<(), SubmitError> {
        let result = self.driver.submit(Operation::Read, sector, pages, token);
        self.driver.publish_requests();
        result
    }

    pub(crate) fn completions(&mut self) -> Vec<Completion> {
        std::iter::from_fn(|| self.driver.next_completion()).collect()
    }
}

pub(crate) fn done(token: u64) -> Completion {
    Completion { token, outcome: Ok(()), quarantined: false }
}

pub(crate) fn gone(token: u64, quarantined: bool) -> Completion {
    Completion { token, outcome: Err(Failure::BackendGone), quarantined }
}

pub(crate) fn holds(page: Frame, from: u64, sectors: u64) -> bool {
    let mut bytes = [0; PAGE_SIZE];
    assert!(page.words.read(0, &mut bytes));
    bytes
        .chunks(512)
        .zip(from..from + sectors)
        .all(|(chunk, sector)| chunk.iter().enumerate().all(|(i, byte)| *byte == content(sector, i)))
}

#[test]
fn reads_come_back_in_any_order_with_their_bytes() {
    let mut disk = Disk::connected(4096);
    assert_eq!(
        disk.driver.geometry(),
        Geometry { sectors: 4096, sector_size: 512, read_only: false, flush: true, discard: false }
    );
    let one = frames(1);
    let many = frames(PLAIN_PAGES);
    assert_eq!(disk.read(80, &one, 1), Ok(()));
    assert!(disk.machine.notified());
    assert_eq!(disk.read(800, &many, 2), Ok(()));
    assert_eq!(disk.machine.lent().len(), 1 + 12, "the ring and the pages");
    let asked = disk.asked();
    assert_eq!(asked.iter().map(|a| a.segments.len()).collect::<Vec<_>>(), [1, 11]);
    disk.answer(&asked[1]);
    assert_eq!(disk.completions(), [done(2)]);
    assert_eq!(disk.machine.lent().len(), 2);
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(1)]);
    assert_eq!(disk.machine.platform.refs.taken(), 1, "only the ring");
    assert!(holds(one[0], 80, 8));
    assert!(many.iter().zip((800..).step_by(8)).all(|(page, sector)| holds(*page, sector, 8)));
    assert!(!disk.driver.look_again());
}

#[test]
fn a_long_request_goes_in_parts_that_are_over_together() {
    let second_first = [1, 0];
    for order in [[0, 1], second_first] {
        let mut disk = Disk::connected(4096);
        let (many, one) = (frames(MAX_PAGES), frames(1));
        disk.read(800, &many, 1).expect("room");
        disk.read(0, &one, 2).expect("room");
        assert_eq!(disk.driver.outstanding(), 2, "of which one has two parts");
        let asked = disk.asked();
        let counts: Vec<_> = asked.iter().map(|a| (a.sector, a.segments.len())).collect();
        assert_eq!(counts, [(800, 11), (888, 5), (0, 1)]);
        disk.answer(&asked[order[0]]);
        assert_eq!(disk.completions(), [], "half of it");
        disk.answer(&asked[order[1]]);
        assert_eq!(disk.completions(), [done(1)]);
        assert!(many.iter().zip((800..).step_by(8)).all(|(page, sector)| holds(*page, sector, 8)));
        disk.answer(&asked[2]);
        assert_eq!(disk.completions(), [done(2)]);
        assert_eq!((disk.driver.outstanding(), disk.machine.lent().len()), (0, 1));
    }
}

#[test]
fn a_part_that_fails_is_the_whole_requests_failure() {
    for failing in [0, 1] {
        let mut disk = Disk::connected(4096);
        disk.read(0, &frames(MAX_PAGES), 1).expect("room");
        let asked = disk.asked();
        for (number, part) in asked.iter().enumerate() {
            disk.status = if number == failing { -1 } else { 0 };
            disk.answer(part);
        }
        let failed = Completion { token: 1, outcome: Err(Failure::Disk), quarantined: false };
        assert_eq!((disk.completions(), disk.driver.outstanding()), (vec![failed], 0));
    }
}

#[test]
fn a_backend_that_ends_between_two_parts_gives_the_request_back_once() {
    for answered in [0, 1] {
        let mut disk = Disk::connected(4096);
        disk.read(0, &frames(MAX_PAGES), 1).expect("room");
        let asked = disk.asked();
        disk.answer(&asked[answered]);
        assert_eq!(disk.completions(), []);
        let kept = asked[1 - answered].segments[0].0;
        disk.machine.pin(kept);
        disk.machine.set_back("state", "6");
        disk.run();
        assert_eq!(disk.completions(), [], "a page is not back");
        disk.machine.unpin_all();
        assert_eq!(disk.completions(), [gone(1, false)]);
        disk.run();
        assert_eq!((disk.driver.health(), disk.driver.outstanding()), (Health::Connecting, 0));
        assert_eq!(disk.machine.lent().len(), 0);
    }
}

#[test]
fn a_long_request_needs_room_for_all_its_parts() {
    let mut disk = Disk::connected(4096);
    let page = frames(1);
    for token in 1..MAX_REQUESTS as u64 {
        disk.read(token * 8, &page, token).expect("room");
    }
    let lent = disk.machine.lent().len();
    assert_eq!(disk.read(0, &frames(MAX_PAGES), 99), Err(SubmitError::Full));
    assert_eq!(disk.machine.lent().len(), lent, "nothing of it is lent");
    assert_eq!(disk.read(0, &page, 100), Ok(()));
    let hoard: Vec<_> = {
        let asked = disk.asked();
        asked.iter().for_each(|request| disk.answer(request));
        assert_eq!(disk.completions().len(), MAX_REQUESTS);
        std::iter::from_fn(|| disk.machine.platform.refs.reserve()).collect()
    };
    // References for the first part and not for the second.
    hoard[..13].iter().for_each(|reference| disk.machine.platform.refs.release(*reference));
    assert_eq!(disk.read(0, &frames(MAX_PAGES), 99), Err(SubmitError::Full));
    assert_eq!((disk.machine.lent().len(), disk.driver.outstanding()), (1, 0));
    assert_eq!(disk.asked().len(), 0, "nobody has heard of it");
}

#[test]
fn a_full_ring_refuses_until_something_is_done() {
    let mut disk = Disk::connected(4096);
    let page = frames(1);
    for token in 0..MAX_REQUESTS as u64 {
        assert_eq!(disk.read(token * 8, &page, token), Ok(()));
    }
    assert_eq!(disk.read(0, &page, 99), Err(SubmitError::Full));
    assert_eq!(disk.driver.outstanding(), MAX_REQUESTS);
    let asked = disk.asked();
    disk.answer(&asked[31]);
    assert_eq!(disk.completions(), [done(31)]);
    assert_eq!(disk.read(0, &page, 99), Ok(()));
}

#[test]
fn without_references_a_request_is_refused_and_keeps_none() {
    let mut disk = Disk::connected(4096);
    let hoard: Vec<_> = std::iter::from_fn(|| disk.machine.platform.refs.reserve()).collect();
    let pages = frames(3);
    assert_eq!(disk.read(0, &pages, 1), Err(SubmitError::Full));
    for reference in &hoard[..2] {
        disk.machine.platform.refs.release(*reference);
    }
    assert_eq!(disk.read(0, &pages, 1), Err(SubmitError::Full), "two do not do for three");
    assert_eq!(disk.machine.lent().len(), 1);
    assert_eq!(disk.read(0, &pages[..2], 1), Ok(()));
}

#[test]
fn a_disk_ends_where_it_ends() {
    let mut disk = Disk::connected(20);
    let pages = frames(3);
    assert_eq!(disk.read(0, &pages, 1), Ok(()));
    let asked = disk.asked();
    assert_eq!(asked[0].segments[2].2, 3, "four sectors of the last page");
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [done(1)]);
    assert!(holds(pages[2], 16, 4));
    for (sector, count) in [(8, 3), (20, 1), (24, 1), (u64::MAX, 1), (u64::MAX - 8, 2)] {
        assert_eq!(disk.read(sector, &pages[..count], 2), Err(SubmitError::OutOfRange), "{sector}");
    }
    assert_eq!(disk.read(0, &[], 2), Err(SubmitError::OutOfRange));
    assert_eq!(disk.read(0, &frames(MAX_PAGES + 1), 2), Err(SubmitError::OutOfRange));
    assert_eq!(disk.machine.lent().len(), 1);
}

#[test]
fn errors_of_the_disk_are_the_requests_own() {
    let mut disk = Disk::connected(64);
    let page = frames(1);
    for (status, failure) in [(-1, Failure::Disk), (-2, Failure::Unsupported), (77, Failure::Disk)] {
        disk.status = status;
        disk.read(0, &page, 5).expect("room");
        let asked = disk.asked();
        disk.answer(&asked[0]);
        assert_eq!(disk.completions(), [Completion { token: 5, outcome: Err(failure), quarantined: false }]);
    }
    assert_eq!((disk.driver.faults(), disk.machine.lent().len()), (0, 1));
}

#[test]
fn writes_and_flushes_reach_the_disk() {
    let mut disk = Disk::connected(64);
    let page = frame();
    page.words.store(0, 0x1234_5678);
    disk.driver.submit(Operation::Write, 8, &[page], 1).expect("room");
    disk.driver.submit(Operation::Flush, 0, &[], 2).expect("room");
    disk.driver.publish_requests();
    let asked = disk.asked();
    assert_eq!(asked.iter().map(|a| a.operation).collect::<Vec<_>>(), [1, 3]);
    for request in &asked {
        disk.answer(request);
    }
    assert_eq!(disk.completions(), [done(1), done(2)]);
    assert_eq!(disk.bytes[8 * 512..8 * 512 + 4], 0x1234_5678_u32.to_le_bytes());
    assert_eq!(disk.driver.submit(Operation::Flush, 0, &[page], 1), Err(SubmitError::OutOfRange));
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut disk = Disk::new(64);
    disk.run();
    disk.machine.set_back("state", "2");
    disk.run();
    for (key, value) in [("sectors", "64"), ("info", "4"), ("state", "4")] {
        disk.machine.set_back(key, value);
    }
    disk.run();
    assert!(disk.driver.geometry().read_only);
    let page = frame();
    assert_eq!(disk.driver.submit(Operation::Write, 0, &[page], 1), Err(SubmitError::Unsupported));
    assert_eq!(
        disk.driver.submit(Operation::Flush, 0, &[], 1),
        Err(SubmitError::Unsupported),
        "not announced"
    );
    assert_eq!(disk.driver.submit(Operation::Read, 0, &[page], 1), Ok(()));
}

#[test]
fn a_page_that_is_not_ours_to_lend_is_refused() {
    let mut disk = Disk::connected(64);
    assert_eq!(
        disk.driver.submit(Operation::Read, 0, &[Frame { mfn: xen::Mfn(1), ..frame() }], 1),
        Err(SubmitError::Unshareable)
    );
    assert_eq!(disk.machine.platform.refs.taken(), 1);
}

#[test]
fn a_page_that_the_backend_keeps_is_quarantined_for_good() {
    let mut disk = Disk::connected(64);
    let pages = frames(2);
    disk.read(0, &pages, 1).expect("room");
    let asked = disk.asked();
    let kept = asked[0].segments[1].0;
    disk.machine.pin(kept);
    disk.answer(&asked[0]);
    assert_eq!(disk.completions(), [Completion { token: 1, outcome: Ok(()), quarantined: true }]);
    assert_eq!(disk.machine.lent().len(), 2, "the ring and what is kept");
    disk.machine.unpin(kept);
    for _ in 0..100 {
        disk.read(0, &frames(4), 2).expect("room");
        let asked = disk.asked();
        assert!(asked[0].segments.iter().all(|(reference, ..)| *reference != kept), "never lent again");
        disk.answer(&asked[0]);
        assert_eq!(disk.completions(), [done(2)]);
    }
}

#[test]
fn a_backend_that_ends_gives_every_request_back_once_and_may_come_again() {
    for state in ["5", "6", "gone"] {
        let mut disk = Disk::connected(64);
        let (kept, free) = (frames(2), frames(1));
        disk.read(0, &kept, 1).expect("room");
        disk.read(8, &free, 2).expect("room");
        let asked = disk.asked();
        disk.machine.pin(asked[0].segments[0].0);
        if state == "gone" {
            let back = disk.machine.back("");
            disk.machine.server.remove(&back);
        } else {
            disk.machine.set_back("state", state);
        }
        disk.run();
        assert_eq!(disk.machine.front_state(), "6");
        assert_eq!(disk.driver.health(), Health::Reclaiming);
        assert_eq!(disk.completions(), [gone(2, false)], "what is back");
        assert_eq!(disk.read(8, &free, 3), Err(SubmitError::NotConnected));
        disk.machine.unpin_all();
        assert_eq!(disk.completions(), [gone(1, false)]);
        disk.run();
        assert_eq!(disk.driver.health(), Health::Connecting);
        assert_eq!((disk.machine.lent().len(), disk.machine.open_ports()), (0, 0));
        assert_eq!(disk.completions(), []);

        disk.machine.attach();
        disk.connect();
        disk.read(16, &free, 4).expect("room");
        let asked = disk.asked();
        disk.answer(&asked[0]);
        assert_eq!(disk.completions(), [done(4)]);
        assert!(holds(free[0], 16, 8));
    }
}

#[test]
fn a_backend_that_closes_is_asked_to_start_over() {
    let mut disk = Disk::connected(64);
    disk.machine.set_back("state", "5");
    disk.run();
    disk.machine.unpin_all();
    disk.machine.set_back("state", "6");
    disk.run();
    assert_eq!(disk.machine.front_state(), "1");
    disk.connect();
}

#[test]
fn a_dead_backend_may_keep_pages_only_for_so_long() {
    let mut disk = Disk::connected(64);
    disk.read(0, &frames(1), 1).expect("room");
    let asked = disk.asked();
    disk.machine.pin(asked[0].segments[0].0);
    disk.machine.set_back("state", "6");
    disk.run();
    disk.machine.now += RECLAIM_NS - 1;
    disk.run();
    assert_eq!(disk.completions(), []);
    disk.machine.now += 1;
    disk.run();
    assert_eq!(disk.driver.health(), Health::Dead, "it has the ring too");
    assert_eq!(disk.completions(), [gone(1, true)]);
    disk.machine.attach();
    disk.machine.set_back("state", "2");
    disk.run();
    assert_eq!(disk.driver.health(), Health::Dead);
    assert_eq!(disk.driver.outstanding(), 0);
}

#[test]
fn a_directory_that_is_not_complete_is_looked_at_again() {
    let mut disk = Disk::new(64);
    let (front, back) = (disk.machine.front(""), disk.machine.back(""));
    disk.machine.server.remove(&front);
    disk.machine.server.remove(&back);
    disk.run();
    disk.machine.server.set(&format!("{front}/state"), "1");
    disk.run();
    disk.machine.server.set(&format!("{front}/backend"), &back);
    disk.run();
    assert_eq!(disk.driver.health(), Health::Connecting);
    disk.machine.attach();
    disk.connect();
}

#[test]
fn discards_go_to_a_backend_that_knows_them_and_to_no_other() {
    let mut disk = Disk::connected(4096);
    assert_eq!(disk.driver.discard(0, 8, 1), Err(SubmitError::Unsupported));
    let mut disk = Disk::new(4096);
    disk.machine.set_back("feature-discard", "1");
    disk.connect();
    assert!(disk.driver.geometry().discard);
    for (first, sectors) in [(0, 0), (4090, 8), (u64::MAX, 8), (8, u64::MAX)] {
        assert_eq!(disk.driver.discard(first, sectors, 1), Err(SubmitError::OutOfRange));
    }
    assert_eq!(disk.driver.discard(16, 4080, 7), Ok(()));
    disk.driver.publish_requests();
    let asked = disk.asked();
    let [one] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((one.operation, one.sector, one.segments.len()), (5, 16, 0));
    disk.respond(one.id, 5, 0);
    assert_eq!(disk.completions(), [done(7)]);
    // `blkif_request_discard`: the count stands where segments would.
    let words = crate::blkfront::wire::discard(3, 16, 1 << 33);
    assert_eq!(words[..8], [5, 0, 3, 0, 16, 0, 0, 2]);
}
