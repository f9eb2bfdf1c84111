//! Disks of a client that is being frozen: what each has over its base at the instant becomes part of the snapshot.
//!
//! From the instant on writes and discards of the disk wait, and reads go on, while changed blocks are copied into the frozen part, some in
//! each turn. The snapshot is complete when that is, too. If it takes longer than [`HOLD_NS`], or there is no room, nothing comes of the
//! snapshot, and the guest goes on.

use mm_engine::{Effects, FrameId, SnapshotId, SnapshotState, Wanted};
use mm_proto::disk_index::{self, LEVELS};
use xen_drivers::blkback::Operation;
use xen_drivers::vbdback::DeviceId;
use xen_sys::DomId;

use super::image::Image;
use super::read::{Located, Source, fetch, locate};
use super::{Block, GuestDisk, Over};
use crate::effects::Hands;
use crate::snapshots::DiskImage;

/// How long a guest's writes wait at most.
pub(crate) const HOLD_NS: u64 = 10_000_000_000;
/// Disks that can be copied at once.
pub(super) const FREEZING: usize = 8;
/// Blocks that one turn looks at, and that it copies.
const LOOKS: u32 = 2048;
const COPIES: u32 = 32;
/// Pages that are read ahead from the store's disk.
const AHEAD: u64 = 15;

/// A disk that is being copied.
pub(super) struct Freezing {
    disk: usize,
    id: DeviceId,
    snapshot: SnapshotId,
    since: u64,
    /// The next block to look at.
    next: u64,
    levels: usize,
    /// Pages of the index that are being filled, by level.
    open: [Option<FrameId>; LEVELS],
    root: Option<u32>,
    blocks: u32,
}

/// What became of going on.
enum Step {
    /// True: there is more to do at once.
    Going(bool),
    Done,
}

/// Nothing comes of it: no room, a disk that cannot be read, or no time.
struct Failed;

impl Block {
    /// The instant of a snapshot of this domain's. Gives what is to be known of each of its disks; [`Self::turn`] goes on with them.
    pub(crate) fn freeze(&mut self, domain: DomId, snapshot: SnapshotId, hands: &mut Hands<'_>, now: u64) {
        for index in 0..self.disks.len() {
            let Some(disk) = self.disks[index].as_ref().filter(|disk| disk.domain == domain) else {
                continue;
            };
            let image = DiskImage { devid: disk.devid, volume: disk.volume, image: None };
            let known = hands.snapshots.add_disk(snapshot, image);
            if !known || self.begin(index, snapshot, hands, now).is_err() {
                log::warn!("domain {}: no room for its disk {} in a snapshot", domain.0, image.devid);
                hands.engine.cancel(snapshot, hands.lending);
                return;
            }
        }
    }

    fn begin(
        &mut self,
        index: usize,
        snapshot: SnapshotId,
        hands: &mut Hands<'_>,
        now: u64,
    ) -> Result<(), Failed> {
        let Some(disk) = self.disks[index].as_mut() else { return Ok(()) };
        let zeroes = self.memory.as_ref().is_some_and(|memory| memory.hidden.rows().0 > 0);
        let Some(blocks) = changed(disk, zeroes, hands) else { return Ok(()) };
        let place = self.freezing.iter_mut().find(|place| place.is_none()).ok_or(Failed)?;
        let levels = disk_index::levels(disk.pages).ok_or(Failed)?;
        hands.engine.promise(snapshot, u64::from(blocks), hands.lending).map_err(|_| Failed)?;
        if !hands.engine.hold_commit(snapshot) {
            return Err(Failed);
        }
        disk.frozen = true;
        *place = Some(Freezing {
            disk: index,
            id: disk.id,
            snapshot,
            since: now,
            next: 0,
            levels,
            open: [None; LEVELS],
            root: None,
            blocks: 0,
        });
        Ok(())
    }

    /// Goes on with all of them. True if there is more to do at once.
    pub(super) fn freeze_turn(&mut self, hands: &mut Hands<'_>, now: u64) -> bool {
        let mut more = false;
        for place in 0..FREEZING {
            let Some(mut task) = self.freezing[place].take() else { continue };
            match self.freeze_step(&mut task, hands, now) {
                Ok(Step::Going(at_once)) => {
                    more |= at_once;
                    self.freezing[place] = Some(task);
                }
                Ok(Step::Done) => {
                    self.let_go(&task);
                    let image =
                        task.root.map(|root| Image { root, levels: task.levels, blocks: task.blocks });
                    if let Some(disk) = self.disks[task.disk].as_ref().filter(|disk| disk.id == task.id) {
                        hands.snapshots.set_image(task.snapshot, disk.devid, image);
                    }
                    let mut effects = Effects::new();
                    hands.engine.release_commit(task.snapshot, now, &mut effects);
                    let _ = hands.perform(&effects);
                }
                Err(Failed) => {
                    self.let_go(&task);
                    for frame in task.open.into_iter().flatten() {
                        hands.engine.freeze_unfilled(task.snapshot, frame);
                    }
                    if hands.engine.cancel(task.snapshot, hands.lending) {
                        log::warn!("a disk could not be brought into a snapshot: it is given up");
                    }
                }
            }
        }
        more
    }

    /// Its writes go on.
    fn let_go(&mut self, task: &Freezing) {
        if let Some(disk) = self.disks[task.disk].as_mut().filter(|disk| disk.id == task.id) {
            disk.frozen = false;
        }
        self.awake = true;
    }

    fn freeze_step(&mut self, task: &mut Freezing, hands: &mut Hands<'_>, now: u64) -> Result<Step, Failed> {
        let taken = hands
            .engine
            .snapshot(task.snapshot)
            .is_some_and(|figures| figures.state == SnapshotState::Taking);
        let disk = self.disks[task.disk].as_ref().filter(|disk| disk.id == task.id).ok_or(Failed)?;
        if !taken || now.saturating_sub(task.since) > HOLD_NS {
            return Err(Failed);
        }
        // What was begun before the instant is part of it.
        if self.jobs.iter().flatten().any(|job| job.disk == task.disk && job.begun) {
            return Ok(Step::Going(false));
        }
        let (mut looks, mut copies) = (0, 0);
        while task.next < u64::from(disk.pages) {
            if looks == LOOKS || copies == COPIES {
                return Ok(Step::Going(true));
            }
            looks += 1;
            let block = task.next;
            let entry = match locate(disk, self.memory.as_ref(), block, hands) {
                Located::At(source) if source.volume == disk.base => None,
                Located::At(source) => {
                    let Some(page) = task.copy(source, hands, now)? else { return Ok(Step::Going(false)) };
                    copies += 1;
                    task.blocks += 1;
                    Some(page)
                }
                Located::Zero => Some(disk_index::ZERO),
                Located::Index(source) => {
                    return match fetch(source, 0, hands) {
                        Wanted::Failed => Err(Failed),
                        Wanted::Resident(_) => Ok(Step::Going(true)),
                        Wanted::Reading | Wanted::NoRoom => Ok(Step::Going(false)),
                    };
                }
                Located::Nowhere => return Err(Failed),
            };
            if let Some(entry) = entry {
                task.put(0, block, entry, hands)?;
            }
            task.next += 1;
            for level in 0..task.levels {
                if disk_index::is_last(block, level) || task.next == u64::from(disk.pages) {
                    task.close(level, block, hands, now)?;
                }
            }
        }
        Ok(Step::Done)
    }
}

/// Blocks that a disk has over its base, those of zeroes apart; none where it shows its base.
fn changed(disk: &GuestDisk, zeroes: bool, hands: &Hands<'_>) -> Option<u32> {
    let before = disk.image.map(|image| image.blocks);
    let (blocks, zeroes) = match disk.over {
        Over::Nothing => (0, false),
        Over::Memory(_) => (disk.held, zeroes),
        Over::Store(overlay) => {
            let overlays = hands.overlays.as_ref()?;
            let figures = overlays.store.overlays().find(|figures| figures.id == overlay)?;
            (figures.mapped, figures.zero_rows > 0)
        }
    };
    (blocks > 0 || zeroes || before.is_some()).then(|| blocks.saturating_add(before.unwrap_or(0)))
}

impl Freezing {
    /// Copies a block into the frozen part. `None`: it has to be read first.
    fn copy(&self, source: Source, hands: &mut Hands<'_>, now: u64) -> Result<Option<u32>, Failed> {
        let frame = hands.engine.freeze_page(self.snapshot).map_err(|_| Failed)?;
        // The new frame may have been this one's.
        let from = hands.engine.resident(source.volume, source.page);
        let from = from.and_then(|frame| hands.lending.frame(frame));
        let (Some((from, _)), Some((to, _))) = (from, hands.lending.frame(frame)) else {
            hands.engine.freeze_unfilled(self.snapshot, frame);
            return match fetch(source, AHEAD, hands) {
                Wanted::Failed => Err(Failed),
                _ => Ok(None),
            };
        };
        to.copy_from(from);
        filled(self.snapshot, frame, hands, now).map(Some)
    }

    /// Sets the entry of a block on this level.
    fn put(&mut self, level: usize, block: u64, entry: u32, hands: &mut Hands<'_>) -> Result<(), Failed> {
        let place = self.open.get_mut(level).ok_or(Failed)?;
        let frame = match *place {
            Some(frame) => frame,
            None => {
                hands.engine.promise(self.snapshot, 1, hands.lending).map_err(|_| Failed)?;
                let frame = hands.engine.freeze_page(self.snapshot).map_err(|_| Failed)?;
                *place = Some(frame);
                hands.lending.frame(frame).ok_or(Failed)?.0.zero();
                frame
            }
        };
        hands.lending.frame(frame).ok_or(Failed)?.0.store(disk_index::place(block, level), entry);
        Ok(())
    }

    /// A page of the index has all of its entries.
    fn close(&mut self, level: usize, block: u64, hands: &mut Hands<'_>, now: u64) -> Result<(), Failed> {
        let Some(frame) = self.open.get_mut(level).and_then(Option::take) else { return Ok(()) };
        let page = filled(self.snapshot, frame, hands, now)?;
        if level + 1 == self.levels {
            self.root = Some(page);
            return Ok(());
        }
        self.put(level + 1, block, page, hands)
    }
}

fn filled(snapshot: SnapshotId, frame: FrameId, hands: &mut Hands<'_>, now: u64) -> Result<u32, Failed> {
    let page = hands.engine.freeze_filled(snapshot, frame, now, &*hands.lending).ok_or(Failed)?;
    u32::try_from(page).map_err(|_| Failed)
}

/// Whether a request changes what is on its disk.
pub(super) fn changes(operation: Operation) -> bool {
    matches!(operation, Operation::Write | Operation::Discard | Operation::Barrier)
}
