//! Writing a snapshot to the store's disk: pages, bitmap, flush, header, flush; and taking from there what no snapshot has any more.

use mm_engine::{NextPage, SnapshotId};
use mm_proto::FROZEN_FIRST;
use mm_store::{BLOCK, CreateRefused, Page, Place, WriteRefused, crc32c};

use super::super::directory::{BITMAP_PAGES, DiskEntry, Header, bitmap_block, chain, header_block, number};
use super::super::{DISKS, Persist};
use super::restore::ORPHANS;
use crate::m1::M1;
use crate::overlays::{Block, KEEPER};
use crate::volumes;

/// Pages that are written in one turn.
const PAGES: usize = 16;
/// Frozen pages that one turn looks at.
const LOOK: u32 = 4096;

/// How far the snapshot that is being kept is.
#[derive(Clone, Copy)]
pub(super) enum Phase {
    Pages(u64),
    Bitmap(u32, u32),
    Flush(u32),
    Header,
    LastFlush,
}

/// What stopped a step.
enum Stop {
    /// Go on in a later turn.
    Wait,
    /// The snapshot is not kept.
    Fail,
}

impl M1 {
    /// Takes pages from the disk whose last snapshot was removed.
    pub(super) fn remove_unwanted(&mut self) -> bool {
        for _ in 0..ORPHANS {
            let keeper = &mut self.snapshots.keeper;
            let Some(page) = keeper.unwanted.take().or_else(|| self.engine.next_unwanted()) else {
                return false;
            };
            let block = u32::try_from(page - FROZEN_FIRST).unwrap_or(u32::MAX);
            match self.overlays.as_mut().map_or(Ok(()), |overlays| overlays.remove_frozen(block)) {
                Err(WriteRefused::Busy) => {
                    keeper.unwanted = Some(page);
                    return false;
                }
                // What cannot be taken from there now is at the next start.
                Ok(()) | Err(_) => self.engine.page_removed(page),
            }
        }
        true
    }

    /// Goes on with keeping a snapshot, or begins with the next.
    pub(super) fn store_step(&mut self) -> bool {
        if self.snapshots.keeper.storing.is_none() {
            let wanted = self.snapshots.iter().find(|slot| slot.persist == Persist::Wanted && slot.ready);
            let Some(id) = wanted.map(|slot| slot.id) else { return false };
            let keeper = &mut self.snapshots.keeper;
            (keeper.storing, keeper.failed) = (Some((id, Phase::Pages(FROZEN_FIRST))), false);
        }
        let Some((id, phase)) = self.snapshots.keeper.storing else { return false };
        if self.snapshots.keeper.failed {
            // What is on its way comes first.
            if self.snapshots.keeper.out == 0 && !self.snapshots.keeper.flushing {
                self.keeping_ended(id, Persist::Failed);
            }
            return false;
        }
        match self.store_phase(id, phase) {
            Ok(Some(next)) => {
                self.snapshots.keeper.storing = Some((id, next));
                true
            }
            Ok(None) => {
                self.keeping_ended(id, Persist::Stored);
                true
            }
            Err(Stop::Wait) => false,
            Err(Stop::Fail) => {
                self.snapshots.keeper.failed = true;
                true
            }
        }
    }

    fn keeping_ended(&mut self, id: SnapshotId, persist: Persist) {
        self.snapshots.keeper.storing = None;
        if let Some(slot) = self.snapshots.get_mut(id) {
            slot.persist = persist;
            match persist {
                Persist::Stored => log::info!("snapshot {}@{} is on the store's disk", slot.over, slot.name),
                _ => log::error!("snapshot {}@{} could not be stored", slot.over, slot.name),
            }
        }
    }

    /// One step. `Ok(None)`: it is kept.
    fn store_phase(&mut self, id: SnapshotId, phase: Phase) -> Result<Option<Phase>, Stop> {
        let frozen = self.engine.frozen_volume().ok_or(Stop::Fail)?;
        match self.overlays.as_mut().ok_or(Stop::Fail)?.open_frozen(frozen, true) {
            Ok(Some(_)) => {}
            Err(CreateRefused::Busy) => return Err(Stop::Wait),
            Ok(None) | Err(_) => return Err(Stop::Fail),
        }
        let keeper = &self.snapshots.keeper;
        let settled = keeper.out == 0 && !keeper.flushing;
        match phase {
            Phase::Pages(from) => match self.store_pages(id, from)? {
                Some(next) => Ok(Some(Phase::Pages(next))),
                None if settled => Ok(Some(Phase::Bitmap(0, 0))),
                None => Err(Stop::Wait),
            },
            Phase::Bitmap(index, sum) => {
                let last = self.last_page(id);
                if index > number(last) / BITMAP_PAGES {
                    if !settled {
                        return Err(Stop::Wait);
                    }
                    self.ask_flush()?;
                    return Ok(Some(Phase::Flush(sum)));
                }
                let page = self.bitmap(id, index);
                self.write_directory(bitmap_block(id.0, index), &page)?;
                Ok(Some(Phase::Bitmap(index + 1, chain(sum, &page))))
            }
            Phase::Flush(_) | Phase::Header | Phase::LastFlush if !settled => Err(Stop::Wait),
            Phase::Flush(sum) => {
                let page = self.header(id, sum).ok_or(Stop::Fail)?.encode();
                self.write_directory(header_block(id.0), &page)?;
                Ok(Some(Phase::Header))
            }
            Phase::Header => {
                self.ask_flush()?;
                Ok(Some(Phase::LastFlush))
            }
            Phase::LastFlush => Ok(None),
        }
    }

    /// Writes some pages. `Ok(None)`: all of them are on their way, or there.
    fn store_pages(&mut self, id: SnapshotId, mut from: u64) -> Result<Option<u64>, Stop> {
        let frozen = self.engine.frozen_volume().ok_or(Stop::Fail)?;
        for _ in 0..PAGES {
            let page = match self.engine.next_unstored(id, from, LOOK) {
                NextPage::Page(page) => page,
                NextPage::Further(next) => return Ok(Some(next)),
                NextPage::End => return Ok(None),
            };
            // Until it is stored it is in memory.
            let frame = self.engine.resident(frozen, page).ok_or(Stop::Fail)?;
            let block = u32::try_from(page - FROZEN_FIRST).map_err(|_| Stop::Fail)?;
            let Some(place) = self.place(block)? else { return Ok(Some(from)) };
            let crc = self.crc(frame);
            self.send(Block { place, frame, crc })?;
            from = page + 1;
        }
        Ok(Some(from))
    }

    /// A place for a block. `Ok(None)`: not now.
    fn place(&mut self, block: u32) -> Result<Option<Place>, Stop> {
        let overlays = self.overlays.as_mut().ok_or(Stop::Fail)?;
        if !overlays.has_room() {
            return Err(Stop::Wait);
        }
        match overlays.begin_frozen(block) {
            Ok(place) => Ok(Some(place)),
            Err(WriteRefused::Busy) => Err(Stop::Wait),
            Err(refused) => {
                log::error!("store: a page of a snapshot cannot be written: {refused:?}");
                Err(Stop::Fail)
            }
        }
    }

    fn send(&mut self, block: Block) -> Result<(), Stop> {
        let overlays = self.overlays.as_mut().ok_or(Stop::Fail)?;
        match overlays.write_frozen(block) {
            Ok(()) => {
                self.snapshots.keeper.out += 1;
                Ok(())
            }
            // There was room.
            Err(_) => Err(Stop::Fail),
        }
    }

    fn crc(&self, frame: mm_engine::FrameId) -> u32 {
        let mut bytes = [0; BLOCK];
        if let Some((words, _)) = self.lending.frame(frame) {
            let _ = words.read(0, &mut bytes);
        }
        crc32c(&bytes)
    }

    fn write_directory(&mut self, block: u32, page: &Page) -> Result<(), Stop> {
        let Some(place) = self.place(block)? else { return Err(Stop::Wait) };
        let overlays = self.overlays.as_mut().ok_or(Stop::Fail)?;
        let Ok(frame) = self.engine.fill(overlays.volume, u64::from(place.disk.0), &mut self.lending) else {
            overlays.give_up_frozen(place);
            return Err(Stop::Wait);
        };
        if let Some((words, _)) = self.lending.frame(frame) {
            let _ = words.write(0, page);
        }
        self.send(Block { place, frame, crc: crc32c(page) })
    }

    fn ask_flush(&mut self) -> Result<(), Stop> {
        let overlays = self.overlays.as_mut().ok_or(Stop::Fail)?;
        overlays.flush(KEEPER).map_err(|_| Stop::Wait)?;
        self.snapshots.keeper.flushing = true;
        Ok(())
    }

    fn bitmap(&self, id: SnapshotId, index: u32) -> Page {
        let mut page = [0; BLOCK];
        let first = FROZEN_FIRST + u64::from(index) * u64::from(BITMAP_PAGES);
        for (at, bytes) in (0_u64..).zip(page.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&self.engine.frozen_pages(id, first + at * 64).to_le_bytes());
        }
        page
    }

    /// The last page of a snapshot.
    fn last_page(&self, id: SnapshotId) -> u32 {
        let numbers = u64::from(self.engine.frozen_numbers());
        let words = (0..numbers.div_ceil(64)).rev().map(|word| FROZEN_FIRST + word * 64);
        let found = words.into_iter().find_map(|first| {
            let bits = self.engine.frozen_pages(id, first);
            (bits != 0).then(|| first + u64::from(63 - bits.leading_zeros()))
        });
        found.and_then(|page| u32::try_from(page).ok()).unwrap_or(1 << 31)
    }

    fn header(&self, id: SnapshotId, sum: u32) -> Option<Header> {
        let (slot, figures) = (self.snapshots.get(id)?, self.engine.snapshot(id)?);
        let facts = self.volumes.get(slot.volume)?;
        Some(Header {
            identity: slot.identity,
            base: volumes::digest(&facts.identity, facts.pages),
            volume: slot.over.clone(),
            name: slot.name.clone(),
            head: figures.head,
            pages: figures.pages,
            last: self.last_page(id),
            crc: sum,
            ordered: slot.ordered,
            disks: self.disk_entries(id)?,
        })
    }

    fn disk_entries(&self, id: SnapshotId) -> Option<heapless::Vec<DiskEntry, DISKS>> {
        let mut entries = heapless::Vec::new();
        for disk in &self.snapshots.get(id)?.disks {
            let facts = self.volumes.get(disk.volume)?;
            let entry = DiskEntry {
                devid: disk.devid,
                volume: facts.name.clone(),
                base: volumes::digest(&facts.identity, facts.pages),
                image: disk.image.map(|image| image.words()),
            };
            // As many as there can be.
            let _ = entries.push(entry);
        }
        Some(entries)
    }
}
