//! Snapshots that last (`--persist`): their pages go to the store's disk, and the next M1 finds them there.
//!
//! A snapshot is there wholly or not at all: its header is written after a flush that covers its pages and its bitmap, and it is the first thing
//! to go. Pages whose snapshot is not there are taken from the disk at the next start.

use mm_engine::{Effects, NextPage, SnapshotId, SnapshotState, Wanted};
use mm_proto::FROZEN_FIRST;
use mm_store::{BLOCK, CreateRefused, Page, Place, WriteRefused, crc32c};

use super::directory::{BITMAP_PAGES, DiskEntry, Header, bitmap_block, chain, header_block, number};
use super::{DISKS, DiskImage, Persist, Slot};
use crate::block::Image;
use crate::m1::M1;
use crate::overlays::{Block, Finished, KEEPER};
use crate::volumes;

/// Pages that are written in one turn.
const PAGES: usize = 16;
/// Frozen pages that one turn looks at.
const LOOK: u32 = 4096;
/// Pages without a snapshot that one turn takes from the disk.
const ORPHANS: usize = 64;

/// How far the snapshots of the M1 before are read.
#[expect(clippy::large_enum_variant, reason = "there is one, and nothing is on a heap")]
enum Restore {
    Open,
    Header(u8),
    Bitmap {
        place: u8,
        header: Header,
        index: u32,
        sum: u32,
        restored: bool,
    },
    /// Pages of no snapshot go, from this block of the disk on.
    Orphans(u32),
    Done,
}

/// How far the snapshot that is being kept is.
#[derive(Clone, Copy)]
enum Phase {
    Pages(u64),
    Bitmap(u32, u32),
    Flush(u32),
    Header,
    LastFlush,
}

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

/// What stopped a step.
enum Stop {
    /// Go on in a later turn.
    Wait,
    /// The snapshot is not kept.
    Fail,
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

    fn restore_step(&mut self, step: Restore) -> (Restore, bool) {
        match step {
            Restore::Open => {
                let (Some(overlays), Some(volume)) = (&mut self.overlays, self.engine.frozen_volume()) else {
                    return (Restore::Done, false);
                };
                match overlays.open_frozen(volume, false) {
                    Ok(Some(_)) => (Restore::Header(0), true),
                    Ok(None) => (Restore::Done, false),
                    Err(_) => (Restore::Done, false),
                }
            }
            Restore::Header(place) if usize::from(place) >= mm_engine::SNAPSHOTS => {
                self.engine.end_restore();
                (Restore::Orphans(0), true)
            }
            Restore::Header(place) => match self.read_directory(header_block(place)) {
                Read::Wait => (Restore::Header(place), false),
                Read::Absent => (Restore::Header(place + 1), true),
                Read::Failed => {
                    log::error!("store: the header of snapshot {place} cannot be read");
                    (self.snapshots.keeper.unreadable, self.snapshots.keeper.blocked) = (true, true);
                    (Restore::Header(place + 1), true)
                }
                Read::Block(page) => (self.restore_header(place, &page), true),
            },
            Restore::Bitmap { place, header, index, sum, restored } => {
                match self.read_directory(bitmap_block(place, index)) {
                    Read::Wait => (Restore::Bitmap { place, header, index, sum, restored }, false),
                    Read::Absent | Read::Failed => (self.restore_failed(place, header), true),
                    Read::Block(page) => {
                        (self.restore_bitmap(place, header, index, chain(sum, &page), &page, restored), true)
                    }
                }
            }
            Restore::Orphans(from) => self.remove_orphans(from),
            Restore::Done => (Restore::Done, false),
        }
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

    fn restore_header(&mut self, place: u8, page: &Page) -> Restore {
        let next = Restore::Header(place + 1);
        let Some(header) = Header::decode(page) else {
            log::error!("store: the header of snapshot {place} is damaged, or of a later version");
            self.snapshots.keeper.unreadable = true;
            return next;
        };
        let fits = number(header.last) < self.engine.frozen_numbers();
        let place_is_there = self.engine.restore_snapshot(SnapshotId(place), u64::from(header.head));
        if !fits || !place_is_there {
            let Header { volume, name, .. } = &header;
            log::error!("store: snapshot {volume}@{name} needs more of M1's memory= than there is");
        }
        if !place_is_there {
            (self.snapshots.keeper.unreadable, self.snapshots.keeper.blocked) = (true, true);
            return next;
        }
        // Where it does not fit it is known all the same, so that nothing of it is given to others; it never arrives.
        self.snapshots.keeper.unreadable |= !fits;
        Restore::Bitmap { place, header, index: 0, sum: 0, restored: false }
    }

    /// Pages are known only when all of the bitmap is good: the first time round it is looked at, the second time it counts.
    fn restore_bitmap(
        &mut self,
        place: u8,
        header: Header,
        index: u32,
        sum: u32,
        page: &Page,
        restored: bool,
    ) -> Restore {
        if restored {
            for (byte, bits) in (0_u32..).zip(page) {
                for bit in (0..8).filter(|bit| bits >> bit & 1 == 1) {
                    let at = index * BITMAP_PAGES + byte * 8 + bit;
                    self.engine.restore_page(SnapshotId(place), FROZEN_FIRST + u64::from(at));
                }
            }
        }
        if index + 1 < header.bitmaps() {
            return Restore::Bitmap { place, header, index: index + 1, sum, restored };
        }
        if !restored && sum != header.crc {
            return self.restore_failed(place, header);
        }
        if !restored {
            return Restore::Bitmap { place, header, index: 0, sum: 0, restored: true };
        }
        log::info!("store: snapshot {}@{}: {} pages", header.volume, header.name, header.pages);
        self.know(place, header, Persist::Stored);
        Restore::Header(place + 1)
    }

    fn know(&mut self, place: u8, header: Header, persist: Persist) {
        self.snapshots.put(Slot {
            id: SnapshotId(place),
            name: header.name,
            over: header.volume,
            volume: usize::MAX,
            source: xen_sys::DomId(0),
            imported: false,
            identity: header.identity,
            ready: false,
            told: true,
            ordered: header.ordered,
            disks: heapless::Vec::new(),
            persist,
        });
    }

    fn restore_failed(&mut self, place: u8, header: Header) -> Restore {
        log::error!("store: the bitmap of snapshot {}@{} is damaged", header.volume, header.name);
        (self.snapshots.keeper.unreadable, self.snapshots.keeper.blocked) = (true, true);
        self.know(place, header, Persist::Damaged);
        Restore::Header(place + 1)
    }

    /// Takes pages from the disk that no snapshot has, as far as all snapshots are known.
    fn remove_orphans(&mut self, from: u32) -> (Restore, bool) {
        if self.snapshots.keeper.unreadable {
            log::warn!("store: pages of no snapshot stay on the disk until all snapshots can be read");
            return (Restore::Done, false);
        }
        let Some(overlays) = &mut self.overlays else { return (Restore::Done, false) };
        let mut orphans: heapless::Vec<(u32, u32), ORPHANS> = heapless::Vec::new();
        for (disk, block) in overlays.frozen_live(from) {
            let page = FROZEN_FIRST + u64::from(block);
            if !self.engine.is_frozen(page) && orphans.push((disk, block)).is_err() {
                break;
            }
        }
        let full = orphans.is_full();
        for (disk, block) in orphans {
            match overlays.remove_frozen(block) {
                Ok(()) => {}
                Err(WriteRefused::Busy) => return (Restore::Orphans(disk), false),
                Err(refused) => {
                    log::warn!("store: a page of no snapshot stays on the disk: {refused:?}");
                    return (Restore::Done, false);
                }
            }
        }
        if full { (Restore::Orphans(from), true) } else { (Restore::Done, false) }
    }

    /// Takes pages from the disk whose last snapshot was removed.
    fn remove_unwanted(&mut self) -> bool {
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
    fn store_step(&mut self) -> bool {
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

    /// Snapshots whose volumes have come.
    pub(crate) fn snapshots_arrive(&mut self) {
        for place in 0..self.snapshots.places.len() {
            let Some(slot) = self.snapshots.places[place].as_ref() else { continue };
            let id = slot.id;
            if slot.persist == Persist::Stored
                && self.engine.snapshot(id).is_some_and(|figures| figures.state == SnapshotState::Away)
            {
                let _ = self.arrive(id);
            }
        }
    }

    /// `None`: not yet.
    fn arrive(&mut self, id: SnapshotId) -> Option<()> {
        // It was good when it was restored. Where it is not in memory now, it will be.
        let Read::Block(page) = self.read_directory(header_block(id.0)) else { return None };
        let header = Header::decode(&page)?;
        if number(header.last) >= self.engine.frozen_numbers() {
            return None;
        }
        let index = self.version_of(&header.volume, &header.base)?;
        let mut disks = heapless::Vec::new();
        for disk in &header.disks {
            let volume = self.version_of(&disk.volume, &disk.base)?;
            let image = disk.image.and_then(Image::from_words);
            let _ = disks.push(DiskImage { devid: disk.devid, volume, image });
        }
        let volume = self.volumes[index].id?;
        self.engine.arrive_snapshot(id, volume);
        let slot = self.snapshots.get_mut(id)?;
        (slot.volume, slot.disks) = (index, disks);
        log::info!("snapshot {}@{} can be cloned again", slot.over, slot.name);
        self.publish_snapshot(id);
        Some(())
    }

    /// The place of this version of a volume.
    fn version_of(&self, name: &str, base: &[u8; 16]) -> Option<usize> {
        self.volumes.iter().position(|volume| {
            volume.name == name
                && volume.is_usable()
                && volume.id.is_some()
                && volumes::digest(&volume.identity, volume.pages) == *base
        })
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
