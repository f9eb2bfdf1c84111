//! The steps of a freeze, and what M1 is told after a thaw.

use mm_proto::{AbortReason, CAPTURE_MAX, SnapshotInfo};

use super::Frames;
use crate::page::UserPage;

/// A page to be captured: whatever it lets the program do, its content is taken as it is.
#[derive(Debug)]
pub enum Source<'a, F> {
    /// A private page of the program's.
    Mapped(UserPage),
    /// A frame that is not mapped.
    Frame(&'a F),
}

/// A step of a freeze, as `mm_proto::RequestBody` has it.
#[derive(Debug)]
pub enum FreezeStep<'a, F> {
    /// The program stands still; so many pages will be captured at most.
    Begin(u64),
    /// At most [`CAPTURE_MAX`] pages. None of them may change before the answer.
    Capture(&'a [Source<'a, F>]),
    /// Which of 512 pages of the frozen part from this one on are kept.
    Keep(u64, mm_proto::Bitmap),
    /// The snapshot is complete: the page that a clone begins with, and nanoseconds of standing still.
    Commit(u64, u64),
    /// The freeze is given up.
    Abort(AbortReason),
}

/// What came of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreezeAnswer {
    /// Done; after a capture, which page of the frozen part each page has become.
    Done([u32; CAPTURE_MAX]),
    /// M1 has no room.
    NoRoom,
    /// M1 refused, or could not read a page.
    Refused,
    /// M1 is gone.
    Lost,
}

/// Snapshots: freezing to one, and going on from one.
pub trait Freezer: Frames {
    /// The snapshot that the volume came with, if it did.
    fn snapshot(&self) -> Option<SnapshotInfo>;
    /// Whether M1 has ordered a freeze since this was last asked.
    fn freeze_ordered(&mut self) -> bool;
    /// Sends a step of the freeze. One at a time: its answer is to be taken before the next.
    fn freeze_send(&mut self, step: FreezeStep<'_, Self::Frame>);
    /// The answer to the last step, if there is one already.
    fn freeze_answer(&mut self) -> Option<FreezeAnswer>;
    /// Waits for the answer to the last step, not for ever.
    fn freeze_await(&mut self) -> FreezeAnswer;
    /// Tells M1 that the program goes on from a snapshot, and what it touched first, as pages of the volume and the frozen part.
    fn tell_thawed(&mut self);
    /// Tells M1 which of 512 pages from this one on the program touched soon after its thaw.
    fn tell_hot(&mut self, page: u64, bitmap: mm_proto::Bitmap);
}
