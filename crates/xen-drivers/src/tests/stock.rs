//! A stock frontend beside M1's backend: what a Linux, a mini-os or a GRUB does with a disk, and an owner that keeps the disk in memory.

use std::boxed::Box;

use xen::fake::{FakeDomain, FakeWindow, FakeXen};
use xen::grant::Direction;
use xen::{Access, DomId, GrantRef, Hypervisor, Mfn, PageWords, Port};
use xen_ring::Front;
use xen_sys::blkif::{REQUEST_WORDS, RESPONSE_WORDS};
use xenstore::fake::Flavour;

use super::world::{M1, World, XVDA, map_offer};
use crate::blkback::{BlockRing, Copies, Operation, Request, Status};
use crate::blkfront::wire::{self, Response, Segment};
use crate::vbdback::{BlockFeatures, BlockOffer, DeviceId, Event};
use crate::{Frame, Platform};

pub(crate) type StockRing = Front<REQUEST_WORDS, RESPONSE_WORDS, 16>;

/// Blocks of the disk.
pub(crate) const BLOCKS: usize = 64;
pub(crate) const DISK: BlockOffer =
    BlockOffer { sectors: BLOCKS as u64 * 8, read_only: false, features: BlockFeatures::ALL };

/// References of the client's ring pages, and of its data pages.
const RING_REFERENCE: u32 = 8;
pub(crate) const DATA_REFERENCE: u32 = 100;
/// Pages of data that it has.
const DATA: u32 = 40;

/// Everybody.
pub(crate) struct Bed {
    pub(crate) world: World,
    pub(crate) xen: FakeXen,
    pub(crate) m1: FakeDomain,
    pub(crate) platform: Platform,
    pub(crate) window: FakeWindow,
    pub(crate) scratch: Frame,
    pub(crate) disk: Vec<Frame>,
    pub(crate) ring: Option<(DeviceId, BlockRing)>,
    pub(crate) client: Stock,
    /// What was asked of the disk, as far as it got to the owner.
    pub(crate) seen: Vec<(Operation, u64, u64)>,
}

/// The client.
pub(crate) struct Stock {
    pub(crate) domain: FakeDomain,
    pub(crate) data: &'static [PageWords],
    ring_pages: &'static [PageWords],
    pub(crate) ring: Option<StockRing>,
    pub(crate) port: Port,
}

impl Bed {
    /// Up to M1's offer of `disk` in state 2, and no further.
    pub(crate) fn offered(disk: BlockOffer) -> Self {
        let xen = FakeXen::new();
        let mut domains: Vec<FakeDomain> = (0..4).map(|_| xen.domain(256, 8)).collect();
        let (client, m1) = (domains.remove(3), domains.remove(2));
        assert_eq!(m1.id().0, M1);
        for domain in [&client, &m1] {
            domain.grants().grow_to(4).expect("it has as many");
        }
        let frame = || {
            let (words, mfn) = m1.page();
            Frame { words, mfn }
        };
        let platform = Platform {
            hypervisor: Box::leak(Box::new(m1.clone())),
            events: m1.events(),
            grants: m1.grants(),
            refs: Box::leak(Box::default()),
        };
        let mut bed = Self {
            world: World::new(Flavour::Ocaml, 4),
            window: FakeWindow::new(&m1, 16),
            scratch: frame(),
            disk: (0..BLOCKS).map(|_| frame()).collect(),
            platform,
            xen,
            m1,
            ring: None,
            client: Stock::new(client),
            seen: Vec::new(),
        };
        for (block, frame) in (0..).zip(&bed.disk) {
            frame.words.store(0, block);
        }
        let client = bed.id();
        bed.world.create(client, "v");
        bed.world.server.get_mut().set(&World::back(client, "/mode"), "w");
        let device = bed.world.offered();
        bed.world.backend.accept(device, Some(map_offer(100)), Some(disk));
        assert_eq!(bed.world.run_long(), []);
        bed
    }

    /// Up to both sides' state 4, with a ring of `1 << order` pages.
    pub(crate) fn connected(disk: BlockOffer, order: u32) -> Self {
        let mut bed = Self::offered(disk);
        bed.client_publishes(order);
        bed.client_says("3");
        assert_eq!(bed.m1_state(), "4");
        bed.client_says("4");
        bed
    }

    pub(crate) fn id(&self) -> u16 {
        self.client.domain.id().0
    }

    pub(crate) fn m1_state(&self) -> String {
        self.world.state(self.id()).unwrap_or_default()
    }

    /// A node of the client's own directory.
    pub(crate) fn client_writes(&mut self, key: &str, value: &str) {
        let node = format!("/local/domain/{}/device/vbd/{XVDA}/{key}", self.id());
        self.world.server.get_mut().set(&node, value);
    }

    pub(crate) fn client_removes(&mut self, key: &str) {
        let node = format!("/local/domain/{}/device/vbd/{XVDA}/{key}", self.id());
        self.world.server.get_mut().remove(&node);
    }

    /// The client writes its state, and everybody runs.
    pub(crate) fn client_says(&mut self, state: &str) -> Vec<Event> {
        let id = self.id();
        self.world.client_says(id, state);
        self.run()
    }

    /// The client makes a ring and says where it is, as Linux's xen-blkfront does (`talk_to_blkback`).
    pub(crate) fn client_publishes(&mut self, order: u32) {
        let port = self.client.publish(DomId(M1), order);
        for key in ["ring-ref", "ring-page-order"] {
            self.client_removes(key);
        }
        if order == 0 {
            self.client_writes("ring-ref", &RING_REFERENCE.to_string());
        } else {
            self.client_writes("ring-page-order", &order.to_string());
            for page in 0..1 << order {
                self.client_writes(&format!("ring-ref{page}"), &(RING_REFERENCE + page).to_string());
            }
        }
        self.client_writes("event-channel", &port.0.to_string());
        self.client_writes("protocol", "x86_64-abi");
    }

    /// The client takes its ring back: nothing of M1's may be on it any more.
    pub(crate) fn client_takes_back(&mut self) {
        self.client.take_back();
    }

    /// M1, its owner and xenstored run until nothing moves or is held back.
    pub(crate) fn run(&mut self) -> Vec<Event> {
        let mut all = Vec::new();
        loop {
            let events = self.world.run_long();
            if events.is_empty() {
                self.serve();
                return all;
            }
            for event in &events {
                self.hear(event);
            }
            all.extend(events);
        }
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Offered { device, .. } => {
                self.world.backend.accept(*device, Some(map_offer(100)), Some(DISK));
            }
            Event::BlockRing { device, ring, disk } => {
                assert!(self.ring.is_none(), "one ring at a time");
                match BlockRing::open(self.platform, &mut self.window, self.scratch, ring, *disk) {
                    Ok(ring) => {
                        self.ring = Some((*device, ring));
                        self.world.backend.block_ready(*device);
                    }
                    Err(error) => self.world.backend.block_failed(*device, &error.to_string()),
                }
            }
            Event::Closing(device) => {
                if let Some((_, ring)) = self.ring.take_if(|(id, _)| id == device) {
                    ring.close(&mut self.window);
                }
                self.world.backend.closed(*device);
            }
            _ => {}
        }
    }

    /// The owner serves what is on the ring.
    pub(crate) fn serve(&mut self) {
        let Some((device, mut ring)) = self.ring.take() else { return };
        loop {
            match ring.pop() {
                Ok(Some(request)) => {
                    self.seen.push((request.operation, request.sector, request.sectors));
                    let status = self.perform(&request);
                    ring.complete(request.tag, status).expect("it was taken");
                }
                Ok(None) => {
                    ring.publish();
                    if !ring.final_check() {
                        break;
                    }
                }
                Err(_) => {
                    self.world.backend.abandon(device);
                    break;
                }
            }
        }
        self.ring = Some((device, ring));
    }

    fn perform(&mut self, request: &Request) -> Status {
        let direction = match request.operation {
            Operation::Read => Direction::ToPeer,
            Operation::Write | Operation::Barrier => Direction::FromPeer,
            Operation::Flush => return Status::Okay,
            Operation::Discard => {
                for block in request.whole_blocks() {
                    self.block(block).words.zero();
                }
                return Status::Okay;
            }
        };
        let mut copies = Copies::new(self.client.domain.id());
        for piece in request.pieces() {
            copies.push(&piece, self.block(piece.disk_page).mfn, direction).expect("room for a request");
        }
        if copies.run(self.platform).is_ok() { Status::Okay } else { Status::Error }
    }

    pub(crate) fn block(&self, block: u64) -> Frame {
        self.disk[usize::try_from(block).expect("a block of the disk")]
    }

    /// The client asks, M1 serves, the client looks.
    pub(crate) fn ask(&mut self, words: [u32; REQUEST_WORDS]) -> Response {
        self.client.push(words);
        self.serve();
        self.client.answers().try_into().map(|[answer]: [Response; 1]| answer).expect("one answer")
    }

    pub(crate) fn ask_for(&mut self, operation: u8, sector: u64, segments: &[Segment]) -> i16 {
        let answer = self.ask(wire::request(operation, 77, sector, segments));
        assert_eq!((answer.id, answer.operation), (77, operation), "Linux closes over anything else");
        answer.status
    }
}

impl Stock {
    fn new(domain: FakeDomain) -> Self {
        let (data, ring_pages) = (domain.pages(DATA as usize), domain.pages(16));
        let stock = Self { domain, data, ring_pages, ring: None, port: Port(0) };
        for (index, page) in (0..DATA).zip(stock.data) {
            stock.grant(DATA_REFERENCE + index, page, Access::ReadWrite);
        }
        stock
    }

    pub(crate) fn grant(&self, reference: u32, page: &PageWords, access: Access) {
        let frame: Mfn = self.domain.mfn_of(page);
        self.domain.grants().permit(GrantRef(reference), DomId(M1), frame, access).expect("free");
    }

    pub(crate) fn revoke(&self, reference: u32) {
        self.domain.grants().try_revoke(GrantRef(reference)).expect("M1 has let go of it");
    }

    fn publish(&mut self, m1: DomId, order: u32) -> Port {
        let pages: Vec<&'static PageWords> = self.ring_pages.iter().take(1 << order).collect();
        for (index, page) in (0..).zip(&pages) {
            self.grant(RING_REFERENCE + index, page, Access::ReadWrite);
        }
        self.ring = StockRing::init_pages(&pages);
        self.port = self.domain.evtchn_alloc_unbound(m1).expect("a port");
        self.port
    }

    fn take_back(&mut self) {
        self.ring = None;
        for reference in RING_REFERENCE..RING_REFERENCE + 16 {
            self.revoke(reference);
        }
        self.domain.evtchn_close(self.port).expect("its own");
    }

    /// The first page of its ring, for those who lie.
    pub(crate) fn ring_page(&self) -> &'static PageWords {
        &self.ring_pages[0]
    }

    pub(crate) fn push(&mut self, words: [u32; REQUEST_WORDS]) {
        let ring = self.ring.as_mut().expect("connected");
        ring.push_request(&words).expect("room");
        let _ = ring.publish();
    }

    pub(crate) fn answers(&mut self) -> Vec<Response> {
        let ring = self.ring.as_mut().expect("connected");
        std::iter::from_fn(|| ring.pop_response().expect("M1 is honest").map(Response::decode)).collect()
    }
}

/// All of a data page of the client's.
pub(crate) fn whole(page: u32) -> Segment {
    Segment { reference: DATA_REFERENCE + page, first: 0, last: 7 }
}

/// An indirect request; its segments are put into the client's data page `page`.
pub(crate) fn indirect(
    client: &Stock,
    page: u32,
    nested: u8,
    sector: u64,
    segments: &[Segment],
) -> [u32; REQUEST_WORDS] {
    for (index, segment) in segments.iter().enumerate() {
        let words = &client.data[page as usize];
        words.store(index * 2, segment.reference);
        words.store(index * 2 + 1, u32::from_le_bytes([segment.first, segment.last, 0xaa, 0xaa]));
    }
    let mut words = wire::request(xen_sys::blkif::op::INDIRECT, 77, sector, &[]);
    let [low, high] = u16::try_from(segments.len()).expect("few").to_le_bytes();
    words[0] = u32::from_le_bytes([xen_sys::blkif::op::INDIRECT, nested, low, high]);
    words[7] = DATA_REFERENCE + page;
    words
}
