//! Lending: a window for a page, and grant entries for what of it is in memory.

use mm_proto::Bitmap;

use crate::effect::Grants;
use crate::engine::Engine;
use crate::ids::{ClientId, FrameId};
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
        row.growth.min(row.max_order)
    }

    /// The ring's window around the page.
    pub(crate) fn window(&self, ring: u32, page: u32) -> Option<u32> {
        let row = self.rings.at(ring);
        let id = u16::try_from(ring).ok()?;
        (0..)
            .zip(row.by_order)
            .filter(|(_, windows)| *windows > 0)
            .find_map(|(order, _)| self.windows.find(id, order, page))
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
        let window = match self.window(ring, page) {
            Some(window) => window,
            None => self.open_window(ring, page, order)?,
        };
        let entry = *self.windows.table.at(window);
        if entry.kind != Kind::Live {
            return Err(Refused::Revoking);
        }
        let base = self.windows.base(window);
        let asked = page.saturating_sub(entry.page);
        if !self.store.is_linked(base.saturating_add(asked)) {
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
                // A window that permits nothing may be one that the client never heard of, or one that was cleared.
                if !self.windows.table.at(window).told {
                    self.retire(window, grants);
                }
                return Err(cause);
            }
        }
        self.windows.table.at_mut(window).told = true;
        self.refresh(ring, window);
        let end = self.volume(entry.volume).map_or(0, |volume| volume.pages);
        let copied = self.volume(entry.volume).is_some_and(|volume| !volume.copied.is_empty());
        let mut bitmap = Bitmap::EMPTY;
        let mut full = false;
        for offset in 0..1 << entry.order {
            let page = entry.page.saturating_add(offset);
            if page >= end {
                break;
            }
            if self.store.is_linked(base.saturating_add(offset)) {
                bitmap.set(offset);
                continue;
            }
            if full || copied && self.is_copy_only(entry.volume, page) {
                continue;
            }
            let Some(frame) = self.store.resident(entry.volume, page) else { continue };
            match self.permit(window, offset, frame, grants) {
                Ok(()) => bitmap.set(offset),
                // Where memory is short, pages that others are permitted too can still be lent.
                Err(cause) => full = cause == Refused::PageQuota,
            }
        }
        Ok((window, bitmap))
    }

    fn open_window(&mut self, ring: u32, page: u32, order: u8) -> Result<u32, Refused> {
        let row = *self.rings.at(ring);
        let id = u16::try_from(ring).map_err(|_| Refused::References)?;
        let pages = self.volume(row.volume).map_or(0, |volume| volume.pages);
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
            let entry = WindowEntry {
                ring: id,
                client: row.client,
                volume: row.volume,
                page,
                order,
                ..WindowEntry::default()
            };
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
        if let Some(windows) = row.by_order.get_mut(usize::from(order)) {
            *windows += 1;
        }
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
            for (inner, windows) in (0..=order).zip(row.by_order).skip(usize::from(least)) {
                let step = 1usize << inner;
                let end = half.saturating_add(1 << order);
                if windows > 0
                    && (half..end).step_by(step).any(|page| self.windows.find(id, inner, page).is_some())
                {
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
        let entry = *self.windows.table.at(window);
        let client = self.clients.at(u32::from(entry.client));
        if client.permitted >= self.limits.client_pages {
            return Err(Refused::PageQuota);
        }
        if !self.store.is_permitted(frame) && self.store.permitted >= self.lendable() {
            return Err(Refused::Memory);
        }
        let reference = self.windows.base(window).saturating_add(offset);
        grants.permit(self.wire(reference), ClientId(entry.client), FrameId(frame));
        self.store.link(reference, frame);
        self.windows.table.at_mut(window).permitted += 1;
        self.clients.at_mut(u32::from(entry.client)).permitted += 1;
        self.counters.permits += 1;
        Ok(())
    }

    /// Frames that may be lent, with those that are. Dirty ones take from them, but on their way to a
    /// disk they have half of the reserve first.
    pub(crate) fn lendable(&self) -> u32 {
        let store = &self.store;
        let passing = store.count(Class::Dirty).saturating_sub(store.kept);
        let passing = passing.saturating_sub(self.limits.reserve / 2);
        let others = [self.limits.reserve, store.lost, store.kept, passing];
        store.frames.len().saturating_sub(others.into_iter().fold(0, u32::saturating_add))
    }

    /// Clears one entry, unless the client maps it. True where the entry is clear.
    pub(crate) fn clear<G: Grants>(&mut self, window: u32, offset: u32, grants: &mut G) -> bool {
        let reference = self.windows.base(window).saturating_add(offset);
        if !self.store.is_linked(reference) {
            return true;
        }
        if grants.try_revoke(self.wire(reference)).is_err() {
            return false;
        }
        self.store.unlink(reference);
        let entry = self.windows.table.at_mut(window);
        entry.permitted = entry.permitted.saturating_sub(1);
        let (client, stale) = (u32::from(entry.client), entry.kind == Kind::Stale);
        let client = self.clients.at_mut(client);
        client.permitted = client.permitted.saturating_sub(1);
        if stale {
            client.stale = client.stale.saturating_sub(1);
        }
        self.counters.revokes += 1;
        true
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
