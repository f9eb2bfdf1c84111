//! Mistakes that can be switched on, one at a time and for one thread: the tests must notice each.

use std::cell::Cell;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutation {
    None,
    /// Flushes are answered without flushing the disk.
    NoFlush,
    /// The disk is flushed when the journal blocks are on their way, not when they are written.
    FlushBeforeJournal,
    /// Superseded blocks are free before the journal that says so is durable.
    FreeAtOnce,
    /// The superblock is switched before its checkpoint is durable.
    PublishEarly,
    /// Recovery believes that what a journal block names is there.
    TrustUnflushed,
    /// A store that was opened is written before what was read is durable.
    WriteAtOnce,
    /// Journal blocks of before a cut of power can follow those of after it.
    KeepEpoch,
}

impl Mutation {
    pub(crate) const ALL: [Self; 7] = [
        Self::WriteAtOnce,
        Self::NoFlush,
        Self::FlushBeforeJournal,
        Self::FreeAtOnce,
        Self::PublishEarly,
        Self::TrustUnflushed,
        Self::KeepEpoch,
    ];
}

std::thread_local! {
    static CURRENT: Cell<Mutation> = const { Cell::new(Mutation::None) };
}

pub(crate) fn is(mutation: Mutation) -> bool {
    CURRENT.get() == mutation
}

/// Runs with a mistake.
pub(crate) fn with<T>(mutation: Mutation, run: impl FnOnce() -> T) -> T {
    CURRENT.set(mutation);
    let result = run();
    CURRENT.set(Mutation::None);
    result
}
