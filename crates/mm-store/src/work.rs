//! What the store's owner has to do: writes of metadata and flushes, one at a time out of `poll`.

use crate::Page;
use crate::checkpoint::Stage;
use crate::error::IoFailed;
use crate::store::{DiskBlock, Store};
#[cfg(test)]
use crate::tests::mutation;

/// Blocks freed by one step.
const RECLAIM: u32 = 1024;

/// Something to be done on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Write the page that was filled to this block. Any number of writes may be under way, in any order.
    Write {
        /// For [`Store::completed`].
        ticket: Ticket,
        /// Where.
        block: DiskBlock,
    },
    /// Flush the disk: all writes that were reported done, data and metadata, are durable when this is done. At most one is under way.
    Flush {
        /// For [`Store::completed`].
        ticket: Ticket,
    },
}

/// Which command it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(Kind);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Journal(u64),
    Checkpoint,
    Superblock,
    Flush,
}

/// The flush that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flushing {
    /// Journal blocks up to this one were written before it began.
    covers: u64,
    /// So was all that the checkpoint waits for.
    checkpoint: bool,
}

impl Store<'_> {
    /// The next thing to be done. A write's content is put into `page`, which the owner keeps until the write is done.
    /// To be called after every completion and every change, until it gives nothing.
    pub fn poll(&mut self, page: &mut Page) -> Option<Command> {
        if self.failed {
            return None;
        }
        self.background();
        self.checkpoint_when_due();
        // Twice: that a checkpoint's copy is at its end is found last, and may be what the open block or a flush waited for.
        self.step(page).or_else(|| self.step(page))
    }

    fn step(&mut self, page: &mut Page) -> Option<Command> {
        let write = |kind, block| Some(Command::Write { ticket: Ticket(kind), block: DiskBlock(block) });
        if self.wants_close() {
            self.journal.close();
        }
        if self.journal.can_issue() {
            let sequence = self.journal.issue(page, &self.uuid, self.epoch);
            self.counters.journal_blocks += 1;
            return write(Kind::Journal(sequence), self.geometry.journal_block(sequence));
        }
        if self.flushing.is_none() && self.wants_flush() {
            let covers = self.covered();
            self.flushing = Some(Flushing { covers, checkpoint: self.checkpoint_wants_flush() });
            self.counters.device_flushes += 1;
            #[cfg(test)]
            if mutation::is(mutation::Mutation::NoFlush) {
                self.completed(Ticket(Kind::Flush), Ok(()));
                return None;
            }
            return Some(Command::Flush { ticket: Ticket(Kind::Flush) });
        }
        if let Some(block) = self.publish(page) {
            return write(Kind::Superblock, block);
        }
        self.checkpoint_block(page).and_then(|block| write(Kind::Checkpoint, block))
    }

    /// A command is done, well or not. After the first that was not, nothing is written any more and all flushes fail: it cannot be
    /// known what of the journal is on the disk. Reads go on.
    pub fn completed(&mut self, ticket: Ticket, result: Result<(), IoFailed>) {
        if result.is_err() {
            self.failed = true;
        }
        match ticket.0 {
            Kind::Journal(sequence) if result.is_ok() => self.journal.written(sequence),
            Kind::Journal(_) => {}
            Kind::Checkpoint => self.checkpoint.in_flight = self.checkpoint.in_flight.saturating_sub(1),
            Kind::Superblock => self.checkpoint.stage = Stage::Published,
            Kind::Flush => {
                let flushing = self.flushing.take();
                if let (Some(flushing), false) = (flushing, self.failed) {
                    self.journal.durable = self.journal.durable.max(flushing.covers);
                    if flushing.checkpoint {
                        self.checkpoint_flushed();
                    }
                    self.finish_deletions();
                }
            }
        }
    }

    /// Whether there is work left that needs no completion: call [`poll`](Self::poll) again soon.
    #[must_use]
    pub fn has_background_work(&self) -> bool {
        !self.failed && self.sweep.left > 0
    }

    fn background(&mut self) {
        let durable = self.freeable();
        self.map.reclaim(durable, RECLAIM);
        self.sweep_step();
    }

    /// Whether somebody waits for records of the block that is being filled, or is likely to soon. While a flush is under way they
    /// wait for that: so those who come meanwhile share a block and a flush.
    fn wants_close(&self) -> bool {
        let open = self.journal.next;
        let barrier = matches!(self.checkpoint.stage, Stage::Barrier(end) if end >= open);
        let asked = self.flushes.newest().is_some_and(|need| need >= open);
        let wanted = asked || self.bursts.expected >= open || self.urgent >= open || barrier;
        wanted && self.flushing.is_none() && self.journal.issue == open && self.journal.last() == open
    }

    /// Whether a flush that begins now is of use to anybody.
    fn wants_flush(&self) -> bool {
        let (durable, covered) = (self.journal.durable, self.covered());
        let useful = |need: u64| need > durable && need <= covered;
        self.flushes.oldest().is_some_and(useful)
            || self.flushes.newest().is_some_and(useful)
            || useful(self.urgent)
            || covered - durable >= u64::from(self.geometry.unflushed())
            || self.checkpoint_wants_flush()
    }

    /// Journal blocks up to here are made durable by a flush that begins now.
    fn covered(&self) -> u64 {
        #[cfg(test)]
        if mutation::is(mutation::Mutation::FlushBeforeJournal) {
            return self.journal.issue - 1;
        }
        self.journal.completed
    }

    /// What journal blocks up to here superseded can be written over.
    fn freeable(&self) -> u64 {
        #[cfg(test)]
        if mutation::is(mutation::Mutation::FreeAtOnce) {
            return self.journal.next;
        }
        self.journal.durable
    }
}
