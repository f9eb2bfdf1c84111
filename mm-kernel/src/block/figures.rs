//! What is counted of requests: how many, how much, and how long they took from the ring to their answer.

use xen_drivers::blkback::{Operation, Request};

/// Kinds of requests, and their names in `/metrics`. A barrier counts as a flush.
pub(crate) const KINDS: [&str; 4] = ["read", "write", "flush", "discard"];
/// Upper bounds of the buckets that all clients have together, in nanoseconds.
pub(crate) const ALL_BOUNDS: [u64; 12] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    2_000_000_000,
];
/// Those of each client: few, since there may be hundreds of clients.
pub(crate) const CLIENT_BOUNDS: [u64; 3] = [1_000_000, 10_000_000, 100_000_000];

/// A histogram of durations, whose last bucket is for what is above all bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times<const BUCKETS: usize> {
    pub(crate) counts: [u64; BUCKETS],
    /// In nanoseconds.
    pub(crate) sum: u64,
}

impl<const BUCKETS: usize> Times<BUCKETS> {
    pub(crate) const NONE: Self = Self { counts: [0; BUCKETS], sum: 0 };

    fn record(&mut self, bounds: &[u64], ns: u64) {
        let bucket = bounds.iter().position(|bound| ns <= *bound).unwrap_or(bounds.len());
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(ns);
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What a disk was asked for, since it was attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requests {
    /// Taken, by kind.
    pub(crate) by_kind: [u64; 4],
    /// Answered with an error.
    pub(crate) errors: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    /// Of those that were answered: reads, writes and flushes.
    pub(crate) times: [Times<{ CLIENT_BOUNDS.len() + 1 }>; 3],
}

/// The same of all disks that there ever were.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Totals {
    pub(crate) errors: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    /// Blocks that reads found in memory, and that they had to wait for.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    /// Sent to clients for answers.
    pub(crate) events: u64,
    /// By kind.
    pub(crate) times: [Times<{ ALL_BOUNDS.len() + 1 }>; 4],
}

fn kind(request: &Request) -> usize {
    match request.operation {
        Operation::Read => 0,
        Operation::Write => 1,
        Operation::Flush | Operation::Barrier => 2,
        Operation::Discard => 3,
    }
}

impl Requests {
    pub(super) const NONE: Self =
        Self { by_kind: [0; 4], errors: 0, read_bytes: 0, written_bytes: 0, times: [Times::NONE; 3] };

    pub(super) fn taken(&mut self, request: &Request, all: &mut Totals) {
        self.by_kind[kind(request)] += 1;
        let bytes = request.sectors * 512;
        match request.operation {
            Operation::Read => {
                self.read_bytes += bytes;
                all.read_bytes += bytes;
            }
            Operation::Write | Operation::Barrier => {
                self.written_bytes += bytes;
                all.written_bytes += bytes;
            }
            Operation::Flush | Operation::Discard => {}
        }
    }

    pub(super) fn answered(&mut self, request: &Request, good: bool, ns: u64, all: &mut Totals) {
        let kind = kind(request);
        if let Some(times) = self.times.get_mut(kind) {
            times.record(&CLIENT_BOUNDS, ns);
        }
        all.times[kind].record(&ALL_BOUNDS, ns);
        self.errors += u64::from(!good);
        all.errors += u64::from(!good);
    }
}

impl Totals {
    pub(super) const NONE: Self = Self {
        errors: 0,
        read_bytes: 0,
        written_bytes: 0,
        hits: 0,
        misses: 0,
        events: 0,
        times: [Times::NONE; 4],
    };

    /// A read has looked for a block for the first time.
    pub(super) fn looked(&mut self, there: bool) {
        self.hits += u64::from(there);
        self.misses += u64::from(!there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_whose_bound_it_does_not_pass() {
        let mut times: Times<4> = Times::NONE;
        for ns in [0, 1_000_000, 1_000_001, 99_000_000, 100_000_001, u64::MAX] {
            times.record(&CLIENT_BOUNDS, ns);
        }
        assert_eq!(times.counts, [2, 1, 1, 2]);
        assert_eq!((times.count(), times.sum), (6, u64::MAX));
    }
}
