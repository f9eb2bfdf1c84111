//! What the engine shows of itself.

use crate::engine::Engine;
use crate::ids::ClientId;
use crate::rings::{ClientState, RingState};
use crate::stats::{ClientFigures, Counters, Figures, Histogram, PageStates};
use crate::store::Class;

impl Engine<'_> {
    /// Everything that only rises.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Service times of everything that was stamped.
    #[must_use]
    pub fn service_times(&self) -> &Histogram {
        &self.service
    }

    /// How long programs stood still for the snapshots that are complete, as their clients say.
    #[must_use]
    pub fn standstills(&self) -> &Histogram {
        &self.standstills
    }

    /// How long clients took from their first instruction to their program's, as they say.
    #[must_use]
    pub fn thaws(&self) -> &Histogram {
        &self.thaws
    }

    /// Pages of M1's memory by use. Their sum is `frames + metadata_pages` at any moment.
    #[must_use]
    pub fn page_states(&self) -> PageStates {
        let count = |class| u64::from(self.store.count(class));
        PageStates {
            free: count(Class::Free),
            clean: count(Class::Clean),
            shared: count(Class::Shared),
            frozen: count(Class::Frozen),
            dirty: count(Class::Dirty),
            stale_pinned: count(Class::StalePinned),
            metadata: self.limits.metadata_pages,
        }
    }

    /// The gauges. Walks over the tables of clients and rings.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let (mapped, shared) = self.scan.done;
        let (references, references_free) = self.windows.references();
        let wild = self.store.frames.wild()
            + self.windows.table.wild()
            + self.rings.wild()
            + self.requests.wild()
            + self.clients.wild()
            + self.snapshots.wild()
            + self.frozen.wild();
        let unique = (0..64).map(|slot| u64::from(self.frozen.pages(slot).1)).sum();
        Figures {
            pages: self.page_states(),
            reading: u64::from(self.store.reading),
            permitted: u64::from(self.store.permitted) + u64::from(self.store.pinned_permitted),
            frozen: u64::from(self.frozen.used()),
            frozen_unique: unique,
            pages_shared: shared,
            pages_sharing: mapped.saturating_sub(shared),
            references: u64::from(references),
            references_free: u64::from(references_free),
            clients: (0..self.clients.len())
                .filter(|i| self.clients.at(*i).state != ClientState::Free)
                .count() as u64,
            rings: (0..self.rings.len()).filter(|i| self.rings.at(*i).state != RingState::Free).count()
                as u64,
            scans: self.scan.count,
            bugs: self.bugs + u64::from(wild),
        }
    }

    /// References that can be given out now and that no client holds: when to grow the grant table.
    #[must_use]
    pub fn references_free(&self) -> u64 {
        u64::from(self.windows.references().1)
    }

    /// The gauges of one client; none where the number is nobody's.
    #[must_use]
    pub fn client(&self, client: ClientId) -> Option<ClientFigures> {
        let row = self.clients.at(u32::from(client.0));
        (row.state != ClientState::Free).then_some(ClientFigures {
            leaving: row.state == ClientState::Leaving,
            rings: row.rings,
            references: row.references,
            permitted: row.permitted,
            mapped: row.mapped,
            stale_pinned: row.stale,
            served: row.served,
            copies: row.copies,
            faults: row.faults,
            report: row.report,
        })
    }

    /// The clients that are there, or not gone completely.
    pub fn clients(&self) -> impl Iterator<Item = (ClientId, ClientFigures)> + '_ {
        (0..=u16::MAX)
            .take(self.clients.len() as usize)
            .filter_map(|id| self.client(ClientId(id)).map(|figures| (ClientId(id), figures)))
    }

    /// Mapped pages that no live client should map (see [`ClientFigures::stale_pinned`]) make clients wait in
    /// `Leaving`; requests that wait for a frame make others slow. Both are signs of pressure, as is this: how many
    /// frames can be had at once.
    #[must_use]
    pub fn frames_at_hand(&self) -> u32 {
        self.store.available()
    }
}
