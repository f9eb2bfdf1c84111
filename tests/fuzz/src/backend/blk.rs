//! blkfront, with a blkback that says anything on its ring and in xenstore.

use std::collections::BTreeSet;

use xen_drivers::blkfront::{BlkFront, Health, MAX_PAGES, Operation};

use super::super::input::Input;
use super::{Machine, Story, poke};

/// Pages for reads and writes; one more is the ring.
const PAGES: usize = 8;
const KEYS: [&str; 7] = ["state", "state", "sectors", "info", "sector-size", "feature-flush-cache", "params"];

thread_local! {
    static MACHINE: &'static Machine = Machine::new(PAGES + 1);
}

struct Disk {
    story: Story,
    driver: BlkFront,
    /// Tokens of requests that were taken and are not over.
    waiting: BTreeSet<u64>,
    next: u64,
}

/// Nothing panics, every request that was taken is over exactly once, and in the end nothing is lent.
pub fn run(data: &[u8]) {
    let machine = MACHINE.with(|machine| *machine);
    let driver = BlkFront::new(machine.platform, 0, machine.frames[PAGES], &mut []);
    let story = Story::new(machine, "vbd");
    let mut disk = Disk { story, driver, waiting: BTreeSet::new(), next: 0 };
    disk.run();
    for (key, value) in [("sectors", "64"), ("info", "0"), ("feature-flush-cache", "1"), ("state", "2")] {
        disk.story.says(key, value);
    }
    disk.run();
    disk.story.says("state", "4");
    disk.run();
    assert_eq!(disk.driver.health(), Health::Connected);
    let mut input = Input(data);
    while disk.step(&mut input).is_some() {}
    disk.end();
}

impl Disk {
    /// Lets driver and xenstored run until nothing moves.
    fn run(&mut self) {
        for _ in 0..1000 {
            let mut moved = false;
            while let Some(incoming) = self.story.connection.poll().expect("xenstored is honest") {
                self.driver.on_message(&incoming.message);
                moved = true;
            }
            self.driver.advance(&mut self.story.connection.client, self.story.now);
            self.story.connection.flush().expect("xenstored is honest");
            moved |= self.story.server.run();
            if !(self.story.connection.take_notify() | moved) {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.below(10)? {
            0 | 1 => self.submit(input)?,
            2 => self.driver.publish_requests(),
            3 => self.answer(input)?,
            4 => poke(input, self.story.machine.frames[PAGES].words)?,
            5 => self.complete(),
            6 => {
                self.story.says_something(input, &KEYS)?;
                self.run();
            }
            7 => self.story.maps(input)?,
            8 => self.story.unmaps(),
            _ => {
                self.story.passes(u64::from(input.byte()?) << 28);
                let _ = self.driver.look_again();
                self.run();
            }
        }
        Some(())
    }

    fn submit(&mut self, input: &mut Input<'_>) -> Option<()> {
        let operation = [Operation::Read, Operation::Read, Operation::Write, Operation::Flush]
            [usize::from(input.below(4)?)];
        let sector = input.wide()?;
        let count = usize::from(input.byte()?) % (MAX_PAGES + 2);
        let pages: Vec<_> = (0..count).map(|page| self.story.machine.frames[page % PAGES]).collect();
        if self.driver.submit(operation, sector, &pages, self.next).is_ok() {
            self.waiting.insert(self.next);
        }
        self.next += 1;
        Some(())
    }

    /// An answer as the protocol has it, to a request that there may be.
    fn answer(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ring = self.story.machine.frames[PAGES].words;
        let produced = ring.load(2);
        let slot = 16 + (produced % 32) as usize * 28;
        let (id, generation, operation, status) =
            (input.byte()?, input.word()?, input.byte()?, input.byte()?);
        ring.store(slot, u32::from(id % 40) | generation << 8);
        ring.store(slot + 1, 0);
        ring.store(slot + 2, u32::from(operation % 5) | u32::from(status % 4).wrapping_neg() << 16);
        ring.store(2, produced.wrapping_add(1));
        Some(())
    }

    /// The backend has let go of the pages by now: what it kept would be quarantined for good, and there is only one set of them.
    fn complete(&mut self) {
        self.story.unmaps();
        for _ in 0..200 {
            let Some(completion) = self.driver.next_completion() else { return };
            assert!(self.waiting.remove(&completion.token), "a request is over that was not asked");
            assert!(!completion.quarantined, "nobody maps its pages");
        }
        panic!("more completions than requests");
    }

    /// The backend lets go and ends, and time passes.
    fn end(mut self) {
        self.complete();
        self.story.says("state", "6");
        for _ in 0..4 {
            self.run();
            self.complete();
            self.story.passes(1 << 30);
        }
        assert!(self.waiting.is_empty(), "a request is never over");
        assert_ne!(self.driver.health(), Health::Connected);
        self.story.end();
    }
}
