//! Flushes that wait: a queue of tokens, each with the journal block that has to be durable. And those that are likely to come.

use crate::error::{FlushRefused, IoFailed};
use crate::store::Store;

/// Flushes that can wait.
const WAITING: usize = 256;

/// The queue; what is needed never falls from one to the next.
pub(crate) struct Flushes {
    waiting: [(u64, u64); WAITING],
    first: usize,
    count: usize,
}

impl Flushes {
    pub(crate) fn new() -> Self {
        Self { waiting: [(0, 0); WAITING], first: 0, count: 0 }
    }

    /// Journal block that the oldest needs.
    pub(crate) fn oldest(&self) -> Option<u64> {
        (self.count > 0).then(|| self.at(0).1)
    }

    /// Journal block that the newest needs.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.count.checked_sub(1).map(|last| self.at(last).1)
    }

    fn at(&self, index: usize) -> (u64, u64) {
        self.waiting.get((self.first + index) % WAITING).copied().unwrap_or_default()
    }
}

/// How many writes lie between two flushes. Who writes and flushes in turn (a database, a journal) does it with the same number of
/// writes again and again; where that number is reached, the journal block can go to the disk while the client is still on its way
/// to asking for the flush. A wrong guess costs one journal block that is not full, once between two flushes.
#[derive(Default)]
pub(crate) struct Bursts {
    /// Since the last flush.
    now: u32,
    /// Before it.
    last: u32,
    /// The journal block that a flush is likely to want soon.
    pub(crate) expected: u64,
}

impl Bursts {
    /// A record in this journal block, and whether no other write is under way.
    pub(crate) fn written(&mut self, sequence: u64, alone: bool) {
        self.now = self.now.saturating_add(1);
        if self.now == self.last && alone {
            self.expected = sequence;
        }
    }

    fn flushed(&mut self) {
        if self.now > 0 {
            (self.last, self.now) = (self.now, 0);
        }
    }
}

impl Store<'_> {
    /// Asks that everything that was [`written`](Self::written), discarded, created or deleted before be durable. The answer comes
    /// from [`flushed`](Self::flushed), in the order of the questions, with the same token.
    ///
    /// # Errors
    /// Too many wait.
    pub fn flush(&mut self, token: u64) -> Result<(), FlushRefused> {
        let need = self.journal.last();
        let place = (self.flushes.first + self.flushes.count) % WAITING;
        match self.flushes.waiting.get_mut(place) {
            Some(slot) if self.flushes.count < WAITING => {
                *slot = (token, need);
                self.flushes.count += 1;
                self.bursts.flushed();
                Ok(())
            }
            _ => Err(FlushRefused),
        }
    }

    /// Whether a flush would find nothing to do.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.journal.last() <= self.journal.durable
    }

    /// The next answer to a flush. From the first failure of the disk on all of them fail: what was not durable then may never be.
    pub fn flushed(&mut self) -> Option<(u64, Result<(), IoFailed>)> {
        let need = self.flushes.oldest()?;
        // What recovery found may still be in a cache below: the first checkpoint's flushes make it durable.
        let durable = self.settled && need <= self.journal.durable;
        if !durable && !self.failed {
            return None;
        }
        let (token, _) = self.flushes.at(0);
        self.flushes.first = (self.flushes.first + 1) % WAITING;
        self.flushes.count -= 1;
        // Durable is durable, but a flush after a failure must not look as if the disk were well.
        let result = if self.failed { Err(IoFailed) } else { Ok(()) };
        self.counters.flushes += 1;
        Some((token, result))
    }
}
