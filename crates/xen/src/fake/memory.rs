//! Reservations and mappings (`xen/common/memory.c`).

use xen_ring::PageWords;
use xen_sys::{DomId, Errno, Mfn, PAGE_SIZE};

use super::world::{World, new_page};
use crate::hypervisor::PopulateSlot;

impl World {
    /// Frames that a domain has.
    pub(super) fn pages_of(&self, id: DomId) -> usize {
        self.domains.get(&id).map_or(0, |domain| domain.pages)
    }

    fn has_room(&self, id: DomId, count: usize) -> bool {
        self.domains.get(&id).is_some_and(|domain| self.pages_of(id) + count <= domain.max_pages)
    }

    pub(super) fn allocate(&mut self, id: DomId) -> Option<(&'static PageWords, Mfn)> {
        if !self.has_room(id, 1) {
            return None;
        }
        let words = new_page();
        Some((words, self.new_frame(id, words)))
    }

    pub(super) fn allocate_run(&mut self, id: DomId, count: usize) -> Option<&'static [PageWords]> {
        if !self.has_room(id, count) {
            return None;
        }
        let pages: &'static [PageWords] =
            Box::leak((0..count).map(|_| PageWords::new()).collect::<Vec<_>>().into_boxed_slice());
        for page in pages {
            self.new_frame(id, page);
        }
        Some(pages)
    }

    pub(super) fn page_at(&self, id: DomId, address: u64) -> Option<&'static PageWords> {
        let frame = self.domains.get(&id)?.entries.get(&address)?;
        Some(self.frames.get(frame)?.words)
    }

    pub(super) fn populate(&mut self, id: DomId, slots: &mut [PopulateSlot]) -> usize {
        for (done, slot) in slots.iter_mut().enumerate() {
            match self.allocate(id) {
                Some((words, frame)) => {
                    // Xen does not clear what it hands out of a running machine; whoever counts on it finds this.
                    words.store(0, 0xdead_5eed);
                    slot.fill(frame);
                }
                None => return done,
            }
        }
        slots.len()
    }

    /// A frame that others map goes on existing, and counting, until they unmap it.
    pub(super) fn decrease(&mut self, id: DomId, frames: &[Mfn]) -> usize {
        for (done, frame) in frames.iter().enumerate() {
            match self.frames.get_mut(frame) {
                Some(info) if info.owner == id && info.owned => info.owned = false,
                _ => return done,
            }
            self.bury(*frame);
        }
        frames.len()
    }

    pub(super) fn update_va_mapping(&mut self, id: DomId, address: u64, entry: u64) -> Result<(), Errno> {
        if !address.is_multiple_of(PAGE_SIZE as u64) {
            return Err(Errno::INVAL);
        }
        if entry & 1 == 0 {
            self.overwrite(id, address);
            return Ok(());
        }
        let frame = Mfn((entry & 0x000f_ffff_ffff_f000) >> xen_sys::PAGE_SHIFT);
        match self.frames.get(&frame) {
            Some(info) if info.owner == id => {}
            // The same foreign frame with other NX or accessed bits is let through, and nothing else.
            Some(_) if self.domains.get(&id).and_then(|d| d.entries.get(&address)) == Some(&frame) => {
                return if entry & 2 == 0 { Ok(()) } else { Err(Errno::BUSY) };
            }
            Some(_) => return Err(Errno::BUSY),
            None => return Err(Errno::INVAL),
        }
        self.overwrite(id, address);
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.entries.insert(address, frame);
        }
        Ok(())
    }
}
