//! Where a block is, and writing one.

use crate::change::Lifetime;
use crate::checkpoint::Checkpoint;
use crate::error::{IoFailed, WriteRefused};
use crate::figures::{Counters, RecoveryFigures};
use crate::flush::{Bursts, Flushes};
use crate::format::{MAP, Record};
use crate::geometry::Geometry;
use crate::journal::Journal;
use crate::overlays::{OverlayId, OverlayRow, Overlays};
use crate::rows::Map;
use crate::sweep::Sweep;
use crate::work::Flushing;

/// A block of the disk, counted from its beginning in 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DiskBlock(pub u32);

/// An open store. [`Recovery`](crate::Recovery) makes it.
///
/// Its owner calls [`poll`](Self::poll) until it gives nothing, performs what it gives, and reports that by
/// [`completed`](Self::completed). A write is [`begin_write`](Self::begin_write), the data to the disk block of the
/// [`Place`], then [`written`](Self::written); a read is [`lookup`](Self::lookup), the data from where that says, then
/// [`verdict`](Self::verdict).
pub struct Store<'a> {
    pub(crate) geometry: Geometry,
    pub(crate) uuid: [u8; 16],
    pub(crate) epoch: u64,
    /// Of the checkpoint on the disk.
    pub(crate) generation: u64,
    pub(crate) map: Map<'a>,
    pub(crate) overlays: Overlays<'a>,
    pub(crate) journal: Journal<'a>,
    pub(crate) flushes: Flushes,
    pub(crate) flushing: Option<Flushing>,
    pub(crate) bursts: Bursts,
    /// The journal block that somebody besides a flush wants durable soon.
    pub(crate) urgent: u64,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) sweep: Sweep,
    /// The first checkpoint since the store was opened is on the disk; nothing is written before.
    pub(crate) settled: bool,
    pub(crate) failed: bool,
    pub(crate) counters: Counters,
    pub(crate) recovery: RecoveryFigures,
}

/// Where a logical block's content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// In the base volume, at the same number.
    Base,
    /// Zeroes.
    Zero,
    /// On the disk. Its content does not change while the mapping is there.
    At {
        /// Where.
        disk: DiskBlock,
        /// What [`crc32c`](crate::crc32c) gives for it.
        crc: u32,
    },
}

/// What [`Store::verdict`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The content is right.
    Good,
    /// The block was overwritten meanwhile: look it up again.
    Stale,
    /// The disk gave something else than what was written: an error for this client. Named on the owner's log, and counted.
    Rotten,
}

/// A block of the disk that was given out to be written. It goes back by [`Store::written`], whatever became of it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "the block is lost until the store is opened again"]
pub struct Place {
    /// Where to write.
    pub disk: DiskBlock,
    /// For which overlay.
    pub overlay: OverlayId,
    /// For which of its blocks.
    pub block: u32,
    charged: bool,
}

/// A mapping, for who checks the whole disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Live {
    /// Whose.
    pub overlay: OverlayId,
    /// Which of its blocks.
    pub block: u32,
    /// Where.
    pub disk: DiskBlock,
    /// Its checksum.
    pub crc: u32,
}

impl Store<'_> {
    /// Where to read a block of an overlay.
    ///
    /// # Errors
    /// `Unknown` or `Range`.
    pub fn lookup(&self, overlay: OverlayId, block: u32) -> Result<Found, WriteRefused> {
        let row = self.overlays.get(overlay).ok_or(WriteRefused::Unknown)?;
        if block >= row.entry.pages {
            return Err(WriteRefused::Range);
        }
        if row.mapped > 0
            && let Some(found) = self.map.find(overlay.0, block)
        {
            let crc = self.map.rows.at(found).crc;
            return Ok(Found::At { disk: DiskBlock(self.geometry.disk_block(found)), crc });
        }
        let hidden = row.hidden > 0 && self.map.hidden(overlay.0, block);
        Ok(if hidden { Found::Zero } else { Found::Base })
    }

    /// What a block of the disk holds now, if a mapping leads to it.
    #[must_use]
    pub fn mapped_at(&self, disk: DiskBlock) -> Option<Live> {
        let index = self.geometry.row(disk.0).filter(|row| self.map.is_live(*row))?;
        let row = self.map.rows.at(index);
        Some(Live { overlay: OverlayId(row.overlay), block: row.logical, disk, crc: row.crc })
    }

    /// Judges what was read where [`lookup`](Self::lookup) said, `sum` being the checksum of what came.
    pub fn verdict(&mut self, overlay: OverlayId, block: u32, found: Found, sum: u32) -> Verdict {
        let Found::At { crc, .. } = found else { return Verdict::Good };
        if crc == sum {
            return Verdict::Good;
        }
        if self.lookup(overlay, block) != Ok(found) {
            return Verdict::Stale;
        }
        if let Some(row) = self.overlays.get_mut(overlay) {
            row.rotten += 1;
        }
        self.counters.rotten += 1;
        Verdict::Rotten
    }

    /// Gives a free disk block for new content of a logical block. Reads see the old content until [`written`](Self::written).
    ///
    /// # Errors
    /// See [`WriteRefused`].
    pub fn begin_write(&mut self, overlay: OverlayId, block: u32) -> Result<Place, WriteRefused> {
        let row = self.admit(overlay, block, 1)?;
        let (mapped, room) = (row.mapped, row.room());
        let charged = mapped == 0 || self.map.find(overlay.0, block).is_none();
        if charged && room == 0 {
            return Err(WriteRefused::Quota);
        }
        if self.journal.outstanding >= self.geometry.places_most()
            || !self.journal.admits(MAP, &self.geometry)
        {
            return Err(WriteRefused::Busy);
        }
        // The last free blocks are for overwriting: a full file system goes on working on what it has.
        let kept = if charged { (self.geometry.data / 16).min(64) } else { 0 };
        if self.map.counts.free <= kept {
            return Err(self.no_space());
        }
        let row = self.map.take(overlay.0, block).ok_or(WriteRefused::Full)?;
        if let Some(row) = self.overlays.get_mut(overlay) {
            row.charged += u32::from(charged);
        }
        self.journal.outstanding += 1;
        Ok(Place { disk: DiskBlock(self.geometry.disk_block(row)), overlay, block, charged })
    }

    /// The write to a place is done, well or not; `crc` is the checksum of what was written. If it was done well the content
    /// is what reads give from now on, and what the next [`flush`](Self::flush) makes durable.
    ///
    /// # Errors
    /// It was not done well, or the store has failed meanwhile: the client must hear of an error.
    pub fn written(&mut self, place: Place, crc: u32, result: Result<(), IoFailed>) -> Result<(), IoFailed> {
        let Place { disk, overlay, block, charged } = place;
        self.journal.outstanding = self.journal.outstanding.saturating_sub(1);
        let Some(row) = self.geometry.row(disk.0) else { return Err(IoFailed) };
        let owner = self.overlays.get_mut(overlay);
        let gone = owner.is_none();
        if let Some(owner) = owner {
            owner.charged = owner.charged.saturating_sub(u32::from(charged));
        }
        if result.is_err() || gone || self.failed {
            self.map.abandon(row);
            return if self.failed { Err(IoFailed) } else { result };
        }
        let record = Record::Map { overlay: overlay.0, logical: block, disk: disk.0, crc };
        let Some(sequence) = self.record(overlay, &record) else {
            self.map.abandon(row);
            return Err(IoFailed);
        };
        self.bursts.written(sequence, self.journal.outstanding == 0);
        let old = self.map.bind(row, crc);
        match old {
            Some(old) => self.map.supersede(old, sequence, self.journal.durable),
            None => {
                if let Some(owner) = self.overlays.get_mut(overlay) {
                    owner.mapped += 1;
                }
            }
        }
        self.counters.writes += 1;
        Ok(())
    }

    /// What every change of an overlay's blocks asks first.
    pub(crate) fn admit(
        &self,
        overlay: OverlayId,
        block: u32,
        count: u32,
    ) -> Result<&OverlayRow, WriteRefused> {
        let row = self.overlays.get(overlay).ok_or(WriteRefused::Unknown)?;
        if block >= row.entry.pages || count > row.entry.pages - block {
            return Err(WriteRefused::Range);
        }
        if self.failed {
            return Err(WriteRefused::ReadOnly);
        }
        if !self.settled {
            return Err(WriteRefused::Busy);
        }
        Ok(row)
    }

    /// Appends a record of an overlay's, for which there is room, and gives the journal block that has to be durable before what it
    /// supersedes is free. Of an ephemeral overlay nothing is journaled, and that is one that is durable.
    ///
    /// That there is no room is a mistake of this crate's: the store stops writing.
    pub(crate) fn record(&mut self, overlay: OverlayId, record: &Record) -> Option<u64> {
        if self.overlays.get(overlay).is_some_and(|row| row.lifetime == Lifetime::Ephemeral) {
            return Some(self.journal.durable);
        }
        let sequence = self.journal.append(record);
        match sequence {
            Some(_) => self.counters.records += 1,
            None => {
                self.counters.bugs += 1;
                self.failed = true;
            }
        }
        sequence
    }

    /// No free block: there may be some soon, if what was superseded or deleted becomes durable.
    fn no_space(&mut self) -> WriteRefused {
        let coming = self.map.counts.pending > 0 || self.sweep.left > 0 || self.sweep.deleting > 0;
        if !coming {
            return WriteRefused::Full;
        }
        self.urgent = self.journal.last();
        WriteRefused::Busy
    }

    /// Every mapping, in the order of the disk.
    pub fn live(&self) -> impl Iterator<Item = Live> + '_ {
        (0..self.map.rows.len()).filter(|row| self.map.is_live(*row)).filter_map(|index| {
            let row = self.map.rows.at(index);
            let disk = DiskBlock(self.geometry.disk_block(index));
            let live = Live { overlay: OverlayId(row.overlay), block: row.logical, disk, crc: row.crc };
            self.overlays.exists(row.overlay).then_some(live)
        })
    }
}
