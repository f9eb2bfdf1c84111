//! What honest clients do.

use mm_client::{AskError, Event, Lookup, Retry};

use super::world::{Mapping, World, whose};

impl World {
    /// The program touches a page.
    pub(super) fn touch(&mut self, peer: usize, ring: usize, page: u64) {
        match self.peers[peer].rings[ring].mm.lookup(page) {
            Lookup::Have(reference) => {
                if self.map(peer, ring, page, reference) {
                    self.peers[peer].rings[ring].outcomes[0] += 1;
                    return;
                }
                match self.peers[peer].rings[ring].mm.map_failed(page) {
                    Retry::Ask => self.ask(peer, ring, page),
                    Retry::Copy => self.copy(peer, ring, page),
                }
            }
            Lookup::Missing => self.ask(peer, ring, page),
        }
    }

    pub(super) fn map(&mut self, peer: usize, ring: usize, page: u64, reference: u32) -> bool {
        let client = self.peers[peer].client;
        let Some(frame) = self.table.map(client, reference) else { return false };
        let seen = self.frames[frame.0 as usize];
        let ring = &mut self.peers[peer].rings[ring];
        assert_eq!(whose(seen), Some((ring.volume, page)), "a reference led to a wrong page");
        ring.maps.push(Mapping { page, reference, frame, seen });
        ring.mm.mapped(page);
        true
    }

    pub(super) fn ask(&mut self, peer: usize, ring: usize, page: u64) {
        let now = self.now;
        match self.peers[peer].rings[ring].mm.ask(page, 8, now) {
            Ok(request) => {
                self.peers[peer].rings[ring].waiting.insert(page);
                self.send(peer, ring, &request);
            }
            Err(AskError::TableFull) => {
                self.pump(peer, ring);
                self.copy(peer, ring, page);
            }
            Err(AskError::OutOfRange) => self.peers[peer].rings[ring].outcomes[2] += 1,
            Err(AskError::NotReady | AskError::RingFull | AskError::Asked) => {}
        }
    }

    pub(super) fn copy(&mut self, peer: usize, ring: usize, page: u64) {
        let now = self.now;
        match self.peers[peer].rings[ring].mm.copy(page, 5000, now) {
            Ok(request) => {
                self.peers[peer].rings[ring].waiting.insert(page);
                self.send(peer, ring, &request);
            }
            Err(AskError::RingFull) => self.peers[peer].rings[ring].later.push(page),
            Err(_) => {}
        }
    }

    /// The client looks at its oldest response. False where there is none.
    pub(super) fn deliver(&mut self, peer: usize, ring: usize) -> bool {
        let this = &mut self.peers[peer].rings[ring];
        let Some(response) = this.inbox.pop_front() else { return false };
        if this.hostile {
            return true;
        }
        match this.mm.on_response(&response).expect("M1 broke the protocol") {
            Event::Ready { .. } | Event::Nothing | Event::FreezeOrdered | Event::FreezeAnswered { .. } => {}
            Event::Unsupported => panic!("our own version was refused"),
            Event::Granted { page } => {
                this.waiting.remove(&page);
                if let Lookup::Have(reference) = this.mm.lookup(page)
                    && self.map(peer, ring, page, reference)
                {
                    self.peers[peer].rings[ring].outcomes[0] += 1;
                } else if self.peers[peer].rings[ring].mm.map_failed(page) == Retry::Copy {
                    self.copy(peer, ring, page);
                }
            }
            Event::CopyInstead { page } => self.copy(peer, ring, page),
            Event::Copied { page, .. } => {
                this.waiting.remove(&page);
                this.outcomes[1] += 1;
            }
            Event::Failed { page, .. } => {
                this.waiting.remove(&page);
                this.outcomes[2] += 1;
            }
            Event::Revoke { page, reference, count } => this.revoked = Some((page, reference, count)),
        }
        self.pump(peer, ring);
        for page in std::mem::take(&mut self.peers[peer].rings[ring].later) {
            self.copy(peer, ring, page);
        }
        true
    }

    /// The client does what a revocation demands.
    pub(super) fn obey(&mut self, peer: usize, ring: usize) {
        let this = &mut self.peers[peer].rings[ring];
        let Some((page, reference, count)) = this.revoked.take() else { return };
        let mut kept = Vec::new();
        for map in this.maps.drain(..) {
            if (page..page + u64::from(count)).contains(&map.page) {
                assert_eq!(u64::from(map.reference - reference), map.page - page);
                self.table.unmap(map.reference);
                this.mm.unmapped(map.page);
            } else {
                kept.push(map);
            }
        }
        this.maps = kept;
        this.mm.revoked();
        self.pump(peer, ring);
    }

    pub(super) fn unmap(&mut self, peer: usize, ring: usize, which: usize) {
        let this = &mut self.peers[peer].rings[ring];
        if this.maps.is_empty() {
            return;
        }
        let map = this.maps.swap_remove(which % this.maps.len());
        self.table.unmap(map.reference);
        this.mm.unmapped(map.page);
    }

    /// Maps a window's other pages, as a client does that faults around.
    pub(super) fn fault_around(&mut self, peer: usize, ring: usize, page: u64) {
        let around: Vec<_> = self.peers[peer].rings[ring].mm.neighbours(page, 16).collect();
        for (page, reference) in around {
            if !self.peers[peer].rings[ring].maps.iter().any(|map| map.page == page)
                && !self.map(peer, ring, page, reference)
            {
                let _ = self.peers[peer].rings[ring].mm.map_failed(page);
                break;
            }
        }
    }
}
