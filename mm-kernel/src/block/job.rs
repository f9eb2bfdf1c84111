//! A request that is under way.

use xen_drivers::blkback::{Request, Status};

use super::barrier::Stage;

/// One request of one disk.
pub(crate) struct Job {
    /// The disk's place.
    pub(super) disk: usize,
    pub(super) request: Request,
    /// Pieces that are done; of discards, how many blocks.
    pub(super) done: u64,
    /// Pages to read ahead of it, once that is decided.
    pub(super) ahead: Option<u64>,
    /// Since when it waits for a frame, if it does.
    pub(super) starved: Option<u64>,
    /// When it was taken from the ring.
    pub(super) taken_ns: u64,
    /// It changes the disk, and has begun to.
    pub(super) begun: bool,
    /// Of a barrier, how far it is.
    pub(super) stage: Stage,
    /// What tells it from others that were at its place.
    pub(super) serial: u32,
    /// Blocks on their way to the store's disk, or a flush.
    pub(super) on_its_way: usize,
    /// One of them failed.
    pub(super) failed: bool,
}

/// What became of a job.
pub(super) enum Step {
    /// It is over.
    Done(Status),
    /// It waits for something to come from a disk.
    Wait,
    /// It has more to do at once, and others had to have their turn.
    Again,
}

/// No frame is free, or nothing can be begun now: it has to be tried again.
pub(super) struct NoRoom;

impl Job {
    pub(super) fn new(disk: usize, request: Request, serial: u32, now: u64) -> Self {
        Self {
            disk,
            request,
            done: 0,
            ahead: None,
            starved: None,
            taken_ns: now,
            begun: false,
            stage: Stage::Drain,
            serial,
            on_its_way: 0,
            failed: false,
        }
    }

    pub(super) fn is_done(&self, piece: usize) -> bool {
        self.done & 1 << piece != 0
    }

    /// All was asked for: over, unless something of it is on its way.
    pub(super) fn when_all_has_come(&self) -> Step {
        match (self.on_its_way, self.failed) {
            (0, false) => Step::Done(Status::Okay),
            (0, true) => Step::Done(Status::Error),
            _ => Step::Wait,
        }
    }

    pub(super) fn all_done(&self, pieces: usize) -> bool {
        self.done.count_ones() as usize == pieces
    }
}

const _: () = assert!(xen_drivers::blkback::MAX_PIECES <= u64::BITS as usize);
