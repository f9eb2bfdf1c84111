//! What surrounds the engine: frames and what is in them, a grant table with Xen's rules, a disk, and two clients.

use mm_engine::{
    Capture, ClientEntry, ClientFault, ClientId, ClientState, Contents, Copied, Copy, Effect, Effects,
    Engine, FrameEntry, FrameId, FrozenEntry, Grants, GroupId, InUse, Limits, Read, ReadFailed, Reference,
    RequestEntry, RingEntry, RingId, Sharing, SnapshotEntry, SnapshotFigures, SnapshotId, SnapshotState,
    TableSizes, Tables, VolumeId, WindowEntry,
};
use mm_proto::{Request, RequestBody, Response, SLOT_WORDS, Status};

use super::super::input::Input;

/// Pages of each volume.
pub(super) const PAGES: u64 = 40;
const FIRST: u32 = 100;
const METADATA: u64 = 7;
/// The hostile client's volumes, of one group, and the other's.
const HOSTILE: [VolumeId; 2] = [VolumeId(0), VolumeId(1)];
const QUIET: VolumeId = VolumeId(2);

pub(super) struct Shape {
    sizes: TableSizes,
    limits: Limits,
}

/// How large M1 is: from hardly anything on.
pub(super) fn shape(input: &mut Input<'_>) -> Option<Shape> {
    let frames = 6 + u32::from(input.below(26)?);
    let references = 32 + 16 * u32::from(input.below(16)?);
    let window = 1 << input.below(10)?;
    let limits = Limits {
        first_reference: FIRST,
        window,
        read_ahead: u32::from(input.byte()?),
        read_run: u32::from(input.below(17)?),
        reads: 1 + u32::from(input.below(4)?),
        reserve: 1 + u32::from(input.below(3)?),
        client_references: 16 << input.below(5)?,
        client_pages: 2 << input.below(5)?,
        metadata_pages: METADATA,
        seed: 5,
        ..Limits::default()
    };
    Some(Shape { sizes: TableSizes::new(frames, references, 3, 3, window), limits })
}

/// The engine's tables.
pub(super) struct Memory {
    frames: Vec<FrameEntry>,
    frame_buckets: Vec<u32>,
    windows: Vec<WindowEntry>,
    window_buckets: Vec<u32>,
    lender_buckets: Vec<u32>,
    rings: Vec<RingEntry>,
    requests: Vec<RequestEntry>,
    clients: Vec<ClientEntry>,
    frozen: Vec<FrozenEntry>,
    frozen_members: Vec<u64>,
    frozen_buckets: Vec<u32>,
    snapshots: Vec<SnapshotEntry>,
}

impl Memory {
    pub(super) fn new(shape: &Shape) -> Self {
        let sizes = &shape.sizes;
        Self {
            frames: vec![FrameEntry::default(); sizes.frames],
            frame_buckets: vec![0; sizes.frame_buckets],
            windows: vec![WindowEntry::default(); sizes.windows],
            window_buckets: vec![0; sizes.window_buckets],
            lender_buckets: vec![0; sizes.lender_buckets],
            rings: vec![RingEntry::default(); sizes.rings],
            requests: vec![RequestEntry::default(); sizes.requests],
            clients: vec![ClientEntry::default(); sizes.clients],
            frozen: vec![FrozenEntry::default(); sizes.frozen],
            frozen_members: vec![0; sizes.frozen],
            frozen_buckets: vec![0; sizes.frozen_buckets],
            snapshots: vec![SnapshotEntry::default(); sizes.snapshots],
        }
    }

    pub(super) fn tables(&mut self) -> Tables<'_> {
        Tables {
            frames: &mut self.frames,
            frame_buckets: &mut self.frame_buckets,
            windows: &mut self.windows,
            window_buckets: &mut self.window_buckets,
            lender_buckets: &mut self.lender_buckets,
            rings: &mut self.rings,
            requests: &mut self.requests,
            clients: &mut self.clients,
            frozen: &mut self.frozen,
            frozen_members: &mut self.frozen_members,
            frozen_buckets: &mut self.frozen_buckets,
            snapshots: &mut self.snapshots,
        }
    }
}

#[derive(Clone, Default)]
struct Entry {
    permit: Option<(ClientId, FrameId)>,
    /// While it is mapped, Xen goes by what was mapped first (`map_grant_ref`), not by the entry.
    pinned: Option<(ClientId, FrameId)>,
    pins: u32,
}

struct GrantTable(Vec<Entry>);

impl GrantTable {
    fn at(&mut self, reference: Reference) -> &mut Entry {
        &mut self.0[(reference.0 - FIRST) as usize]
    }

    fn map(&mut self, client: ClientId, reference: Reference) -> Option<FrameId> {
        let entry = self.at(reference);
        let (_, frame) = entry.pinned.or(entry.permit).filter(|(owner, _)| *owner == client)?;
        entry.pinned = Some((client, frame));
        entry.pins += 1;
        Some(frame)
    }

    fn unmap(&mut self, reference: Reference) {
        let entry = self.at(reference);
        entry.pins -= 1;
        entry.pinned = entry.pinned.filter(|_| entry.pins > 0);
    }
}

impl Grants for GrantTable {
    fn is_reading(&self, reference: Reference) -> bool {
        self.0[(reference.0 - FIRST) as usize].pins > 0
    }

    fn permit(&mut self, reference: Reference, client: ClientId, frame: FrameId) {
        let entry = self.at(reference);
        assert!(entry.permit.is_none() && entry.pins == 0, "an entry in use was written");
        entry.permit = Some((client, frame));
    }

    fn try_revoke(&mut self, reference: Reference) -> Result<(), InUse> {
        let entry = self.at(reference);
        if entry.pins > 0 {
            return Err(InUse);
        }
        entry.permit = None;
        Ok(())
    }
}

/// A page of a volume; of a client's own page that was frozen, its number there is what the client chose.
type Content = (VolumeId, u64);
/// What a private page of a client is of.
const PRIVATE: VolumeId = VolumeId(77);

/// What is in frames.
struct Bytes<'m>(&'m [Option<Content>]);

impl Contents for Bytes<'_> {
    fn digest(&self, frame: FrameId) -> u64 {
        // Few, so that pages that differ are compared.
        self.0[frame.0 as usize].map_or(0, |(_, page)| page & 3)
    }

    fn equal(&self, one: FrameId, other: FrameId) -> bool {
        self.0[one.0 as usize] == self.0[other.0 as usize]
    }
}

pub(super) struct Machine<'t> {
    pub(super) engine: Engine<'t>,
    grants: GrantTable,
    /// What is in each frame.
    frames: Vec<Option<Content>>,
    reads: Vec<Read>,
    replies: Vec<(RingId, Response)>,
    hostile: ClientId,
    /// What it maps, and what was there when it mapped it.
    held: Vec<(Reference, FrameId, Content)>,
    attached: usize,
    quiet: ClientId,
    quiet_ring: RingId,
    quiet_asked: u32,
    now: u64,
}

impl<'t> Machine<'t> {
    pub(super) fn new(shape: &Shape, tables: Tables<'t>) -> Self {
        let sizes = shape.sizes;
        let mut engine = Engine::new(tables, shape.limits);
        engine.extend_references(u32::MAX);
        for group in [0, 0, 1] {
            engine.add_volume(PAGES, GroupId(group), Sharing::Map).expect("room for three volumes");
        }
        engine.add_frozen().expect("room for a fourth");
        engine.copy_only(HOSTILE[0], PAGES - 4, PAGES).expect("room for a range");
        let hostile = engine.admit().expect("room for three clients");
        let quiet = engine.admit().expect("room for three clients");
        let quiet_ring = engine.attach(quiet, QUIET).expect("room for three rings");
        let mut machine = Self {
            engine,
            grants: GrantTable(vec![Entry::default(); sizes.references]),
            frames: vec![None; sizes.frames],
            reads: Vec::new(),
            replies: Vec::new(),
            hostile,
            held: Vec::new(),
            attached: 0,
            quiet,
            quiet_ring,
            quiet_asked: 0,
            now: 0,
        };
        machine.quiet(RequestBody::Hello { version: mm_proto::VERSION, window: 16 });
        machine
    }

    /// A new device of the hostile domain, if M1 has room for it.
    pub(super) fn attach_hostile(&mut self) -> Option<RingId> {
        if self.engine.client_state(self.hostile) == ClientState::Free {
            self.hostile = self.engine.admit().ok()?;
        }
        self.attached += 1;
        let volume = HOSTILE[self.attached % 2];
        // A clone, where there is something to be a clone of.
        let ready =
            |figures: &SnapshotFigures| figures.state == SnapshotState::Ready && figures.volume == volume;
        let snapshot = self.engine.snapshots().find(|(_, figures)| ready(figures)).map(|(id, _)| id);
        match snapshot {
            Some(snapshot) => self.engine.attach_snapshot(self.hostile, volume, snapshot).ok(),
            None => self.engine.attach(self.hostile, volume).ok(),
        }
    }

    /// dom0 wants the hostile client frozen.
    pub(super) fn order(&mut self, ring: RingId) {
        let mut out = Effects::new();
        let _ = self.engine.order_freeze(ring, self.now, &mut out);
        self.perform(&out);
    }

    /// The hostile domain's only device goes, and so it is no client any more.
    pub(super) fn detach(&mut self, ring: RingId) {
        self.engine.detach(ring, &mut self.grants);
        self.engine.disconnect(self.hostile, &mut self.grants);
        // Its number may soon be another ring's.
        self.replies.clear();
    }

    /// A request of the hostile client.
    pub(super) fn take(&mut self, ring: RingId, words: &[u32; SLOT_WORDS]) -> Result<(), ClientFault> {
        self.now += 1;
        let mut out = Effects::new();
        let result = self.engine.handle_words(self.now, ring, words, &mut self.grants, &mut out);
        self.perform(&out);
        result
    }

    /// Answers for a ring that came since it was last asked.
    pub(super) fn replies(&mut self, ring: RingId) -> Vec<Response> {
        let (ours, others) = std::mem::take(&mut self.replies).into_iter().partition(|(to, _)| *to == ring);
        self.replies = others;
        let ours: Vec<(RingId, Response)> = ours;
        ours.into_iter().map(|(_, response)| response).collect()
    }

    /// True where a copy has ended, so that somebody who waited for its frame can go on.
    fn perform(&mut self, out: &Effects) -> bool {
        let mut copied = false;
        for effect in out.iter() {
            match effect.clone() {
                Effect::Reply { ring, response } => self.reply(ring, response),
                Effect::Read(read) => {
                    for frame in &read.frames {
                        let mapped = self.held.iter().any(|(_, held, _)| held == frame);
                        assert!(!mapped, "a frame that a client maps is read into");
                        self.frames[frame.0 as usize] = None;
                    }
                    self.reads.push(read);
                }
                Effect::Copy(copy) => {
                    self.copy(&copy);
                    copied = true;
                }
                Effect::Capture(capture) => {
                    self.capture(&capture);
                    copied = true;
                }
                Effect::Hot { .. } | Effect::Instant(_) => {}
            }
        }
        copied
    }

    fn reply(&mut self, ring: RingId, mut response: Response) {
        self.engine.stamp(&mut response, self.now);
        assert_eq!(Response::decode(&response.encode()), Ok(response));
        if ring == self.quiet_ring {
            self.quiet_asked -= 1;
            assert!(matches!(response.status, Status::Ok | Status::CopyInstead | Status::ReadError));
        } else {
            self.replies.push((ring, response));
        }
    }

    fn copy(&mut self, copy: &Copy) {
        let (volume, _) = self.frames[copy.frame.0 as usize].expect("what is copied was read");
        assert_eq!(volume == QUIET, copy.client == self.quiet, "a page of another group was copied");
        let copied = if copy.reference & 1 == 0 { Copied::Done } else { Copied::BadReference };
        let mut follow = Effects::new();
        self.engine.copy_done(copy.request, copied, &mut follow).expect("the copy was asked for");
        for effect in follow.iter() {
            let Effect::Reply { ring, response } = effect else { panic!("{effect:?} follows a copy") };
            self.reply(*ring, *response);
        }
    }

    fn capture(&mut self, capture: &Capture) {
        let mut outcomes = Vec::new();
        for (frame, reference) in &capture.pages {
            let mapped = self.held.iter().any(|(_, held, _)| held == frame);
            assert!(!mapped, "a frame that a client maps is written to");
            let good = reference & 7 != 7;
            self.frames[frame.0 as usize] = good.then_some((PRIVATE, u64::from(*reference >> 3 & 15)));
            outcomes.push(if good { Copied::Done } else { Copied::BadReference });
        }
        let mut follow = Effects::new();
        let contents = Bytes(&self.frames);
        let result = self.engine.captured(self.now, capture.request, &outcomes, &contents, &mut follow);
        result.expect("it was asked for");
        for effect in follow.iter() {
            let Effect::Reply { ring, response } = effect else { panic!("{effect:?} follows a capture") };
            self.reply(*ring, *response);
        }
    }

    /// A read of the disk ends, one in eight of them badly.
    pub(super) fn read_ends(&mut self, which: u8) {
        if !self.reads.is_empty() {
            let read = self.reads.swap_remove(usize::from(which) % self.reads.len());
            self.finish(&read, if which >> 5 == 7 { Err(ReadFailed) } else { Ok(()) });
        }
        self.advance();
    }

    fn finish(&mut self, read: &Read, outcome: Result<(), ReadFailed>) {
        for (page, frame) in (read.page..).zip(&read.frames) {
            self.frames[frame.0 as usize] = outcome.ok().map(|()| (read.volume, page));
        }
        self.engine.read_done(read, outcome).expect("it was being read");
    }

    /// The hostile domain tries to map a reference, whoever was told of it.
    pub(super) fn hostile_maps(&mut self, which: u8) {
        let reference = Reference(FIRST + u32::from(which) % u32::try_from(self.grants.0.len()).unwrap_or(1));
        if let Some(frame) = self.grants.map(self.hostile, reference) {
            let content = self.frames[frame.0 as usize].expect("a lent frame holds a page");
            assert_ne!(content.0, QUIET, "a page of another group can be mapped");
            self.held.push((reference, frame, content));
        }
    }

    pub(super) fn hostile_unmaps(&mut self, which: u8) {
        if !self.held.is_empty() {
            let (reference, ..) = self.held.swap_remove(usize::from(which) % self.held.len());
            self.grants.unmap(reference);
        }
    }

    /// The other client wants a page, to map or as a copy.
    pub(super) fn quiet_asks(&mut self, page: u64) {
        if self.quiet_asked < mm_proto::RING_SLOTS {
            let copy = self.now & 1 == 0;
            self.quiet(if copy {
                RequestBody::Copy { page, reference: 2 }
            } else {
                RequestBody::Grant { page, wanted: 4 }
            });
        }
    }

    fn quiet(&mut self, body: RequestBody) {
        self.now += 1;
        self.quiet_asked += 1;
        let mut out = Effects::new();
        let request = Request { id: 0, body };
        let handled = self.engine.handle(self.now, self.quiet_ring, &request, &mut self.grants, &mut out);
        handled.expect("it is honest");
        self.perform(&out);
    }

    pub(super) fn background(&mut self, how: u8) {
        if how & 1 == 1 {
            self.engine.scan_all(&self.grants);
        }
        // dom0 gives up what takes long, and removes what it can.
        if how & 6 == 6 {
            self.engine.expire_freezes(self.now + 31_000_000_000, &mut self.grants);
        }
        if how & 8 == 8 {
            let _ = self.engine.delete_snapshot(SnapshotId(how >> 4), &mut self.grants);
        }
        let _ = self.engine.sweep(u32::from(how), &mut self.grants);
        self.advance();
    }

    fn advance(&mut self) {
        let mut out = Effects::new();
        for _ in 0..1000 {
            let more = self.engine.advance(&mut self.grants, &mut out);
            if !(self.perform(&out) | more) {
                return;
            }
        }
        panic!("the engine is never done");
    }

    /// What holds at any moment.
    pub(super) fn check(&self) {
        assert_eq!(self.engine.figures().bugs, 0, "the engine found a mistake of its own");
        assert_eq!(self.engine.page_states().total(), self.frames.len() as u64 + METADATA);
        for (_, frame, content) in &self.held {
            assert_eq!(self.frames[frame.0 as usize], Some(*content), "a mapped frame was given away");
        }
    }

    /// Everybody leaves, and nothing is left of them.
    pub(super) fn end(mut self, ring: Option<RingId>) {
        self.settle();
        assert_eq!(self.quiet_asked, 0, "the other client waits for ever");
        if let Some(ring) = ring {
            self.detach(ring);
        }
        self.engine.disconnect(self.hostile, &mut self.grants);
        self.engine.disconnect(self.quiet, &mut self.grants);
        for (reference, ..) in std::mem::take(&mut self.held) {
            self.grants.unmap(reference);
        }
        for snapshot in (0..64).map(SnapshotId) {
            let _ = self.engine.delete_snapshot(snapshot, &mut self.grants);
        }
        self.settle();
        self.engine.scan_all(&self.grants);
        self.check();
        assert_eq!(self.engine.snapshots().count(), 0, "a snapshot stays");
        let figures = self.engine.figures();
        assert_eq!((figures.clients, figures.rings), (0, 0), "a client is not buried");
        assert_eq!((figures.permitted, figures.references_free), (0, figures.references));
        assert_eq!((figures.pages.shared, figures.pages.stale_pinned, figures.reading), (0, 0, 0));
        assert_eq!((figures.pages.frozen, figures.frozen), (0, 0), "a frozen page stays");
        assert!(self.grants.0.iter().all(|entry| entry.permit.is_none()));
    }

    /// Reads end well, and whoever can go on does.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            for _ in 0..100 {
                let more = self.engine.sweep(64, &mut self.grants);
                self.advance();
                if !more {
                    break;
                }
            }
            let Some(read) = self.reads.pop() else { return };
            self.finish(&read, Ok(()));
        }
        panic!("it never comes to rest");
    }
}
