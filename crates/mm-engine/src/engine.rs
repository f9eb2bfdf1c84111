//! The engine's state, and the beginnings and ends of volumes, clients and rings.

use mm_proto::WINDOW_MAX;

use crate::cache::Failures;
use crate::effect::Grants;
use crate::frozen::Frozen;
use crate::ids::{ClientId, RingId, VolumeId};
use crate::queue::Queue;
use crate::rings::{ClientEntry, ClientState, RequestEntry, RingEntry, RingState, SLOTS};
use crate::scan::Scan;
use crate::sizes::Tables;
use crate::snapshots::{SNAPSHOTS, SnapshotEntry};
use crate::stats::{Counters, Histogram};
use crate::store::Store;
use crate::table::{NIL, Table};
use crate::volumes::{Sharing, VOLUMES, Volume};
use crate::windows::{GRANULE_ORDER, List, Windows};

/// Windows that a detach takes back at once; the rest is left to [`Engine::sweep`].
const DETACH_WINDOWS: u32 = 64;

/// What bounds the engine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The grant reference on the wire of the first row of the reference table.
    pub first_reference: u32,
    /// Largest window in pages, rounded down to a power of two from 1 to 512.
    pub window: u32,
    /// Pages that are read for one request, at most.
    pub read_ahead: u32,
    /// Pages of one block read, at most; 1 to 16.
    pub read_run: u32,
    /// Block reads of one volume at a time.
    pub reads: u32,
    /// Frames that are never lent, so that copies always go on. At least 1. Half of them can be dirty however much is lent.
    pub reserve: u32,
    /// Dirty frames in hundredths of the store, at most 90: the rest is there for the cache and the map service.
    pub dirty: u32,
    /// References that a client may hold.
    pub client_references: u32,
    /// Pages that a client may be permitted.
    pub client_pages: u32,
    /// Pages of M1's memory that are not in the store, for the sum of [`PageStates`](crate::PageStates).
    pub metadata_pages: u64,
    /// A secret number, for hashes whose buckets nobody can choose.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_reference: 0,
            window: WINDOW_MAX,
            read_ahead: 64,
            read_run: 11,
            reads: 32,
            reserve: 32,
            dirty: 50,
            client_references: 65536,
            client_pages: 65536,
            metadata_pages: 0,
            seed: 0,
        }
    }
}

/// Why something cannot begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No room for another volume or range.
    TooManyVolumes,
    /// Longer than 2³² − 1 pages (16 TiB).
    TooLong,
    /// No such volume, or it is retired.
    NoVolume,
    /// No such client.
    NoClient,
    /// The client has a volume of another group already.
    OtherGroup,
    /// The volume is of a kind that no ring leads to.
    Private,
    /// No room for another client.
    TooManyClients,
    /// No room for another ring.
    TooManyRings,
    /// No such snapshot of that volume, or it is not ready.
    NoSnapshot,
}

/// See the crate's documentation.
pub struct Engine<'a> {
    pub(crate) store: Store<'a>,
    pub(crate) windows: Windows<'a>,
    pub(crate) rings: Table<'a, RingEntry>,
    pub(crate) requests: Table<'a, RequestEntry>,
    pub(crate) clients: Table<'a, ClientEntry>,
    pub(crate) frozen: Frozen<'a>,
    pub(crate) snapshots: Table<'a, SnapshotEntry>,
    /// The volume of the frozen pages, once it was added.
    pub(crate) frozen_volume: Option<u16>,
    /// A bit for each snapshot whose pages go.
    pub(crate) dying: u64,
    /// Rings whose `Commit` is to be answered, since nothing comes of it: number and time of the request.
    pub(crate) lost_commits: heapless::Vec<(RingId, u32, u64), SNAPSHOTS>,
    pub(crate) volumes: heapless::Vec<Volume, VOLUMES>,
    /// The next frame of a walk that looks for what is left of retired volumes.
    pub(crate) leaving: Option<u32>,
    pub(crate) limits: Limits,
    pub(crate) counters: Counters,
    pub(crate) service: Histogram,
    pub(crate) standstills: Histogram,
    pub(crate) thaws: Histogram,
    free_ring: u32,
    free_client: u32,
    /// Requests whose turn it is.
    pub(crate) ready: Queue,
    /// Requests that need a frame; those that need a free read are with their volume.
    pub(crate) starved: Queue,
    /// There are frames, and yet nobody who waits for one could go on: too many wait for one page.
    pub(crate) stalled: bool,
    /// Reads that the block service wanted and that failed, until it hears of it.
    pub(crate) failures: Failures,
    /// Frames to be read again alone.
    pub(crate) rereads: u32,
    /// Rings that are being closed.
    pub(crate) closing: u32,
    /// Windows that should be gone.
    pub(crate) stale: List,
    /// Where the search for a frame to take back goes on.
    pub(crate) frame_hand: u32,
    /// Where the search for a ring to ask goes on.
    pub(crate) ring_hand: u32,
    pub(crate) scan: Scan,
    /// Calls of the caller that made no sense.
    pub(crate) bugs: u64,
}

impl<'a> Engine<'a> {
    /// An engine over these tables, whose rows it resets. No reference may be given out before
    /// [`Self::extend_references`].
    #[must_use]
    pub fn new(tables: Tables<'a>, limits: Limits) -> Self {
        let window = limits.window.clamp(1, WINDOW_MAX);
        let window = 1 << window.ilog2();
        let limits = Limits {
            window,
            read_run: limits.read_run.clamp(1, 16),
            read_ahead: limits.read_ahead.max(1),
            reads: limits.reads.max(1),
            reserve: limits.reserve.max(1),
            dirty: limits.dirty.min(90),
            ..limits
        };
        let granule = granule(window);
        let mut engine = Self {
            store: Store::new(tables.frames, tables.frame_buckets, limits.seed),
            windows: Windows::new(
                tables.windows,
                tables.window_buckets,
                tables.lender_buckets,
                granule,
                !limits.seed,
            ),
            rings: Table::new(tables.rings),
            requests: Table::new(tables.requests),
            clients: Table::new(tables.clients),
            frozen: Frozen::new(tables.frozen, tables.frozen_members, tables.frozen_buckets, limits.seed),
            snapshots: Table::new(tables.snapshots),
            frozen_volume: None,
            dying: 0,
            lost_commits: heapless::Vec::new(),
            volumes: heapless::Vec::new(),
            leaving: None,
            limits,
            counters: Counters::default(),
            service: Histogram::default(),
            standstills: Histogram::default(),
            thaws: Histogram::default(),
            free_ring: NIL,
            free_client: NIL,
            ready: Queue::default(),
            starved: Queue::default(),
            stalled: false,
            failures: Failures::default(),
            rereads: NIL,
            closing: NIL,
            stale: List::default(),
            frame_hand: 0,
            ring_hand: 0,
            scan: Scan::default(),
            bugs: 0,
        };
        let rings = engine.rings.len().min(engine.requests.len() / SLOTS).min(u32::from(u16::MAX));
        for ring in (0..rings).rev() {
            engine.rings.at_mut(ring).next = engine.free_ring;
            engine.free_ring = ring;
        }
        for client in (0..engine.clients.len().min(u32::from(u16::MAX))).rev() {
            engine.clients.at_mut(client).next = engine.free_client;
            engine.free_client = client;
        }
        engine
    }

    /// Lets the first `count` rows of the reference table be given out: the grant table has grown so far. Never shrinks.
    pub fn extend_references(&mut self, count: u32) {
        self.windows.extend(count);
    }

    /// Makes room for a client. The number is the caller's until [`Self::client_state`] says `Free` after a
    /// [`Self::disconnect`]: as long as the domain lives, all of its devices belong to that one number, so that what
    /// it does not let go of stays charged to it.
    ///
    /// # Errors
    /// [`Refusal::TooManyClients`].
    pub fn admit(&mut self) -> Result<ClientId, Refusal> {
        let client = self.free_client;
        let id = u16::try_from(client).ok().filter(|_| client != NIL).ok_or(Refusal::TooManyClients);
        let Ok(id) = id else {
            self.counters.refused += 1;
            return Err(Refusal::TooManyClients);
        };
        let row = self.clients.at_mut(client);
        self.free_client = row.next;
        *row = ClientEntry { state: ClientState::Here, ..ClientEntry::default() };
        self.counters.admitted += 1;
        Ok(ClientId(id))
    }

    /// Where the client is in its life. `Free` also for a number that was never given.
    #[must_use]
    pub fn client_state(&self, client: ClientId) -> ClientState {
        self.clients.at(u32::from(client.0)).state
    }

    /// Connects a device of the client to a volume. A client that was leaving is back.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn attach(&mut self, client: ClientId, volume: VolumeId) -> Result<RingId, Refusal> {
        let result = self.try_attach(client, volume);
        match result {
            Ok(_) => self.counters.attached += 1,
            Err(_) => self.counters.refused += 1,
        }
        result
    }

    fn try_attach(&mut self, client: ClientId, volume: VolumeId) -> Result<RingId, Refusal> {
        let entry = self.volume(volume.0).ok_or(Refusal::NoVolume)?;
        let group = entry.group.0;
        if !matches!(entry.sharing, Sharing::Map | Sharing::Copy) {
            return Err(Refusal::Private);
        }
        let row = self.clients.at(u32::from(client.0));
        if row.state == ClientState::Free {
            return Err(Refusal::NoClient);
        }
        // Its group is kept as long as it is known, not as long as it has rings: else it could look at one after another.
        if row.group.is_some_and(|other| other != group) {
            return Err(Refusal::OtherGroup);
        }
        let ring = self.free_ring;
        let id = u16::try_from(ring).ok().filter(|_| ring != NIL).ok_or(Refusal::TooManyRings)?;
        let entry = self.rings.at_mut(ring);
        self.free_ring = entry.next;
        *entry = RingEntry {
            state: RingState::Silent,
            client: client.0,
            volume: volume.0,
            ..RingEntry::default()
        };
        let row = self.clients.at_mut(u32::from(client.0));
        entry.sibling = core::mem::replace(&mut row.first_ring, ring);
        row.state = ClientState::Here;
        row.group = Some(group);
        row.rings += 1;
        Ok(RingId(id))
    }

    /// The ring's device is gone: nothing more is answered there. References are taken back here and by [`Self::sweep`];
    /// the number may not be used again by the caller.
    pub fn detach<G: Grants>(&mut self, ring: RingId, grants: &mut G) {
        let index = u32::from(ring.0);
        let row = self.rings.at_mut(index);
        if !matches!(row.state, RingState::Silent | RingState::Open) {
            return;
        }
        row.state = RingState::Closing;
        row.next = core::mem::replace(&mut self.closing, index);
        self.counters.detached += 1;
        self.leave_snapshots(index, grants);
        self.close_rings(DETACH_WINDOWS, grants);
    }

    /// The client is gone: detaches all of its rings. [`Self::client_state`] is `Free` when nothing of it is left.
    pub fn disconnect<G: Grants>(&mut self, client: ClientId, grants: &mut G) {
        let index = u32::from(client.0);
        let row = self.clients.at_mut(index);
        if row.state != ClientState::Here {
            return;
        }
        row.state = ClientState::Leaving;
        for _ in 0..row.rings {
            let mut ring = self.clients.at(index).first_ring;
            for _ in 0..self.rings.len() {
                if ring == NIL || self.rings.at(ring).state != RingState::Closing {
                    break;
                }
                ring = self.rings.at(ring).sibling;
            }
            if let (true, Ok(ring)) = (ring != NIL, u16::try_from(ring)) {
                self.detach(RingId(ring), grants);
            }
        }
        self.bury(index);
    }

    /// A closing ring has nothing left.
    pub(crate) fn free_ring(&mut self, ring: u32) {
        let RingEntry { client, sibling, .. } = *self.rings.at(ring);
        let client = u32::from(client);
        let row = self.clients.at_mut(client);
        row.rings = row.rings.saturating_sub(1);
        if row.first_ring == ring {
            row.first_ring = sibling;
        } else {
            let mut at = row.first_ring;
            for _ in 0..self.rings.len() {
                let next = self.rings.at(at).sibling;
                if at == NIL || next == ring {
                    break;
                }
                at = next;
            }
            if at != NIL {
                self.rings.at_mut(at).sibling = sibling;
            }
        }
        *self.rings.at_mut(ring) = RingEntry { next: self.free_ring, ..RingEntry::default() };
        self.free_ring = ring;
        self.bury(client);
    }

    /// Frees the number of a client that is leaving, once nothing is left of it.
    pub(crate) fn bury(&mut self, client: u32) {
        let row = self.clients.at_mut(client);
        if row.state == ClientState::Leaving && row.rings == 0 && row.stale_windows == 0 {
            *row = ClientEntry { next: self.free_client, ..ClientEntry::default() };
            self.free_client = client;
        }
    }
}

/// Order of the smallest run of references, where this is the largest window.
pub(crate) fn granule(window: u32) -> u8 {
    u8::try_from(window.clamp(1, WINDOW_MAX).ilog2()).unwrap_or(0).min(GRANULE_ORDER)
}
