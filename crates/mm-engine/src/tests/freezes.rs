//! Random freezes, clones, writes and removals, against a naive model that knows what every page of every snapshot has to hold.

use std::collections::{BTreeMap, BTreeSet};

use mm_proto::{AbortReason, Bitmap, CAPTURE_MAX, Request, RequestBody, Response, Status};
use proptest::prelude::*;

use super::snapshots::{FIRST, Memory, private};
use super::world::{Bytes, Shape, World, bytes, silent};
use crate::*;

/// Pages of a program, at most.
const PAGES: u8 = 40;
const VOLUMES: [(u64, u16); 2] = [(50, 1), (70, 2)];

#[derive(Clone, Copy, Debug)]
enum Step {
    Spawn {
        volume: bool,
    },
    Clone {
        which: u8,
    },
    Write {
        who: u8,
        at: u8,
        content: u8,
    },
    Drop {
        who: u8,
        at: u8,
    },
    /// A frozen page, mapped for long or only copied.
    Read {
        who: u8,
        at: u8,
        map: bool,
    },
    Base {
        who: u8,
        page: u8,
    },
    /// Whatever number of the frozen part.
    Peek {
        who: u8,
        number: u8,
        wanted: u16,
    },
    Unmap {
        who: u8,
        which: u8,
    },
    Order {
        who: u8,
    },
    Begin {
        who: u8,
        more: u8,
    },
    Capture {
        who: u8,
        count: u8,
    },
    EndCapture {
        which: u8,
        bad: u8,
    },
    Keep {
        who: u8,
    },
    KeepForeign {
        who: u8,
        number: u8,
    },
    Commit {
        who: u8,
    },
    CommitForeign {
        who: u8,
        number: u8,
    },
    /// All of a freeze, or what is left of it.
    Whole {
        who: u8,
        content: u8,
    },
    Abort {
        who: u8,
    },
    Cancel {
        which: u8,
    },
    Late,
    Own {
        which: u8,
        content: u8,
        keep: bool,
    },
    Hot {
        which: u8,
        content: u8,
    },
    /// A snapshot of another engine's: so many pages with contents from this one on.
    Import {
        volume: bool,
        first: u8,
        count: u8,
        end: u8,
    },
    Die {
        who: u8,
    },
    Bury {
        which: u8,
    },
    Delete {
        which: u8,
    },
    Sweep {
        budget: u8,
    },
    Scan,
}

fn step() -> impl Strategy<Value = Step> {
    let (w, a) = (any::<u8>(), any::<u8>());
    prop_oneof![
        2 => any::<bool>().prop_map(|volume| Step::Spawn { volume }),
        8 => w.prop_map(|which| Step::Clone { which }),
        8 => (w, a, 0u8..50).prop_map(|(who, at, content)| Step::Write { who, at, content }),
        1 => (w, a).prop_map(|(who, at)| Step::Drop { who, at }),
        10 => (w, a, any::<bool>()).prop_map(|(who, at, map)| Step::Read { who, at, map }),
        4 => (w, a).prop_map(|(who, page)| Step::Base { who, page }),
        4 => (w, a, any::<u16>()).prop_map(|(who, number, wanted)| Step::Peek { who, number, wanted }),
        4 => (w, a).prop_map(|(who, which)| Step::Unmap { who, which }),
        6 => w.prop_map(|who| Step::Order { who }),
        6 => (w, 0u8..4).prop_map(|(who, more)| Step::Begin { who, more }),
        10 => (w, 1u8..17).prop_map(|(who, count)| Step::Capture { who, count }),
        10 => (w, a).prop_map(|(which, bad)| Step::EndCapture { which, bad }),
        4 => w.prop_map(|who| Step::Keep { who }),
        1 => (w, a).prop_map(|(who, number)| Step::KeepForeign { who, number }),
        6 => w.prop_map(|who| Step::Commit { who }),
        1 => (w, a).prop_map(|(who, number)| Step::CommitForeign { who, number }),
        12 => (w, 0u8..50).prop_map(|(who, content)| Step::Whole { who, content }),
        1 => w.prop_map(|who| Step::Abort { who }),
        1 => w.prop_map(|which| Step::Cancel { which }),
        1 => Just(Step::Late),
        2 => (w, 0u8..50, any::<bool>()).prop_map(|(which, content, keep)| Step::Own { which, content, keep }),
        2 => (w, 0u8..50).prop_map(|(which, content)| Step::Hot { which, content }),
        4 => (any::<bool>(), 0u8..50, 0u8..20, a)
            .prop_map(|(volume, first, count, end)| Step::Import { volume, first, count, end }),
        2 => w.prop_map(|who| Step::Die { who }),
        2 => w.prop_map(|which| Step::Bury { which }),
        3 => w.prop_map(|which| Step::Delete { which }),
        4 => (0u8..9).prop_map(|budget| Step::Sweep { budget }),
        2 => Just(Step::Scan),
    ]
}

/// A page of a program.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Page {
    Private(u8),
    /// Of the snapshot that it came from.
    Frozen(u64, u8),
}

/// What is frozen of a program, and has not been committed.
struct Freezing {
    id: SnapshotId,
    /// What it was at the instant, once that was.
    instant: Option<BTreeMap<u8, Page>>,
    /// Private pages of that instant that have their numbers.
    numbers: BTreeMap<u8, u64>,
    kept: bool,
    /// A capture is with whoever copies: these pages.
    out: Option<Vec<u8>>,
    /// Pages of M1's own.
    own: BTreeSet<u64>,
}

struct Program {
    client: ClientId,
    ring: RingId,
    volume: usize,
    parent: Option<SnapshotId>,
    pages: BTreeMap<u8, Page>,
    freezing: Option<Freezing>,
    maps: Vec<(u32, FrameId, Bytes)>,
}

/// A complete snapshot.
struct Frozen {
    volume: usize,
    pages: BTreeMap<u8, (u64, u8)>,
    /// Every number that is in it.
    numbers: BTreeSet<u64>,
    hot: Option<u64>,
}

struct Run {
    world: World,
    programs: Vec<Program>,
    /// What is still mapped by domains whose devices have gone.
    ghosts: Vec<Vec<(u32, FrameId, Bytes)>>,
    snapshots: BTreeMap<SnapshotId, Frozen>,
    /// Snapshots of which nothing came, for their numbers to be given back.
    failed: BTreeSet<SnapshotId>,
    captures: Vec<(RingId, Capture)>,
    before: PageStates,
    numbers: u32,
}

fn content(content: u8) -> Bytes {
    private(u32::from(content))
}

impl Run {
    fn new(shape: Shape) -> Self {
        let mut world = World::new(shape);
        for (pages, group) in VOLUMES {
            world.volume(pages, group, Sharing::Map);
        }
        world.engine.add_frozen().unwrap();
        let (before, numbers) = (world.engine.page_states(), world.engine.frozen.free());
        Self {
            world,
            programs: Vec::new(),
            ghosts: Vec::new(),
            snapshots: BTreeMap::new(),
            failed: BTreeSet::new(),
            captures: Vec::new(),
            before,
            numbers,
        }
    }

    fn who(&self, who: u8) -> Option<usize> {
        usize::from(who).checked_rem(self.programs.len())
    }

    fn try_ask(&mut self, ring: RingId, body: RequestBody) -> Result<Option<Response>, ClientFault> {
        self.world.send_words(ring, &Request { id: 9, body }.encode())?;
        self.world.settle_reads();
        while let Some(capture) = self.world.captures.pop_front() {
            self.captures.push((ring, capture));
        }
        Ok(self.inbox(ring))
    }

    fn inbox(&mut self, ring: RingId) -> Option<Response> {
        let rings = self.world.peers.iter_mut().flat_map(|peer| &mut peer.rings);
        rings.into_iter().find(|other| other.id == ring)?.inbox.pop_back()
    }

    fn ask(&mut self, ring: RingId, body: RequestBody) -> Response {
        self.try_ask(ring, body).expect("no fault of its").unwrap_or_else(|| panic!("{body:?} has no answer"))
    }

    fn spawn(&mut self, volume: usize, parent: Option<SnapshotId>) {
        let Ok(client) = self.world.engine.admit() else { return };
        let id = VolumeId(u16::try_from(volume).unwrap());
        let attached = match parent {
            Some(parent) => self.world.engine.attach_snapshot(client, id, parent),
            None => self.world.engine.attach(client, id),
        };
        let Ok(ring) = attached else {
            self.world.engine.disconnect(client, &mut self.world.table);
            return;
        };
        let peer = super::world::Peer {
            client,
            rings: vec![silent(ring, id)],
            grabbed: Vec::new(),
            volumes: BTreeSet::from([id.0]),
        };
        self.world.peers.push(peer);
        self.ask(ring, RequestBody::Hello { version: 2, window: 512 });
        let pages = parent.map(|parent| {
            let pages = &self.snapshots[&parent].pages;
            pages.iter().map(|(at, (number, content))| (*at, Page::Frozen(*number, *content))).collect()
        });
        self.programs.push(Program {
            client,
            ring,
            volume,
            parent,
            pages: pages.unwrap_or_default(),
            freezing: None,
            maps: Vec::new(),
        });
    }

    /// The device goes; what it maps it keeps, if it likes.
    fn die(&mut self, who: usize) {
        let program = self.programs.swap_remove(who);
        let peer = self.world.peers.iter().position(|peer| peer.client == program.client).unwrap();
        self.world.peers.swap_remove(peer);
        self.world.engine.disconnect(program.client, &mut self.world.table);
        self.world.advance();
        if let Some(freezing) = program.freezing {
            self.failed.insert(freezing.id);
        }
        self.ghosts.push(program.maps);
    }

    fn fail(&mut self, who: usize) {
        if let Some(freezing) = self.programs[who].freezing.take() {
            self.failed.insert(freezing.id);
        }
    }

    /// The numbers that a program may reach.
    fn reach(&self, who: usize) -> BTreeSet<u64> {
        self.programs[who].parent.map(|id| self.snapshots[&id].numbers.clone()).unwrap_or_default()
    }

    /// Asks for a page and looks at what the client can see then.
    fn read(&mut self, who: usize, page: u64, wanted: u32, keep: bool) -> Result<Bytes, Status> {
        let (ring, client) = (self.programs[who].ring, self.programs[who].client);
        let answer = self.ask(ring, RequestBody::Grant { page, wanted });
        match answer.status {
            Status::Ok => {}
            Status::CopyInstead => {
                let copied = self.world.send_words(
                    ring,
                    &Request { id: 9, body: RequestBody::Copy { page, reference: 1 } }.encode(),
                );
                copied.expect("no fault of its");
                self.world.advance();
                while !self.world.reads.is_empty() {
                    self.world.end_read(0);
                }
                let copy = self.world.copies.pop_front().expect("it is copied");
                let bytes = self.world.frames[copy.frame.0 as usize];
                self.world.engine.copy_done(copy.request, Copied::Done, &mut self.world.out).unwrap();
                self.world.perform();
                assert_eq!(self.inbox(ring).map(|answer| answer.status), Some(Status::Ok));
                return Ok(bytes);
            }
            refused => return Err(refused),
        }
        // Every page that it can map is one that it may have.
        let reach = self.reach(who);
        let volume = VolumeId(u16::try_from(self.programs[who].volume).unwrap());
        for offset in answer.bitmap.iter() {
            let other = answer.page + u64::from(offset);
            let entry =
                self.world.table.entries[(answer.reference + offset - self.world.table.first) as usize];
            let (owner, frame) = entry.permit.expect("the bit is set");
            assert_eq!(owner, client);
            let expected = if other >= FIRST {
                assert!(reach.contains(&other), "page {other:#x} is not in its snapshot");
                self.world.frozen[&other]
            } else {
                bytes(volume, other)
            };
            assert_eq!(self.world.frames[frame.0 as usize], expected);
        }
        let reference = answer.reference + u32::try_from(page - answer.page).unwrap();
        let frame = self.world.table.map(client, reference).expect("it was lent");
        let seen = self.world.frames[frame.0 as usize];
        if keep {
            self.programs[who].maps.push((reference, frame, seen));
        } else {
            self.world.table.unmap(reference);
        }
        Ok(seen)
    }

    fn import(&mut self, volume: usize, first: u8, count: u8, end: u8) {
        let World { engine, frames, table, now, frozen, .. } = &mut self.world;
        let over = VolumeId(u16::try_from(volume).unwrap());
        let (before, free) = (engine.page_states(), engine.frozen.free());
        let id = match engine.begin_import(over, count.into(), *now, table) {
            Ok(id) => id,
            Err(ImportRefused::NoVolume) => panic!("it is there"),
            Err(ImportRefused::TooMany | ImportRefused::NoRoom) => {
                assert_eq!((engine.page_states().frozen, engine.frozen.free()), (before.frozen, free));
                return;
            }
        };
        assert!(engine.is_import(id));
        let mut pages = BTreeMap::new();
        for (at, byte) in (first..).take(count.into()).enumerate() {
            let frame = engine.freeze_page(id).expect("it was promised");
            frames[frame.0 as usize] = content(byte);
            let number = engine.freeze_filled(id, frame, *now, &Memory(frames)).expect("it goes on");
            frozen.insert(number, content(byte));
            pages.insert(u8::try_from(at).unwrap(), (number, byte));
        }
        assert_eq!(engine.freeze_page(id), Err(FreezeRefused::NoRoom), "as many as were announced");
        let numbers: BTreeSet<u64> = pages.values().map(|(number, _)| *number).collect();
        let foreign = (FIRST..).find(|number| !numbers.contains(number)).unwrap();
        for head in [0, foreign, u64::MAX] {
            assert_eq!(engine.end_import(id, head, *now), Err(EndRefused::ForeignHead));
        }
        let head = numbers.first().copied().filter(|_| !end.is_multiple_of(4));
        match head {
            Some(head) => {
                assert_eq!(engine.end_import(id, head, *now), Ok(()));
                assert_eq!(engine.end_import(id, head, *now), Err(EndRefused::NotTaken));
                self.snapshots.insert(id, Frozen { volume, pages, numbers, hot: None });
            }
            None if end.is_multiple_of(8) => {
                *now += 31_000_000_000;
                engine.expire_freezes(*now, table);
                self.failed.insert(id);
                for who in 0..self.programs.len() {
                    self.fail(who);
                }
            }
            None => {
                assert!(engine.cancel(id, table));
                self.failed.insert(id);
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Spawn { volume } => self.spawn(usize::from(volume), None),
            Step::Clone { which } => {
                let Some(at) = usize::from(which).checked_rem(self.snapshots.len()) else { return };
                let (id, frozen) = self.snapshots.iter().nth(at).unwrap();
                self.spawn(frozen.volume, Some(*id));
            }
            Step::Write { who, at, content } => {
                let Some(who) = self.who(who) else { return };
                self.programs[who].pages.insert(at % PAGES, Page::Private(content));
            }
            Step::Drop { who, at } => {
                let Some(who) = self.who(who) else { return };
                self.programs[who].pages.remove(&(at % PAGES));
            }
            Step::Read { who, at, map } => {
                let Some(who) = self.who(who) else { return };
                let frozen = self.programs[who].pages.values().filter_map(|page| match page {
                    Page::Frozen(number, content) => Some((*number, *content)),
                    Page::Private(_) => None,
                });
                let frozen: Vec<_> = frozen.collect();
                let Some(at) = usize::from(at).checked_rem(frozen.len()) else { return };
                let (number, expected) = frozen[at];
                assert_eq!(self.read(who, number, 8, map), Ok(content(expected)));
            }
            Step::Base { who, page } => {
                let Some(who) = self.who(who) else { return };
                let volume = self.programs[who].volume;
                let page = u64::from(page) % VOLUMES[volume].0;
                let expected = bytes(VolumeId(u16::try_from(volume).unwrap()), page);
                assert_eq!(self.read(who, page, 4, page.is_multiple_of(3)), Ok(expected));
            }
            Step::Peek { who, number, wanted } => {
                let Some(who) = self.who(who) else { return };
                let page = FIRST + u64::from(number);
                let seen = self.read(who, page, u32::from(wanted).max(1), false);
                let expected = if self.reach(who).contains(&page) {
                    Ok(self.world.frozen[&page])
                } else {
                    Err(Status::OutOfRange)
                };
                assert_eq!(seen, expected);
            }
            Step::Unmap { who, which } => {
                let Some(who) = self.who(who) else { return };
                let maps = &mut self.programs[who].maps;
                let Some(which) = usize::from(which).checked_rem(maps.len()) else { return };
                let (reference, ..) = maps.swap_remove(which);
                self.world.table.unmap(reference);
            }
            Step::Order { who } => {
                let Some(who) = self.who(who) else { return };
                let ring = self.programs[who].ring;
                let (now, busy) = (self.world.now, self.programs[who].freezing.is_some());
                let ordered = self.world.engine.order_freeze(ring, now, &mut self.world.out);
                self.world.perform();
                match ordered {
                    Err(OrderRefused::Busy) => assert!(busy),
                    Err(OrderRefused::TooMany) => assert!(!busy),
                    Err(refused) => panic!("{refused:?}"),
                    Ok(id) => {
                        assert!(!busy);
                        // It listened already, or does so now.
                        let told = self.inbox(ring);
                        let told = told.or_else(|| self.try_ask(ring, RequestBody::Listen).unwrap());
                        assert_eq!(told.map(|answer| answer.status), Some(Status::Freeze));
                        self.programs[who].freezing = Some(Freezing {
                            id,
                            instant: None,
                            numbers: BTreeMap::new(),
                            kept: false,
                            out: None,
                            own: BTreeSet::new(),
                        });
                    }
                }
            }
            Step::Begin { who, more } => {
                let Some(who) = self.who(who) else { return };
                let pages = self.programs[who].pages.clone();
                let Some(freezing) = &self.programs[who].freezing else { return };
                if freezing.instant.is_some() {
                    return;
                }
                let private = pages.values().filter(|page| matches!(page, Page::Private(_))).count();
                let before = self.world.engine.page_states();
                let ring = self.programs[who].ring;
                let announced = private as u64 + u64::from(more);
                match self.ask(ring, RequestBody::Freeze { pages: announced }).status {
                    Status::Ok => {
                        self.programs[who].freezing.as_mut().unwrap().instant = Some(pages);
                    }
                    Status::NoRoom => {
                        self.fail(who);
                        let after = self.world.engine.page_states();
                        assert_eq!(after.frozen, before.frozen, "nothing has changed");
                    }
                    status => panic!("{status:?}"),
                }
            }
            Step::Capture { who, count } => {
                let Some(who) = self.who(who) else { return };
                let ring = self.programs[who].ring;
                let Some(freezing) = &self.programs[who].freezing else { return };
                let Some(instant) = &freezing.instant else { return };
                if freezing.out.is_some() {
                    return;
                }
                let missing = instant.iter().filter_map(|(at, page)| match page {
                    Page::Private(content) if !freezing.numbers.contains_key(at) => Some((*at, *content)),
                    _ => None,
                });
                let some: Vec<_> = missing.take(usize::from(count)).collect();
                if some.is_empty() {
                    return;
                }
                let references = core::array::from_fn(|at| some.get(at).map_or(0, |one| u32::from(one.1)));
                let body = RequestBody::Capture { count: u32::try_from(some.len()).unwrap(), references };
                match self.try_ask(ring, body).unwrap() {
                    None => {
                        let pages = some.into_iter().map(|(at, _)| at).collect();
                        self.programs[who].freezing.as_mut().unwrap().out = Some(pages);
                    }
                    // A promise holds, unless frames are kept by something that the test does not have.
                    Some(answer) => panic!("{:?} in spite of the promise", answer.status),
                }
            }
            Step::EndCapture { which, bad } => {
                let Some(which) = usize::from(which).checked_rem(self.captures.len()) else { return };
                let (ring, capture) = self.captures.swap_remove(which);
                self.end_capture(ring, &capture, bad.is_multiple_of(8));
            }
            Step::Keep { who } => {
                let Some(who) = self.who(who) else { return };
                let ring = self.programs[who].ring;
                let Some(freezing) = &mut self.programs[who].freezing else { return };
                let Some(instant) = &freezing.instant else { return };
                let mut runs: BTreeMap<u64, Bitmap> = BTreeMap::new();
                for page in instant.values() {
                    if let Page::Frozen(number, _) = page {
                        let bitmap = runs.entry(number & !511).or_default();
                        bitmap.set(u32::try_from(number & 511).unwrap());
                    }
                }
                freezing.kept = true;
                for (page, bitmap) in runs {
                    assert_eq!(self.ask(ring, RequestBody::Keep { page, bitmap }).status, Status::Ok);
                }
            }
            Step::KeepForeign { who, number } => {
                let Some(who) = self.who(who) else { return };
                let reach = self.reach(who);
                let page = FIRST + u64::from(number);
                let Some(freezing) = &self.programs[who].freezing else { return };
                if freezing.instant.is_none() || reach.contains(&page) {
                    return;
                }
                let mut bitmap = Bitmap::EMPTY;
                for other in reach.iter().copied().chain([page]).filter(|other| other & !511 == page & !511) {
                    bitmap.set(u32::try_from(other & 511).unwrap());
                }
                let body = RequestBody::Keep { page: page & !511, bitmap };
                assert_eq!(self.try_ask(self.programs[who].ring, body), Err(ClientFault::ForeignPage));
                // Its ring is closed for it.
                self.die(who);
            }
            Step::Commit { who } => {
                let Some(who) = self.who(who) else { return };
                let Program { ring, volume, parent, .. } = self.programs[who];
                let Some(freezing) = &self.programs[who].freezing else { return };
                let Some(instant) = &freezing.instant else { return };
                let frozen = instant.values().any(|page| matches!(page, Page::Frozen(..)));
                let private = instant.values().filter(|page| matches!(page, Page::Private(_))).count();
                let complete = freezing.numbers.len() == private && (freezing.kept || !frozen);
                let numbers = freezing.numbers.values().copied();
                let (Some(head), true, None) = (numbers.min(), complete, &freezing.out) else { return };
                let mut pages = BTreeMap::new();
                for (at, page) in instant {
                    let page = match page {
                        Page::Private(content) => (freezing.numbers[at], *content),
                        Page::Frozen(number, content) => (*number, *content),
                    };
                    pages.insert(*at, page);
                }
                let mut numbers: BTreeSet<u64> = pages.values().map(|(number, _)| *number).collect();
                numbers.extend(&freezing.own);
                assert!(parent.is_some() || !frozen);
                let id = freezing.id;
                let answer = self.ask(ring, RequestBody::Commit { page: head, standstill: 7 });
                assert_eq!(answer.status, Status::Ok);
                self.programs[who].freezing = None;
                self.snapshots.insert(id, Frozen { volume, pages, numbers, hot: None });
            }
            Step::CommitForeign { who, number } => {
                let Some(who) = self.who(who) else { return };
                let page = FIRST + u64::from(number);
                let Some(freezing) = &self.programs[who].freezing else { return };
                let own = freezing.numbers.values().chain(&freezing.own).any(|own| *own == page);
                if freezing.instant.is_none() || own || freezing.kept {
                    return;
                }
                let body = RequestBody::Commit { page, standstill: 7 };
                assert_eq!(self.try_ask(self.programs[who].ring, body), Err(ClientFault::ForeignPage));
                self.die(who);
            }
            Step::Whole { who, content } => {
                let Some(at) = self.who(who) else { return };
                // What a clone begins with is always its own.
                for more in 0..content % 12 + 1 {
                    self.programs[at].pages.insert(more, Page::Private(content.wrapping_add(more)));
                }
                let me = u8::try_from(at).unwrap();
                self.step(Step::Order { who: me });
                self.step(Step::Begin { who: me, more: 0 });
                self.step(Step::Keep { who: me });
                for _ in 0..6 {
                    self.step(Step::Capture { who: me, count: 16 });
                    while !self.captures.is_empty() {
                        self.step(Step::EndCapture { which: 0, bad: 1 });
                    }
                }
                self.step(Step::Commit { who: me });
            }
            Step::Abort { who } => {
                let Some(who) = self.who(who) else { return };
                if self.programs[who].freezing.is_none() {
                    return;
                }
                let body = RequestBody::Abort { reason: AbortReason::Memory };
                assert_eq!(self.ask(self.programs[who].ring, body).status, Status::Ok);
                self.fail(who);
            }
            Step::Cancel { which } => {
                let Some(who) = self.who(which) else { return };
                let Some(freezing) = &self.programs[who].freezing else { return };
                assert!(self.world.engine.cancel(freezing.id, &mut self.world.table));
                self.fail(who);
            }
            Step::Late => {
                self.world.now += 31_000_000_000;
                self.world.engine.expire_freezes(self.world.now, &mut self.world.table);
                for who in 0..self.programs.len() {
                    self.fail(who);
                }
            }
            Step::Import { volume, first, count, end } => self.import(usize::from(volume), first, count, end),
            Step::Own { which, content: byte, keep } => {
                let Some(who) = self.who(which) else { return };
                let Some(freezing) = &mut self.programs[who].freezing else { return };
                if freezing.instant.is_none() {
                    return;
                }
                let World { engine, frames, table, now, .. } = &mut self.world;
                if engine.promise(freezing.id, 1, table).is_err() {
                    return;
                }
                let frame = engine.freeze_page(freezing.id).expect("it was promised");
                frames[frame.0 as usize] = content(byte);
                if keep {
                    let page = engine.freeze_filled(freezing.id, frame, *now, &Memory(frames)).unwrap();
                    freezing.own.insert(page);
                    self.world.frozen.insert(page, content(byte));
                } else {
                    engine.freeze_unfilled(freezing.id, frame);
                }
            }
            Step::Hot { which, content: byte } => {
                let Some(at) = usize::from(which).checked_rem(self.snapshots.len()) else { return };
                let (id, frozen) = self.snapshots.iter_mut().nth(at).unwrap();
                let World { engine, frames, table, .. } = &mut self.world;
                let Ok(frame) = engine.hot_page(*id, table) else { return };
                frames[frame.0 as usize] = content(byte);
                let page = engine.hot_filled(*id, frame, &Memory(frames)).unwrap();
                if let Some(before) = frozen.hot.replace(page) {
                    frozen.numbers.remove(&before);
                }
                assert!(frozen.numbers.insert(page), "it is a page of its own");
                self.world.frozen.insert(page, content(byte));
            }
            Step::Die { who } => {
                if let Some(who) = self.who(who) {
                    self.die(who);
                }
            }
            Step::Bury { which } => {
                let Some(which) = usize::from(which).checked_rem(self.ghosts.len()) else { return };
                for (reference, ..) in self.ghosts.swap_remove(which) {
                    self.world.table.unmap(reference);
                }
            }
            Step::Delete { which } => {
                for id in std::mem::take(&mut self.failed) {
                    self.world.engine.delete_snapshot(id, &mut self.world.table).expect("it has failed");
                }
                let Some(at) = usize::from(which).checked_rem(self.snapshots.len()) else { return };
                let id = *self.snapshots.keys().nth(at).unwrap();
                let rings = self.programs.iter().filter(|program| program.parent == Some(id)).count();
                assert_eq!(self.world.engine.attached_to(id).count(), rings);
                match self.world.engine.delete_snapshot(id, &mut self.world.table) {
                    Ok(()) => {
                        assert_eq!(rings, 0);
                        self.snapshots.remove(&id);
                    }
                    Err(refused) => assert_eq!((refused, rings > 0), (DeleteRefused::InUse, true)),
                }
            }
            Step::Sweep { budget } => {
                self.world.engine.sweep(u32::from(budget), &mut self.world.table);
                self.world.advance();
            }
            Step::Scan => self.world.engine.scan_all(&self.world.table),
        }
    }

    fn end_capture(&mut self, ring: RingId, capture: &Capture, bad: bool) {
        for (frame, reference) in &capture.pages {
            self.world.frames[frame.0 as usize] = private(*reference);
        }
        let mut outcomes = vec![Copied::Done; capture.pages.len()];
        if bad {
            *outcomes.last_mut().unwrap() = Copied::BadReference;
        }
        let World { engine, frames, out, now, .. } = &mut self.world;
        engine.captured(*now, capture.request, &outcomes, &Memory(frames), out).unwrap();
        self.world.perform();
        let answer = self.inbox(ring);
        let Some(program) = self.programs.iter_mut().find(|program| program.ring == ring) else { return };
        let Some(answer) = answer else { return };
        let Some(freezing) = &mut program.freezing else {
            assert_eq!(answer.status, Status::Gone);
            return;
        };
        // It may be a capture of an earlier freeze that came to nothing.
        if answer.status == Status::Gone {
            return;
        }
        let pages = freezing.out.take().expect("it was sent");
        assert_eq!(answer.status, if bad { Status::BadReference } else { Status::Ok });
        if bad {
            return;
        }
        let captured: [u32; CAPTURE_MAX] = answer.captured();
        for ((at, (_, reference)), page) in pages.into_iter().zip(&capture.pages).zip(captured) {
            let (page, bytes) = (u64::from(page), private(*reference));
            freezing.numbers.insert(at, page);
            let before = self.world.frozen.insert(page, bytes);
            // A number that some snapshot has keeps its bytes.
            let known = self.snapshots.values().any(|frozen| frozen.numbers.contains(&page));
            assert!(!known || before == Some(bytes), "page {page:#x} has changed");
        }
    }

    /// What holds at any moment.
    fn check(&self) {
        self.world.check();
        for (_, frame, seen) in
            self.programs.iter().flat_map(|one| &one.maps).chain(self.ghosts.iter().flatten())
        {
            assert_eq!(self.world.frames[frame.0 as usize], *seen, "a mapped page has changed");
        }
        let engine = &self.world.engine;
        for (id, frozen) in &self.snapshots {
            let figures = engine.snapshot(*id).expect("it is there");
            assert_eq!(figures.state, SnapshotState::Ready);
            assert_eq!(figures.pages as usize, frozen.numbers.len());
            let group = VOLUMES[frozen.volume].1;
            for (number, byte) in frozen.pages.values() {
                let page = u32::try_from(*number).unwrap();
                assert!(engine.frozen.is_in(page, id.0));
                assert_eq!(self.world.frozen[number], content(*byte));
                assert_eq!(engine.group_of(page), Some(group), "no page crosses groups");
            }
        }
        let promised: u32 = (0..engine.snapshots.len()).map(|at| engine.snapshots.at(at).promised).sum();
        assert_eq!(promised, engine.store.promised);
        let used =
            (0..engine.frozen.len()).filter(|at| engine.frozen.members(crate::frozen::FIRST + at) != 0);
        assert_eq!(used.count(), engine.frozen.used() as usize);
    }

    /// Everybody goes, every snapshot is deleted in the order of `order`, and everything is as it was.
    fn end(mut self, order: u64) {
        while !self.programs.is_empty() {
            self.die(0);
        }
        for (ring, capture) in std::mem::take(&mut self.captures) {
            self.end_capture(ring, &capture, false);
        }
        for (reference, ..) in std::mem::take(&mut self.ghosts).into_iter().flatten() {
            self.world.table.unmap(reference);
        }
        let mut round = order;
        while !self.snapshots.is_empty() {
            round = round.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(9);
            self.step(Step::Delete { which: round.to_le_bytes()[0] });
            self.check();
            while self.world.engine.sweep(3, &mut self.world.table) {}
            // What is left is what the others have.
            let left: BTreeSet<u64> = self.snapshots.values().flat_map(|one| one.numbers.clone()).collect();
            assert_eq!(
                self.world.engine.frozen.used() as usize,
                left.len(),
                "exactly what nobody uses is free"
            );
        }
        for id in std::mem::take(&mut self.failed) {
            self.world.engine.delete_snapshot(id, &mut self.world.table).expect("it has failed");
        }
        for _ in 0..600 {
            self.world.engine.sweep(64, &mut self.world.table);
        }
        self.world.engine.scan_all(&self.world.table);
        self.check();
        let (now, before) = (self.world.engine.page_states(), self.before);
        assert_eq!((now.free + now.clean, now.frozen, now.shared), (before.free, 0, 0));
        assert_eq!(self.world.engine.frozen.free(), self.numbers);
        assert_eq!(self.world.engine.snapshots().count(), 0);
        assert_eq!(self.world.engine.store.promised, 0);
        let figures = self.world.engine.figures();
        assert_eq!((figures.clients, figures.rings, figures.permitted, figures.bugs), (0, 0, 0, 0));
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let windows = prop_oneof![Just(1u32), Just(4), Just(16), Just(64), Just(512)];
    (16u32..160, 64u32..1200, windows, 1u32..6, 8u32..300, 16u32..600).prop_map(
        |(frames, references, window, reserve, client_pages, client_references)| Shape {
            frames,
            references,
            rings: 10,
            clients: 10,
            rows: 1,
            limits: Limits {
                first_reference: 100,
                window,
                reserve,
                client_pages,
                client_references,
                metadata_pages: 77,
                seed: 9,
                ..Limits::default()
            },
        },
    )
}

proptest! {
    #![proptest_config(super::config(300))]

    #[test]
    fn every_clone_reads_the_bytes_of_its_instant(
        shape in shape(),
        steps in proptest::collection::vec(step(), 1..400),
        order in any::<u64>(),
    ) {
        let mut run = Run::new(shape);
        run.step(Step::Spawn { volume: false });
        run.step(Step::Spawn { volume: true });
        for step in steps {
            run.step(step);
            run.check();
        }
        run.end(order);
    }
}
