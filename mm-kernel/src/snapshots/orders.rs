//! What dom0 orders: freeze this domain, give that up, remove this snapshot; and what follows in M1's turns.

use core::fmt;

use mm_engine::{DeleteRefused, Effects, FreezeFailure, OrderRefused, RingId, SnapshotId, SnapshotState};
use mm_proto::{AbortReason, HotPage};
use xen_sys::DomId;

use super::directory::header_block;
use super::{Persist, Slot, legal};
use crate::m1::M1;

/// Domains that a refusal names, at most.
const NAMED: usize = 16;
/// Rings of one domain that are looked at.
const RINGS: usize = 16;

/// Why a domain is not frozen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreezeRefused {
    /// No snapshot is called so: 1 to 32 letters, digits, `.`, `_` and `-`.
    Name,
    /// The volume has a snapshot of this name.
    Exists,
    /// The domain has no device of M1's that is connected.
    NoDomain,
    /// Its kernel knows nothing of freezing (it speaks no map protocol, or version 1 of it).
    NotAble,
    /// It is being frozen already.
    Busy,
    /// As many snapshots as there can be are there.
    TooMany,
    /// There is no store to keep it on.
    NoStore,
    /// The snapshots on the store's disk are being read.
    NotYet,
    /// Not all that is on the store's disk could be read.
    Unreadable,
}

impl fmt::Display for FreezeRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "a snapshot's name has 1 to 32 letters, digits, '.', '_' and '-'",
            Self::Exists => "the volume has a snapshot of this name: remove it first",
            Self::NoDomain => "the domain has no device of M1's that is connected",
            Self::NotAble => {
                "the domain's kernel cannot be frozen: it does not speak version 2 of the map protocol"
            }
            Self::Busy => "the domain is being frozen already",
            Self::TooMany => "as many snapshots as there can be are there: remove one",
            Self::NoStore => "there is no store to keep it on: store_disk= names its disk",
            Self::Unreadable => "not all snapshots on the store's disk could be read: see M1's console",
            Self::NotYet => "the snapshots on the store's disk are being read: try again",
        })
    }
}

/// Why a snapshot is not removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RemoveRefused {
    /// There is none of this name over this volume.
    Unknown,
    /// It is being taken: cancel that first.
    BeingTaken,
    /// It is on its way to the store's disk, or the store has no time now: try again.
    Busy,
    /// These domains run from it, the first sixteen of so many.
    InUse(heapless::Vec<DomId, NAMED>, u32),
}

impl fmt::Display for RemoveRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no such snapshot"),
            Self::BeingTaken => f.write_str("it is being taken"),
            Self::Busy => f.write_str("it is on its way to the store's disk: try again"),
            Self::InUse(domains, all) => {
                f.write_str("running domains need it:")?;
                for domain in domains {
                    write!(f, " {}", domain.0)?;
                }
                match all.saturating_sub(u32::try_from(domains.len()).unwrap_or(0)) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

/// Why nothing came of a freeze, for people.
#[must_use]
pub fn reason(failure: FreezeFailure) -> &'static str {
    match failure {
        FreezeFailure::Aborted(AbortReason::Ended) => "the program has ended",
        FreezeFailure::Aborted(AbortReason::Secret) => {
            "the program has memory that must not leave its domain"
        }
        FreezeFailure::Aborted(AbortReason::Memory) => "the domain has no memory for its part",
        FreezeFailure::Aborted(AbortReason::Unsupported) => {
            "the program has something that cannot be frozen yet"
        }
        FreezeFailure::Aborted(AbortReason::Refused) => "the client did not go on with it",
        FreezeFailure::Aborted(AbortReason::Disk) => "what was written to a disk could not be brought there",
        FreezeFailure::NoRoom => "M1 has no room for its pages",
        FreezeFailure::TimedOut => "the client said nothing for half a minute",
        FreezeFailure::ClientGone => "the domain's device has gone",
        FreezeFailure::Cancelled => "it was cancelled",
    }
}

impl M1 {
    /// Orders a domain to be frozen under this name, over the volume of its first device; it goes on running. What comes of it is in
    /// [`Self::freeze_progress`].
    ///
    /// # Errors
    /// [`FreezeRefused`]; nothing has changed then.
    pub fn freeze(&mut self, domain: DomId, name: &str, persist: bool) -> Result<(), FreezeRefused> {
        let name = legal(name).ok_or(FreezeRefused::Name)?;
        self.can_take(persist)?;
        // A domain may have several devices; what it runs from is the first that can be frozen.
        let mut rings: heapless::Vec<(DeviceOrder, RingId, usize), RINGS> = heapless::Vec::new();
        for device in self.devices.iter().filter(|device| device.domain == domain) {
            let Some(ring) = device.ring else { continue };
            let order = self.backend.info(device.id).map_or(u32::MAX, |info| info.devid);
            let _ = rings.push((order, ring, device.volume));
        }
        rings.sort_unstable_by_key(|(order, ..)| *order);
        let mut refused = FreezeRefused::NoDomain;
        for (_, ring, volume) in rings {
            let Some(over) = self.volumes.get(volume).map(|facts| facts.name.clone()) else { continue };
            if !self.is_name_free(&over, &name) {
                return Err(FreezeRefused::Exists);
            }
            match self.order(ring) {
                Ok(id) => {
                    let now = self.clock.unix_ns();
                    let identity = self.snapshots.new_identity(now);
                    log::info!("domain {}: is to be frozen as {name}", domain.0);
                    self.snapshots.put(Slot {
                        id,
                        name,
                        over,
                        volume,
                        source: domain,
                        imported: false,
                        identity,
                        ready: false,
                        disks: heapless::Vec::new(),
                        told: false,
                        ordered: now / 1_000_000_000,
                        persist: if persist { Persist::Wanted } else { Persist::Memory },
                    });
                    return Ok(());
                }
                Err(OrderRefused::NoRing | OrderRefused::NotReady) => refused = FreezeRefused::NotAble,
                Err(OrderRefused::Busy) => return Err(FreezeRefused::Busy),
                Err(OrderRefused::TooMany) => return Err(FreezeRefused::TooMany),
            }
        }
        Err(refused)
    }

    /// Whether a snapshot can be begun, as far as it does not depend on whose.
    pub(super) fn can_take(&self, persist: bool) -> Result<(), FreezeRefused> {
        let keeper = &self.snapshots.keeper;
        if persist && self.overlays.is_none() {
            return Err(FreezeRefused::NoStore);
        }
        if !keeper.is_ready() {
            return Err(FreezeRefused::NotYet);
        }
        if persist && !keeper.can_keep() {
            return Err(FreezeRefused::Unreadable);
        }
        Ok(())
    }

    /// Whether a snapshot can get this name. One of which nothing came gives it away.
    pub(super) fn is_name_free(&mut self, over: &str, name: &str) -> bool {
        let Some(id) = self.snapshots.find(over, name).map(|slot| slot.id) else { return true };
        let failed = |figures: mm_engine::SnapshotFigures| matches!(figures.state, SnapshotState::Failed(_));
        let free = self.engine.snapshot(id).is_some_and(failed);
        if free {
            self.forget_snapshot(id);
        }
        free
    }

    fn order(&mut self, ring: RingId) -> Result<SnapshotId, OrderRefused> {
        let mut effects = Effects::new();
        let now = self.clock.now_ns();
        let mut ordered = self.engine.order_freeze(ring, now, &mut effects);
        if ordered == Err(OrderRefused::TooMany) && self.forget_failed() {
            ordered = self.engine.order_freeze(ring, now, &mut effects);
        }
        self.hands().perform(&effects);
        ordered
    }

    /// Makes a place free whose snapshot has failed. True where there was one.
    pub(super) fn forget_failed(&mut self) -> bool {
        let failed = self.snapshots.iter().find(|slot| {
            let figures = self.engine.snapshot(slot.id);
            figures.is_some_and(|figures| matches!(figures.state, SnapshotState::Failed(_)))
        });
        let Some(id) = failed.map(|slot| slot.id) else { return false };
        self.forget_snapshot(id);
        self.engine.snapshot(id).is_none()
    }

    pub(super) fn forget_snapshot(&mut self, id: SnapshotId) {
        let _ = self.engine.delete_snapshot(id, &mut self.lending);
        self.snapshots.clear(id);
    }

    /// Gives up a freeze that is under way. False where there is none of this name.
    pub fn cancel_freeze(&mut self, domain: DomId, name: &str) -> bool {
        let slot = self.snapshots.iter().find(|slot| slot.source == domain && slot.name == name);
        let Some(id) = slot.map(|slot| slot.id) else { return false };
        self.engine.cancel(id, &mut self.lending)
    }

    /// Removes a snapshot of a volume. Its pages are free as soon as nobody maps them.
    ///
    /// # Errors
    /// [`RemoveRefused`]; nothing has changed then.
    pub fn remove_snapshot(&mut self, volume: &str, name: &str) -> Result<(), RemoveRefused> {
        let slot = self.snapshots.find(volume, name);
        let (id, persist) = slot.map(|slot| (slot.id, slot.persist)).ok_or(RemoveRefused::Unknown)?;
        if self.snapshots.keeper.is_storing(id) {
            return Err(RemoveRefused::Busy);
        }
        // A disk alone can be attached to it, too; and who has left may map its info page still, which is to be another snapshot's.
        self.devices.sweep();
        let mut holders = heapless::Vec::new();
        let mut held = 0;
        let disks = self.block.disks().filter(|disk| disk.snapshot == Some(id)).map(|disk| disk.domain);
        let info = self.snapshots.info(id);
        let leaving = info.into_iter().flat_map(|info| self.devices.holding(info));
        for domain in disks.chain(leaving) {
            held += 1;
            let _ = holders.push(domain);
        }
        if held > 0 && self.engine.snapshot(id).is_some_and(|figures| figures.rings == 0) {
            return Err(RemoveRefused::InUse(holders, held));
        }
        // What the disk says of it goes first, and with it, after a cut of power, all of it.
        let is_free = self.engine.snapshot(id).is_some_and(|figures| figures.rings == 0);
        let on_disk = matches!(persist, Persist::Stored | Persist::Damaged);
        if let (true, true, Some(overlays)) = (is_free, on_disk, &mut self.overlays) {
            match overlays.remove_frozen(header_block(id.0)) {
                Ok(()) => {}
                Err(mm_store::WriteRefused::Busy) => return Err(RemoveRefused::Busy),
                Err(refused) => {
                    log::error!("store: snapshot {volume}@{name} cannot be removed: {refused:?}");
                    return Err(RemoveRefused::Busy);
                }
            }
        }
        match self.engine.delete_snapshot(id, &mut self.lending) {
            Ok(()) => {
                log::info!("snapshot {volume}@{name} is removed");
                self.snapshots.clear(id);
                Ok(())
            }
            Err(DeleteRefused::NoSnapshot) => Err(RemoveRefused::Unknown),
            Err(DeleteRefused::BeingTaken) => Err(RemoveRefused::BeingTaken),
            Err(DeleteRefused::InUse) => {
                let (mut domains, mut all) = (heapless::Vec::new(), 0);
                for client in self.engine.attached_to(id) {
                    all += 1;
                    // As many as there is room for are named.
                    let _ = domains.push(self.lending.domain(client));
                }
                Err(RemoveRefused::InUse(domains, all))
            }
        }
    }

    /// Once a second or so: freezes that nobody goes on with, and what clones have touched.
    pub(crate) fn snapshots_recheck(&mut self, now: u64) {
        self.engine.expire_freezes(now, &mut self.lending);
        self.snapshots_arrive();
        let mut due: heapless::Vec<(SnapshotId, HotPage), 1> = heapless::Vec::new();
        for (id, pages) in self.snapshots.hot.due(now) {
            // One at a time: the others are due in a second too.
            if due.push((id, pages.clone())).is_err() {
                break;
            }
        }
        for (id, pages) in due {
            self.write_hot(id, &pages);
        }
    }

    /// Writes what clones touch first where the next ones find it.
    fn write_hot(&mut self, id: SnapshotId, pages: &HotPage) {
        // Where rings know of another such page, or there is no room, it waits.
        let Ok(frame) = self.engine.hot_page(id, &mut self.lending) else { return };
        if let Some((words, _)) = self.lending.frame(frame) {
            for index in 0..HotPage::WORDS {
                words.store(index, pages.word(index));
            }
        }
        if let Some(page) = self.engine.hot_filled(id, frame, &self.lending) {
            self.snapshots.hot.written(id);
            log::info!("snapshot {}: {} pages are touched first: page {page:#x}", id.0, pages.pages());
            self.publish_snapshot(id);
        }
    }

    /// Looks whether a freeze has ended, well or not.
    pub(crate) fn snapshots_turn(&mut self) {
        for place in 0..self.snapshots.places.len() {
            let Some(slot) = self.snapshots.places[place].as_ref().filter(|slot| !slot.told) else {
                continue;
            };
            let (id, source, imported) = (slot.id, slot.source, slot.imported);
            let Some(figures) = self.engine.snapshot(id) else {
                self.snapshots.clear(id);
                continue;
            };
            match figures.state {
                SnapshotState::Ready => {
                    self.publish_snapshot(id);
                    if let Some(slot) = self.snapshots.get(id).filter(|slot| slot.imported) {
                        let (pages, own) = (figures.pages, figures.unique);
                        log::info!(
                            "snapshot {}@{} has come: {pages} pages, {own} of its own",
                            slot.over,
                            slot.name
                        );
                    } else if let Some(slot) = self.snapshots.get(id) {
                        log::info!(
                            "domain {}: frozen as {}: {} pages, {} of its own, stood still for {} us",
                            source.0,
                            slot.name,
                            figures.pages,
                            figures.unique,
                            figures.progress.standstill / 1000
                        );
                    }
                }
                SnapshotState::Failed(why) if imported => {
                    self.forget_import(id, why);
                    continue;
                }
                SnapshotState::Failed(why) => {
                    log::warn!("domain {}: is not frozen: {}", source.0, reason(why));
                }
                _ => continue,
            }
            if let Some(slot) = self.snapshots.get_mut(id) {
                slot.told = true;
            }
        }
    }

    /// Shows a snapshot that is ready to those who are attached to it.
    pub(super) fn publish_snapshot(&mut self, id: SnapshotId) {
        let Some(figures) = self.engine.snapshot(id) else { return };
        let Some(volume) = self.snapshots.get(id).map(|slot| slot.volume) else { return };
        let page = self.info_page(volume);
        self.snapshots.publish(id, page, figures.head, figures.hot);
    }
}

/// Devices in the order in which dom0 numbered them.
type DeviceOrder = u32;
