//! Reading the snapshots of the M1 before from the store's disk.

use mm_engine::SnapshotId;
use mm_proto::FROZEN_FIRST;
use mm_store::{Page, WriteRefused};

use super::super::directory::{BITMAP_PAGES, Header, bitmap_block, chain, header_block, number};
use super::super::{Persist, Slot};
use super::Read;
use crate::m1::M1;

/// Pages without a snapshot that one turn takes from the disk.
pub(super) const ORPHANS: usize = 64;

/// How far the snapshots of the M1 before are read.
#[expect(clippy::large_enum_variant, reason = "there is one, and nothing is on a heap")]
pub(super) enum Restore {
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

impl M1 {
    pub(super) fn restore_step(&mut self, step: Restore) -> (Restore, bool) {
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
}
