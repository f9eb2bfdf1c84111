//! Reading: what is written is over what is in the base.

use mm_engine::{Effects, VolumeId, Wanted};
use xen::grant::Direction;
use xen_drivers::Platform;
use xen_drivers::blkback::{Copies, Status};

use super::job::{Job, NoRoom, Step};
use super::{GuestDisk, Over, frame_of};
use crate::effects::Hands;

/// Pages that are read ahead of who reads in sequence.
const AHEAD: u64 = 32;

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) volume: VolumeId,
    pub(super) page: u64,
}

/// Where the disk's block is to be read.
pub(super) fn locate(
    disk: &GuestDisk,
    memory: Option<VolumeId>,
    block: u64,
    hands: &mut Hands<'_>,
) -> Source {
    if let (Over::Memory(first), Some(volume)) = (disk.over, memory)
        && hands.engine.resident(volume, first + block).is_some()
    {
        return Source { volume, page: first + block };
    }
    Source { volume: disk.base, page: block }
}

/// Begins to read a block that is not in memory.
pub(super) fn fetch(source: Source, ahead: u64, hands: &mut Hands<'_>) -> Wanted {
    let mut effects = Effects::new();
    let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
    let wanted = hands.engine.want(source.volume, source.page, ahead, hands.lending, &mut effects);
    let _ = hands.perform(&effects);
    wanted
}

pub(super) fn step(
    job: &mut Job,
    disk: &mut GuestDisk,
    memory: Option<VolumeId>,
    platform: Platform,
    hands: &mut Hands<'_>,
) -> Result<Step, NoRoom> {
    let request = job.request;
    let blocks = request.blocks();
    if job.done == 0 {
        job.ahead = if blocks.start == disk.next_block { AHEAD } else { 0 };
        disk.next_block = blocks.end;
    }
    // First everything that is not there is asked for.
    let (mut waits, mut starved) = (false, false);
    for (_, piece) in request.pieces().enumerate().filter(|(number, _)| !job.is_done(*number)) {
        let source = locate(disk, memory, piece.disk_page, hands);
        match fetch(source, blocks.end - piece.disk_page - 1 + job.ahead, hands) {
            Wanted::Resident(_) => {}
            Wanted::Reading => waits = true,
            Wanted::NoRoom => starved = true,
            Wanted::Failed => return Ok(Step::Done(Status::Error)),
        }
    }
    // Then what is there is copied: nothing in between takes a frame from anybody.
    let mut copies = Copies::new(disk.domain);
    let mut copied = 0;
    for (number, piece) in request.pieces().enumerate().filter(|(number, _)| !job.is_done(*number)) {
        let source = locate(disk, memory, piece.disk_page, hands);
        let Some(frame) = hands.engine.resident(source.volume, source.page) else { continue };
        let Some(frame) = frame_of(hands, frame) else { continue };
        // As many as a request can have.
        if copies.push(&piece, frame.mfn, Direction::ToPeer).is_ok() {
            copied |= 1 << number;
        }
    }
    if !copies.is_empty()
        && let Err(failed) = copies.run(platform)
    {
        log::debug!("domain {}: read: {failed:?}", disk.domain.0);
        return Ok(Step::Done(Status::Error));
    }
    job.done |= copied;
    if job.all_done(request.pieces().count()) {
        return Ok(Step::Done(Status::Okay));
    }
    // What was there a moment ago, and gave way to another of its own blocks, is asked for again.
    if starved || !waits { Err(NoRoom) } else { Ok(Step::Wait) }
}
