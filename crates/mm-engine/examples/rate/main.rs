//! How many requests a second the engine answers on this machine, by number of clients and of pages: one JSON object for
//! each pair, on a line of its own. Flat above the floor is the aim.
//!
//! `cargo run --release -p mm-engine --example rate [SECONDS [KIND CLIENTS PAGES]]` measures each pair, or this one, for so long
//! (0.3 s unless told). With each comes its floor (see `floor.rs`), measured by turns with it.
//! Each request is a `Grant` of a page that is in memory, taken by a random client at a random place (`grant`), or of the
//! page that continues its last answer (`sequential`); windows are given back as a client does whose table is full.
#![expect(clippy::unwrap_used, reason = "a program for people: it stops where something is wrong")]

mod floor;

use std::hint::black_box;
use std::time::{Duration, Instant};

use floor::Floor;
use mm_engine::*;
use mm_proto::{Request, RequestBody, Status};

/// Windows that a client keeps.
const KEPT: usize = 4;
const KEPT_WINDOWS: u32 = 4;
/// Turns of each measurement, and slices of each turn.
const TURNS: u32 = 3;
const SLICES: u32 = 10;

struct Table(Vec<u64>);

impl Grants for Table {
    fn is_reading(&self, reference: Reference) -> bool {
        self.0[reference.0 as usize] & 8 != 0
    }

    fn permit(&mut self, reference: Reference, client: ClientId, frame: FrameId) {
        self.0[reference.0 as usize] = u64::from(frame.0) << 32 | u64::from(client.0) << 16 | 5;
    }

    fn try_revoke(&mut self, reference: Reference) -> Result<(), InUse> {
        let entry = &mut self.0[reference.0 as usize];
        if *entry & 8 != 0 {
            return Err(InUse);
        }
        *entry = 0;
        Ok(())
    }
}

fn rows<T: Clone + Default>(count: usize) -> &'static mut [T] {
    Box::leak(vec![T::default(); count].into_boxed_slice())
}

struct Ring {
    id: RingId,
    /// Windows that it holds, by their references, oldest first.
    held: [(u32, u32); KEPT],
    /// The page after its last window.
    next: u64,
}

struct Bench {
    engine: Engine<'static>,
    table: Table,
    out: Effects,
    rings: Vec<Ring>,
    pages: u64,
    dice: u64,
}

impl Bench {
    fn new(clients: u32, pages: u32) -> (Self, TableSizes) {
        let references = (clients * (KEPT_WINDOWS + 1) * 16).max(1 << 16);
        let sizes = TableSizes::new(pages + 64, references, clients, clients, 512).with_frozen(0, 0);
        let tables = Tables {
            frames: rows(sizes.frames),
            frame_buckets: rows(sizes.frame_buckets),
            windows: rows(sizes.windows),
            window_buckets: rows(sizes.window_buckets),
            lender_buckets: rows(sizes.lender_buckets),
            rings: rows(sizes.rings),
            requests: rows(sizes.requests),
            clients: rows(sizes.clients),
            frozen: &mut [],
            frozen_members: &mut [],
            frozen_buckets: &mut [],
            snapshots: &mut [],
        };
        let mut engine = Engine::new(tables, Limits { seed: 0x5eed, read_run: 16, ..Limits::default() });
        engine.extend_references(references);
        let volume = engine.add_volume(u64::from(pages), GroupId(0), Sharing::Map).unwrap();
        let table = Table(vec![0; sizes.references]);
        let mut bench =
            Self { engine, table, out: Effects::new(), rings: Vec::new(), pages: u64::from(pages), dice: 88 };
        for _ in 0..clients {
            let client = bench.engine.admit().unwrap();
            let ring = bench.engine.attach(client, volume).unwrap();
            bench.rings.push(Ring { id: ring, held: [(0, 0); KEPT], next: 0 });
            bench.send(ring, RequestBody::Hello { version: 1, window: 512 });
        }
        // The whole volume is read once, by copies, so that nothing is lent yet.
        for page in 0..u64::from(pages) {
            bench.send(bench.rings[0].id, RequestBody::Copy { page, reference: 1 });
            loop {
                let effects: Vec<Effect> = bench.out.iter().cloned().collect();
                for effect in effects {
                    match effect {
                        Effect::Read(read) => bench.engine.read_done(&read, Ok(())).unwrap(),
                        Effect::Copy(copy) => {
                            bench.engine.copy_done(copy.request, Copied::Done, &mut bench.out).unwrap();
                        }
                        Effect::Reply { .. } => {}
                        Effect::Capture(_) | Effect::Instant(_) | Effect::Hot { .. } => {
                            unreachable!("nobody freezes")
                        }
                    }
                }
                let more = bench.engine.advance(&mut bench.table, &mut bench.out);
                if !more && bench.out.is_empty() {
                    break;
                }
            }
        }
        (bench, sizes)
    }

    fn send(&mut self, ring: RingId, body: RequestBody) {
        let words = Request { id: 1, body }.encode();
        self.engine.handle_words(0, ring, black_box(&words), &mut self.table, &mut self.out).unwrap();
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    /// One fault of one client, and what goes with it. Gives the requests that were handled.
    fn fault(&mut self, sequential: bool) -> u64 {
        let clients = self.rings.len() as u64;
        let at = usize::try_from(self.roll(clients)).unwrap();
        let page = if sequential { self.rings[at].next % self.pages } else { self.roll(self.pages) };
        let ring = self.rings[at].id;
        self.send(ring, RequestBody::Grant { page, wanted: 1 });
        let Some(Effect::Reply { response, .. }) = self.out.iter().next() else { panic!("no answer") };
        assert_eq!(response.status, Status::Ok);
        let run = (response.reference, response.count);
        self.rings[at].next = response.page + u64::from(response.count);
        if self.rings[at].held.contains(&run) {
            return 1;
        }
        let (reference, count) = std::mem::replace(&mut self.rings[at].held[0], run);
        self.rings[at].held.rotate_left(1);
        if count == 0 {
            return 1;
        }
        self.send(ring, RequestBody::Release { reference, count });
        2
    }

    /// Requests, faults and pages lent, each for a second, over a slice of so many seconds.
    fn slice(&mut self, sequential: bool, seconds: f64) -> [f64; 3] {
        let before = self.engine.counters().permits;
        let begin = Instant::now();
        let (mut requests, mut faults) = (0, 0);
        while begin.elapsed() < Duration::from_secs_f64(seconds) {
            for _ in 0..64 {
                requests += self.fault(sequential);
                faults += 1;
            }
        }
        let elapsed = begin.elapsed().as_secs_f64();
        let lent = self.engine.counters().permits - before;
        [requests, faults, lent].map(|count| f64::from(u32::try_from(count).unwrap()) / elapsed)
    }
}

/// The least of them, the middle, and the one that a tenth is above.
fn spread(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() * 9 / 10]]
}

fn json([least, median, high]: [f64; 3]) -> String {
    format!("{{\"least\":{least:.1},\"median\":{median:.1},\"high\":{high:.1}}}")
}

/// Measures one pair, and prints it.
fn measure(sequential: bool, clients: u32, pages: u32, seconds: f64) {
    let (mut bench, sizes) = Bench::new(clients, pages);
    // Until everybody holds what it keeps.
    for _ in 0..clients * (KEPT_WINDOWS + 2) {
        bench.fault(sequential);
    }
    let mut floor = Floor::new(&sizes);
    let (mut faults, mut lent, mut floors, mut ratios) = (vec![], vec![], vec![], vec![]);
    let mut requests = 0.0_f64;
    let slice = seconds / f64::from(TURNS * SLICES);
    // By turns, so that whatever else this machine does disturbs both. What one has left in the caches is not the other's: each
    // has half of its time to make itself at home.
    for _ in 0..TURNS {
        let (mut fault_turn, mut floor_turn) = (vec![], vec![]);
        bench.slice(sequential, seconds / f64::from(TURNS));
        for _ in 0..SLICES {
            let [rate, fault, page] = bench.slice(sequential, slice);
            requests = requests.max(rate);
            fault_turn.push(1e9 / fault);
            lent.push(1e9 / page);
        }
        if !sequential {
            floor.slice(seconds / f64::from(TURNS));
            floor_turn.extend((0..SLICES).map(|_| floor.slice(slice)));
            ratios.push(spread(&mut fault_turn)[1] / spread(&mut floor_turn)[1]);
        }
        faults.append(&mut fault_turn);
        floors.append(&mut floor_turn);
    }
    let kind = if sequential { "sequential" } else { "grant" };
    print!(
        "{{\"kind\":\"{kind}\",\"clients\":{clients},\"pages\":{pages},\"requests_per_second\":{requests:.0},\
         \"fault\":{},\"page\":{}",
        json(spread(&mut faults)),
        json(spread(&mut lent)),
    );
    if !sequential {
        let (places, lines) = floor.count();
        print!(
            ",\"floor\":{{\"places\":{places},\"lines\":{lines},\"fault\":{},\"ratio\":{:.2}}}",
            json(spread(&mut floors)),
            spread(&mut ratios)[1],
        );
    }
    println!("}}");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().map_or(0.3, |seconds| seconds.parse().unwrap());
    let rest: Vec<String> = arguments.collect();
    if let [kind, clients, pages] = rest.as_slice() {
        return measure(kind == "sequential", clients.parse().unwrap(), pages.parse().unwrap(), seconds);
    }
    for sequential in [false, true] {
        for clients in [1, 10, 100, 1000, 10_000] {
            // A client's sequential windows grow to 512 pages: that many references for each.
            if sequential && clients > 100 {
                continue;
            }
            for pages in [1_000, 10_000, 100_000, 1_000_000] {
                measure(sequential, clients, pages, seconds);
            }
        }
    }
}
