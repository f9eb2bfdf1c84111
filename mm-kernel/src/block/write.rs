//! Writing to what is only in memory. [`super::keep`] is the same for what is kept on the store's disk.

use mm_engine::{FillError, FrameId, VolumeId, Wanted};
use xen::grant::Direction;
use xen_drivers::Platform;
use xen_drivers::blkback::{Copies, MAX_PIECES, Piece, Status};

use super::job::{Job, NoRoom, Step};
use super::read::{Source, fetch};
use super::{GuestDisk, Over, frame_of};
use crate::effects::Hands;

/// Blocks thrown away in one step.
const DISCARDS: u64 = 1024;

/// A frame for a block of the disk, and whether it is new.
enum Target {
    Old(FrameId),
    New(FrameId),
    /// What is in the rest of the block has to be read first.
    Reading,
    Failed,
}

pub(super) fn step(
    job: &mut Job,
    disk: &mut GuestDisk,
    memory: Option<VolumeId>,
    platform: Platform,
    hands: &mut Hands<'_>,
) -> Result<Step, NoRoom> {
    let (Over::Memory(first), Some(volume)) = (disk.over, memory) else {
        return Ok(Step::Done(Status::Error));
    };
    let request = job.request;
    let mut copies = Copies::new(disk.domain);
    let mut new: heapless::Vec<FrameId, MAX_PIECES> = heapless::Vec::new();
    let (mut taken, mut outcome) = (0, Ok(Step::Wait));
    for (number, piece) in request.pieces().enumerate().filter(|(number, _)| !job.is_done(*number)) {
        let over = Source { volume, page: first + piece.disk_page };
        let frame = match target(&piece, over, disk.base, hands) {
            Ok(Target::Old(frame)) => frame,
            Ok(Target::New(frame)) => {
                // As many as a request can have pieces.
                let _ = new.push(frame);
                frame
            }
            Ok(Target::Reading) => continue,
            Ok(Target::Failed) => {
                outcome = Ok(Step::Done(Status::Error));
                break;
            }
            Err(none) => {
                outcome = Err(none);
                break;
            }
        };
        let Some(frame) = frame_of(hands, frame) else { continue };
        if copies.push(&piece, frame.mfn, Direction::FromPeer).is_ok() {
            taken |= 1 << number;
        }
    }
    if !copies.is_empty()
        && let Err(failed) = copies.run(platform)
    {
        log::debug!("domain {}: write: {failed:?}", disk.domain.0);
        // A new frame that was not filled has what somebody else left there.
        for frame in new {
            if let Err(bug) = hands.engine.unfill(frame) {
                log::error!("bug: {bug:?}");
            }
        }
        return Ok(Step::Done(Status::Error));
    }
    job.done |= taken;
    if job.all_done(request.pieces().count()) {
        return Ok(Step::Done(Status::Okay));
    }
    outcome
}

/// Where a piece is to be written. A block that is written in part for the first time has what its base has in the rest.
fn target(piece: &Piece, over: Source, base: VolumeId, hands: &mut Hands<'_>) -> Result<Target, NoRoom> {
    if let Some(frame) = hands.engine.resident(over.volume, over.page) {
        return Ok(Target::Old(frame));
    }
    let below = Source { volume: base, page: piece.disk_page };
    if !piece.is_whole() {
        match fetch(below, 0, hands) {
            Wanted::Resident(_) => {}
            Wanted::Reading => return Ok(Target::Reading),
            Wanted::Failed => return Ok(Target::Failed),
            Wanted::NoRoom => return Err(NoRoom),
        }
    }
    let frame = match hands.engine.fill(over.volume, over.page, hands.lending) {
        Ok(frame) => frame,
        Err(FillError::NoRoom) => return Err(NoRoom),
        Err(FillError::Dirty | FillError::NoPage) => return Ok(Target::Failed),
    };
    if piece.is_whole() {
        return Ok(Target::New(frame));
    }
    // The new frame may have been the base's own.
    let from = hands.engine.resident(below.volume, below.page).and_then(|frame| frame_of(hands, frame));
    match (from, frame_of(hands, frame)) {
        (Some(from), Some(to)) => {
            to.words.copy_from(from.words);
            Ok(Target::New(frame))
        }
        _ => {
            if let Err(bug) = hands.engine.unfill(frame) {
                log::error!("bug: {bug:?}");
            }
            Err(NoRoom)
        }
    }
}

/// The blocks that lie in a discard as a whole show their base again. Nothing was promised of them.
pub(super) fn discard(
    job: &mut Job,
    disk: &GuestDisk,
    memory: Option<VolumeId>,
    hands: &mut Hands<'_>,
) -> Result<Step, NoRoom> {
    let (Over::Memory(first), Some(volume)) = (disk.over, memory) else {
        return Ok(Step::Done(Status::Error));
    };
    let blocks = job.request.whole_blocks();
    let from = blocks.start.saturating_add(job.done);
    let to = blocks.end.min(from.saturating_add(DISCARDS));
    for block in from..to {
        let _ = hands.engine.forget(volume, first + block);
    }
    job.done += to.saturating_sub(from);
    Ok(if to < blocks.end { Step::Again } else { Step::Done(Status::Okay) })
}
