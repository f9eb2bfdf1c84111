//! Snapshots that go to another M1, and that come from one: docs/CONTROL.md, §5.
//!
//! Pages are all that M1 knows of it. What leaves is read page by page, by number; what comes gets numbers of this M1's as it comes, and
//! whoever brings it sees to it that what names pages names those. It is *taken* as a snapshot of a client here is: whole, or gone.

use core::fmt;

use mm_engine::{Effects, EndRefused, FreezeFailure, NextPage, SnapshotId, SnapshotState, Wanted};
use mm_proto::VolumeIdentity;
use mm_store::{BLOCK, Page};
use xen_sys::DomId;

use super::{DISKS, DiskImage, FreezeRefused, Identity, Persist, Slot, legal, reason};
use crate::block::Image;
use crate::m1::M1;

/// Frozen pages that one look goes through.
const LOOK: u32 = 4096;
/// Pages that are read ahead from the store's disk.
const AHEAD: u32 = 15;

/// Why a snapshot is not exported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExportRefused {
    /// There is none of this name over this volume, or none with this identity (any more).
    Unknown,
    /// Clones of it cannot be made either.
    NotReady,
    /// A page cannot be read from the store's disk.
    Unreadable(u64),
}

impl fmt::Display for ExportRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no such snapshot"),
            Self::NotReady => f.write_str("the snapshot is not ready"),
            Self::Unreadable(page) => write!(f, "page {page:#x} of it cannot be read from the store's disk"),
        }
    }
}

/// Why an import does not begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImportRefused {
    /// As a freeze would be.
    Freeze(FreezeRefused),
    /// No volume is called so.
    NoVolume,
    /// The volume of that name is another one.
    OtherVolume,
    /// No room for so many pages.
    NoRoom,
}

impl fmt::Display for ImportRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Freeze(refused) => refused.fmt(f),
            Self::NoVolume => f.write_str("no volume is called so"),
            Self::OtherVolume => {
                f.write_str("the volume of this name is another one than the snapshot was made over")
            }
            Self::NoRoom => f.write_str("M1 has no room for its pages"),
        }
    }
}

/// Why an import does not go on. But for [`Self::Unknown`] and [`Self::TooSoon`] it was given up, and nothing of it is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImportFailed {
    /// None with this identity is under way (any more).
    Unknown,
    /// Its pages are not all here.
    TooSoon,
    /// The checksum of this page, counted from 0 in its request, is wrong.
    Damaged(usize),
    /// More pages than were announced.
    TooMany,
    /// It would begin with a page that it has not.
    Head,
    /// No volume is what this disk of its client's lies over, as wide as it has to be.
    NoVolume(u32),
    /// More disks than a client can have.
    TooManyDisks,
    /// What this disk had over its volume makes no sense.
    Image(u32),
    /// It is here, but not on the store's disk.
    NotStored,
}

impl fmt::Display for ImportFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no such import is under way (any more)"),
            Self::TooSoon => f.write_str("the import is not at its end"),
            Self::Damaged(at) => write!(f, "the checksum of page {at} is wrong: the import is given up"),
            Self::TooMany => f.write_str("more pages than were announced: the import is given up"),
            Self::Head => f.write_str("it begins with a page that it does not have: the import is given up"),
            Self::NoVolume(devid) => {
                write!(f, "no volume here is what its client had as disk {devid}: the import is given up")
            }
            Self::TooManyDisks => write!(f, "a snapshot has {DISKS} disks at most: the import is given up"),
            Self::Image(devid) => {
                write!(f, "what it has of disk {devid} makes no sense: the import is given up")
            }
            Self::NotStored => f.write_str(
                "the snapshot is in memory only: the store's disk did not take it, see M1's console",
            ),
        }
    }
}

/// What an export begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Exported {
    pub(crate) id: SnapshotId,
    pub(crate) identity: Identity,
    pub(crate) volume: VolumeIdentity,
    /// Page that a clone begins with.
    pub(crate) head: u32,
    pub(crate) pages: u32,
    /// Seconds since 1970 when it was ordered.
    pub(crate) ordered: u64,
    /// The disks that its client had.
    pub(crate) disks: heapless::Vec<ExportedDisk, DISKS>,
}

/// A disk of a client, for whoever takes its snapshot away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ExportedDisk {
    pub(crate) devid: u32,
    pub(crate) volume: VolumeIdentity,
    /// Blocks of the volume.
    pub(crate) blocks: u64,
    /// What it had over that.
    pub(crate) image: Option<Image>,
}

/// What a look for the next page has found.
#[expect(clippy::large_enum_variant, reason = "a page is on the stack either way: there is no heap")]
pub(crate) enum Next {
    Page(u64, Page),
    /// None yet: go on from here.
    Further(u64),
    /// It is being read: ask again.
    Wait,
    End,
}

/// How an import ended, or has not yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Imported {
    /// Pages that came, of so many that were announced.
    Going(u64, u64),
    /// Clones can be made of it: its pages, and those of them that were here already.
    Done(u64, u64),
}

impl M1 {
    /// What is to be known of a snapshot to export it.
    pub(crate) fn export(&self, volume: &str, name: &str) -> Result<Exported, ExportRefused> {
        self.exported(self.snapshots.find(volume, name))
    }

    fn exported(&self, slot: Option<&Slot>) -> Result<Exported, ExportRefused> {
        let slot = slot.ok_or(ExportRefused::Unknown)?;
        let figures = self.engine.snapshot(slot.id).ok_or(ExportRefused::Unknown)?;
        let volume = self.volumes.get(slot.volume).ok_or(ExportRefused::NotReady)?;
        if !slot.ready || figures.state != SnapshotState::Ready {
            return Err(ExportRefused::NotReady);
        }
        let mut disks = heapless::Vec::new();
        for disk in &slot.disks {
            let over = self.volumes.get(disk.volume).ok_or(ExportRefused::NotReady)?;
            let (volume, blocks) = (over.identity, over.pages);
            // As many as there can be.
            let _ = disks.push(ExportedDisk { devid: disk.devid, volume, blocks, image: disk.image });
        }
        Ok(Exported {
            id: slot.id,
            identity: slot.identity,
            volume: volume.identity,
            head: figures.head,
            // The list of what clones touch first is M1's own.
            pages: figures.pages.saturating_sub(u32::from(figures.hot != 0)),
            ordered: slot.ordered,
            disks,
        })
    }

    /// The next page of a snapshot from this number on.
    pub(crate) fn export_page(&mut self, identity: &Identity, from: u64) -> Result<Next, ExportRefused> {
        let id = self.exported(self.snapshots.identified(identity))?.id;
        let volume = self.engine.frozen_volume().ok_or(ExportRefused::Unknown)?;
        let page = match self.engine.next_page(id, from, LOOK) {
            NextPage::Page(page) => page,
            NextPage::Further(next) => return Ok(Next::Further(next)),
            NextPage::End => return Ok(Next::End),
        };
        let mut effects = Effects::new();
        let wanted = self.engine.want(volume, page, AHEAD, &mut self.lending, &mut effects);
        self.hands().perform(&effects);
        match wanted {
            Wanted::Resident(frame) => {
                let mut bytes = [0; BLOCK];
                let (words, _) = self.lending.frame(frame).ok_or(ExportRefused::Unreadable(page))?;
                let _ = words.read(0, &mut bytes);
                Ok(Next::Page(page, bytes))
            }
            Wanted::Reading | Wanted::NoRoom => Ok(Next::Wait),
            Wanted::Failed => Err(ExportRefused::Unreadable(page)),
        }
    }

    /// A snapshot is to come, over the version of a volume that has this identity. Gives the identity that it has from now on.
    pub(crate) fn import(
        &mut self,
        volume: &str,
        name: &str,
        over: &VolumeIdentity,
        pages: u64,
        persist: bool,
    ) -> Result<Identity, ImportRefused> {
        let name = legal(name).ok_or(ImportRefused::Freeze(FreezeRefused::Name))?;
        self.can_take(persist).map_err(ImportRefused::Freeze)?;
        if !self.volumes.iter().any(|facts| facts.name == volume && facts.is_usable()) {
            return Err(ImportRefused::NoVolume);
        }
        let same = |facts: &crate::volumes::VolumeFacts| {
            facts.name == volume && facts.is_usable() && facts.identity == *over
        };
        let place = self.volumes.iter().position(same).ok_or(ImportRefused::OtherVolume)?;
        let (over, id) = (self.volumes[place].name.clone(), self.volumes[place].id);
        let id = id.ok_or(ImportRefused::NoVolume)?;
        if !self.is_name_free(&over, &name) {
            return Err(ImportRefused::Freeze(FreezeRefused::Exists));
        }
        let now = self.clock.now_ns();
        let mut begun = self.engine.begin_import(id, pages, now, &mut self.lending);
        if begun == Err(mm_engine::ImportRefused::TooMany) && self.forget_failed() {
            begun = self.engine.begin_import(id, pages, now, &mut self.lending);
        }
        let id = begun.map_err(|refused| match refused {
            mm_engine::ImportRefused::NoVolume => ImportRefused::NoVolume,
            mm_engine::ImportRefused::TooMany => ImportRefused::Freeze(FreezeRefused::TooMany),
            mm_engine::ImportRefused::NoRoom => ImportRefused::NoRoom,
        })?;
        log::info!("snapshot {over}@{name} is to come: {pages} pages");
        let unix = self.clock.unix_ns();
        let identity = self.snapshots.new_identity(unix);
        self.snapshots.put(Slot {
            id,
            name,
            over,
            volume: place,
            source: DomId(0),
            imported: true,
            identity,
            ready: false,
            disks: heapless::Vec::new(),
            told: false,
            ordered: unix / 1_000_000_000,
            persist: if persist { Persist::Wanted } else { Persist::Memory },
        });
        Ok(identity)
    }

    fn being_imported(&self, identity: &Identity) -> Result<SnapshotId, ImportFailed> {
        let slot = self.snapshots.identified(identity).ok_or(ImportFailed::Unknown)?;
        self.engine.is_import(slot.id).then_some(slot.id).ok_or(ImportFailed::Unknown)
    }

    /// A page of it, whose bytes are good. Gives its number here.
    pub(crate) fn import_page(&mut self, identity: &Identity, bytes: &Page) -> Result<u64, ImportFailed> {
        let id = self.being_imported(identity)?;
        let now = self.clock.now_ns();
        let number = self.engine.freeze_page(id).ok().and_then(|frame| {
            if let Some((words, _)) = self.lending.frame(frame) {
                let _ = words.write(0, bytes);
            }
            self.engine.freeze_filled(id, frame, now, &self.lending)
        });
        number.ok_or_else(|| self.give_import_up(identity, ImportFailed::TooMany))
    }

    /// Its client had this disk, and this over the disk's volume; none of that yet, or nothing. What was said of the disk before does not count.
    pub(crate) fn import_disk(
        &mut self,
        identity: &Identity,
        devid: u32,
        over: &VolumeIdentity,
        blocks: u64,
        image: Option<Image>,
    ) -> Result<(), ImportFailed> {
        let id = self.being_imported(identity)?;
        let same = |facts: &crate::volumes::VolumeFacts| {
            facts.is_usable() && facts.identity == *over && facts.pages == blocks
        };
        let Some(volume) = self.volumes.iter().position(same) else {
            return Err(self.give_import_up(identity, ImportFailed::NoVolume(devid)));
        };
        let good =
            image.is_none_or(|image| image.fits(blocks) && self.engine.has_page(id, image.root().into()));
        if !good {
            return Err(self.give_import_up(identity, ImportFailed::Image(devid)));
        }
        let disk = DiskImage { devid, volume, image };
        let slot = self.snapshots.get_mut(id).ok_or(ImportFailed::Unknown)?;
        let known = match slot.disks.iter_mut().find(|disk| disk.devid == devid) {
            Some(before) => {
                *before = disk;
                true
            }
            None => slot.disks.push(disk).is_ok(),
        };
        if known { Ok(()) } else { Err(self.give_import_up(identity, ImportFailed::TooManyDisks)) }
    }

    /// All of it has come. It is a snapshot like others from now on, or, where this fails, gone.
    pub(crate) fn end_import(&mut self, identity: &Identity, head: u64) -> Result<Imported, ImportFailed> {
        let id = self.being_imported(identity)?;
        let now = self.clock.now_ns();
        match self.engine.end_import(id, head, now) {
            Ok(()) => {
                self.snapshots_turn();
                self.import_progress(identity)
            }
            Err(EndRefused::NotTaken) => Err(ImportFailed::Unknown),
            Err(EndRefused::Filling) => Err(ImportFailed::TooSoon),
            Err(EndRefused::ForeignHead) => Err(self.give_import_up(identity, ImportFailed::Head)),
        }
    }

    /// How far it is.
    pub(crate) fn import_progress(&self, identity: &Identity) -> Result<Imported, ImportFailed> {
        let slot = self.snapshots.identified(identity).filter(|slot| slot.imported);
        let slot = slot.ok_or(ImportFailed::Unknown)?;
        let progress = self.engine.snapshot(slot.id).ok_or(ImportFailed::Unknown)?.progress;
        match slot.persist {
            Persist::Failed | Persist::Damaged => Err(ImportFailed::NotStored),
            Persist::Memory | Persist::Stored if slot.ready => {
                Ok(Imported::Done(progress.captured, progress.deduplicated))
            }
            Persist::Memory | Persist::Stored | Persist::Wanted => {
                Ok(Imported::Going(progress.captured, progress.announced))
            }
        }
    }

    /// Nothing is to come of it. False where none is under way.
    pub(crate) fn cancel_import(&mut self, identity: &Identity) -> bool {
        let Ok(id) = self.being_imported(identity) else { return false };
        let cancelled = self.engine.cancel(id, &mut self.lending);
        self.snapshots_turn();
        cancelled
    }

    /// The same, and why.
    pub(crate) fn give_import_up(&mut self, identity: &Identity, why: ImportFailed) -> ImportFailed {
        let _ = self.cancel_import(identity);
        why
    }

    /// Nothing came of an import: its name is free.
    pub(super) fn forget_import(&mut self, id: SnapshotId, why: FreezeFailure) {
        if let Some(slot) = self.snapshots.get(id) {
            let why = if why == FreezeFailure::TimedOut {
                "nothing came of it for half a minute"
            } else {
                reason(why)
            };
            log::warn!("snapshot {}@{} is not imported: {why}", slot.over, slot.name);
        }
        self.forget_snapshot(id);
    }
}
