//! What the endpoint shows. Every page is rendered whole from one [`Facts`], so no page contradicts itself.

use core::fmt::{self, Write};

use mm_engine::{ClientId, Engine, Figures};
use mm_http::{HttpStats, Page, Pages};
use xen_sys::DomId;

use crate::block::Block;
use crate::config::Config;
use crate::control::Counters;
use crate::lending::Lending;
use crate::overlays::Overlays;
use crate::refusals::Refusals;
use crate::snapshots::Snapshots;
use crate::volumes::VolumeFacts;

mod disks;
mod index;
mod metrics;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use snapshots::{Hex, status as snapshots};

/// Bytes of a page of memory.
pub(crate) const PAGE: u64 = mm_proto::PAGE_SIZE as u64;
/// Bytes that Xen keeps for each frame of our grant table: the frame and 512 active entries of 40 bytes
/// (`xen/common/grant_table.c`, `struct active_grant_entry`).
const XEN_BYTES_PER_GRANT_FRAME: u64 = 4096 + 512 * 40;
/// Bytes that Xen keeps for each mapping of a client (`struct grant_mapping`).
const XEN_BYTES_PER_MAPPING: u64 = 16;

/// Everything that pages are made of, at one moment.
pub struct Facts<'a> {
    /// The options.
    pub config: &'a Config,
    /// The engine; it is scanned before a page is rendered.
    pub engine: &'a mut Engine<'static>,
    /// The grant table, for that.
    pub lending: &'a Lending,
    /// What clients keep, where there is a disk for it.
    pub overlays: Option<&'a Overlays>,
    /// The disks of stock frontends.
    pub block: &'a Block,
    /// The volumes that were configured, usable or not.
    pub volumes: &'a [VolumeFacts],
    /// Frozen clients.
    pub snapshots: &'a Snapshots,
    /// Devices that were refused lately.
    pub refusals: &'a Refusals,
    /// What Xen gives and takes.
    pub host: Host,
    /// Rings that broke the ring's rules, which the engine never saw.
    pub ring_faults: u64,
    /// Devices that were closed because of what they did.
    pub closed: u64,
    /// Times that somebody forged the frontend of a device that dom0 did not make.
    pub strangers: u64,
    /// What dom0 asked.
    pub control: Counters,
    /// Turns of the loop.
    pub turns: u64,
    /// Seconds since 1970 at boot.
    pub started: u64,
    /// Seconds since 1970 now.
    pub now: u64,
    /// Whether volumes are served.
    pub ready: bool,
}

/// Xen's side.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Host {
    /// Version of Xen.
    pub version: (u16, u16),
    /// Frames of the grant table now.
    pub grant_frames: u32,
    /// Frames that it can grow to.
    pub grant_frames_max: u32,
    /// References that drivers and devices of M1 itself hold.
    pub own_references: u32,
    /// Event channels in use.
    pub ports: u32,
    /// Event channels that can be had.
    pub ports_max: u32,
    /// Bytes of the console's output that were lost because nobody read them.
    pub console_dropped: u64,
}

/// What sharing is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saving {
    /// Memory that clients would need in addition, had each a copy of what it maps.
    pub saved: u64,
    /// Memory that M1 uses for itself.
    pub metadata: u64,
    /// Memory of Xen's for our grant table and the clients' mappings.
    pub xen: u64,
    /// Memory of M1 that nobody maps now: free, or cached.
    pub idle: u64,
}

impl Saving {
    /// From the engine's figures.
    #[must_use]
    pub fn of(figures: &Figures, host: &Host) -> Self {
        let mappings = figures.pages_shared + figures.pages_sharing;
        let states = &figures.pages;
        Self {
            saved: figures.pages_sharing * PAGE,
            metadata: states.metadata * PAGE,
            xen: u64::from(host.grant_frames) * XEN_BYTES_PER_GRANT_FRAME + mappings * XEN_BYTES_PER_MAPPING,
            idle: (states.free + states.clean + states.stale_pinned) * PAGE,
        }
    }

    /// KSM's `general_profit`: saved, less all metadata, Xen's included. Negative where sharing does not pay.
    #[must_use]
    pub fn profit(&self) -> i64 {
        signed(self.saved) - signed(self.metadata) - signed(self.xen)
    }

    /// The profit, less M1's memory that lies idle too: what the host as a whole has gained.
    #[must_use]
    pub fn net(&self) -> i64 {
        self.profit() - signed(self.idle)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Facts<'_> {
    fn domain(&self, client: ClientId) -> DomId {
        self.lending.domain(client)
    }

    /// Devices that have the version of a volume at this place.
    fn clients_of(&self, index: usize) -> usize {
        self.block.disks().filter(|disk| disk.volume == index).count()
    }

    fn pages_of_memory(&self) -> u64 {
        self.engine.page_states().total()
    }
}

impl Pages for Facts<'_> {
    fn ready(&mut self) -> bool {
        self.ready
    }

    fn render(&mut self, page: Page, http: &HttpStats, out: &mut dyn Write) -> fmt::Result {
        // What is mapped is asked of the grant table now, not remembered.
        self.engine.scan_all(self.lending);
        match page {
            Page::Index => index::render(self, out),
            Page::Metrics => metrics::render(self, http, out),
            Page::Status => status::render(self, out),
            Page::Ready if self.ready => out.write_str("ready\n"),
            Page::Ready => out.write_str("no volume can be served: see /status.json\n"),
            Page::Health => out.write_str("ok\n"),
        }
    }
}
