//! Everything that must be true of the engine's tables at any moment, found out the slow way.

use std::collections::{BTreeMap, BTreeSet};

use super::world::World;
use crate::rings::{RingState, SLOTS};
use crate::store::{Class, FORGOTTEN, State};
use crate::table::NIL;
use crate::windows::{Kind, List};

impl World {
    pub(super) fn check(&self) {
        self.check_windows();
        self.check_frames();
        self.check_requests();
        let figures = self.engine.figures();
        assert_eq!(figures.bugs, 0);
        let total = u64::from(self.shape.frames) + self.shape.limits.metadata_pages;
        assert_eq!(figures.pages.total(), total, "the closed set");
    }

    fn list(&self, list: List) -> Vec<u32> {
        let mut found = Vec::new();
        let (mut at, mut before) = (list.oldest, NIL);
        while at != NIL {
            let row = self.engine.windows.table.at(at);
            assert_eq!(row.older, before);
            found.push(at);
            (before, at) = (at, row.newer);
        }
        assert_eq!(list.newest, before);
        found
    }

    fn check_windows(&self) {
        let engine = &self.engine;
        let (references, free) = engine.windows.references();
        let (mut seen_free, mut at) = (0, 0);
        // By client: references, permitted, stale, stale windows.
        let mut sums: BTreeMap<u16, [u32; 4]> = BTreeMap::new();
        let mut ranges: BTreeMap<u16, Vec<(u32, u32)>> = BTreeMap::new();
        let stale: BTreeSet<u32> = self.list(engine.stale).into_iter().collect();
        let (mut live, mut listed) = (BTreeSet::new(), BTreeSet::new());
        while engine.windows.base(at) < references {
            let row = *engine.windows.table.at(at);
            let size = match row.kind {
                Kind::Body => panic!("granule {at} belongs to no block"),
                Kind::Free => {
                    let size = 1 << row.order;
                    seen_free += engine.windows.base(size);
                    size
                }
                Kind::Live | Kind::Revoking | Kind::Stale => {
                    let linked = (0..1 << row.order)
                        .filter(|offset| {
                            let reference = engine.windows.base(at) + offset;
                            let permits = self.table.entries[reference as usize].permit.is_some();
                            assert_eq!(permits, engine.windows.is_set(at, *offset));
                            permits
                        })
                        .count();
                    let permitted = engine.windows.permitted(at);
                    assert_eq!(linked, permitted as usize);
                    let sum = sums.entry(engine.client_of(at)).or_default();
                    sum[0] += engine.windows.cost(row.order);
                    sum[1] += permitted;
                    if row.kind == Kind::Stale {
                        sum[2] += permitted;
                        sum[3] += 1;
                        assert!(stale.contains(&at));
                    } else {
                        live.insert(at);
                        ranges.entry(row.owner).or_default().push((row.page, row.page + (1 << row.order)));
                        assert_eq!(engine.windows.find(row.owner, row.order, row.page), Some(at));
                    }
                    engine.windows.cost(row.order) / engine.windows.base(1)
                }
            };
            for body in at + 1..at + size {
                assert_eq!(engine.windows.table.at(body).kind, Kind::Body);
            }
            at += size;
        }
        assert_eq!(seen_free, free);
        for (ring, ranges) in &mut ranges {
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|two| two[0].1 <= two[1].0), "windows of ring {ring} overlap");
        }
        for ring in 0..engine.rings.len() {
            let row = engine.rings.at(ring);
            let windows = self.list(row.windows);
            let orders: u32 = row.by_order.iter().copied().map(u32::from).sum();
            assert_eq!(windows.len(), orders as usize);
            listed.extend(windows);
        }
        assert_eq!(live, listed);
        for client in 0..engine.clients.len() {
            let row = engine.clients.at(client);
            let sum = sums.get(&u16::try_from(client).unwrap()).copied().unwrap_or_default();
            assert_eq!(sum, [row.references, row.permitted, row.stale, row.stale_windows]);
            assert!(row.references <= self.shape.limits.client_references);
            assert!(row.permitted <= self.shape.limits.client_pages);
        }
    }

    fn check_frames(&self) {
        let engine = &self.engine;
        let mut classes = [0; 6];
        let (mut idle, mut permitted, mut reading) = (0, 0, 0);
        let (mut linked, mut frozen) = (0, 0);
        for frame in 0..engine.store.frames.len() {
            let row = *engine.store.frames.at(frame);
            classes[row.class as usize] += 1;
            match row.state {
                State::Free => assert_eq!((row.class, row.holds), (Class::Free, 0)),
                State::Reading => {
                    reading += 1;
                    assert!(!engine.store.is_permitted(frame), "a frame is lent while it is read");
                    let found = engine.store.find(row.volume, row.page) == Some(frame);
                    assert!(found || row.flags & FORGOTTEN != 0);
                }
                State::Dirty => {
                    assert_eq!((row.class, row.holds), (Class::Dirty, 0));
                    assert_eq!(engine.store.find(row.volume, row.page), Some(frame));
                    assert!(!engine.store.is_permitted(frame), "a frame is lent while it is written");
                    let (dirty, bytes) = self.blocks.dirty[&(row.volume, u64::from(row.page))];
                    assert_eq!((dirty.0, bytes), (frame, self.frames[frame as usize]));
                }
                State::Failed => {
                    assert!(row.holds > 0 || self.lost.contains(&frame));
                    assert!(!engine.store.is_permitted(frame));
                }
                State::Resident => {
                    assert_eq!(engine.store.find(row.volume, row.page), Some(frame));
                    let wanted = self.expected(crate::VolumeId(row.volume), u64::from(row.page));
                    assert!(row.flags & FORGOTTEN == 0 || row.holds > 0 || engine.store.is_permitted(frame));
                    assert_eq!(self.frames[frame as usize], wanted);
                    permitted += u32::from(engine.store.is_permitted(frame));
                    let pinned = engine.store.is_pinned(frame);
                    frozen += u32::from(pinned);
                    idle += u32::from(!engine.store.is_permitted(frame) && row.holds == 0 && !pinned);
                }
                State::Filling => {
                    frozen += 1;
                    assert_eq!((row.class, row.holds), (Class::Frozen, 0));
                    assert!(engine.store.is_pinned(frame) && !engine.store.is_permitted(frame));
                }
            }
            if !engine.store.is_permitted(frame) {
                continue;
            }
            let mut permits = 0;
            for (window, offset) in engine.windows.permitting(row.volume, row.page, usize::MAX) {
                permits += 1;
                let reference = engine.windows.base(window) + offset;
                assert_eq!(engine.windows.owner(reference), Some(window));
                let (client, permitted) = self.table.entries[reference as usize].permit.unwrap();
                assert_eq!((client.0, permitted.0), (engine.client_of(window), frame));
            }
            assert!(permits > 0 && permits == engine.store.permits(frame));
            linked += permits as usize;
        }
        let entries = self.table.entries.iter().filter(|entry| entry.permit.is_some()).count();
        assert_eq!(entries, linked);
        assert_eq!(
            (idle, permitted, reading, frozen),
            (
                engine.store.idle,
                engine.store.permitted + engine.store.pinned_permitted,
                engine.store.reading,
                engine.store.pinned
            )
        );
        let permitted = engine.store.permitted + engine.store.pinned + engine.store.promised;
        let lost = u32::try_from(self.lost.len()).unwrap();
        assert!(permitted <= self.shape.frames - self.shape.limits.reserve);
        assert_eq!(engine.store.lost, lost);
        let dirty = engine.store.count(Class::Dirty);
        assert_eq!(dirty as usize, self.blocks.dirty.len());
        let passing = (dirty - engine.store.kept).saturating_sub(self.shape.limits.reserve / 2);
        assert!(permitted + engine.store.kept + passing <= self.shape.frames - self.shape.limits.reserve);
        use Class::{Clean, Dirty, Free, Frozen, Shared, StalePinned};
        let counts = [Free, Clean, Shared, Frozen, Dirty, StalePinned].map(|class| engine.store.count(class));
        assert_eq!(classes, counts);
    }

    /// Each request waits in exactly one place, and each frame is held as often as requests hold it.
    fn check_requests(&self) {
        let engine = &self.engine;
        let mut places: BTreeMap<u32, u32> = BTreeMap::new();
        let parked = engine.volumes.iter().map(|volume| volume.parked);
        for queue in [engine.ready, engine.starved].into_iter().chain(parked) {
            let mut at = queue.head();
            while at != NIL {
                *places.entry(at).or_default() += 1;
                at = engine.requests.at(at).next;
            }
        }
        let mut holds: BTreeMap<u32, u16> = BTreeMap::new();
        for request in 0..engine.requests.len() {
            let row = engine.requests.at(request);
            let ring = engine.rings.at(request / SLOTS);
            let used = ring.slots >> (request % SLOTS) & 1 == 1;
            assert!(!used || ring.state != RingState::Free);
            if row.copying {
                *places.entry(request).or_default() += 1;
            }
            // The frames of a capture are held by being filled.
            let captures = matches!(row.ask, crate::rings::Ask::Capture { .. });
            if used && row.frame != NIL && !captures {
                *holds.entry(row.frame).or_default() += 1;
            }
        }
        for frame in 0..engine.store.frames.len() {
            let row = engine.store.frames.at(frame);
            assert_eq!(row.holds, holds.get(&frame).copied().unwrap_or(0));
            if row.state == State::Reading && row.first != NIL {
                let mut at = row.first;
                loop {
                    *places.entry(at).or_default() += 1;
                    at = engine.requests.at(at).next;
                    if at == row.first {
                        break;
                    }
                }
            }
        }
        for request in 0..engine.requests.len() {
            let used = engine.rings.at(request / SLOTS).slots >> (request % SLOTS) & 1 == 1;
            assert_eq!(places.get(&request).copied().unwrap_or(0), u32::from(used), "request {request}");
        }
    }

    /// Ends everything, and finds that nothing is left of anybody.
    pub(super) fn end(&mut self) {
        self.settle();
        self.end_blocks();
        while !self.peers.is_empty() {
            self.disconnect(0);
        }
        while !self.reads.is_empty() || !self.copies.is_empty() {
            self.end_read(0);
            self.end_copy(crate::Copied::Done);
        }
        self.verify();
        while !self.ghosts.is_empty() {
            self.bury(0);
        }
        while self.engine.sweep(64, &mut self.table) {}
        for _ in 0..self.shape.references {
            self.engine.sweep(64, &mut self.table);
        }
        self.engine.scan_all(&self.table);
        self.check();
        let figures = self.engine.figures();
        assert_eq!((figures.clients, figures.rings, figures.permitted), (0, 0, 0));
        assert_eq!((figures.reading, figures.pages_shared, figures.pages_sharing), (0, 0, 0));
        assert_eq!(figures.references, figures.references_free);
        let lost = u32::try_from(self.lost.len()).unwrap();
        assert_eq!((figures.pages.shared, figures.pages.stale_pinned), (0, u64::from(lost)));
        assert_eq!(self.engine.frames_at_hand(), self.shape.frames - lost);
        assert!(self.table.entries.iter().all(|entry| entry.permit.is_none() && entry.pins == 0));
    }
}
