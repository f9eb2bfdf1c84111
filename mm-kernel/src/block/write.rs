//! Writing to what is only in memory. [`super::keep`] is the same for what is kept on the store's disk.

use mm_engine::{FillError, Forgot, FrameId, VolumeId, Wanted};
use mm_store::Hidden;
use xen::grant::Direction;
use xen_drivers::Platform;
use xen_drivers::blkback::{Copies, MAX_PIECES, Piece, Status};
use xen_ring::PageWords;

use super::job::{Job, NoRoom, Step};
use super::read::{Located, Source, fetch, locate};
use super::{GuestDisk, Over, memory_number};
use crate::effects::Hands;

/// Blocks thrown away in one step.
const DISCARDS: u64 = 1024;

/// What is only in memory, of all disks.
pub(super) struct InMemory {
    /// The engine's volume of its frames.
    pub(super) volume: VolumeId,
    /// Blocks without a frame that read as zeroes.
    pub(super) hidden: Hidden<'static>,
    /// Most frames of one disk.
    pub(super) quota: u32,
}

impl InMemory {
    /// A block reads as zeroes from now on, and has no frame. Where there is no room to remember that, nothing has changed.
    fn hide(&mut self, disk: &mut GuestDisk, first: u64, block: u64, hands: &mut Hands<'_>) {
        let number = memory_number(disk.id.index());
        let hidden =
            u32::try_from(block).is_ok_and(|block| self.hidden.hide(number, block, 1, disk.pages).is_ok());
        if hidden {
            self.forget(disk, first, block, hands);
        }
    }

    fn forget(&self, disk: &mut GuestDisk, first: u64, block: u64, hands: &mut Hands<'_>) {
        if hands.engine.forget(self.volume, first + block) == Forgot::Done {
            disk.held = disk.held.saturating_sub(1);
        }
    }
}

/// A frame for a block of the disk, and whether it is new.
enum Target {
    Old(FrameId),
    New(FrameId),
    /// What is in the rest of the block has to be read first.
    Reading,
    Failed,
}

/// A block that a piece is being written to.
#[derive(Clone, Copy)]
struct Written {
    block: u64,
    frame: FrameId,
    new: bool,
}

pub(super) fn step(
    job: &mut Job,
    disk: &mut GuestDisk,
    memory: Option<&mut InMemory>,
    platform: Platform,
    hands: &mut Hands<'_>,
) -> Result<Step, NoRoom> {
    let (Over::Memory(first), Some(memory)) = (disk.over, memory) else {
        return Ok(Step::Done(Status::Error));
    };
    let request = job.request;
    let mut copies = Copies::new(disk.domain);
    let mut written: heapless::Vec<Written, MAX_PIECES> = heapless::Vec::new();
    let (mut taken, mut outcome) = (0, Ok(Step::Wait));
    for (number, piece) in request.pieces().enumerate().filter(|(number, _)| !job.is_done(*number)) {
        let (frame, new) = match target(&piece, first, disk, memory, hands) {
            Ok(Target::Old(frame)) => (frame, false),
            Ok(Target::New(frame)) => (frame, true),
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
        // As many as a request can have pieces.
        let _ = written.push(Written { block: piece.disk_page, frame, new });
        let Some(frame) = hands.lending.driver_frame(frame) else { continue };
        if copies.push(&piece, frame.mfn, Direction::FromPeer).is_ok() {
            taken |= 1 << number;
        }
    }
    if !copies.is_empty()
        && let Err(failed) = copies.run(platform)
    {
        log::debug!("domain {}: write: {failed:?}", disk.domain.0);
        // A new frame that was not filled has what somebody else left there.
        for Written { frame, .. } in written.iter().filter(|written| written.new) {
            give_up(disk, *frame, hands);
        }
        return Ok(Step::Done(Status::Error));
    }
    for Written { block, frame, .. } in written {
        if hands.lending.frame(frame).is_some_and(|(words, _)| is_zero(words)) {
            memory.hide(disk, first, block, hands);
        }
    }
    job.done |= taken;
    if job.all_done(request.pieces().count()) {
        return Ok(Step::Done(Status::Okay));
    }
    outcome
}

/// Whether a page holds nothing but zeroes. Mostly its first word says that it does not.
fn is_zero(words: &PageWords) -> bool {
    (0..mm_proto::PAGE_SIZE / 4).all(|index| words.load(index) == 0)
}

fn give_up(disk: &mut GuestDisk, frame: FrameId, hands: &mut Hands<'_>) {
    disk.held = disk.held.saturating_sub(1);
    if let Err(bug) = hands.engine.unfill(frame) {
        log::error!("bug: {bug:?}");
    }
}

/// Where a piece is to be written. A block that is written in part for the first time has what was there in the rest.
fn target(
    piece: &Piece,
    first: u64,
    disk: &mut GuestDisk,
    memory: &InMemory,
    hands: &mut Hands<'_>,
) -> Result<Target, NoRoom> {
    let over = Source { volume: memory.volume, page: first + piece.disk_page };
    let below = match locate(disk, Some(memory), piece.disk_page, hands) {
        Located::At(source) if source == over => {
            let frame = hands.engine.resident(over.volume, over.page);
            return frame.map(Target::Old).ok_or(NoRoom);
        }
        Located::At(source) => Some(source),
        Located::Zero => None,
        Located::Index(_) if piece.is_whole() => None,
        Located::Index(source) => {
            return match fetch(source, 0, hands) {
                Wanted::Failed => Ok(Target::Failed),
                Wanted::NoRoom => Err(NoRoom),
                Wanted::Resident(_) | Wanted::Reading => Ok(Target::Reading),
            };
        }
        Located::Nowhere => return Ok(Target::Failed),
    };
    if disk.held >= memory.quota {
        return Ok(Target::Failed);
    }
    if !piece.is_whole()
        && let Some(below) = below
    {
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
    disk.held += 1;
    if piece.is_whole() {
        return Ok(Target::New(frame));
    }
    let Some(to) = hands.lending.driver_frame(frame) else {
        give_up(disk, frame, hands);
        return Ok(Target::Failed);
    };
    let Some(below) = below else {
        to.words.zero();
        return Ok(Target::New(frame));
    };
    // The new frame may have been the base's own.
    match hands.engine.resident(below.volume, below.page).and_then(|frame| hands.lending.driver_frame(frame))
    {
        Some(from) => {
            to.words.copy_from(from.words);
            Ok(Target::New(frame))
        }
        None => {
            give_up(disk, frame, hands);
            Err(NoRoom)
        }
    }
}

/// The blocks that lie in it as a whole read as zeroes from now on, and what held them is given back. Where there is no room to remember
/// that, those that have a frame keep one of zeroes, and of the others nothing was promised.
pub(super) fn discard(
    job: &mut Job,
    disk: &mut GuestDisk,
    memory: Option<&mut InMemory>,
    hands: &mut Hands<'_>,
) -> Result<Step, NoRoom> {
    let (Over::Memory(first), Some(memory)) = (disk.over, memory) else {
        return Ok(Step::Done(Status::Error));
    };
    let blocks = job.request.whole_blocks();
    let from = blocks.start.saturating_add(job.done);
    if job.done == 0 && !blocks.is_empty() {
        // All at once: that takes fewest rows.
        let number = memory_number(disk.id.index());
        let range =
            u32::try_from(blocks.start).and_then(|from| Ok((from, u32::try_from(blocks.end)? - from)));
        job.failed =
            !range.is_ok_and(|(from, count)| memory.hidden.hide(number, from, count, disk.pages).is_ok());
    }
    let to = blocks.end.min(from.saturating_add(DISCARDS));
    for block in from..to {
        if !job.failed {
            memory.forget(disk, first, block, hands);
        } else if let Some(frame) = hands.engine.resident(memory.volume, first + block)
            && let Some(frame) = hands.lending.driver_frame(frame)
        {
            frame.words.zero();
        }
    }
    job.done += to.saturating_sub(from);
    Ok(if to < blocks.end { Step::Again } else { Step::Done(Status::Okay) })
}
