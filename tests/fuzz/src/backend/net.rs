//! netfront, with a netback that says anything on its rings, in its pages and in xenstore.

use smoltcp::phy::{Device, RxToken, TxToken};
use smoltcp::time::Instant;
use xen_drivers::netfront::{FRAME_MAX, Health, NetFront};

use super::super::input::Input;
use super::{Machine, Story, poke};

/// Pages for frames; ids below are drawn from one more than there are.
const TX: usize = 3;
const RX: usize = 5;
const KEYS: [&str; 3] = ["state", "state", "feature-rx-copy"];

thread_local! {
    static MACHINE: &'static Machine = Machine::new(TX + RX + 2);
}

struct Card {
    story: Story,
    driver: NetFront,
}

/// Nothing panics, no frame is longer than a frame, no turn is endless, and in the end nothing is lent.
pub fn run(data: &[u8]) {
    let machine = MACHINE.with(|machine| *machine);
    let (pages, rings) = machine.frames.split_at(TX + RX);
    let driver = NetFront::new(machine.platform, 0, [rings[0], rings[1]], &pages[..TX], &pages[TX..]);
    let story = Story::new(machine, "vif");
    let mut card = Card { story, driver };
    card.run();
    card.story.says("state", "2");
    card.run();
    card.story.says("state", "4");
    card.run();
    assert_eq!(card.driver.health(), Health::Connected);
    let mut input = Input(data);
    while card.step(&mut input).is_some() {}
    card.end();
}

impl Card {
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
        match input.below(11)? {
            0 | 1 => self.received(input)?,
            2 => self.sent(input)?,
            3 => self.receive(),
            4 => self.transmit(usize::from(input.half()?) % (FRAME_MAX + 1)),
            5 => {
                let ring = TX + RX + usize::from(input.below(2)?);
                poke(input, self.story.machine.frames[ring].words)?;
            }
            6 => {
                self.story.says_something(input, &KEYS)?;
                self.run();
            }
            7 => self.story.maps(input)?,
            8 => self.story.unmaps(),
            9 => self.driver.flush(),
            _ => {
                self.story.passes(u64::from(input.byte()?) << 28);
                let _ = self.driver.look_again();
                self.run();
            }
        }
        Some(())
    }

    /// A slot of the rx ring as the protocol has it: id, offset, flags, status.
    fn received(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ring = self.story.machine.frames[TX + RX + 1].words;
        let produced = ring.load(2);
        let slot = 16 + (produced % 256) as usize * 2;
        let id = u32::from(input.below(6)?);
        let (offset, flags, status) = (input.word()?, input.byte()?, input.word()?);
        ring.store(slot, id | (offset & 0xffff) << 16);
        ring.store(slot + 1, u32::from(flags & 15) | (status & 0xffff) << 16);
        ring.store(2, produced.wrapping_add(1));
        Some(())
    }

    /// A slot of the tx ring: id, status.
    fn sent(&mut self, input: &mut Input<'_>) -> Option<()> {
        let ring = self.story.machine.frames[TX + RX].words;
        let produced = ring.load(2);
        let slot = 16 + (produced % 256) as usize * 3;
        let id = u32::from(input.below(4)?);
        ring.store(slot, id | input.word()? << 16);
        ring.store(2, produced.wrapping_add(1));
        Some(())
    }

    fn receive(&mut self) {
        for _ in 0..2000 {
            let Some((frame, answer)) = self.driver.receive(Instant::ZERO) else { return };
            let len = frame.consume(<[u8]>::len);
            assert!(len > 0 && len <= FRAME_MAX, "{len} bytes");
            answer.consume(len, |bytes| bytes.fill(1));
        }
        panic!("more frames than the ring has slots");
    }

    fn transmit(&mut self, len: usize) {
        if let Some(token) = self.driver.transmit(Instant::ZERO) {
            token.consume(len, |bytes| bytes.fill(2));
        }
    }

    /// The backend lets go and ends, and time passes.
    fn end(mut self) {
        self.story.unmaps();
        self.story.says("state", "6");
        for _ in 0..4 {
            self.run();
            self.story.passes(1 << 30);
        }
        assert_ne!(self.driver.health(), Health::Connected);
        self.story.end();
    }
}
