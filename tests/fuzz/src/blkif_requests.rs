//! The block service, with a frontend that writes anything into its ring and its indirect pages, and grants what it likes.
//!
//! Ring, parser, pieces and copies are the real ones, on a fake Xen; the disk is some pages. Domains and pages are made once for
//! each thread, because a fake Xen never gives memory back.

use xen::fake::{FakeDomain, FakeWindow, FakeXen};
use xen::grant::Direction;
use xen::{Access, DomId, GrantRef, Hypervisor, PageWords, Port};
use xen_drivers::blkback::{BlockRing, Copies, MAX_PIECES, Operation, Request, Status};
use xen_drivers::vbdback::{BlockFeatures, BlockOffer, BlockRingInfo};
use xen_drivers::{Frame, Platform};

use super::input::Input;

/// Blocks of the disk; it ends in the middle of the last.
const BLOCKS: usize = 6;
const SECTORS: u64 = BLOCKS as u64 * 8 - 3;
/// Pages of the client: a ring, data that it grants now and then, and one that it never grants.
const RING: usize = 4;
const DATA: usize = 4;
const FIRST: u32 = 8;
const SECRET: u32 = 0x5ec2e7;

thread_local! {
    static MACHINE: &'static Machine = Machine::new();
}

struct Machine {
    m1: FakeDomain,
    client: FakeDomain,
    platform: Platform,
    scratch: Frame,
    disk: Vec<Frame>,
    /// Ring, data, and the page that stays the client's.
    pages: &'static [PageWords],
}

impl Machine {
    fn new() -> &'static Self {
        let xen = FakeXen::new();
        let (m1, client) = (xen.domain(16, 4), xen.domain(16, 1));
        m1.grants().grow_to(4).expect("it has as many");
        client.grants().grow_to(1).expect("it has one");
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
        let pages = client.pages(RING + DATA + 1);
        let disk = (0..BLOCKS).map(|_| frame()).collect();
        Box::leak(Box::new(Self { scratch: frame(), disk, platform, pages, m1, client }))
    }

    fn grant(&self, page: usize, access: Access) {
        let reference = GrantRef(FIRST + u32::try_from(page).expect("few"));
        let frame = self.client.mfn_of(&self.pages[page]);
        // It may be granted already.
        let _ = self.client.grants().permit(reference, self.m1.id(), frame, access);
    }

    fn revoke(&self, page: usize) {
        // M1 may be mapping it.
        let _ = self.client.grants().try_revoke(GrantRef(FIRST + u32::try_from(page).expect("few")));
    }
}

struct Story {
    machine: &'static Machine,
    window: FakeWindow,
    disk: BlockOffer,
    ring: Option<BlockRing>,
    port: Port,
    /// Taken and not answered.
    waiting: Vec<Request>,
    produced: u32,
}

/// Whatever the client does: no panic, nothing but sectors of the disk is asked of the owner, nothing but what the client grants is
/// written, and in the end nothing of it is mapped.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let machine = MACHINE.with(|machine| *machine);
    machine.pages.iter().for_each(PageWords::zero);
    let secret = &machine.pages[RING + DATA];
    secret.store(0, SECRET);
    for page in 0..DATA {
        machine.grant(RING + page, Access::ReadWrite);
    }
    let Some(shape) = input.byte() else { return };
    let features = BlockFeatures {
        flush: shape & 1 == 0,
        barrier: shape & 2 == 0,
        discard: shape & 4 == 0,
        indirect_segments: if shape & 8 == 0 { 32 } else { 3 },
        ring_order: 2,
    };
    let disk = BlockOffer { sectors: SECTORS, read_only: shape & 16 != 0, features }.bounded();
    let window = FakeWindow::new(&machine.m1, RING);
    let mut story =
        Story { machine, window, disk, ring: None, port: Port(0), waiting: Vec::new(), produced: 0 };
    story.connect(0);
    while story.step(&mut input).is_some() {}
    story.leave();
    assert_eq!((story.window.mapped(), machine.m1.open_ports()), (0, 0), "something is held");
    for page in 0..RING + DATA {
        machine.revoke(page);
    }
    assert_eq!(secret.load(0), SECRET, "a page that was never granted was written");
}

impl Story {
    fn m1(&self) -> DomId {
        self.machine.m1.id()
    }

    /// The client makes a ring, M1 maps it.
    fn connect(&mut self, order: u8) {
        let count = 1 << (order % 3);
        for page in 0..count {
            self.machine.grant(page, Access::ReadWrite);
            self.machine.pages[page].zero();
        }
        self.port = self.machine.client.evtchn_alloc_unbound(self.m1()).expect("a port");
        let references: Vec<GrantRef> = (FIRST..).take(count).map(GrantRef).collect();
        let info =
            BlockRingInfo::new(self.machine.client.id(), self.port, &references).expect("a power of two");
        let opened =
            BlockRing::open(self.machine.platform, &mut self.window, self.machine.scratch, &info, self.disk);
        let ring = opened.expect("granted and waiting");
        assert_eq!(ring.slots(), 32 << (order % 3));
        self.produced = 0;
        self.ring = Some(ring);
    }

    fn leave(&mut self) {
        self.waiting.clear();
        if let Some(ring) = self.ring.take() {
            ring.close(&mut self.window);
        }
        self.machine.client.evtchn_close(self.port).expect("its own");
        for page in 0..RING {
            self.machine
                .client
                .grants()
                .try_revoke(GrantRef(FIRST + u32::try_from(page).expect("few")))
                .expect("unmapped");
        }
    }

    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let machine = self.machine;
        match input.below(12)? {
            0 => {
                let at = input.half()?;
                let word = usize::from(at >> 1) % if at & 1 == 0 { 4 } else { 1024 };
                machine.pages[usize::from(at) % RING].store(word, input.word()?);
            }
            1..=3 => self.ask(input)?,
            4 => {
                // A segment of an indirect page.
                let (page, index) = (input.below(4)?, input.below(34)?);
                let words = &machine.pages[RING + usize::from(page)];
                words.store(usize::from(index) * 2, FIRST + u32::from(input.byte()?) % 16);
                words.store(usize::from(index) * 2 + 1, u32::from(input.half()?));
            }
            5 => {
                let (page, what) = (usize::from(input.below(4)?), input.below(3)?);
                machine.revoke(RING + page);
                match what {
                    0 => {}
                    1 => machine.grant(RING + page, Access::ReadOnly),
                    _ => machine.grant(RING + page, Access::ReadWrite),
                }
            }
            6..=8 => self.take(usize::from(input.below(40)?)),
            9 => self.answer(usize::from(input.byte()?)),
            10 => {
                if let Some(ring) = &mut self.ring {
                    ring.publish();
                    let _ = ring.final_check();
                }
            }
            _ => {
                let order = input.byte()?;
                self.leave();
                self.connect(order);
            }
        }
        Some(())
    }

    /// A request that is nearly right, shown as the ring says; in the first page, where all slots of a small ring are.
    fn ask(&mut self, input: &mut Input<'_>) -> Option<()> {
        let page = &self.machine.pages[0];
        let slot = 16 + (self.produced % 32) as usize * 28;
        let [operation, count, high] = [input.below(8)?, input.byte()?, input.byte()?];
        let high = if high < 240 { 0 } else { high };
        let nested = if operation == 6 { [count % 3, count / 4] } else { [count % 13, 0] };
        page.store(slot, u32::from_le_bytes([operation, nested[0], nested[1], high]));
        page.store(slot + 2, u32::from(input.byte()?));
        let sector = input.wide()?;
        page.store(slot + 4, u32::try_from(sector & 0xffff_ffff).expect("masked"));
        page.store(slot + 5, u32::try_from(sector >> 32).expect("shifted"));
        for pair in 0..3 {
            page.store(slot + 6 + pair * 2, FIRST + u32::from(input.byte()?) % 16);
            page.store(slot + 7 + pair * 2, u32::from(input.half()?));
        }
        if operation == 6 {
            page.store(slot + 7, FIRST + u32::from(input.byte()?) % 16);
        }
        self.produced = self.produced.wrapping_add(1);
        page.store(0, self.produced);
        Some(())
    }

    /// M1 takes requests and does what they say.
    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(ring) = &mut self.ring else { return };
            match ring.pop() {
                Ok(Some(request)) => {
                    self.check(&request);
                    self.waiting.push(request);
                }
                Ok(None) => return,
                Err(fault) => {
                    assert_eq!(ring.pop(), Err(fault), "it stays so");
                    assert!(!ring.final_check());
                    return;
                }
            }
        }
    }

    fn check(&self, request: &Request) {
        let ring = self.ring.as_ref().expect("it came from there");
        assert!(ring.under_way() <= ring.slots());
        let end = request.sector.checked_add(request.sectors).expect("on the disk");
        assert!(end <= SECTORS);
        let features = self.disk.features;
        let (offered, writes) = match request.operation {
            Operation::Read => (true, false),
            Operation::Write => (true, true),
            Operation::Flush => (features.flush, false),
            // A flush with data is one.
            Operation::Barrier => (features.barrier || features.flush, request.sectors > 0),
            Operation::Discard => (features.discard, true),
        };
        assert!(offered && !(writes && self.disk.read_only), "{request:?}");
        let pieces: Vec<_> = request.pieces().collect();
        assert!(pieces.len() <= MAX_PIECES);
        let bytes: u64 = pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
        assert!(request.operation == Operation::Discard || bytes == request.sectors * 512);
        for piece in pieces {
            assert!(request.blocks().contains(&piece.disk_page) && piece.bytes > 0);
            assert!(piece.offset_in_page + piece.bytes <= 4096);
            assert!(piece.offset_in_disk_page + piece.bytes <= 4096);
        }
    }

    /// M1 does and answers one of those that wait.
    fn answer(&mut self, which: usize) {
        let Some(ring) = &mut self.ring else { return };
        if self.waiting.is_empty() {
            return;
        }
        let request = self.waiting.swap_remove(which % self.waiting.len());
        let direction = match request.operation {
            Operation::Read => Direction::ToPeer,
            _ => Direction::FromPeer,
        };
        let mut copies = Copies::new(ring.domain());
        for piece in request.pieces() {
            let block = usize::try_from(piece.disk_page).expect("few");
            copies.push(&piece, self.machine.disk[block].mfn, direction).expect("room for a request");
        }
        let status = if copies.run(self.machine.platform).is_ok() { Status::Okay } else { Status::Error };
        ring.complete(request.tag, status).expect("it was taken and not answered");
    }
}
