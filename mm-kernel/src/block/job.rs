//! A request that is under way.

use xen_drivers::blkback::{Request, Status};

/// One request of one disk.
pub(crate) struct Job {
    /// The disk's place.
    pub(super) disk: usize,
    pub(super) request: Request,
    /// Pieces that are done; of discards, how many blocks.
    pub(super) done: u64,
    /// Pages to read ahead of it.
    pub(super) ahead: u64,
    /// Since when it waits for a frame, if it does.
    pub(super) starved: Option<u64>,
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

/// No frame is free, and none of this job's making will be.
pub(super) struct NoRoom;

impl Job {
    pub(super) fn new(disk: usize, request: Request) -> Self {
        Self { disk, request, done: 0, ahead: 0, starved: None }
    }

    pub(super) fn is_done(&self, piece: usize) -> bool {
        self.done & 1 << piece != 0
    }

    pub(super) fn all_done(&self, pieces: usize) -> bool {
        self.done.count_ones() as usize == pieces
    }
}

const _: () = assert!(xen_drivers::blkback::MAX_PIECES <= u64::BITS as usize);
