//! Everything around the engine: volumes with bytes, frames, the grant table with its pins, rings, and clients that use
//! `mm-client`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mm_client::{MapClient, Settings, Window};
use mm_proto::{Request, Response};

use super::blocks::Blocks;
use super::grants::{Entry, GrantTable};
use crate::*;

/// A page's bytes.
pub(super) type Bytes = [u8; 16];
/// What is in a frame that nobody may look at.
pub(super) const GARBAGE: Bytes = [0xee; 16];

/// The bytes of a page of a volume; no two pages have the same.
pub(super) fn bytes(volume: VolumeId, page: u64) -> Bytes {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&volume.0.to_le_bytes());
    bytes[2..10].copy_from_slice(&page.to_le_bytes());
    bytes[10..].copy_from_slice(b"volume");
    bytes
}

/// Which page of which volume bytes are.
pub(super) fn whose(bytes: Bytes) -> Option<(VolumeId, u64)> {
    let volume = u16::from_le_bytes(bytes[..2].try_into().unwrap());
    let page = u64::from_le_bytes(bytes[2..10].try_into().unwrap());
    (&bytes[10..] == b"volume").then_some((VolumeId(volume), page))
}

/// A mapping, and the bytes that were seen when it was made.
#[derive(Clone, Copy)]
pub(super) struct Mapping {
    pub(super) page: u64,
    pub(super) reference: u32,
    pub(super) frame: FrameId,
    pub(super) seen: Bytes,
}

pub(super) struct Ring {
    pub(super) id: RingId,
    pub(super) volume: VolumeId,
    pub(super) mm: MapClient<'static>,
    pub(super) inbox: VecDeque<Response>,
    /// Its client says what it likes, and does not listen.
    pub(super) hostile: bool,
    pub(super) maps: Vec<Mapping>,
    /// Pages that the program waits for.
    pub(super) waiting: BTreeSet<u64>,
    /// Pages whose copy found no room on the ring.
    pub(super) later: Vec<u64>,
    /// Pages with which it could go on: by a map, by a copy, and not at all.
    pub(super) outcomes: [u64; 3],
    /// Revocations that it has not obeyed yet.
    pub(super) revoked: Option<(u64, u32, u32)>,
}

impl Ring {
    fn new(id: RingId, volume: VolumeId, mm: MapClient<'static>) -> Self {
        Self {
            id,
            volume,
            mm,
            inbox: VecDeque::new(),
            hostile: false,
            maps: Vec::new(),
            waiting: BTreeSet::new(),
            later: Vec::new(),
            outcomes: [0; 3],
            revoked: None,
        }
    }
}

/// A ring whose client says what it likes.
pub(super) fn silent(id: RingId, volume: VolumeId) -> Ring {
    let settings = Settings { version: 1, window: 1, pages: 0, frozen: false, patience: 0 };
    Ring { hostile: true, ..Ring::new(id, volume, MapClient::new(&mut [], settings)) }
}

/// A domain with one honest ring for each of its devices, and what its hostile side maps.
pub(super) struct Peer {
    pub(super) client: ClientId,
    pub(super) rings: Vec<Ring>,
    pub(super) grabbed: Vec<Mapping>,
    /// Volumes that it was ever attached to.
    pub(super) volumes: BTreeSet<u16>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) frames: u32,
    pub(super) references: u32,
    pub(super) rings: u32,
    pub(super) clients: u32,
    /// Windows that a client can hold.
    pub(super) rows: usize,
    pub(super) limits: Limits,
}

impl Default for Shape {
    fn default() -> Self {
        let limits =
            Limits { first_reference: 100, reserve: 4, metadata_pages: 77, seed: 9, ..Limits::default() };
        Self { frames: 64, references: 512, rings: 8, clients: 6, rows: 64, limits }
    }
}

pub(super) struct World {
    pub(super) engine: Engine<'static>,
    pub(super) table: GrantTable,
    pub(super) frames: Vec<Bytes>,
    pub(super) reads: Vec<Read>,
    pub(super) copies: VecDeque<Copy>,
    pub(super) captures: VecDeque<Capture>,
    /// What each frozen page has to hold.
    pub(super) frozen: BTreeMap<u64, Bytes>,
    pub(super) peers: Vec<Peer>,
    /// Domains that were disconnected, but live on with what they map.
    pub(super) ghosts: Vec<Peer>,
    pub(super) bad: BTreeSet<(u16, u64)>,
    /// Frames that a disk's backend may write to for ever.
    pub(super) lost: BTreeSet<u32>,
    pub(super) now: u64,
    pub(super) shape: Shape,
    pub(super) blocks: Blocks,
    places: BTreeMap<u16, (usize, usize)>,
    pub(super) out: Effects,
}

pub(super) fn rows<T: Default + Clone>(count: usize) -> &'static mut [T] {
    Box::leak(vec![T::default(); count].into_boxed_slice())
}

/// An engine that may give out no reference yet.
pub(super) fn engine(shape: Shape) -> Engine<'static> {
    let Shape { frames, references, rings, clients, limits, .. } = shape;
    let sizes = TableSizes::new(frames, references, rings, clients, limits.window);
    let tables = Tables {
        frames: rows(sizes.frames),
        frame_buckets: rows(sizes.frame_buckets),
        windows: rows(sizes.windows),
        window_buckets: rows(sizes.window_buckets),
        lender_buckets: rows(sizes.lender_buckets),
        rings: rows(sizes.rings),
        requests: rows(sizes.requests),
        clients: rows(sizes.clients),
        frozen: rows(sizes.frozen),
        frozen_members: rows(sizes.frozen),
        frozen_buckets: rows(sizes.frozen_buckets),
        snapshots: rows(sizes.snapshots),
    };
    Engine::new(tables, limits)
}

impl World {
    pub(super) fn new(shape: Shape) -> Self {
        let Shape { frames, references, limits, .. } = shape;
        let mut engine = engine(shape);
        engine.extend_references(references);
        let entries = vec![Entry::default(); engine.windows.base(engine.windows.table.len()) as usize];
        Self {
            engine,
            table: GrantTable { first: limits.first_reference, entries },
            frames: vec![GARBAGE; frames as usize],
            reads: Vec::new(),
            copies: VecDeque::new(),
            captures: VecDeque::new(),
            frozen: BTreeMap::new(),
            peers: Vec::new(),
            ghosts: Vec::new(),
            bad: BTreeSet::new(),
            lost: BTreeSet::new(),
            now: 1000,
            shape,
            blocks: Blocks::default(),
            places: BTreeMap::new(),
            out: Effects::new(),
        }
    }

    pub(super) fn volume(&mut self, pages: u64, group: u16, sharing: Sharing) -> VolumeId {
        self.engine.add_volume(pages, GroupId(group), sharing).unwrap()
    }

    /// A new domain with these devices, if M1 takes it.
    pub(super) fn connect(&mut self, volumes: &[(VolumeId, u64)], window: u32) -> Option<usize> {
        let client = self.engine.admit().ok()?;
        let mut peer = Peer { client, rings: Vec::new(), grabbed: Vec::new(), volumes: BTreeSet::new() };
        for (volume, pages) in volumes {
            let Ok(id) = self.engine.attach(client, *volume) else { continue };
            peer.volumes.insert(volume.0);
            let settings = Settings {
                version: mm_proto::VERSION,
                window,
                pages: *pages,
                frozen: false,
                patience: 1_000_000_000,
            };
            let mm = MapClient::new(rows::<Window>(self.shape.rows), settings);
            peer.rings.push(Ring::new(id, *volume, mm));
        }
        self.peers.push(peer);
        let peer = self.peers.len() - 1;
        for ring in 0..self.peers[peer].rings.len() {
            self.pump(peer, ring);
        }
        Some(peer)
    }

    /// What the caller of the engine does with effects.
    pub(super) fn perform(&mut self) {
        let out = std::mem::take(&mut self.out);
        for effect in out.iter() {
            match effect.clone() {
                Effect::Reply { ring, mut response } => {
                    self.now += 3;
                    self.engine.stamp(&mut response, self.now);
                    assert_eq!(response.timing.replied, self.now);
                    let response = Response::decode(&response.encode()).unwrap();
                    if let Some(ring) = self.find(ring) {
                        ring.inbox.push_back(response);
                    }
                }
                Effect::Read(read) => {
                    // From now on the disk may write there.
                    for (page, frame) in (read.page..).zip(&read.frames) {
                        self.frames[frame.0 as usize] = GARBAGE;
                        // A disk may give what was there when it was asked.
                        let asked = self.expected(read.volume, page);
                        self.blocks.asked.insert(frame.0, asked);
                    }
                    self.reads.push(read);
                }
                Effect::Copy(copy) => self.copies.push_back(copy),
                Effect::Capture(capture) => self.captures.push_back(capture),
                Effect::Instant(_) | Effect::Hot { .. } => {}
            }
        }
    }

    fn find(&mut self, id: RingId) -> Option<&mut Ring> {
        // Where it was last time, most likely.
        let known = self.places.get(&id.0).copied().filter(|(peer, ring)| {
            self.peers.get(*peer).and_then(|peer| peer.rings.get(*ring)).is_some_and(|ring| ring.id == id)
        });
        let (peer, ring) = known.or_else(|| {
            let rings = |peer: &Peer| peer.rings.iter().position(|ring| ring.id == id);
            (0..).zip(&self.peers).find_map(|(at, peer)| Some((at, rings(peer)?)))
        })?;
        self.places.insert(id.0, (peer, ring));
        Some(&mut self.peers[peer].rings[ring])
    }

    pub(super) fn advance(&mut self) {
        for _ in 0..100_000 {
            let more = self.engine.advance(&mut self.table, &mut self.out);
            self.perform();
            if !more {
                return;
            }
        }
        panic!("the engine is never done");
    }

    /// Puts an honest client's request on its ring.
    pub(super) fn send(&mut self, peer: usize, ring: usize, request: &Request) {
        let id = self.peers[peer].rings[ring].id;
        self.send_words(id, &request.encode()).expect("an honest client was blamed");
    }

    pub(super) fn send_words(&mut self, ring: RingId, words: &[u32; 32]) -> Result<(), ClientFault> {
        self.now += 7;
        let result = self.engine.handle_words(self.now, ring, words, &mut self.table, &mut self.out);
        self.perform();
        result
    }

    pub(super) fn pump(&mut self, peer: usize, ring: usize) {
        while !self.peers[peer].rings[ring].hostile
            && let Some(request) = self.peers[peer].rings[ring].mm.next_request(self.now)
        {
            self.send(peer, ring, &request);
        }
    }

    /// A copy is made; where `reference` is bad, Xen refuses.
    pub(super) fn end_copy(&mut self, copied: Copied) {
        let Some(copy) = self.copies.pop_front() else { return };
        let content = whose(self.frames[copy.frame.0 as usize]).expect("garbage was copied");
        let everybody = self.peers.iter().chain(&self.ghosts);
        if let Some(peer) = everybody.into_iter().find(|peer| peer.client == copy.client) {
            assert!(peer.volumes.contains(&content.0.0), "a page of a foreign volume was copied");
        }
        self.engine.copy_done(copy.request, copied, &mut self.out).unwrap();
        self.perform();
        self.advance();
    }

    /// Ends all reads and copies.
    pub(super) fn settle_reads(&mut self) {
        self.advance();
        while !self.reads.is_empty() || !self.copies.is_empty() {
            self.end_read(0);
            self.end_copy(Copied::Done);
        }
    }

    /// Whether the client maps this page.
    pub(super) fn maps(&self, peer: usize, ring: usize, page: u64) -> bool {
        self.peers[peer].rings[ring].maps.iter().any(|map| map.page == page)
    }

    /// Runs until nothing happens any more by itself.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            self.settle_reads();
            let mut busy = false;
            for peer in 0..self.peers.len() {
                for ring in 0..self.peers[peer].rings.len() {
                    while self.deliver(peer, ring) {
                        busy = true;
                    }
                    self.obey(peer, ring);
                }
            }
            // A turn of the caller's ends.
            for volume in &mut self.engine.volumes {
                busy |= volume.end_turn();
            }
            if !busy && self.reads.is_empty() && self.copies.is_empty() {
                return;
            }
        }
        panic!("it never settles");
    }

    /// The devices are gone; the domain lives on with what it maps.
    pub(super) fn disconnect(&mut self, peer: usize) {
        let mut peer = self.peers.swap_remove(peer);
        self.engine.disconnect(peer.client, &mut self.table);
        for ring in &mut peer.rings {
            ring.inbox.clear();
        }
        self.ghosts.push(peer);
        self.advance();
    }

    /// A domain that was disconnected dies: Xen drops its mappings.
    pub(super) fn bury(&mut self, ghost: usize) {
        if self.ghosts.is_empty() {
            return;
        }
        let ghost = self.ghosts.swap_remove(ghost % self.ghosts.len());
        for map in ghost.rings.iter().flat_map(|ring| &ring.maps).chain(&ghost.grabbed) {
            self.table.unmap(map.reference);
        }
    }

    /// The sentence that everything is about: what a client maps is the page that it takes it for, and does not change.
    pub(super) fn verify(&mut self) {
        // A number that is free again is another client's: what had it before must be gone completely.
        let engine = &self.engine;
        self.ghosts.retain(|ghost| {
            let gone = engine.client_state(ghost.client) == ClientState::Free;
            let maps = ghost.rings.iter().any(|ring| !ring.maps.is_empty()) || !ghost.grabbed.is_empty();
            assert!(!(gone && maps), "a client is forgotten that maps pages");
            !gone
        });
        for peer in self.peers.iter().chain(&self.ghosts) {
            for ring in &peer.rings {
                for map in &ring.maps {
                    assert_eq!(self.frames[map.frame.0 as usize], bytes(ring.volume, map.page));
                }
            }
            for map in &peer.grabbed {
                assert_eq!(self.frames[map.frame.0 as usize], map.seen, "a mapped page changed");
                let (volume, _) = whose(map.seen).expect("garbage was lent");
                assert!(peer.volumes.contains(&volume.0), "a page of a foreign volume was lent");
            }
        }
    }
}
