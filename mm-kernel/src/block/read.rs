//! Reading: what is written is over what is in the base.

use mm_engine::{Effects, VolumeId, Wanted};
use mm_store::Found;
use xen::grant::Direction;
use xen_drivers::blkback::{Copies, Status};
use xen_drivers::{Frame, Platform};

use super::image::Entry;
use super::job::{Job, NoRoom, Step};
use super::write::InMemory;
use super::{GuestDisk, Over, Totals, memory_number};
use crate::effects::Hands;

/// Pages that are read ahead of who reads in sequence: at first, and at most. They double with each request.
const AHEAD_FIRST: u64 = 8;
const AHEAD_MAX: u64 = 64;

/// A page of the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) volume: VolumeId,
    pub(super) page: u64,
}

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Located {
    At(Source),
    /// It reads as zeroes.
    Zero,
    /// This page, which says where it is, has to be read first.
    Index(Source),
    /// It is not to be had.
    Nowhere,
}

/// Where the disk's block is to be read.
pub(super) fn locate(
    disk: &GuestDisk,
    memory: Option<&InMemory>,
    block: u64,
    hands: &mut Hands<'_>,
) -> Located {
    match disk.over {
        Over::Nothing => below(disk, block, hands),
        Over::Memory(first) => {
            let Some(memory) = memory else { return Located::Nowhere };
            let over = Source { volume: memory.volume, page: first + block };
            let hidden = || {
                let number = memory_number(disk.id.index());
                u32::try_from(block).is_ok_and(|block| memory.hidden.contains(number, block))
            };
            if hands.engine.resident(over.volume, over.page).is_some() {
                Located::At(over)
            } else if hidden() {
                Located::Zero
            } else {
                below(disk, block, hands)
            }
        }
        Over::Store(overlay) => {
            let (Some(overlays), Ok(number)) = (&hands.overlays, u32::try_from(block)) else {
                return Located::Nowhere;
            };
            match overlays.store.lookup(overlay, number) {
                Ok(Found::Base) => below(disk, block, hands),
                Ok(Found::Zero) => Located::Zero,
                Ok(Found::At { disk, .. }) => {
                    Located::At(Source { volume: overlays.volume, page: u64::from(disk.0) })
                }
                Err(_) => Located::Nowhere,
            }
        }
    }
}

/// Where the block below the disk's overlay is: in its snapshot, or in the base.
fn below(disk: &GuestDisk, block: u64, hands: &mut Hands<'_>) -> Located {
    let entry = disk.image.map_or(Entry::Base, |image| image.find(block, hands));
    match entry {
        Entry::Base => Located::At(Source { volume: disk.base, page: block }),
        Entry::Zero => Located::Zero,
        Entry::At(source) => Located::At(source),
        Entry::Index(source) => Located::Index(source),
    }
}

/// How many blocks behind `block`, up to `end`, come right behind it where `source` is.
fn behind(disk: &GuestDisk, source: Source, block: u64, end: u64, hands: &mut Hands<'_>) -> u64 {
    if source.volume == disk.base {
        return end.saturating_sub(block + 1);
    }
    let next = |next: &u64| {
        locate(disk, None, block + next, hands) == Located::At(Source { page: source.page + next, ..source })
    };
    (1..end.saturating_sub(block)).take_while(next).count() as u64
}

/// Begins to read a block that is not in memory.
pub(super) fn fetch(source: Source, ahead: u64, hands: &mut Hands<'_>) -> Wanted {
    let mut effects = Effects::new();
    let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
    let wanted = hands.engine.want(source.volume, source.page, ahead, hands.lending, &mut effects);
    let _ = hands.perform(&effects);
    wanted
}

/// Sees to it that the next blocks of the base are on their way before they are asked for: where those half as far as `ahead` are not, what is missing
/// of all of them is read.
fn keep_ahead(base: VolumeId, from: u64, ahead: u64, hands: &mut Hands<'_>) {
    if hands.engine.is_known(base, from + ahead / 2) {
        return;
    }
    let mut effects = Effects::new();
    hands.engine.want_ahead(base, from, u32::try_from(ahead).unwrap_or(0), &mut effects);
    let _ = hands.perform(&effects);
}

pub(super) fn step(
    job: &mut Job,
    disk: &mut GuestDisk,
    memory: Option<&InMemory>,
    zero: Frame,
    platform: Platform,
    totals: &mut Totals,
    hands: &mut Hands<'_>,
) -> Result<Step, NoRoom> {
    let request = job.request;
    let blocks = request.blocks();
    // What is looked for again after a wait was counted the first time.
    let first = job.ahead.is_none();
    if first {
        let sequential = blocks.start == disk.next_block;
        let more = (2 * disk.ahead).max(blocks.end - blocks.start).clamp(AHEAD_FIRST, AHEAD_MAX);
        disk.ahead = if sequential { more } else { 0 };
        disk.next_block = blocks.end;
    }
    let ahead = *job.ahead.get_or_insert(disk.ahead);
    // First everything that is not there is asked for.
    let (mut waits, mut starved, mut of_base) = (false, false, false);
    for (_, piece) in request.pieces().enumerate().filter(|(number, _)| !job.is_done(*number)) {
        let source = match locate(disk, memory, piece.disk_page, hands) {
            Located::At(source) => source,
            Located::Zero => continue,
            Located::Index(source) => {
                match fetch(source, 0, hands) {
                    Wanted::Failed => return Ok(Step::Done(Status::Error)),
                    Wanted::NoRoom => starved = true,
                    Wanted::Resident(_) | Wanted::Reading => waits = true,
                }
                continue;
            }
            Located::Nowhere => return Ok(Step::Done(Status::Error)),
        };
        of_base |= source.volume == disk.base;
        let there = hands.engine.resident(source.volume, source.page).is_some();
        if first {
            totals.looked(there);
        }
        if there {
            continue;
        }
        let follow = behind(disk, source, piece.disk_page, blocks.end, hands);
        let ahead = if source.volume == disk.base { follow + ahead } else { follow };
        match fetch(source, ahead, hands) {
            Wanted::Resident(_) => {}
            Wanted::Reading => waits = true,
            Wanted::NoRoom => starved = true,
            Wanted::Failed => return Ok(Step::Done(Status::Error)),
        }
    }
    if first && ahead > 0 && of_base {
        keep_ahead(disk.base, blocks.end, ahead, hands);
    }
    // Then what is there is copied: nothing in between takes a frame from anybody.
    let mut copies = Copies::new(disk.domain);
    let mut copied = 0;
    for (number, piece) in request.pieces().enumerate().filter(|(number, _)| !job.is_done(*number)) {
        let frame = match locate(disk, memory, piece.disk_page, hands) {
            Located::At(source) => hands
                .engine
                .resident(source.volume, source.page)
                .and_then(|frame| hands.lending.driver_frame(frame)),
            Located::Zero => Some(zero),
            Located::Index(_) | Located::Nowhere => None,
        };
        let Some(frame) = frame else { continue };
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
