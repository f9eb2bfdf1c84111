//! The truth about what is mapped: a walk over all entries, in pieces, that counts `GTF_reading`.
//!
//! R and what is shared are figures of the last whole walk. A frame's class is set as soon as the walk knows it.

use crate::effect::Grants;
use crate::engine::Engine;
use crate::lenders::ones;
use crate::store::{Class, SEEN_LIVE, State};
use crate::windows::Kind;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    #[default]
    Entries,
    Frames,
    Clients,
}

/// How far the walk is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scan {
    phase: Phase,
    at: u32,
    /// Number of this walk, 1 to 255 round and round.
    pass: u8,
    mapped: u64,
    shared: u64,
    /// Mapped entries and mapped frames, as of the last whole walk.
    pub(crate) done: (u64, u64),
    pub(crate) count: u64,
}

impl Default for Scan {
    fn default() -> Self {
        Self { phase: Phase::Entries, at: 0, pass: 1, mapped: 0, shared: 0, done: (0, 0), count: 0 }
    }
}

impl Engine<'_> {
    /// Walks on over about `budget` rows. True when a walk over everything ended with this call.
    pub fn scan<G: Grants>(&mut self, budget: u32, grants: &G) -> bool {
        let mut left = budget;
        while left > 0 {
            let at = self.scan.at;
            let (rows, cost) = match self.scan.phase {
                Phase::Entries => (self.windows.table.len(), self.scan_window(at, grants)),
                Phase::Frames => (self.store.frames.len(), self.scan_frame(at)),
                Phase::Clients => (self.clients.len(), self.scan_client(at)),
            };
            left = left.saturating_sub(cost);
            self.scan.at = at.saturating_add(1);
            if self.scan.at < rows {
                continue;
            }
            self.scan.at = 0;
            self.scan.phase = match self.scan.phase {
                Phase::Entries => Phase::Frames,
                Phase::Frames => Phase::Clients,
                Phase::Clients => {
                    self.end_of_walk();
                    return true;
                }
            };
        }
        false
    }

    /// Walks over everything, however long that takes.
    pub fn scan_all<G: Grants>(&mut self, grants: &G) {
        self.scan =
            Scan { done: self.scan.done, count: self.scan.count, pass: self.scan.pass, ..Scan::default() };
        for client in 0..self.clients.len() {
            self.clients.at_mut(client).mapped_next = 0;
        }
        self.next_pass();
        while !self.scan(u32::MAX, grants) {}
    }

    fn scan_window<G: Grants>(&mut self, window: u32, grants: &G) -> u32 {
        let entry = *self.windows.table.at(window);
        let live = matches!(entry.kind, Kind::Live | Kind::Revoking);
        if !(live || entry.kind == Kind::Stale) {
            return 1;
        }
        let client = u32::from(self.client_of(window));
        for granule in self.windows.granules(window) {
            let base = self.windows.base(granule);
            let mut mapped = 0;
            for offset in ones(self.windows.table.at(granule).bits) {
                mapped |= u16::from(grants.is_reading(self.wire(base.saturating_add(offset)))) << offset;
            }
            if mapped == 0 {
                continue;
            }
            let first = self.windows.first_page(window, granule);
            let (frames, there) = self.store.residents(entry.volume, first, mapped);
            self.bugs += u64::from((mapped & !there).count_ones());
            if live {
                let client = self.clients.at_mut(client);
                client.mapped_next = client.mapped_next.saturating_add(there.count_ones());
            }
            for (offset, frame) in (0..).zip(frames) {
                if there >> offset & 1 == 1 {
                    self.see(frame, live);
                }
            }
        }
        1 << entry.order
    }

    /// An entry that permits the frame is mapped, by a client that may have it or not.
    fn see(&mut self, frame: u32, live: bool) {
        self.scan.mapped += 1;
        let row = self.store.frames.at_mut(frame);
        if row.pass != self.scan.pass {
            row.pass = self.scan.pass;
            row.flags &= !SEEN_LIVE;
            self.scan.shared += 1;
        }
        if live {
            row.flags |= SEEN_LIVE;
            self.store.set_class(frame, Class::Shared);
        }
    }

    fn scan_frame(&mut self, frame: u32) -> u32 {
        let row = *self.store.frames.at(frame);
        if row.state == State::Resident {
            let class = match (row.pass == self.scan.pass, row.flags & SEEN_LIVE != 0) {
                (true, true) => Class::Shared,
                (true, false) => Class::StalePinned,
                (false, _) => self.store.unmapped_class(frame),
            };
            if class != row.class {
                self.store.set_class(frame, class);
            }
            if row.pass != self.scan.pass {
                self.store.frames.at_mut(frame).pass = 0;
            }
        }
        1
    }

    fn scan_client(&mut self, client: u32) -> u32 {
        let row = self.clients.at_mut(client);
        row.mapped = core::mem::take(&mut row.mapped_next);
        1
    }

    fn end_of_walk(&mut self) {
        self.scan.done = (self.scan.mapped, self.scan.shared);
        self.scan.count += 1;
        (self.scan.mapped, self.scan.shared) = (0, 0);
        self.next_pass();
    }

    fn next_pass(&mut self) {
        self.scan.pass = self.scan.pass.checked_add(1).unwrap_or(1);
    }
}
