//! What the store shows of itself.

use crate::change::Lifetime;
use crate::format::NO_QUOTA;
use crate::geometry::Geometry;
use crate::overlays::OverlayId;
use crate::store::Store;

/// What only rises.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counters {
    pub(crate) writes: u64,
    pub(crate) records: u64,
    pub(crate) journal_blocks: u64,
    pub(crate) checkpoint_blocks: u64,
    pub(crate) checkpoints: u64,
    pub(crate) device_flushes: u64,
    pub(crate) flushes: u64,
    pub(crate) rotten: u64,
    pub(crate) bugs: u64,
}

/// What opening the store took.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RecoveryFigures {
    /// Metadata blocks read; at most [`Geometry::recovery_blocks`].
    pub blocks_read: u64,
    /// Data blocks read, to see whether a write that was not flushed is there; at most [`Geometry::recovery_data_blocks`].
    pub data_blocks_read: u64,
    /// Journal blocks replayed.
    pub journal_blocks: u64,
    /// Records replayed.
    pub records: u64,
    /// Writes that were never flushed and whose data is not there: they did not happen.
    pub lost_writes: u64,
}

/// Gauges and counters of the whole store. Blocks are of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figures {
    /// Sizes of the parts.
    pub geometry: Geometry,
    /// Data blocks by use. These four sum to `geometry.data`.
    pub free: u32,
    /// Given out, being written.
    pub writing: u32,
    /// Content of overlays, those included that were deleted and are not swept.
    pub live: u32,
    /// Superseded; free when that is durable.
    pub pending: u32,
    /// Rows for zeroes in use, of `geometry.zeroes`.
    pub zero_rows: u32,
    /// Rows that the walk that takes back what deleted overlays held has to look at.
    pub sweep_left: u32,
    /// Overlays.
    pub overlays: u32,
    /// Journal blocks in use, of `geometry.journal`.
    pub journal: u32,
    /// Journal blocks not known to be durable.
    pub unflushed: u32,
    /// Writes done.
    pub writes: u64,
    /// Records appended.
    pub records: u64,
    /// Journal blocks written.
    pub journal_blocks: u64,
    /// Checkpoint blocks written.
    pub checkpoint_blocks: u64,
    /// Checkpoints completed.
    pub checkpoints: u64,
    /// Flushes of the disk.
    pub device_flushes: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Blocks read that were not what was written.
    pub rotten: u64,
    /// Mistakes of this crate's that were noticed; 0.
    pub bugs: u64,
    /// Whether the first checkpoint since opening is done: writes are taken.
    pub settled: bool,
    /// Whether the disk has failed: nothing is written any more.
    pub failed: bool,
    /// What opening took.
    pub recovery: RecoveryFigures,
}

/// Gauges of one overlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverlayFigures<'a> {
    /// Its number.
    pub id: OverlayId,
    /// Its name.
    pub name: &'a str,
    /// Its base's identity.
    pub base: [u8; 16],
    /// Its base's blocks, and its own.
    pub pages: u32,
    /// Most blocks that it may hold.
    pub quota: Option<u32>,
    /// Blocks that it holds.
    pub mapped: u32,
    /// Rows for ranges that read as zeroes.
    pub zero_rows: u32,
    /// How long it is kept.
    pub lifetime: Lifetime,
    /// Whether a client has it.
    pub open: bool,
    /// Blocks read that were not what was written.
    pub rotten: u64,
}

impl Store<'_> {
    /// All of it. Walks over the table of overlays.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let (counts, counters, journal) = (self.map.counts, self.counters, &self.journal);
        let narrow = |blocks: u64| u32::try_from(blocks).unwrap_or(u32::MAX);
        let wild = self.map.rows.wild() + self.map.zeroes.wild() + self.overlays.rows.wild();
        Figures {
            geometry: self.geometry,
            free: counts.free,
            writing: counts.writing,
            live: counts.live,
            pending: counts.pending,
            zero_rows: counts.zeroes,
            sweep_left: self.sweep.left,
            overlays: narrow(self.overlays.alive().count() as u64),
            journal: narrow(journal.next - journal.tail),
            unflushed: narrow(journal.last() - journal.durable),
            writes: counters.writes,
            records: counters.records,
            journal_blocks: counters.journal_blocks,
            checkpoint_blocks: counters.checkpoint_blocks,
            checkpoints: counters.checkpoints,
            device_flushes: counters.device_flushes,
            flushes: counters.flushes,
            rotten: counters.rotten,
            bugs: counters.bugs + u64::from(wild),
            settled: self.settled,
            failed: self.failed,
            recovery: self.recovery,
        }
    }

    /// Blocks written since the store was opened, as in [`Figures::writes`].
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.counters.writes
    }

    /// Every overlay.
    pub fn overlays(&self) -> impl Iterator<Item = OverlayFigures<'_>> {
        self.overlays.alive().map(|row| OverlayFigures {
            id: OverlayId(row.entry.id),
            name: row.entry.name.as_str(),
            base: row.entry.base,
            pages: row.entry.pages,
            quota: (row.entry.quota != NO_QUOTA).then_some(row.entry.quota),
            mapped: row.mapped,
            zero_rows: row.hidden,
            lifetime: row.lifetime,
            open: row.open,
            rotten: row.rotten,
        })
    }

    /// The identity that the store was given when it was made.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }
}
