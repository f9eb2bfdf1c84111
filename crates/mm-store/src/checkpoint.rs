//! Checkpoints: images of the tables, so that the journal can be written over.
//!
//! The tables are copied a block at a time while they change. All that changes meanwhile is in the journal from `start` on, and
//! replaying it onto the copy gives the tables as they are, whatever of it the copy has already: every record says what is,
//! not what changed. Rows are copied first and overlays last, so a copy names no row of an overlay that it does not
//! know and that its journal does not make.
//!
//! The superblock is switched when all of the copy, and the journal up to its end, are durable; then, when the superblock is
//! durable, the journal before `start` is free.

use crate::Page;
use crate::bytes::{put_u32, put_u64};
use crate::change::Lifetime;
use crate::format::{CheckpointHeader, Kind, OverlayEntry, Superblock, entry_mut};
use crate::overlays::State;
use crate::rows::FREE;
use crate::store::Store;
#[cfg(test)]
use crate::tests::mutation;

/// Checkpoint blocks being written at once.
const IN_FLIGHT: u32 = 16;

/// How far the one that is under way is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// None is.
    Idle,
    /// The store was just opened: what was read has to be durable before anything is written. The superblock that was found may be in
    /// a cache below only, and the area that is written next is the one that the other superblock counts on.
    Opened,
    /// The next block to be copied.
    Copy(Kind, u32),
    /// All is copied: a flush has to cover the copy, and the journal up to here.
    Barrier(u64),
    /// The superblock can be written.
    Publish,
    Publishing,
    /// A flush has to cover the superblock.
    Published,
}

/// The one that is under way, or was.
pub(crate) struct Checkpoint {
    pub(crate) stage: Stage,
    /// First journal block to be replayed onto it.
    start: u64,
    /// Blocks of it being written.
    pub(crate) in_flight: u32,
    /// Blocks of overlays, zeroes and rows.
    pages: [u32; 3],
}

impl Checkpoint {
    pub(crate) fn new() -> Self {
        Self { stage: Stage::Idle, start: 0, in_flight: 0, pages: [0; 3] }
    }
}

impl Store<'_> {
    /// The first one since the store was opened.
    pub(crate) fn first_checkpoint(&mut self) {
        self.checkpoint = Checkpoint { stage: Stage::Opened, start: self.journal.next, ..Checkpoint::new() };
        #[cfg(test)]
        if mutation::is(mutation::Mutation::WriteAtOnce) {
            self.checkpoint.stage = Stage::Copy(Kind::Rows, 0);
        }
    }

    /// Starts a checkpoint, unless one is under way.
    pub fn checkpoint(&mut self) {
        if self.checkpoint.stage == Stage::Idle && !self.failed {
            self.checkpoint = Checkpoint {
                stage: Stage::Copy(Kind::Rows, 0),
                start: self.journal.next,
                ..Checkpoint::new()
            };
        }
    }

    /// Starts one when the journal is half full.
    pub(crate) fn checkpoint_when_due(&mut self) {
        if self.journal.next - self.journal.tail >= u64::from(self.geometry.journal / 2) {
            self.checkpoint();
        }
    }

    /// The next block of it that can be written now: into `page`, and its place.
    pub(crate) fn checkpoint_block(&mut self, page: &mut Page) -> Option<u32> {
        while let Stage::Copy(kind, index) = self.checkpoint.stage {
            if self.checkpoint.in_flight >= IN_FLIGHT {
                return None;
            }
            let end = match kind {
                Kind::Rows => self.map.counts.rows_end,
                Kind::Zeroes => self.map.counts.zeroes_end,
                Kind::Overlays => self.overlays.end(),
            };
            if index * kind.in_page() < end {
                self.checkpoint.stage = Stage::Copy(kind, index + 1);
                return Some(self.copy(kind, index, page));
            }
            let [overlays, zeroes, rows] = &mut self.checkpoint.pages;
            let (pages, next) = match kind {
                Kind::Rows => (rows, Stage::Copy(Kind::Zeroes, 0)),
                Kind::Zeroes => (zeroes, Stage::Copy(Kind::Overlays, 0)),
                Kind::Overlays => (overlays, Stage::Barrier(self.journal.last())),
            };
            *pages = index;
            self.checkpoint.stage = next;
        }
        None
    }

    fn copy(&mut self, kind: Kind, index: u32, page: &mut Page) -> u32 {
        page.fill(0);
        let first = index * kind.in_page();
        for at in 0..kind.in_page() {
            let entry = entry_mut(page, kind, at);
            match kind {
                Kind::Rows => {
                    let row = first + at;
                    let live = self.map.is_live(row) && self.overlays.persists(self.map.rows.at(row).overlay);
                    if row < self.map.rows.len() && live {
                        let row = self.map.rows.at(row);
                        for (place, word) in [(0, row.overlay), (4, row.logical), (8, row.crc)] {
                            put_u32(entry, place, word);
                        }
                    }
                }
                Kind::Zeroes => {
                    let row = self.map.zeroes.at(first + at);
                    if row.overlay != FREE && self.overlays.persists(row.overlay) {
                        put_u32(entry, 0, row.overlay);
                        put_u32(entry, 4, row.key);
                        put_u64(entry, 8, row.bits);
                    }
                }
                Kind::Overlays => {
                    let row = self.overlays.rows.at(first + at);
                    let alive = row.state == State::Alive && row.lifetime == Lifetime::Persistent;
                    let gone = OverlayEntry { id: row.entry.id, ..OverlayEntry::default() };
                    if alive { row.entry } else { gone }.write(entry);
                }
            }
        }
        let generation = self.generation + 1;
        CheckpointHeader { generation, kind, index }.seal(page, &self.uuid);
        self.checkpoint.in_flight += 1;
        self.counters.checkpoint_blocks += 1;
        self.place(kind, generation) + index
    }

    /// Where the blocks of a kind begin.
    pub(crate) fn place(&self, kind: Kind, generation: u64) -> u32 {
        let area = self.geometry.area_of(generation);
        let zeroes = area + self.geometry.overlay_pages();
        match kind {
            Kind::Overlays => area,
            Kind::Zeroes => zeroes,
            Kind::Rows => zeroes + self.geometry.zero_pages(),
        }
    }

    /// Whether the checkpoint waits for nothing but a flush.
    pub(crate) fn checkpoint_wants_flush(&self) -> bool {
        match self.checkpoint.stage {
            #[cfg(test)]
            Stage::Barrier(_) if mutation::is(mutation::Mutation::PublishEarly) => true,
            Stage::Barrier(end) => self.checkpoint.in_flight == 0 && self.journal.completed >= end,
            Stage::Opened | Stage::Published => true,
            _ => false,
        }
    }

    /// A flush that began when the checkpoint waited for it is done.
    pub(crate) fn checkpoint_flushed(&mut self) {
        match self.checkpoint.stage {
            Stage::Opened => self.checkpoint.stage = Stage::Copy(Kind::Rows, 0),
            Stage::Barrier(_) => self.checkpoint.stage = Stage::Publish,
            Stage::Published => {
                self.checkpoint.stage = Stage::Idle;
                self.generation += 1;
                self.journal.tail = self.checkpoint.start;
                self.settled = true;
                self.counters.checkpoints += 1;
            }
            _ => self.counters.bugs += 1,
        }
    }

    /// The superblock that makes the checkpoint count, into `page`, and its place, when it is time.
    pub(crate) fn publish(&mut self, page: &mut Page) -> Option<u32> {
        if self.checkpoint.stage != Stage::Publish {
            return None;
        }
        let Checkpoint { start, pages, .. } = self.checkpoint;
        let durable = self.journal.durable;
        let generation = self.generation + 1;
        let (uuid, epoch, geometry) = (self.uuid, self.epoch, self.geometry);
        Superblock { uuid, generation, epoch, start, durable, geometry, pages }.write(page);
        self.checkpoint.stage = Stage::Publishing;
        Some(u32::from(!generation.is_multiple_of(2)))
    }
}
