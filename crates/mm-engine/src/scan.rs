//! The truth about what is mapped: a walk over all entries, in pieces, that counts `GTF_reading`.
//!
//! R and what is shared are figures of the last whole walk. A frame's class is set as soon as the walk knows it.

use crate::effect::Grants;
use crate::engine::Engine;
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
        if entry.permitted == 0 || !(live || entry.kind == Kind::Stale) {
            return 1;
        }
        let base = self.windows.base(window);
        for offset in 0..1 << entry.order {
            let reference = base.saturating_add(offset);
            if !self.store.is_linked(reference) || !grants.is_reading(self.wire(reference)) {
                continue;
            }
            let Some(frame) = self.store.find(entry.volume, entry.page.saturating_add(offset)) else {
                self.bugs += 1;
                continue;
            };
            if live {
                let client = self.clients.at_mut(u32::from(entry.client));
                client.mapped_next = client.mapped_next.saturating_add(1);
            }
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
        1 << entry.order
    }

    fn scan_frame(&mut self, frame: u32) -> u32 {
        let row = *self.store.frames.at(frame);
        if row.state == State::Resident {
            let class = match (row.pass == self.scan.pass, row.flags & SEEN_LIVE != 0) {
                (true, true) => Class::Shared,
                (true, false) => Class::StalePinned,
                (false, _) => Class::Clean,
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
