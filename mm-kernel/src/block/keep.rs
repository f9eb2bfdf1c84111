//! Writing to an overlay: each block to a new place of the store's disk, and only then answered.

use mm_engine::{FrameId, Wanted};
use mm_store::{BLOCK, IoFailed, OverlayId, Place, WriteRefused, crc32c};
use xen::grant::Direction;
use xen_drivers::Platform;
use xen_drivers::blkback::{Copies, MAX_PIECES, Piece, Status};
use xen_drivers::blkfront::MAX_PAGES;

use super::GuestDisk;
use super::job::{Job, NoRoom, Step};
use super::read::{Located, fetch, locate};
use crate::effects::Hands;
use crate::overlays::{Asker, Block, Overlays, Run};

/// A block that was begun and is not on its way.
struct Begun {
    place: Place,
    frame: FrameId,
}

/// Those of one request.
type AllBegun = heapless::Vec<Begun, MAX_PIECES>;

/// What became of trying to begin a block.
enum Try {
    Begun(Begun),
    /// Not now; something that is under way will wake the job.
    Wait,
    /// Not now, and perhaps not soon.
    NoRoom,
    /// Never: the store or the quota is full, or what the rest of the block holds cannot be read.
    Refused,
}

pub(super) fn write(
    job: &mut Job,
    disk: &GuestDisk,
    overlay: OverlayId,
    asker: Asker,
    platform: Platform,
    hands: &mut Hands<'_>,
) -> Result<Step, NoRoom> {
    let request = job.request;
    let count = request.pieces().count();
    // Nothing more is begun for a request that has failed; what is on its way comes first.
    if job.failed || job.all_done(count) {
        return Ok(job.when_all_has_come());
    }
    if !hands.overlays.as_ref().is_some_and(|overlays| overlays.has_room()) {
        return Ok(Step::Wait);
    }
    let mut begun = AllBegun::new();
    let mut copies = Copies::new(disk.domain);
    let (mut taken, mut starved) = (0_u64, false);
    let mut pieces = request.pieces().enumerate().peekable();
    while let Some((first, piece)) = pieces.next() {
        // All pieces of one block are written together.
        let mut block: heapless::Vec<(usize, Piece), MAX_PIECES> = heapless::Vec::new();
        let _ = block.push((first, piece));
        while let Some(more) = pieces.next_if(|(_, next)| next.disk_page == piece.disk_page) {
            let _ = block.push(more);
        }
        if job.is_done(first) {
            continue;
        }
        let whole = block.iter().map(|(_, piece)| usize::from(piece.bytes)).sum::<usize>() == BLOCK;
        match begin(disk, overlay, piece.disk_page, whole, hands) {
            Try::Begun(new) => {
                for (number, piece) in &block {
                    if let Some(frame) = hands.lending.driver_frame(new.frame)
                        && copies.push(piece, frame.mfn, Direction::FromPeer).is_ok()
                    {
                        taken |= 1 << number;
                    }
                }
                // As many as a request can touch.
                let _ = begun.push(new);
            }
            Try::Wait => {}
            Try::NoRoom => {
                starved = true;
                break;
            }
            Try::Refused => {
                job.failed = true;
                break;
            }
        }
    }
    if !copies.is_empty()
        && let Err(failed) = copies.run(platform)
    {
        log::debug!("domain {}: write: {failed:?}", disk.domain.0);
        job.failed = true;
    }
    if job.failed {
        for Begun { place, frame } in begun {
            give_up(hands, place, frame);
        }
        return Ok(job.when_all_has_come());
    }
    job.done |= taken;
    let any = !begun.is_empty();
    send(job, begun, asker, hands);
    if starved && !any {
        return Err(NoRoom);
    }
    Ok(if job.failed || job.all_done(count) { job.when_all_has_come() } else { Step::Wait })
}

/// Takes a place and a frame for a block, which holds what the block has now unless all of it is written.
fn begin(disk: &GuestDisk, overlay: OverlayId, block: u64, whole: bool, hands: &mut Hands<'_>) -> Try {
    let Ok(number) = u32::try_from(block) else { return Try::Refused };
    let mut below = Located::Nowhere;
    if !whole {
        // Another part of it may be on its way, and is not where it is looked for yet.
        if hands.overlays.as_ref().is_some_and(|overlays| overlays.is_writing(overlay, number)) {
            return Try::Wait;
        }
        below = locate(disk, None, block, hands);
        if let Located::Index(source) = below {
            return match fetch(source, 0, hands) {
                Wanted::Resident(_) | Wanted::Reading => Try::Wait,
                Wanted::Failed => Try::Refused,
                Wanted::NoRoom => Try::NoRoom,
            };
        }
        if let Located::At(source) = below {
            match fetch(source, 0, hands) {
                Wanted::Resident(_) => {}
                Wanted::Reading => return Try::Wait,
                Wanted::Failed => return Try::Refused,
                Wanted::NoRoom => return Try::NoRoom,
            }
        }
    }
    let Some(overlays) = hands.overlays.as_deref_mut() else { return Try::Refused };
    let volume = overlays.volume;
    let place = match overlays.store.begin_write(overlay, number) {
        Ok(place) => place,
        Err(WriteRefused::Busy) => return Try::NoRoom,
        Err(refused) => {
            log::debug!("store: a write is refused: {refused:?}");
            return Try::Refused;
        }
    };
    let Ok(frame) = hands.engine.fill(volume, u64::from(place.disk.0), hands.lending) else {
        give_back(hands, place);
        return Try::NoRoom;
    };
    let to = hands.lending.driver_frame(frame);
    let copied = match (below, to) {
        (_, None) => false,
        (Located::At(source), Some(to)) => {
            // The new frame may have been this one's.
            let from = hands.engine.resident(source.volume, source.page);
            from.and_then(|frame| hands.lending.driver_frame(frame))
                .map(|from| to.words.copy_from(from.words))
                .is_some()
        }
        (Located::Zero, Some(to)) => {
            to.words.zero();
            true
        }
        (Located::Nowhere | Located::Index(_), Some(_)) => whole,
    };
    if copied {
        return Try::Begun(Begun { place, frame });
    }
    give_up(hands, place, frame);
    Try::NoRoom
}

/// Blocks that were filled go to the disk, those together that lie together there; those that hold nothing but zeroes need no place.
fn send(job: &mut Job, begun: AllBegun, asker: Asker, hands: &mut Hands<'_>) {
    let mut run = Run { asker, blocks: heapless::Vec::new() };
    for Begun { place, frame } in begun {
        let mut bytes = [0; BLOCK];
        if let Some((words, _)) = hands.lending.frame(frame) {
            let _ = words.read(0, &mut bytes);
        }
        if bytes.iter().all(|byte| *byte == 0) && zeroed(&place, hands) {
            give_up(hands, place, frame);
            continue;
        }
        let follows = run.blocks.last().is_none_or(|last: &Block| last.place.disk.0 + 1 == place.disk.0);
        if !follows || run.blocks.len() == MAX_PAGES {
            let full = core::mem::replace(&mut run, Run { asker, blocks: heapless::Vec::new() });
            dispatch(job, full, hands);
        }
        // There is room: it was made.
        let _ = run.blocks.push(Block { place, frame, crc: crc32c(&bytes) });
    }
    if !run.blocks.is_empty() {
        dispatch(job, run, hands);
    }
}

fn dispatch(job: &mut Job, run: Run, hands: &mut Hands<'_>) {
    let blocks = run.blocks.len();
    let refused = match hands.overlays.as_deref_mut() {
        Some(overlays) => overlays.write(run).err(),
        None => Some(run),
    };
    let Some(run) = refused else {
        job.on_its_way += blocks;
        return;
    };
    log::error!("bug: no room for a run of {blocks} blocks");
    job.failed = true;
    for block in run.blocks {
        give_up(hands, block.place, block.frame);
    }
}

/// Remembers that a block holds zeroes. Where there is no room for that, they are written like anything else.
fn zeroed(place: &Place, hands: &mut Hands<'_>) -> bool {
    let zero = |overlays: &mut Overlays| overlays.store.zero(place.overlay, place.block, 1).is_ok();
    hands.overlays.as_deref_mut().is_some_and(zero)
}

fn give_back(hands: &mut Hands<'_>, place: Place) {
    if let Some(overlays) = hands.overlays.as_deref_mut() {
        // That it was not done well is what is being said.
        let _ = overlays.store.written(place, 0, Err(IoFailed));
    }
}

fn give_up(hands: &mut Hands<'_>, place: Place, frame: FrameId) {
    give_back(hands, place);
    if let Err(bug) = hands.engine.unfill(frame) {
        log::error!("bug: {bug:?}");
    }
}

/// The blocks that lie in it as a whole read as zeroes from now on, and what held them is given back.
pub(super) fn discard(job: &mut Job, overlay: OverlayId, hands: &mut Hands<'_>) -> Result<Step, NoRoom> {
    let blocks = job.request.whole_blocks();
    let from = blocks.start.saturating_add(job.done);
    let left = blocks.end.saturating_sub(from);
    let (Ok(from), Ok(left)) = (u32::try_from(from), u32::try_from(left)) else {
        return Ok(Step::Done(Status::Error));
    };
    let Some(overlays) = hands.overlays.as_deref_mut() else { return Ok(Step::Done(Status::Error)) };
    if left == 0 {
        return Ok(Step::Done(Status::Okay));
    }
    match overlays.store.zero(overlay, from, left) {
        Ok(done) => {
            job.done += u64::from(done);
            Ok(if done >= left { Step::Done(Status::Okay) } else { Step::Again })
        }
        Err(WriteRefused::Busy) => Err(NoRoom),
        Err(_) => Ok(Step::Done(Status::Error)),
    }
}

/// What was answered before is durable when this is answered.
pub(super) fn flush(job: &mut Job, asker: Asker, hands: &mut Hands<'_>) -> Result<Step, NoRoom> {
    if job.done > 0 {
        return Ok(job.when_all_has_come());
    }
    let Some(overlays) = hands.overlays.as_deref_mut() else { return Ok(Step::Done(Status::Error)) };
    match overlays.flush(asker) {
        Ok(()) => {
            (job.done, job.on_its_way) = (1, 1);
            Ok(Step::Wait)
        }
        Err(mm_store::FlushRefused) => Err(NoRoom),
    }
}
