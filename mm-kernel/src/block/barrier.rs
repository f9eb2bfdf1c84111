//! A write barrier (blkif.h, BLKIF_OP_WRITE_BARRIER): what was asked before it is done and durable, then it is written, then that is
//! durable, and only then is anything taken that was asked after it.
//!
//! Linux's xen-blkback waits for what is under way (`xen_blk_drain_io`) and writes with a flush before and behind. Here nothing
//! is taken from the disk's ring from when a barrier was until it is answered, so it need only wait for those before it.

use xen_drivers::blkback::Status;

use super::job::{Job, NoRoom, Step};

/// How far a barrier is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// It waits for requests that were taken before it.
    Drain,
    /// It waits until what they wrote is durable.
    Before,
    /// It writes.
    Data,
    /// It waits until that is durable.
    After,
}

/// What is to be done now for it.
pub(super) enum Part {
    Flush,
    Write,
    /// Nothing: others of the disk are under way.
    Wait,
}

impl Stage {
    /// `alone`: it is the only request of its disk.
    pub(super) fn part(&mut self, alone: bool) -> Part {
        match self {
            Self::Drain if !alone => Part::Wait,
            Self::Drain => {
                *self = Self::Before;
                Part::Flush
            }
            Self::Before | Self::After => Part::Flush,
            Self::Data => Part::Write,
        }
    }

    /// After this part comes that one; none after the last.
    fn next(self, empty: bool) -> Option<Self> {
        match self {
            Self::Drain => Some(Self::Before),
            Self::Before if empty => None,
            Self::Before => Some(Self::Data),
            Self::Data => Some(Self::After),
            Self::After => None,
        }
    }
}

/// A part has come as far as `stepped` says: what that means for the whole.
pub(super) fn stepped(job: &mut Job, stepped: Result<Step, NoRoom>) -> Result<Step, NoRoom> {
    let Ok(Step::Done(Status::Okay)) = stepped else { return stepped };
    match job.stage.next(job.request.sectors == 0) {
        Some(stage) => {
            (job.stage, job.done, job.failed) = (stage, 0, false);
            Ok(Step::Again)
        }
        None => Ok(Step::Done(Status::Okay)),
    }
}
