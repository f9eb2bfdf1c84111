//! Snapshots that last (`--persist`): their pages go to the store's disk, and the next M1 finds them there.
//!
//! A snapshot is there wholly or not at all: its header is written after a flush that covers its pages and its bitmap, and it is the first thing
//! to go. Pages whose snapshot is not there are taken from the disk at the next start.

mod arrive;
mod restore;
mod store;

use mm_engine::{Effects, SnapshotId, Wanted};
use mm_store::{BLOCK, Page};

use crate::m1::M1;
use crate::overlays::Finished;
use restore::Restore;
use store::Phase;

/// What is under way.
pub(crate) struct Keeper {
    restore: Restore,
    /// Something of the directory is not known: pages of no known snapshot stay on the disk.
    unreadable: bool,
    /// And it may be good: nothing is written where it may be.
    blocked: bool,
    storing: Option<(SnapshotId, Phase)>,
    /// Blocks on their way.
    out: usize,
    failed: bool,
    /// A flush was asked for; it is done.
    flushing: bool,
    /// A page that is to go from the disk.
    unwanted: Option<u64>,
}

impl Keeper {
    pub(crate) const fn new() -> Self {
        Self {
            restore: Restore::Open,
            unreadable: false,
            blocked: false,
            storing: None,
            out: 0,
            failed: false,
            flushing: false,
            unwanted: None,
        }
    }

    /// Whether the snapshots of the M1 before are known.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.restore, Restore::Orphans(_) | Restore::Done)
    }

    /// Whether snapshots can be kept.
    pub(crate) fn can_keep(&self) -> bool {
        !self.blocked
    }

    pub(crate) fn is_storing(&self, id: SnapshotId) -> bool {
        self.storing.is_some_and(|(storing, _)| storing == id)
    }

    /// Something of its has ended.
    pub(crate) fn finished(&mut self, finished: &Finished) {
        if finished.blocks == 0 {
            self.flushing = false;
        } else {
            self.out = self.out.saturating_sub(finished.blocks);
        }
        self.failed |= !finished.good;
    }
}

impl M1 {
    /// Goes on with what is read from, written to or taken from the store's disk. True if there is more to do at once.
    pub(crate) fn keeper_turn(&mut self) -> bool {
        if self.overlays.is_none() {
            self.snapshots.keeper.restore = Restore::Done;
            return false;
        }
        match core::mem::replace(&mut self.snapshots.keeper.restore, Restore::Done) {
            Restore::Done => {}
            step => {
                let (next, more) = self.restore_step(step);
                self.snapshots.keeper.restore = next;
                return more;
            }
        }
        let more = self.remove_unwanted();
        more | self.store_step()
    }

    /// A block of the directory.
    fn read_directory(&mut self, block: u32) -> Read {
        let Some(overlays) = &self.overlays else { return Read::Absent };
        let volume = overlays.volume;
        let Some(disk) = overlays.frozen_block(block) else { return Read::Absent };
        let mut effects = Effects::new();
        let wanted = self.engine.want(volume, u64::from(disk), 0, &mut self.lending, &mut effects);
        self.hands().perform(&effects);
        match wanted {
            Wanted::Resident(frame) => {
                let mut page = [0; BLOCK];
                if let Some((words, _)) = self.lending.frame(frame) {
                    let _ = words.read(0, &mut page);
                }
                Read::Block(page)
            }
            Wanted::Reading | Wanted::NoRoom => Read::Wait,
            Wanted::Failed => Read::Failed,
        }
    }
}

/// What came of looking for a block.
#[expect(clippy::large_enum_variant, reason = "a block is on the stack either way: there is no heap")]
enum Read {
    Absent,
    Wait,
    Failed,
    Block(Page),
}
