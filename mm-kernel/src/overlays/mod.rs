//! The store disk: what clients write and keep (`mm-store`), with the disk that it lies on.
//!
//! `mm-store` decides and this carries it out: reads for the cache, whose checksums are looked at before anybody sees them; runs of
//! written blocks; the store's own journal and checkpoints; flushes. Blocks of the disk are pages of a volume of the engine's that no ring
//! leads to, so what was written and what is read again is in the same cache as everything else.

mod frozen;
mod io;
mod meta;
mod open;
mod reads;
mod writes;

use mm_engine::{FrameId, Read, VolumeId};
use mm_store::{DeleteRefused, Page, Place, Store, Ticket};
use xen_drivers::Frame;
use xen_drivers::blkfront::{BlkFront, MAX_PAGES, MAX_REQUESTS};
use xen_sys::Port;
use xenstore::{Client, Message};

use crate::effects::Hands;

pub(crate) use frozen::DIRECTORY;
pub use open::OpenFailed;
pub(crate) use open::{Opened, Waiter, open};
pub(crate) use writes::Finished;

/// Runs of written blocks on their way to the disk at a time.
const WRITES: usize = 16;
/// Runs that wait for that.
const WAITING: usize = 48;
/// The store's own blocks on their way.
pub(crate) const META: usize = 6;
/// Flushes under way that are remembered, to say how much is durable.
const FLUSHES: usize = 64;
/// Name of the overlay of frozen pages. No client can have one of this name.
pub(crate) const FROZEN: &str = ".m1-snapshots";
/// What nobody asked to be durable is made so after this time at most, and when its client goes.
const FLUSH_NS: u64 = 5_000_000_000;
/// Whose flush that is: nobody's.
const NOBODY: Asker = Asker { job: u16::MAX, serial: 0 };
/// Whose writes those of snapshots are: no job has this place.
pub(crate) const KEEPER: Asker = Asker { job: u16::MAX - 1, serial: 0 };
/// Overlays whose clients have gone while something of theirs was on its way.
const CLOSING: usize = 64;

/// A block that is being written.
pub(crate) struct Block {
    pub(crate) place: Place,
    pub(crate) frame: FrameId,
    pub(crate) crc: u32,
}

/// Who asked: a job's place, and which of those that were there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asker {
    pub(crate) job: u16,
    pub(crate) serial: u32,
}

/// Blocks that follow one another on the disk.
pub(crate) struct Run {
    pub(crate) asker: Asker,
    pub(crate) blocks: heapless::Vec<Block, MAX_PAGES>,
}

/// A page of the store's own that is on its way.
#[derive(Clone, Copy)]
struct Meta {
    ticket: Ticket,
    /// Where it goes; none: it is a flush.
    block: Option<u32>,
    sent: bool,
}

/// The store on its disk.
pub struct Overlays {
    front: &'static mut BlkFront,
    pub(crate) store: &'static mut Store<'static>,
    /// The engine's volume of the disk's blocks.
    pub(crate) volume: VolumeId,
    page: &'static mut Page,
    meta: [Option<Meta>; META],
    meta_frames: [Frame; META],
    /// Reads under way, and the block of the disk that each begins with.
    reads: [Option<(Read, u32)>; MAX_REQUESTS],
    waiting_reads: heapless::Deque<Read, { 2 * MAX_REQUESTS }>,
    /// The engine's volume of frozen pages, and where they are kept.
    frozen: Option<(VolumeId, mm_store::OverlayId)>,
    writes: [Option<Run>; WRITES],
    waiting_writes: heapless::Deque<Run, WAITING>,
    finished: heapless::Deque<Finished, { WRITES + WAITING }>,
    closing: heapless::Vec<mm_store::OverlayId, CLOSING>,
    /// Something was changed besides by what comes from the disk and by clients' requests.
    changed: bool,
    /// When everything was last made durable unasked.
    flushed_ns: u64,
    /// Flushes under way, with how many blocks had been written when each was asked for.
    flushing: heapless::Deque<(u64, u64), FLUSHES>,
    /// Blocks written that are durable: those before the last flush that is done.
    flushed_writes: u64,
    /// Most blocks of an overlay that is made.
    pub(crate) quota: Option<u32>,
    /// How long opening took.
    pub(crate) recovery_ns: u64,
}

impl Overlays {
    /// Takes a xenstore message if it is the disk's.
    pub(crate) fn on_message(&mut self, message: &Message<'_>) -> bool {
        self.front.on_message(message)
    }

    /// Moves the disk's connection on.
    pub(crate) fn advance(&mut self, client: &mut Client, now_ns: u64) {
        self.front.advance(client, now_ns);
    }

    /// Whether this is its disk's port.
    pub(crate) fn has_port(&self, port: Port) -> bool {
        self.front.port() == Some(port)
    }

    /// Events to hear before sleeping. True: there is something already.
    pub(crate) fn look_again(&mut self) -> bool {
        self.front.look_again()
    }

    /// Whether its disk has a backend.
    #[cfg(test)]
    pub(crate) fn is_connected(&self) -> bool {
        self.front.health() == xen_drivers::blkfront::Health::Connected
    }

    /// Whether something is under way, so that waiting for it makes sense.
    pub(crate) fn is_busy(&self) -> bool {
        self.front.outstanding() > 0
    }

    /// Whether the store has work that no event announces.
    pub(crate) fn has_work(&self) -> bool {
        self.changed || self.store.has_background_work()
    }

    /// Everything that has come, and everything that can go. True if something came.
    pub(crate) fn turn(&mut self, hands: &mut Hands<'_>) -> bool {
        let mut any = false;
        self.changed = false;
        let now = hands.clock.now_ns();
        if now.saturating_sub(self.flushed_ns) >= FLUSH_NS && !self.store.is_durable() {
            self.flush_unasked(now);
        }
        // As many as can be under way.
        for _ in 0..MAX_REQUESTS {
            let Some(completion) = self.front.next_completion() else { break };
            any = true;
            self.completed(completion, hands);
        }
        self.send_reads(hands);
        self.send_writes(hands);
        self.work();
        while let Some((token, result)) = self.store.flushed() {
            any = true;
            self.note_flushed(token, result.is_ok());
            self.finish(Finished { asker: io::asker(token), blocks: 0, good: result.is_ok() });
        }
        self.close_late();
        self.front.publish_requests();
        any
    }

    /// Makes everything durable although nobody asked. Where too many flushes wait, they do the same.
    fn flush_unasked(&mut self, now: u64) {
        self.flushed_ns = now;
        let _ = self.flush(NOBODY);
    }

    fn note_flushed(&mut self, token: u64, good: bool) {
        if !self.flushing.iter().any(|(asked, _)| *asked == token) {
            return;
        }
        // They end in the order in which they were asked for.
        while let Some((asked, writes)) = self.flushing.pop_front() {
            if good {
                self.flushed_writes = self.flushed_writes.max(writes);
            }
            if asked == token {
                break;
            }
        }
    }

    /// Blocks that clients wrote and that are durable by now: at least so many.
    pub(crate) fn flushed_writes(&self) -> u64 {
        // Nothing was written since, or what was is durable all the same.
        if self.store.is_durable() { self.store.writes() } else { self.flushed_writes }
    }

    /// What an overlay lies over, if there is one of this name.
    pub(crate) fn base_of(&self, name: &str) -> Option<[u8; 16]> {
        self.store.overlays().find(|overlay| overlay.name == name).map(|overlay| overlay.base)
    }

    /// Deletes an overlay: `overlay-rm`. Its name is free at once, and its blocks are when that is durable and swept, a bounded piece
    /// in each turn.
    ///
    /// # Errors
    /// [`DeleteRefused`]: a device has it, or had it and something of it is still on its way; there is none of this name; the store cannot
    /// take it now.
    pub fn delete(&mut self, name: &str) -> Result<(), DeleteRefused> {
        let overlay = self.store.find(name).ok_or(DeleteRefused::Unknown)?;
        self.store.delete(overlay)?;
        self.changed = true;
        Ok(())
    }

    /// What has ended for a job.
    pub(crate) fn take_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    fn finish(&mut self, finished: Finished) {
        if self.finished.push_back(finished).is_err() {
            // A job that is not told waits for ever, so there is room for everything that can be under way.
            log::error!("bug: no room to say that a write has ended");
        }
    }
}
