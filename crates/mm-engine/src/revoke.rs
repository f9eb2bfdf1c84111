//! Taking back: what clients release, what they are asked to drop, and what is taken without asking.

use mm_proto::{Response, Status, Timing};

use crate::effect::{Effect, Effects, Grants};
use crate::engine::Engine;
use crate::ids::RingId;
use crate::lenders::ones;
use crate::rings::RingState;
use crate::serve::ClientFault;
use crate::stats::Refused;
use crate::store::{Class, PINNED, State};
use crate::table::NIL;
use crate::windows::{Kind, push, unlink};

/// Windows of one ring that one call looks at.
const WINDOWS: u32 = 8;
/// Rings that one call looks at.
const RINGS: u32 = 16;
/// Frames that one call looks at, and granules that may permit one frame.
const FRAMES: u32 = 64;
const ENTRIES: usize = 64;

impl Engine<'_> {
    /// `Release`: the client says that it has unmapped this run. A whole window is given back; of a part, the entries are
    /// cleared and the window stays.
    pub(crate) fn released<G: Grants>(
        &mut self,
        ring: u32,
        reference: u32,
        count: u32,
        grants: &mut G,
    ) -> Result<(), ClientFault> {
        let (window, offset, whole) = self.run(ring, reference, count)?;
        self.counters.releases += 1;
        if whole && self.windows.table.at(window).kind == Kind::Live {
            self.retire(window, grants);
            return Ok(());
        }
        // Where the window is being revoked, only the acknowledgement ends it: one is certain to come.
        self.clear_run(window, offset, count, grants);
        Ok(())
    }

    /// `RevokeAck`: the client has dropped the window that it was asked for.
    pub(crate) fn acknowledged<G: Grants>(
        &mut self,
        ring: u32,
        reference: u32,
        count: u32,
        grants: &mut G,
    ) -> Result<(), ClientFault> {
        let (window, _, whole) = self.run(ring, reference, count)?;
        if !whole || self.windows.table.at(window).kind != Kind::Revoking {
            return Err(ClientFault::NotRevoked);
        }
        self.counters.acknowledged += 1;
        self.retire(window, grants);
        Ok(())
    }

    /// The window of the ring that a run of references lies in, where in it, and whether it is all of it.
    fn run(&self, ring: u32, reference: u32, count: u32) -> Result<(u32, u32, bool), ClientFault> {
        let foreign = ClientFault::ForeignReference;
        let first = reference.checked_sub(self.limits.first_reference).ok_or(foreign)?;
        let window = self.windows.owner(first).ok_or(foreign)?;
        let entry = self.windows.table.at(window);
        let offset = first.checked_sub(self.windows.base(window)).ok_or(foreign)?;
        let end = offset.checked_add(count).ok_or(foreign)?;
        let ours = u32::from(entry.owner) == ring && matches!(entry.kind, Kind::Live | Kind::Revoking);
        if !ours || end > 1 << entry.order {
            return Err(foreign);
        }
        Ok((window, offset, count == 1 << entry.order))
    }

    /// The ring may no longer use the window: its references are anybody's where nothing is mapped, else stale.
    pub(crate) fn retire<G: Grants>(&mut self, window: u32, grants: &mut G) {
        let entry = *self.windows.table.at(window);
        self.windows.hide(window);
        let row = self.rings.at_mut(u32::from(entry.owner));
        unlink(&mut self.windows.table, &mut row.windows, window);
        row.closed(entry.order);
        self.clear_window(window, grants);
        let left = self.windows.permitted(window);
        if left == 0 {
            return self.free_window(window);
        }
        let owner = self.client_of(window);
        let row = self.windows.table.at_mut(window);
        (row.kind, row.owner) = (Kind::Stale, owner);
        push(&mut self.windows.table, &mut self.stale, window);
        let client = self.clients.at_mut(u32::from(owner));
        client.stale += left;
        client.stale_windows += 1;
        for granule in self.windows.granules(window) {
            let bits = self.windows.table.at(granule).bits;
            let first = self.windows.first_page(window, granule);
            let (frames, there) = self.store.residents(entry.volume, first, bits);
            for (offset, frame) in (0..).zip(frames) {
                let class = self.store.frames.at(frame).class;
                if there >> offset & 1 == 1 && matches!(class, Class::Clean | Class::Frozen) {
                    self.store.set_class(frame, Class::StalePinned);
                }
            }
        }
    }

    /// The references of a retired window are anybody's.
    fn free_window(&mut self, window: u32) {
        let cost = self.windows.cost(self.windows.table.at(window).order);
        let client = u32::from(self.client_of(window));
        let client = self.clients.at_mut(client);
        client.references = client.references.saturating_sub(cost);
        self.windows.close(window);
    }

    /// Looks once more at a stale window.
    pub(crate) fn retry_stale<G: Grants>(&mut self, window: u32, grants: &mut G) {
        self.clear_window(window, grants);
        unlink(&mut self.windows.table, &mut self.stale, window);
        if self.windows.permitted(window) > 0 {
            push(&mut self.windows.table, &mut self.stale, window);
            return;
        }
        let client = u32::from(self.client_of(window));
        let row = self.clients.at_mut(client);
        row.stale_windows = row.stale_windows.saturating_sub(1);
        self.free_window(window);
        self.bury(client);
    }

    /// Nothing of the window is mapped.
    fn is_idle<G: Grants>(&self, window: u32, grants: &G) -> bool {
        self.windows.granules(window).all(|granule| {
            let base = self.windows.base(granule);
            ones(self.windows.table.at(granule).bits)
                .all(|offset| !grants.is_reading(self.wire(base.saturating_add(offset))))
        })
    }

    /// The client may be permitted no more pages: clears entries of its own that it does not map. True where that helped.
    pub(crate) fn trim<G: Grants>(&mut self, ring: u32, grants: &mut G) -> bool {
        let client = u32::from(self.rings.at(ring).client);
        let before = self.clients.at(client).permitted;
        for _ in 0..WINDOWS {
            let window = self.rings.at(ring).windows.oldest;
            if window == NIL {
                break;
            }
            self.clear_window(window, grants);
            self.refresh(ring, window);
            if self.clients.at(client).permitted < before {
                return true;
            }
        }
        false
    }

    /// Nearly everything is lent: clears the entries of a few frames that nobody maps. True where a frame came free.
    pub(crate) fn reclaim<G: Grants>(&mut self, grants: &mut G) -> bool {
        self.reclaim_more(false, grants)
    }

    /// As [`Self::reclaim`]; with `all`, of all frames that it looks at, however many are at hand.
    pub(crate) fn reclaim_more<G: Grants>(&mut self, all: bool, grants: &mut G) -> bool {
        let mut won = false;
        for _ in 0..FRAMES.min(self.store.frames.len()) {
            let frame = self.frame_hand;
            self.frame_hand = if frame + 1 < self.store.frames.len() { frame + 1 } else { 0 };
            let row = *self.store.frames.at(frame);
            // A page of a snapshot stays: nothing is won by not lending it.
            let stays = row.state != State::Resident || row.flags & PINNED != 0;
            if stays || !self.store.is_permitted(frame) || self.store.take_used(frame) {
                continue;
            }
            won |= self.unlend(frame, grants);
            if won && !all && self.store.at_hand() > self.limits.reserve {
                break;
            }
        }
        won
    }

    /// Clears the entries that permit a frame, unless one is mapped. True where none is left. Of many, it looks at some at a time.
    fn unlend<G: Grants>(&mut self, frame: u32, grants: &mut G) -> bool {
        let row = self.store.frames.at(frame);
        let (volume, page) = (row.volume, row.page);
        let mut found: heapless::Vec<(u32, u32), ENTRIES> = heapless::Vec::new();
        for (window, offset) in self.windows.permitting(volume, page, ENTRIES) {
            let reference = self.windows.base(window).saturating_add(offset);
            if grants.is_reading(self.wire(reference)) {
                return false;
            }
            let _ = found.push((window, offset));
        }
        // Those that were not looked at are first the next time: what is cleared here leaves the ring, or stays behind.
        if found.len() < self.store.permits(frame) as usize {
            self.windows.turn_lenders(volume, page, ENTRIES);
        }
        for (window, offset) in found {
            if !self.clear(window, offset, grants) {
                return false;
            }
        }
        !self.store.is_permitted(frame)
    }

    /// Something ran short for this ring: asks somebody to drop a window, if he listens.
    pub(crate) fn press<G: Grants>(&mut self, ring: u32, cause: Refused, grants: &mut G, out: &mut Effects) {
        match cause {
            Refused::CopyOnly | Refused::PageQuota | Refused::Revoking => {}
            Refused::ReferenceQuota => {
                self.revoke_from(ring, false, grants, out);
            }
            Refused::References | Refused::Memory => {
                let mine = self.clients.at(u32::from(self.rings.at(ring).client)).references;
                let mut most = None;
                for _ in 0..RINGS.min(self.rings.len()) {
                    let at = self.ring_hand;
                    self.ring_hand = if at + 1 < self.rings.len() { at + 1 } else { 0 };
                    let row = self.rings.at(at);
                    if row.state == RingState::Open && row.listen.is_some() && row.windows.oldest != NIL {
                        let held = self.clients.at(u32::from(row.client)).references;
                        most = most.max(Some((held, at)));
                    }
                }
                let Some((held, at)) = most else { return };
                // One who has much less may have even what another uses.
                self.revoke_from(at, held / 2 > mine, grants, out);
            }
        }
    }

    /// Asks a ring to drop its oldest window that it does not map, or its oldest one where `mapped` allows that.
    fn revoke_from<G: Grants>(&mut self, ring: u32, mapped: bool, grants: &mut G, out: &mut Effects) -> bool {
        if self.rings.at(ring).listen.is_none() {
            return false;
        }
        let mut window = self.rings.at(ring).windows.oldest;
        let mut fallback = None;
        for _ in 0..WINDOWS {
            if window == NIL {
                break;
            }
            if self.windows.table.at(window).kind == Kind::Live {
                if self.is_idle(window, grants) {
                    self.revoke(ring, window, grants, out);
                    return true;
                }
                fallback = fallback.or(Some(window));
            }
            window = self.windows.table.at(window).newer;
        }
        match fallback {
            Some(window) if mapped => {
                self.revoke(ring, window, grants, out);
                true
            }
            _ => false,
        }
    }

    fn revoke<G: Grants>(&mut self, ring: u32, window: u32, grants: &mut G, out: &mut Effects) {
        let Some(id) = self.rings.at_mut(ring).listen.take() else { return };
        self.windows.table.at_mut(window).kind = Kind::Revoking;
        let entry = *self.windows.table.at(window);
        self.clear_window(window, grants);
        self.counters.revocations += 1;
        let response = Response {
            page: u64::from(entry.page),
            reference: self.wire(self.windows.base(window)).0,
            count: 1 << entry.order,
            timing: Timing::default(),
            ..Response::bare(id, Status::Revoke)
        };
        let ring = RingId(u16::try_from(ring).unwrap_or(u16::MAX));
        out.push(Effect::Reply { ring, response });
    }
}
