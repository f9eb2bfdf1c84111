//! Opening a store: superblocks, then the checkpoint, then the journal. It asks for blocks, its owner reads them.
//!
//! The journal is read twice. First its headers: where it ends, and up to where it was durable. Then it is replayed. Up to
//! there records are taken as they are. A record of a later block may name data that never reached the disk: that
//! data is read, and where its checksum is another, that one write did not happen and the logical block keeps what it had
//! before. (What it had before is there: it is not written over until the record that supersedes it is durable.)
//!
//! What was read may be in a cache below the disk only, and blocks of this epoch may lie behind the journal's end. So the
//! store flushes the disk and writes a checkpoint of a new epoch before it takes the first write; until that is durable,
//! recovery can be repeated.

use crate::Page;
use crate::checkpoint::Checkpoint;
use crate::error::{IoFailed, OpenError, Part};
use crate::figures::{Counters, RecoveryFigures};
use crate::flush::{Bursts, Flushes};
use crate::format::{Bad, CheckpointHeader, JournalHeader, Kind, Superblock};
use crate::journal::Journal;
use crate::overlays::Overlays;
use crate::rows::Map;
use crate::sizes::{Memory, TableSizes};
use crate::store::Store;
use crate::sweep::Sweep;
use crate::table::Table;
#[cfg(test)]
use crate::tests::mutation;

/// Blocks to be read, at once and in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The first.
    pub block: u32,
    /// How many.
    pub blocks: u32,
}

/// What is to be read next.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Superblocks,
    /// From this block of the kind on.
    Checkpoint(Kind, u32),
    /// Headers, from this sequence number on.
    Scan(u64),
    /// Records, from this sequence number on.
    Replay(u64),
    /// Data that the record at this offset of the kept journal block names, and those of the records after it that lie behind it.
    Data {
        sequence: u64,
        offset: usize,
        block: u32,
        blocks: u32,
    },
    Done,
}

/// A store that is being opened.
pub struct Recovery<'a> {
    memory: Option<Memory<'a>>,
    disk_blocks: u32,
    run: u32,
    phase: Phase,
    error: Option<OpenError>,
    pub(crate) store: Option<Store<'a>>,
    superblock: Option<Superblock>,
    /// The last block of the journal's unbroken run, and the last that is known to have been durable.
    last: u64,
    durable: u64,
    /// The journal block whose data is being looked at.
    kept: Page,
    kept_bytes: u32,
    pub(crate) figures: RecoveryFigures,
}

impl<'a> Recovery<'a> {
    /// A store on a disk of `disk_blocks` blocks. Each reading is of at most `run` blocks, and at least 2.
    #[must_use]
    pub fn new(memory: Memory<'a>, disk_blocks: u32, run: u32) -> Self {
        Self {
            memory: Some(memory),
            disk_blocks,
            run: run.max(2),
            phase: Phase::Superblocks,
            error: if disk_blocks < 2 { Some(OpenError::NoStore) } else { None },
            store: None,
            superblock: None,
            last: 0,
            durable: 0,
            kept: [0; crate::BLOCK],
            kept_bytes: 0,
            figures: RecoveryFigures::default(),
        }
    }

    /// What to read next; nothing when [`finish`](Self::finish) is to be called.
    #[must_use]
    pub fn next(&self) -> Option<Reading> {
        if self.error.is_some() {
            return None;
        }
        let store = self.store.as_ref();
        match (self.phase, store) {
            (Phase::Superblocks, _) => Some(Reading { block: 0, blocks: 2 }),
            (Phase::Checkpoint(kind, index), Some(store)) => {
                let left = self.pages(kind) - index;
                Some(Reading {
                    block: store.place(kind, store.generation) + index,
                    blocks: left.min(self.run),
                })
            }
            (Phase::Scan(sequence), Some(store)) => {
                let end = self.start() + u64::from(store.geometry.journal);
                Some(self.journal_run(store, sequence, end, self.run))
            }
            (Phase::Replay(sequence), Some(store)) => {
                // Blocks whose data has to be looked at come one by one.
                let trusted = self.durable.min(self.last) + 1;
                let (end, run) = if sequence < trusted { (trusted, self.run) } else { (self.last + 1, 1) };
                Some(self.journal_run(store, sequence, end, run))
            }
            (Phase::Data { block, blocks, .. }, _) => Some(Reading { block, blocks }),
            _ => None,
        }
    }

    /// What was asked for was read; as many pages as it had blocks.
    pub fn done(&mut self, pages: Result<&[Page], IoFailed>) {
        let Some(reading) = self.next() else { return };
        let pages = match (pages, self.phase) {
            (Ok(pages), _) if pages.len() == reading.blocks as usize => pages,
            // Whether this write was flushed cannot be told. If it was, who reads the block has to hear of the disk's error.
            (_, Phase::Data { sequence, offset, .. }) => return self.data(sequence, offset, None),
            _ => {
                self.error = Some(OpenError::Read { block: reading.block });
                return;
            }
        };
        if !matches!(self.phase, Phase::Data { .. }) {
            self.figures.blocks_read += pages.len() as u64;
        }
        let result = match self.phase {
            Phase::Superblocks => self.superblocks(pages),
            Phase::Checkpoint(kind, index) => self.checkpoint(kind, index, pages, reading.block),
            Phase::Scan(sequence) => self.scan(sequence, pages),
            Phase::Replay(sequence) => self.replay(sequence, pages, reading.block),
            Phase::Data { sequence, offset, .. } => {
                self.data(sequence, offset, Some(pages));
                Ok(())
            }
            Phase::Done => Ok(()),
        };
        if let Err(error) = result {
            self.error = Some(error);
        }
    }

    /// The store. Until its first checkpoint is done ([`Figures::settled`](crate::Figures::settled)) it can only be read.
    ///
    /// # Errors
    /// See [`OpenError`]. No cut of power makes a store that does not open.
    pub fn finish(mut self) -> Result<Store<'a>, OpenError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let unfinished = OpenError::Read { block: self.next().map_or(0, |reading| reading.block) };
        let mut store = self.store.take().filter(|_| matches!(self.phase, Phase::Done)).ok_or(unfinished)?;
        store.count_everything();
        store.recovery = self.figures;
        if store.names_clash() {
            return Err(OpenError::Damaged {
                block: store.geometry.area_of(store.generation),
                part: Part::Checkpoint,
            });
        }
        store.first_checkpoint();
        Ok(store)
    }

    fn superblocks(&mut self, pages: &[Page]) -> Result<(), OpenError> {
        let [a, b] = pages else { return Err(OpenError::NoStore) };
        let superblock = Superblock::choose([a, b])?;
        let geometry = superblock.geometry;
        if geometry.blocks() > self.disk_blocks {
            return Err(OpenError::DiskTooSmall { needed: geometry.blocks() });
        }
        let needed = TableSizes::new(&geometry);
        let memory = self.memory.take().filter(|memory| needed.fit(memory));
        let memory = memory.ok_or(OpenError::TablesTooSmall { needed })?;
        let seed = crate::bytes::u64_at(&superblock.uuid, 0) ^ crate::bytes::u64_at(&superblock.uuid, 8);
        let rows = Table::new(memory.rows, geometry.data);
        let zeroes = Table::new(memory.zeroes, geometry.zeroes);
        self.store = Some(Store {
            geometry,
            uuid: superblock.uuid,
            epoch: superblock.epoch,
            generation: superblock.generation,
            map: Map::new(rows, zeroes, memory.buckets, memory.free, seed),
            overlays: Overlays { rows: Table::new(memory.overlays, geometry.overlays) },
            journal: Journal::new(memory.journal, superblock.start),
            flushes: Flushes::new(),
            flushing: None,
            bursts: Bursts::default(),
            urgent: 0,
            checkpoint: Checkpoint::new(),
            sweep: Sweep::default(),
            settled: false,
            failed: false,
            counters: Counters::default(),
            recovery: RecoveryFigures::default(),
        });
        (self.last, self.durable) = (superblock.start - 1, superblock.durable);
        self.superblock = Some(superblock);
        self.phase = self.next_kind(Kind::Overlays, 0);
        Ok(())
    }

    fn pages(&self, kind: Kind) -> u32 {
        let [overlays, zeroes, rows] = self.superblock.map_or([0; 3], |superblock| superblock.pages);
        match kind {
            Kind::Overlays => overlays,
            Kind::Zeroes => zeroes,
            Kind::Rows => rows,
        }
    }

    fn start(&self) -> u64 {
        self.superblock.map_or(0, |superblock| superblock.start)
    }

    /// Overlays come first: what is not an overlay's that is there is left out.
    fn next_kind(&self, kind: Kind, index: u32) -> Phase {
        if index < self.pages(kind) {
            return Phase::Checkpoint(kind, index);
        }
        match kind {
            Kind::Overlays => self.next_kind(Kind::Zeroes, 0),
            Kind::Zeroes => self.next_kind(Kind::Rows, 0),
            Kind::Rows => Phase::Scan(self.start()),
        }
    }

    fn checkpoint(&mut self, kind: Kind, index: u32, pages: &[Page], block: u32) -> Result<(), OpenError> {
        let mut index = index;
        for (page, block) in pages.iter().zip(block..) {
            let damaged = |_: Bad| OpenError::Damaged { block, part: Part::Checkpoint };
            let Some(store) = &mut self.store else { return Ok(()) };
            let header = CheckpointHeader { generation: store.generation, kind, index };
            header.check(page, &store.uuid).map_err(damaged)?;
            store.load(kind, index, page).map_err(damaged)?;
            index += 1;
        }
        self.phase = self.next_kind(kind, index);
        if matches!(self.phase, Phase::Checkpoint(Kind::Rows, _) | Phase::Scan(_))
            && kind == Kind::Zeroes
            && let Some(store) = &mut self.store
        {
            store.map.link_free_zeroes();
        }
        Ok(())
    }

    /// At most `run` journal blocks from a sequence number on, up to `end` or the journal's last block.
    fn journal_run(&self, store: &Store<'_>, sequence: u64, end: u64, run: u32) -> Reading {
        let journal = u64::from(store.geometry.journal);
        let round = journal - sequence % journal;
        let blocks = end.saturating_sub(sequence).min(round).min(u64::from(run));
        Reading { block: store.geometry.journal_block(sequence), blocks: u32::try_from(blocks).unwrap_or(1) }
    }

    fn scan(&mut self, sequence: u64, pages: &[Page]) -> Result<(), OpenError> {
        let Some(store) = &self.store else { return Ok(()) };
        let mut sequence = sequence;
        for page in pages {
            let header = JournalHeader::read(page, &store.uuid, store.epoch);
            if let Ok(header) = header
                && header.sequence == sequence
            {
                // A block behind a gap was never flushed; it only says what it knew.
                self.durable = self.durable.max(header.durable);
                if self.last + 1 == sequence {
                    self.last = sequence;
                }
            }
            sequence += 1;
        }
        if sequence < self.start() + u64::from(store.geometry.journal) {
            self.phase = Phase::Scan(sequence);
            return Ok(());
        }
        if self.durable > self.last {
            let block = store.geometry.journal_block(self.last + 1);
            return Err(OpenError::Damaged { block, part: Part::Journal });
        }
        #[cfg(test)]
        if mutation::is(mutation::Mutation::TrustUnflushed) {
            self.durable = self.last;
        }
        self.go_on(self.start());
        Ok(())
    }

    fn go_on(&mut self, sequence: u64) {
        if sequence <= self.last {
            self.phase = Phase::Replay(sequence);
            return;
        }
        if let Some(store) = &mut self.store {
            store.journal.restart(self.last + 1);
            store.epoch += 1;
            #[cfg(test)]
            if mutation::is(mutation::Mutation::KeepEpoch) {
                store.epoch -= 1;
            }
        }
        self.phase = Phase::Done;
    }

    fn replay(&mut self, sequence: u64, pages: &[Page], block: u32) -> Result<(), OpenError> {
        for ((page, block), sequence) in pages.iter().zip(block..).zip(sequence..) {
            let Some(store) = &mut self.store else { return Ok(()) };
            let damaged = |_: Bad| OpenError::Damaged { block, part: Part::Journal };
            // It was good when its header was read: if it is not now, the disk gives this and that.
            let header = JournalHeader::read(page, &store.uuid, store.epoch).map_err(damaged)?;
            let records = store.check_records(page, &header).map_err(damaged)?;
            self.figures.journal_blocks += 1;
            self.figures.records += u64::from(header.count);
            if sequence <= self.durable {
                store.apply_all(records);
                continue;
            }
            self.kept.copy_from_slice(page);
            self.kept_bytes = header.bytes;
            self.look(sequence, 0);
            return Ok(());
        }
        self.go_on(sequence + pages.len() as u64);
        Ok(())
    }

    /// Applies records of the kept block from an offset on, up to one whose data has to be read.
    fn look(&mut self, sequence: u64, offset: usize) {
        let Some(store) = &mut self.store else { return };
        match store.apply_until_data(&self.kept, self.kept_bytes, offset, self.run) {
            Some((offset, block, blocks)) => self.phase = Phase::Data { sequence, offset, block, blocks },
            None => self.go_on(sequence + 1),
        }
    }

    fn data(&mut self, sequence: u64, offset: usize, pages: Option<&[Page]>) {
        let Phase::Data { blocks, .. } = self.phase else { return };
        let Some(store) = &mut self.store else { return };
        self.figures.data_blocks_read += u64::from(blocks);
        let (offset, lost) = store.apply_data(&self.kept, self.kept_bytes, offset, blocks, pages);
        self.figures.lost_writes += lost;
        self.look(sequence, offset);
    }
}
