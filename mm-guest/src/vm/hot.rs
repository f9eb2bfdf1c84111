//! What a program touches soon after its thaw: M1 tells the next clones, which map it ahead in a few batches.

use alloc::boxed::Box;
use alloc::vec::Vec;

use mm_proto::{Bitmap, HotPage, WINDOW_MAX};

use super::{Backing, Memory, Presence, Vma};
use crate::machine::{Machine, SharedMap};
use crate::page::{PAGE_SIZE, UserPage, VolumePage};

/// How long after the thaw.
const SOON_NS: u64 = 2_000_000_000;
/// Pages mapped ahead in one batch.
const BATCH: usize = 64;

/// What is touched, and what became of what was mapped ahead.
pub(crate) struct Hot {
    pages: Box<HotPage>,
    /// Until then pages are added.
    until: u64,
    /// Pages that were mapped ahead, and where, until it is known whether they were touched.
    ahead: Vec<UserPage>,
    mapped: u64,
}

impl Hot {
    fn add(&mut self, page: VolumePage) {
        let Ok(page) = u32::try_from(page.0) else { return };
        let mut bitmap = Bitmap::EMPTY;
        bitmap.set(page % WINDOW_MAX);
        // More runs than there is room for are not worth mapping ahead.
        let _ = self.pages.add(page - page % WINDOW_MAX, &bitmap);
    }
}

impl<M: Machine> Memory<M> {
    /// A page of the volume or the frozen part was needed.
    pub(super) fn note_hot(&mut self, page: VolumePage) {
        if let Some(hot) = &mut self.hot {
            hot.add(page);
        }
    }

    /// The program has just been thawed; what is hot by what earlier clones said is mapped ahead.
    pub(crate) fn begin_hot(&mut self, known: &HotPage) {
        let until = self.machine.monotonic().saturating_add(SOON_NS);
        let mut hot = Hot { pages: Box::default(), until, ahead: Vec::new(), mapped: 0 };
        let mut batch: Vec<SharedMap> = Vec::new();
        // Advice that there is no memory for is not taken.
        if batch.try_reserve_exact(BATCH).is_ok() {
            for (first, bitmap) in known.iter() {
                for page in bitmap.iter().map(|offset| u64::from(first) + u64::from(offset)) {
                    let Some(map) = self.place_of(page) else { continue };
                    if self.resident.prepare(map.page.0).is_ok() {
                        batch.push(map);
                    }
                    if batch.len() == BATCH {
                        self.map_batch_ahead(&mut batch, &mut hot);
                    }
                }
                self.map_batch_ahead(&mut batch, &mut hot);
            }
        }
        self.hot = Some(hot);
    }

    /// Where the program has a page of the volume or of the frozen part, if nothing is there yet.
    fn place_of(&self, page: u64) -> Option<SharedMap> {
        let mut frozen = self.frozen.showing(page..page + 1).map(|range| range.start);
        let mut volume = self.vmas.iter().filter_map(|vma| {
            let Backing::Volume { volume, valid, .. } = vma.backing else { return None };
            let offset = page.checked_sub(volume).filter(|offset| *offset < valid.min(vma.pages()))?;
            self.frozen.find(vma.start + offset).is_none().then_some(vma.start + offset)
        });
        let place = if page >= mm_proto::FROZEN_FIRST { frozen.next() } else { volume.next() }?;
        let vma: &Vma = self.vmas.find(place).filter(|vma| vma.rights.read())?;
        let fits = !vma.backing.is_shared_file() && self.resident.get(place) == Presence::Absent;
        let map = SharedMap { page: UserPage(place), volume: VolumePage(page), exec: vma.rights.exec() };
        fits.then_some(map)
    }

    fn map_batch_ahead(&mut self, batch: &mut Vec<SharedMap>, hot: &mut Hot) {
        for (index, map) in batch.iter().enumerate() {
            // Whoever is not lent a page comes to it by a fault.
            let _ = self.machine.lend(map.volume, (batch.len() - index) as u32);
        }
        let done = self.machine.map_ahead(batch);
        for (index, map) in batch.iter().enumerate() {
            if done >> index & 1 == 1 {
                self.resident.set(map.page.0, Presence::Shared);
                hot.mapped += 1;
                if hot.ahead.try_reserve(1).is_ok() {
                    hot.ahead.push(map.page);
                }
            }
        }
        self.counts.mapped += u64::from(done.count_ones());
        batch.clear();
    }

    /// After a while, tells M1 what was hot.
    pub(crate) fn hot_turn(&mut self) {
        if self.hot.as_ref().is_some_and(|hot| self.machine.monotonic() >= hot.until) {
            self.tell_hot();
        }
    }

    /// Tells M1 what was hot so far; nothing is added from now on.
    pub(crate) fn tell_hot(&mut self) {
        let Some(mut hot) = self.hot.take() else { return };
        let mut touched = 0;
        for page in core::mem::take(&mut hot.ahead) {
            // Gone from there is as good as touched: something was done with it.
            if self.resident.get(page.0) == Presence::Shared && !self.machine.touched(page) {
                continue;
            }
            touched += 1;
            let vma = self.vmas.find(page.0);
            if let Some(shown) = vma.and_then(|vma| self.shared_page(vma, page.0)) {
                hot.add(shown.volume);
            }
        }
        (self.counts.ahead, self.counts.ahead_used) = (hot.mapped, touched);
        for (page, bitmap) in hot.pages.iter() {
            self.machine.tell_hot(page.into(), *bitmap);
        }
    }

    /// What M1 keeps of what is hot.
    pub(crate) fn read_hot(&mut self, page: u32) -> Option<HotPage> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(PAGE_SIZE as usize).ok()?;
        bytes.resize(PAGE_SIZE as usize, 0);
        self.machine.read_volume(VolumePage(page.into()), 0, &mut bytes).ok()?;
        let word = |index: usize| {
            bytes
                .get(4 * index..4 * index + 4)
                .map_or(0, |word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        };
        Some(HotPage::decode(word))
    }
}
