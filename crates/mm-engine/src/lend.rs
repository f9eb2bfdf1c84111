//! Lending: a window for a page, and grant entries for what of it is in memory.

use mm_proto::Bitmap;

use crate::effect::Grants;
use crate::engine::Engine;
use crate::frozen::FIRST;
use crate::ids::{ClientId, FrameId, Reference};
use crate::lenders::ones;
use crate::stats::Refused;
use crate::store::Class;
use crate::table::NIL;
use crate::windows::{GRANULE_ORDER, Kind, MAX_ORDER, WindowEntry, push, unlink};

impl Engine<'_> {
    /// Notes that the page is asked for, and says which window it would get: 16 pages, doubling as long as each ask is
    /// for the page that continues the answer before.
    pub(crate) fn plan(&mut self, ring: u32, page: u32, wanted: u32) -> u8 {
        let row = self.rings.at_mut(ring);
        row.growth = if page == row.expected { (row.growth + 1).min(MAX_ORDER) } else { GRANULE_ORDER };
        row.wanted = wanted;
        // A program that goes on from a snapshot needs much of it at once: what it wants is known from the start.
        if page >= FIRST {
            let wanted = wanted.clamp(1, mm_proto::WINDOW_MAX).next_power_of_two();
            row.growth = row.growth.max(u8::try_from(wanted.ilog2()).unwrap_or(0));
        }
        row.growth.min(row.max_order)
    }

    /// The ring's window around the page.
    pub(crate) fn window(&self, ring: u32, page: u32) -> Option<u32> {
        let row = self.rings.at(ring);
        let id = u16::try_from(ring).ok()?;
        row.orders().find_map(|order| self.windows.find(id, order, page))
    }

    /// Lends the page, which is in this frame, with what else of its window is in memory. Gives the window and which of
    /// its pages the client can map now; the page asked for is among them.
    pub(crate) fn lend<G: Grants>(
        &mut self,
        ring: u32,
        page: u32,
        order: u8,
        frame: u32,
        grants: &mut G,
    ) -> Result<(u32, Bitmap), Refused> {
        let (window, fresh) = match self.window(ring, page) {
            Some(window) => (window, false),
            None => (self.open_window(ring, page, order)?, true),
        };
        let entry = *self.windows.table.at(window);
        if entry.kind != Kind::Live {
            return Err(Refused::Revoking);
        }
        let asked = page.saturating_sub(entry.page);
        if !self.windows.is_set(window, asked) {
            let mut permitted = self.permit(window, asked, frame, grants);
            match permitted {
                Err(Refused::PageQuota) if self.trim(ring, grants) => {
                    permitted = self.permit(window, asked, frame, grants);
                }
                Err(Refused::Memory) if self.reclaim(grants) => {
                    permitted = self.permit(window, asked, frame, grants);
                }
                _ => {}
            }
            if let Err(cause) = permitted {
                // The client never heard of a new window.
                if fresh {
                    self.retire(window, grants);
                }
                return Err(cause);
            }
        }
        self.refresh(ring, window);
        let end = self.volume(entry.volume).map_or(0, |volume| volume.pages);
        let mut bitmap = Bitmap::EMPTY;
        for granule in self.windows.granules(window) {
            let first = self.windows.first_page(window, granule);
            let pages = end.saturating_sub(first).min(self.windows.span()).min(1 << entry.order);
            let bits = self.permit_all(window, granule, bits_below(pages), grants);
            let offset = first.saturating_sub(entry.page);
            if let Some(word) = bitmap.0.get_mut(offset as usize / 64) {
                *word |= u64::from(bits) << (offset % 64);
            }
        }
        Ok((window, bitmap))
    }

    fn open_window(&mut self, ring: u32, page: u32, order: u8) -> Result<u32, Refused> {
        let row = *self.rings.at(ring);
        let id = u16::try_from(ring).map_err(|_| Refused::References)?;
        let volume = self.volume_of(&row, page);
        let pages = self.volume(volume).map_or(0, |volume| volume.pages);
        let least = GRANULE_ORDER.min(row.max_order);
        let mut order = self.free_order(ring, page, least, order.max(least));
        // Not twice as long as the volume,
        while order > least && 1 << (order - 1) >= pages {
            order -= 1;
        }
        // nor more than the client may hold.
        let held = self.clients.at(u32::from(row.client)).references;
        let allowed = self.limits.client_references.saturating_sub(held);
        while order > least && self.windows.cost(order) > allowed {
            order -= 1;
        }
        if self.windows.cost(order) > allowed {
            return Err(Refused::ReferenceQuota);
        }
        let window = loop {
            let entry = WindowEntry { owner: id, volume, page, order, ..WindowEntry::default() };
            match self.windows.open(entry) {
                Some(window) => break window,
                None if order == least => return Err(Refused::References),
                None => order -= 1,
            }
        };
        let cost = self.windows.cost(order);
        let client = self.clients.at_mut(u32::from(row.client));
        client.references = client.references.saturating_add(cost);
        let row = self.rings.at_mut(ring);
        push(&mut self.windows.table, &mut row.windows, window);
        row.opened(order);
        self.counters.windows += 1;
        Ok(window)
    }

    /// The largest order, up to `most`, whose aligned range around the page has no window of the ring in it. There is none at
    /// `least`, which no window is smaller than.
    fn free_order(&self, ring: u32, page: u32, least: u8, most: u8) -> u8 {
        let row = self.rings.at(ring);
        let Ok(id) = u16::try_from(ring) else { return least };
        let mut order = least;
        while order < most {
            // The range of the next order is this one and its other half: look for windows in there, all of them smaller
            // or equal, since one that is larger would have the page itself in it.
            let half = (page >> order ^ 1) << order;
            for inner in row.orders().filter(|inner| (least..=order).contains(inner)) {
                let end = half.saturating_add(1 << order);
                let mut pages = (half..end).step_by(1 << inner);
                if pages.any(|page| self.windows.find(id, inner, page).is_some()) {
                    return order;
                }
            }
            order += 1;
        }
        order
    }

    /// Writes one entry: the client may map this frame as this page of the window.
    fn permit<G: Grants>(
        &mut self,
        window: u32,
        offset: u32,
        frame: u32,
        grants: &mut G,
    ) -> Result<(), Refused> {
        let client = self.client_of(window);
        let row = self.clients.at_mut(u32::from(client));
        if row.permitted >= self.limits.client_pages {
            return Err(Refused::PageQuota);
        }
        if !self.store.is_lent_or_stays(frame) && self.store.permitted >= self.lendable() {
            return Err(Refused::Memory);
        }
        let reference = self.windows.base(window).saturating_add(offset);
        grants.permit(self.wire(reference), ClientId(client), FrameId(frame));
        self.store.link(frame);
        let (granule, bit) = self.windows.place(window, offset);
        self.note_permitted(client, window, granule, bit);
        Ok(())
    }

    /// Writes the entries of a granule whose pages are among these and in memory, as far as the client may have them. Gives
    /// what the client can map of it now.
    fn permit_all<G: Grants>(&mut self, window: u32, granule: u32, pages: u16, grants: &mut G) -> u16 {
        let before = self.windows.table.at(granule).bits;
        let missing = pages & !before;
        if missing == 0 {
            return before;
        }
        let client = self.client_of(window);
        let volume = self.windows.table.at(window).volume;
        let first = self.windows.first_page(window, granule);
        let (frames, mut there) = self.store.residents(volume, first, missing);
        // Of frozen pages, only those of its own snapshot.
        if Some(volume) == self.frozen_volume {
            let snapshot = self.rings.at(u32::from(self.windows.table.at(window).owner)).snapshot;
            there = self.frozen.among(first, snapshot, there);
        }
        if self.volume(volume).is_some_and(|volume| !volume.copied.is_empty()) {
            for offset in ones(there) {
                if self.is_copy_only(volume, first.saturating_add(offset)) {
                    there &= !(1 << offset);
                }
            }
        }
        let row = self.clients.at(u32::from(client));
        let mut quota = self.limits.client_pages.saturating_sub(row.permitted);
        let (lendable, base) = (self.lendable(), self.wire(self.windows.base(granule)).0);
        let mut written = 0;
        for (offset, frame) in (0..).zip(frames) {
            // Where memory is short, pages that others are permitted too can still be lent.
            let lent = self.store.permitted < lendable || self.store.is_lent_or_stays(frame);
            if there >> offset & 1 == 0 || quota == 0 || !lent {
                continue;
            }
            quota -= 1;
            grants.permit(Reference(base.saturating_add(offset)), ClientId(client), FrameId(frame));
            self.store.link(frame);
            written |= 1 << offset;
        }
        self.note_permitted(client, window, granule, written);
        before | written
    }

    /// Entries were written.
    fn note_permitted(&mut self, client: u16, window: u32, granule: u32, bits: u16) {
        let volume = self.windows.table.at(window).volume;
        let first = self.windows.first_page(window, granule);
        self.windows.set(granule, volume, first, bits);
        let count = bits.count_ones();
        self.clients.at_mut(u32::from(client)).permitted += count;
        self.counters.permits += u64::from(count);
    }

    /// Whose a window is.
    pub(crate) fn client_of(&self, window: u32) -> u16 {
        let row = self.windows.table.at(window);
        if row.kind == Kind::Stale { row.owner } else { self.rings.at(u32::from(row.owner)).client }
    }

    /// Frames that may be lent, with those that are, and without pinned ones, which always may. Dirty ones take from them, but on their way to a
    /// disk they have half of the reserve first.
    pub(crate) fn lendable(&self) -> u32 {
        let store = &self.store;
        let passing = store.count(Class::Dirty).saturating_sub(store.kept);
        let passing = passing.saturating_sub(self.limits.reserve / 2);
        let others = [self.limits.reserve, store.lost, store.kept, passing, store.pinned, store.promised];
        store.frames.len().saturating_sub(others.into_iter().fold(0, u32::saturating_add))
    }

    /// Clears one entry, unless the client maps it. True where the entry is clear.
    pub(crate) fn clear<G: Grants>(&mut self, window: u32, offset: u32, grants: &mut G) -> bool {
        let (granule, bit) = self.windows.place(window, offset);
        self.clear_some(window, granule, bit, grants)
    }

    /// Clears those of `count` entries from an offset on that the client does not map.
    pub(crate) fn clear_run<G: Grants>(&mut self, window: u32, offset: u32, count: u32, grants: &mut G) {
        let span = self.windows.span();
        for granule in self.windows.granules(window) {
            let begin = granule.saturating_sub(window) * span;
            let from = offset.saturating_sub(begin);
            let to = offset.saturating_add(count).saturating_sub(begin);
            let bits = bits_below(to) & !bits_below(from);
            self.clear_some(window, granule, bits, grants);
        }
    }

    /// Clears all entries of a window that the client does not map.
    pub(crate) fn clear_window<G: Grants>(&mut self, window: u32, grants: &mut G) {
        for granule in self.windows.granules(window) {
            self.clear_some(window, granule, u16::MAX, grants);
        }
    }

    /// Clears those of these entries of a granule that the client does not map. True where all are clear.
    fn clear_some<G: Grants>(&mut self, window: u32, granule: u32, bits: u16, grants: &mut G) -> bool {
        let set = self.windows.table.at(granule).bits & bits;
        if set == 0 {
            return true;
        }
        let base = self.windows.base(granule);
        let mut cleared = 0;
        for offset in ones(set) {
            if grants.try_revoke(self.wire(base.saturating_add(offset))).is_ok() {
                cleared |= 1 << offset;
            }
        }
        let volume = self.windows.table.at(window).volume;
        let first = self.windows.first_page(window, granule);
        let (frames, there) = self.store.residents(volume, first, cleared);
        self.bugs += u64::from((cleared & !there).count_ones());
        for (offset, frame) in (0..).zip(frames) {
            if there >> offset & 1 == 1 {
                self.store.unlink(frame);
            }
        }
        self.windows.unset(granule, volume, first, cleared);
        let count = cleared.count_ones();
        let stale = self.windows.table.at(window).kind == Kind::Stale;
        let client = u32::from(self.client_of(window));
        let client = self.clients.at_mut(client);
        client.permitted = client.permitted.saturating_sub(count);
        if stale {
            client.stale = client.stale.saturating_sub(count);
        }
        self.counters.revokes += u64::from(count);
        cleared == set
    }

    /// The window was used just now.
    pub(crate) fn refresh(&mut self, ring: u32, window: u32) {
        let row = self.rings.at_mut(ring);
        if row.windows.newest != window && window != NIL {
            unlink(&mut self.windows.table, &mut row.windows, window);
            push(&mut self.windows.table, &mut row.windows, window);
        }
    }
}

/// The lowest `count` bits.
fn bits_below(count: u32) -> u16 {
    u16::MAX.checked_shr(16u32.saturating_sub(count)).unwrap_or(0)
}
