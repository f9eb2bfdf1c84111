//! What the engine counts. Counters only rise, and wrap never in practice; gauges are computed when asked for.

/// Figures of a client's own, as it reported them: nobody checked them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientReport {
    /// W: private pages that it has written.
    pub written: u64,
    /// KAS: pages of its kernel.
    pub kernel: u64,
    /// R as it counts.
    pub mapped: u64,
    /// Faults that it served alone from references that it held.
    pub local_faults: u64,
    /// Copy-on-write breaks.
    pub cow_breaks: u64,
    /// Pages that it mapped ahead after a thaw.
    pub ahead: u64,
    /// Of those, pages that its program has touched.
    pub ahead_used: u64,
    /// Pages that it keeps for bad times.
    pub reserve: u64,
    /// Pages that Xen did not give it.
    pub populate_failed: u64,
}

/// How a fault that came through the ring was served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// `Grant` of a page that was in memory.
    GrantResident,
    /// `Grant` that waited for a block read.
    GrantRead,
    /// `Copy` of a page that was in memory.
    CopyResident,
    /// `Copy` that waited for a block read.
    CopyRead,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultResult {
    /// Served.
    Ok,
    /// Sent on to ask for a copy.
    CopyInstead,
    /// The volume could not be read.
    ReadError,
    /// Beyond the volume's end.
    OutOfRange,
    /// The client's reference could not be written.
    BadReference,
    /// The volume is retired.
    Gone,
}

/// Faults by kind and result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults([[u64; 6]; 4]);

impl Faults {
    /// Names of kinds and results, for labels.
    pub const KINDS: [(FaultKind, &'static str); 4] = [
        (FaultKind::GrantResident, "grant_resident"),
        (FaultKind::GrantRead, "grant_read"),
        (FaultKind::CopyResident, "copy_resident"),
        (FaultKind::CopyRead, "copy_read"),
    ];
    /// See [`Self::KINDS`].
    pub const RESULTS: [(FaultResult, &'static str); 6] = [
        (FaultResult::Ok, "ok"),
        (FaultResult::CopyInstead, "copy_instead"),
        (FaultResult::ReadError, "read_error"),
        (FaultResult::OutOfRange, "out_of_range"),
        (FaultResult::BadReference, "bad_reference"),
        (FaultResult::Gone, "gone"),
    ];

    /// Faults of this kind that ended so.
    #[must_use]
    pub fn get(&self, kind: FaultKind, result: FaultResult) -> u64 {
        self.0.get(kind as usize).and_then(|row| row.get(result as usize)).copied().unwrap_or(0)
    }

    pub(crate) fn count(&mut self, kind: FaultKind, result: FaultResult) {
        if let Some(cell) = self.0.get_mut(kind as usize).and_then(|row| row.get_mut(result as usize)) {
            *cell += 1;
        }
    }

    /// Those that were served out of memory.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.get(FaultKind::GrantResident, FaultResult::Ok)
            + self.get(FaultKind::CopyResident, FaultResult::Ok)
    }

    /// Those that were served after a read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.get(FaultKind::GrantRead, FaultResult::Ok) + self.get(FaultKind::CopyRead, FaultResult::Ok)
    }

    /// Faults that were served through the event channel: everything that ended well.
    #[must_use]
    pub fn served(&self) -> u64 {
        Self::KINDS.iter().map(|(kind, _)| self.get(*kind, FaultResult::Ok)).sum()
    }
}

/// Why a `Grant` was answered with `CopyInstead`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The volume, or the page, is only copied.
    CopyOnly,
    /// The client holds as many references as it may.
    ReferenceQuota,
    /// The client may map as many pages as it may.
    PageQuota,
    /// No run of references is free.
    References,
    /// Nearly all of the store is lent out and in use.
    Memory,
    /// The page's window is being revoked.
    Revoking,
}

/// `CopyInstead` answers by cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refusals([u64; 6]);

impl Refusals {
    /// Names of the causes, for labels.
    pub const CAUSES: [(Refused, &'static str); 6] = [
        (Refused::CopyOnly, "copy_only"),
        (Refused::ReferenceQuota, "reference_quota"),
        (Refused::PageQuota, "page_quota"),
        (Refused::References, "references"),
        (Refused::Memory, "memory"),
        (Refused::Revoking, "revoking"),
    ];

    /// Answers for this cause.
    #[must_use]
    pub fn get(&self, cause: Refused) -> u64 {
        self.0.get(cause as usize).copied().unwrap_or(0)
    }

    pub(crate) fn count(&mut self, cause: Refused) {
        if let Some(cell) = self.0.get_mut(cause as usize) {
            *cell += 1;
        }
    }
}

/// Everything that only rises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Requests taken from rings, whatever they were.
    pub requests: u64,
    /// Faults by kind and result.
    pub faults: Faults,
    /// `CopyInstead` by cause.
    pub refusals: Refusals,
    /// Windows opened.
    pub windows: u64,
    /// Grant entries written.
    pub permits: u64,
    /// Grant entries cleared.
    pub revokes: u64,
    /// Windows that clients were asked to drop.
    pub revocations: u64,
    /// Windows that they dropped when asked.
    pub acknowledged: u64,
    /// `Release` requests.
    pub releases: u64,
    /// Pages copied into frames of clients.
    pub copies: u64,
    /// Pages evicted to make room.
    pub evictions: u64,
    /// Block reads begun.
    pub reads: u64,
    /// Pages read.
    pub pages_read: u64,
    /// Pages among them that nobody had asked for yet.
    pub pages_ahead: u64,
    /// Block reads that failed.
    pub read_errors: u64,
    /// Requests that had to wait for a frame, or for a free read.
    pub starved: u64,
    /// Pages that the block service found in memory.
    pub hits: u64,
    /// Pages that it had to wait for.
    pub misses: u64,
    /// Frames that it took to write to.
    pub fills: u64,
    /// Times that it was told that there is no room.
    pub no_room: u64,
    /// Requests that broke the protocol; each closed its ring.
    pub client_faults: u64,
    /// Rings attached.
    pub attached: u64,
    /// Rings detached.
    pub detached: u64,
    /// Clients admitted.
    pub admitted: u64,
    /// Devices refused.
    pub refused: u64,
    /// Snapshots completed.
    pub freezes: u64,
    /// Freezes of which nothing came.
    pub freezes_failed: u64,
    /// Devices attached to a snapshot.
    pub clones: u64,
    /// Pages that clients have mapped ahead after a thaw, as they say, and those of them that were touched.
    pub ahead: u64,
    /// See [`Self::ahead`].
    pub ahead_used: u64,
}

/// Pages of M1's memory by use. The sum is all of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageStates {
    /// Holding nothing.
    pub free: u64,
    /// Cached, or being read; nobody maps them.
    pub clean: u64,
    /// Mapped by at least one client, as of the last scan.
    pub shared: u64,
    /// Part of snapshots.
    pub frozen: u64,
    /// Part of overlays.
    pub dirty: u64,
    /// Mapped only by clients that should have let go, as of the last scan; or lost to a disk's backend that went away.
    pub stale_pinned: u64,
    /// M1 itself: image, tables, rings, page tables.
    pub metadata: u64,
}

impl PageStates {
    /// All pages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.free + self.clean + self.shared + self.frozen + self.dirty + self.stale_pinned + self.metadata
    }
}

/// Gauges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Pages by use.
    pub pages: PageStates,
    /// Pages being read now (clean in [`PageStates`]).
    pub reading: u64,
    /// Pages that some entry permits, mapped or not.
    pub permitted: u64,
    /// Pages of M1 that are mapped by clients, as of the last whole scan (`pages_shared` of Linux' KSM).
    pub pages_shared: u64,
    /// Mappings of them beyond the first of each: pages saved (`pages_sharing` of Linux' KSM).
    pub pages_sharing: u64,
    /// References that may be given out.
    pub references: u64,
    /// Of those, references that no client holds.
    pub references_free: u64,
    /// Clients that are there, or not gone completely.
    pub clients: u64,
    /// Rings that are attached, or not closed completely.
    pub rings: u64,
    /// Pages of snapshots, each counted once; and those that one snapshot alone has.
    pub frozen: u64,
    /// See [`Self::frozen`].
    pub frozen_unique: u64,
    /// Whole scans so far.
    pub scans: u64,
    /// Mistakes of the engine itself, survived: 0, or a bug to report.
    pub bugs: u64,
}

/// Gauges of one client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientFigures {
    /// Whether it was disconnected.
    pub leaving: bool,
    /// Rings that are attached, or not closed completely.
    pub rings: u32,
    /// References that it holds.
    pub references: u32,
    /// Entries that permit it a page.
    pub permitted: u32,
    /// R: entries that it maps, as of the last whole scan.
    pub mapped: u32,
    /// Entries that it may map still, although it should have let go.
    pub stale_pinned: u32,
    /// Faults served through the event channel.
    pub served: u64,
    /// Pages copied.
    pub copies: u64,
    /// Breaches of the protocol.
    pub faults: u32,
    /// What it says of itself.
    pub report: ClientReport,
}

/// Service times: from when a request was taken to when its answer was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// Answers within [`Self::bound`] of each index, and not within the one before; the last has the rest.
    pub counts: [u64; Self::BUCKETS],
    /// Sum in nanoseconds.
    pub sum: u64,
}

impl Histogram {
    /// Number of buckets.
    pub const BUCKETS: usize = 24;

    /// Upper bound of a bucket in nanoseconds: 1 µs, doubling. The last bucket has none.
    #[must_use]
    pub fn bound(bucket: usize) -> Option<u64> {
        (bucket + 1 < Self::BUCKETS).then(|| 1000 << bucket)
    }

    pub(crate) fn record(&mut self, nanoseconds: u64) {
        let bucket = (0..Self::BUCKETS)
            .find(|bucket| Self::bound(*bucket).is_none_or(|bound| nanoseconds <= bound))
            .unwrap_or(0);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(nanoseconds);
    }
}
