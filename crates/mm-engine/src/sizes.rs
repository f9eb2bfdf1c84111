//! How large the tables are: what the caller allocates at boot.

use core::mem::{offset_of, size_of};

use crate::buckets::{BUCKETS, memory_of};
use crate::engine::granule;
use crate::frozen::FrozenEntry;
use crate::rings::{ClientEntry, RequestEntry, RingEntry, SLOTS};
use crate::snapshots::{SNAPSHOTS, SnapshotEntry};
use crate::store::FrameEntry;
use crate::windows::WindowEntry;

const _: () = assert!(size_of::<FrameEntry>() == 24);
const _: () = assert!(size_of::<WindowEntry>() == 32);
// What every request changes of them is in one line of the cache.
const _: () = assert!(size_of::<RingEntry>() == 64);
const _: () = assert!(offset_of!(ClientEntry, report) == 64);

/// Memory for the engine: slices of the lengths of [`TableSizes`], whatever they hold.
pub struct Tables<'a> {
    /// One row for each page of the store.
    pub frames: &'a mut [FrameEntry],
    /// Hash of frames.
    pub frame_buckets: &'a mut [u32],
    /// One row for each granule of references.
    pub windows: &'a mut [WindowEntry],
    /// Hash of windows; a power of two.
    pub window_buckets: &'a mut [u32],
    /// Hash of granules by the pages that they permit; a power of two.
    pub lender_buckets: &'a mut [u32],
    /// One row for each ring.
    pub rings: &'a mut [RingEntry],
    /// As many rows for each ring as it has slots.
    pub requests: &'a mut [RequestEntry],
    /// One row for each client.
    pub clients: &'a mut [ClientEntry],
    /// One row for each frozen page; none where there are no snapshots.
    pub frozen: &'a mut [FrozenEntry],
    /// As many: which snapshots each is in.
    pub frozen_members: &'a mut [u64],
    /// Hash of frozen pages by content; a power of two.
    pub frozen_buckets: &'a mut [u32],
    /// One row for each snapshot.
    pub snapshots: &'a mut [SnapshotEntry],
}

/// Rows of each table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSizes {
    /// Pages of the store.
    pub frames: usize,
    /// See [`Tables::frame_buckets`].
    pub frame_buckets: usize,
    /// Grant references: they have no table of their own.
    pub references: usize,
    /// See [`Tables::windows`].
    pub windows: usize,
    /// See [`Tables::window_buckets`].
    pub window_buckets: usize,
    /// See [`Tables::lender_buckets`].
    pub lender_buckets: usize,
    /// Rings.
    pub rings: usize,
    /// See [`Tables::requests`].
    pub requests: usize,
    /// Clients.
    pub clients: usize,
    /// Frozen pages: half as many as frames, if nothing else is said ([`Self::with_frozen`]).
    pub frozen: usize,
    /// See [`Tables::frozen_buckets`].
    pub frozen_buckets: usize,
    /// Snapshots, those that are being taken included: [`SNAPSHOTS`], if nothing else is said.
    pub snapshots: usize,
}

impl TableSizes {
    /// Rows for this many of each, with `window` as [`Limits::window`](crate::Limits::window). References are rounded up to
    /// whole granules. At most 65,535 rings and clients, and 2³¹ − 1 frames and references, are used.
    #[must_use]
    pub fn new(frames: u32, references: u32, rings: u32, clients: u32, window: u32) -> Self {
        const MOST: u32 = (1 << 31) - 512;
        let granule = granule(window);
        let frames = frames.min(MOST) as usize;
        let frozen = frames / 2;
        let windows = references.min(MOST).div_ceil(1 << granule) as usize;
        let rings = rings.min(u32::from(u16::MAX)) as usize;
        Self {
            frames,
            frame_buckets: memory_of(frames.div_ceil(BUCKETS).max(1).next_power_of_two()),
            references: windows << granule,
            windows,
            window_buckets: windows.max(1).next_power_of_two(),
            lender_buckets: windows.max(1).next_power_of_two(),
            rings,
            requests: rings * SLOTS as usize,
            clients: clients.min(u32::from(u16::MAX)) as usize,
            frozen,
            frozen_buckets: frozen_buckets(frozen),
            snapshots: SNAPSHOTS,
        }
    }

    /// With room for so many frozen pages, and snapshots (at most [`SNAPSHOTS`]).
    #[must_use]
    pub fn with_frozen(self, frozen: u32, snapshots: usize) -> Self {
        let frozen = frozen.min((1 << 31) - 512) as usize;
        let snapshots = snapshots.min(SNAPSHOTS);
        Self { frozen, frozen_buckets: frozen_buckets(frozen), snapshots, ..self }
    }

    /// Rows such that the store and all tables fit in `pages` pages of memory, each table beginning a page of its own, with
    /// `extra` bytes of the caller's own for each page of the store. No frames where they do not fit.
    #[must_use]
    pub fn fit(pages: u32, references: u32, rings: u32, clients: u32, window: u32, extra: usize) -> Self {
        // One more frame never takes less: search the largest number that fits.
        let (mut fits, mut beyond) = (0, pages.saturating_add(1));
        while beyond - fits > 1 {
            let frames = fits + (beyond - fits) / 2;
            let sizes = Self::new(frames, references, rings, clients, window);
            let own = (frames as usize).saturating_mul(extra).div_ceil(4096);
            if sizes.pages().saturating_add(own).saturating_add(frames as usize) <= pages as usize {
                fits = frames;
            } else {
                beyond = frames;
            }
        }
        Self::new(fits, references, rings, clients, window)
    }

    /// Pages that the tables take, each beginning a page of its own.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.each().iter().map(|bytes| bytes.div_ceil(4096)).sum()
    }

    /// Bytes that the tables take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.each().iter().sum()
    }

    /// Bytes of the tables for each page of the store, those for frozen pages included.
    #[must_use]
    pub fn bytes_per_frame(&self) -> f64 {
        let [frames, buckets, .., frozen, members, content, _] = self.each();
        ratio(frames + buckets + frozen + members + content, self.frames)
    }

    /// Bytes of the tables for each grant reference.
    #[must_use]
    pub fn bytes_per_reference(&self) -> f64 {
        let [_, _, windows, buckets, lenders, ..] = self.each();
        ratio(windows + buckets + lenders, self.references)
    }

    fn each(&self) -> [usize; 12] {
        [
            self.frames * size_of::<FrameEntry>(),
            self.frame_buckets * size_of::<u32>(),
            self.windows * size_of::<WindowEntry>(),
            self.window_buckets * size_of::<u32>(),
            self.lender_buckets * size_of::<u32>(),
            self.rings * size_of::<RingEntry>(),
            self.requests * size_of::<RequestEntry>(),
            self.clients * size_of::<ClientEntry>(),
            self.frozen * size_of::<FrozenEntry>(),
            self.frozen * size_of::<u64>(),
            self.frozen_buckets * size_of::<u32>(),
            self.snapshots * size_of::<SnapshotEntry>(),
        ]
    }
}

/// Half as many as pages, or somewhat more: chains of two.
fn frozen_buckets(frozen: usize) -> usize {
    (frozen / 2).max(1).next_power_of_two()
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn ratio(bytes: usize, rows: usize) -> f64 {
    bytes as f64 / rows.max(1) as f64
}
