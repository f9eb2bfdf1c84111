//! The machine: Xen, xenstored, dom0 with M1's disks, M1, and its clients.

use std::boxed::Box;
use std::string::String;
use std::vec::Vec;

use mm_engine::{Engine, Figures, GroupId, Limits, Sharing, TableSizes, Tables};
use mm_http::HttpStats;
use mm_store::Hidden;
use xen::console::Console;
use xen::fake::{FakeDomain, FakeWindow, FakeXen};
use xen::grant::RefPool;
use xen::{DomId, GrantRef, Hypervisor, PageWords, Port, Virq};
use xen_drivers::blkfront::{BlkFront, MIN_POOL, PoolPage};
use xen_drivers::netfront::NetFront;
use xen_drivers::vbdback::{SETTLE_NS, Slot, VbdBackend};
use xen_drivers::{Frame, Platform};
use xenstore::Connection;
use xenstore::fake::{ConnectionId, FakeXenstored, Flavour};

use super::client::{Client, Published};
use super::disk::Disk;
use super::stock::Stock;
use super::store_disk;
use crate::block::{Block, BlockMemory};
use crate::config::Config;
use crate::control::{Control, Window};
use crate::devices::{DeviceMemory, Devices, NOBODY};
use crate::disks;
use crate::lending::Lending;
use crate::m1::{M1, Network};
use crate::pages::{Facts, Host};
use crate::refusals::Refusals;
use crate::snapshots::Snapshots;
use crate::trace::Trace;
use crate::volumes::{VolumeFacts, VolumeState, Volumes};

pub(crate) const XVDA: u32 = 51712;
/// Pages of each volume.
pub(crate) const PAGES: u64 = 64;
/// Grant frames of M1's: what is above the drivers' references is the engine's.
const GRANT_FRAMES: u32 = 6;
/// Rows for blocks in memory that read as zeroes.
pub(crate) const HIDDEN: usize = 4;
/// Pages of M1's memory that are not in the store.
pub(crate) const METADATA: u64 = 50;

pub(crate) struct World {
    pub(crate) xen: FakeXen,
    pub(crate) store: FakeXenstored,
    pub(crate) m1: M1,
    /// M1's domain.
    pub(crate) domain: FakeDomain,
    pub(crate) dom0: FakeDomain,
    /// M1's connection.
    pub(crate) connection: ConnectionId,
    pub(crate) disks: Vec<Disk>,
    /// The disk of `store_disk=`.
    pub(crate) store_disk: Option<Disk>,
    pub(crate) clients: Vec<Client>,
    pub(crate) stocks: Vec<Stock>,
}

/// Where M1 stands when nobody is there: everything that a client's coming and going must leave as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Rest {
    own_references: u32,
    ports: usize,
    stuck: usize,
    devices: usize,
    clients: u64,
    rings: u64,
    references_free: u64,
    permitted: u64,
    mapped: u64,
    stale: u64,
}

fn slice<T>(count: usize, make: impl FnMut(usize) -> T) -> &'static mut [T] {
    Box::leak((0..count).map(make).collect())
}

fn rows<T: Default>(count: usize) -> &'static mut [T] {
    slice(count, |_| T::default())
}

impl World {
    /// M1 with these options, a disk of [`PAGES`] pages for each volume, and a store of `frames` pages; up to the point where all
    /// volumes are served.
    pub(crate) fn new(options: &str, frames: u32) -> Self {
        let mut world = Self::stalled(options, frames);
        for disk in &mut world.disks {
            disk.stalled = false;
        }
        world.run();
        world
    }

    /// The same while no disk answers yet.
    pub(crate) fn stalled(options: &str, frames: u32) -> Self {
        Self::stalled_over(options, frames, store_disk::formatted())
    }

    /// M1 anew, with what the store's disk holds.
    pub(crate) fn over(options: &str, frames: u32, blocks: Vec<[u32; 1024]>) -> Self {
        let mut world = Self::stalled_over(options, frames, blocks);
        for disk in &mut world.disks {
            disk.stalled = false;
        }
        world.run();
        world
    }

    fn stalled_over(options: &str, frames: u32, blocks: Vec<[u32; 1024]>) -> Self {
        let xen = FakeXen::new();
        let dom0 = xen.dom0(4, 1);
        let domain = xen.domain(4096, GRANT_FRAMES);
        let page = domain.pages(1).first().expect("one");
        let mut store = FakeXenstored::new(Flavour::Ocaml);
        let connection = store.introduce(domain.id().0, page);
        let config = Config::parse(options);
        let disks = (0..)
            .zip(&config.volumes)
            .map(|(number, volume)| {
                let devid = disks::devid(&volume.devices[0]).expect("a device");
                Disk::new(&mut store, dom0.id(), domain.id(), number, devid, PAGES)
            })
            .collect();
        let store_disk = config.store_disk.as_ref().map(|device| {
            let devid = disks::devid(device).expect("a device");
            Disk::writable(&mut store, dom0.id(), domain.id(), devid, blocks.clone())
        });
        let m1 = build(config, &domain, dom0.id(), page, frames, &blocks);
        let (clients, stocks) = (Vec::new(), Vec::new());
        let mut world = Self { xen, store, m1, domain, dom0, connection, disks, store_disk, clients, stocks };
        world.connect_store();
        world.run();
        world
    }

    /// What M1 does at boot, before anything else: it waits for its store's disk.
    fn connect_store(&mut self) {
        let (Some(overlays), Some(disk)) = (&mut self.m1.overlays, &mut self.store_disk) else { return };
        for _ in 0..100 {
            while let Ok(Some(incoming)) = self.m1.xenstore.poll() {
                let _ = overlays.on_message(&incoming.message);
            }
            overlays.advance(&mut self.m1.xenstore.client, self.m1.clock.now_ns());
            let _ = self.m1.xenstore.flush();
            let _ = self.store.run();
            let _ = disk.serve(&mut self.store, &self.dom0, self.domain.id());
            if overlays.is_connected() {
                return;
            }
        }
        panic!("the store's disk never connects");
    }

    /// Lets everybody run until nothing moves.
    pub(crate) fn run(&mut self) {
        let mut calm = 0;
        for _ in 0..20_000 {
            let mut moved = self.m1.turn();
            moved |= self.store.run();
            for disk in self.disks.iter_mut().chain(&mut self.store_disk) {
                moved |= disk.serve(&mut self.store, &self.dom0, self.domain.id());
            }
            for client in &mut self.clients {
                moved |= client.pump();
            }
            calm = if moved { 0 } else { calm + 1 };
            if calm == 3 {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    /// M1's disks do what is asked of them.
    pub(crate) fn serve_disks(&mut self) {
        for disk in &mut self.disks {
            let _ = disk.serve(&mut self.store, &self.dom0, self.domain.id());
        }
    }

    /// Time passes, in steps.
    pub(crate) fn pass(&mut self, ns: u64) {
        for _ in 0..ns.div_ceil(SETTLE_NS) {
            self.xen.advance(SETTLE_NS);
            self.run();
        }
    }

    /// `xl create` up to the device: a new domain with `target=`.
    pub(crate) fn create(&mut self, target: &str) -> FakeDomain {
        self.create_with(target, "r")
    }

    pub(crate) fn create_with(&mut self, target: &str, mode: &str) -> FakeDomain {
        let domain = self.xen.domain(256, 2);
        let page = domain.pages(1).first().expect("one");
        self.store.introduce(domain.id().0, page);
        self.add_device_with(domain.id(), XVDA, target, mode);
        domain
    }

    pub(crate) fn add_device(&mut self, client: DomId, devid: u32, target: &str) {
        self.add_device_with(client, devid, target, "r");
    }

    pub(crate) fn add_device_with(&mut self, client: DomId, devid: u32, target: &str, mode: &str) {
        self.store.add_vbd(self.domain.id().0, client.0, devid, target, mode);
        self.pass(2 * SETTLE_NS);
    }

    /// A node that M1 wrote into a device's backend directory.
    pub(crate) fn backend(&self, client: DomId, devid: u32, key: &str) -> Option<String> {
        let m1 = self.domain.id().0;
        self.store.get(&std::format!("/local/domain/{m1}/backend/vbd/{}/{devid}/{key}", client.0))
    }

    pub(crate) fn published(&self, client: DomId, devid: u32) -> Option<Published> {
        let number = |key| self.backend(client, devid, key)?.parse().ok();
        Some(Published {
            ring: GrantRef(number(mm_proto::keys::MAP_RING_REF)?),
            port: Port(number(mm_proto::keys::MAP_PORT)?),
            info: GrantRef(number(mm_proto::keys::INFO_REF)?),
        })
    }

    /// The frontend's state, as its kernel writes it.
    pub(crate) fn says(&mut self, client: DomId, devid: u32, state: &str) {
        self.store.set(&std::format!("/local/domain/{}/device/vbd/{devid}/state", client.0), state);
        self.run();
    }

    /// A new client of the volume whose disk has this number, up to state 4 on both sides. Its place in `clients`.
    pub(crate) fn client(&mut self, target: &str, disk: u32) -> usize {
        let domain = self.create(target);
        let published = self.published(domain.id(), XVDA).expect("M1 accepted it");
        self.clients.push(Client::connect(domain.clone(), self.domain.id(), disk, published, 40));
        self.says(domain.id(), XVDA, "4");
        self.pass(2 * SETTLE_NS);
        assert_eq!(self.backend(domain.id(), XVDA, "state").as_deref(), Some("4"));
        self.clients.len() - 1
    }

    /// A client's program touches a page and waits.
    pub(crate) fn touch(&mut self, client: usize, page: u64) {
        self.clients[client].touch(page);
        self.run();
        assert!(self.clients[client].waiting.is_empty(), "page {page} never came");
    }

    /// `xl destroy`: Xen takes the domain apart, and the toolstack its nodes.
    pub(crate) fn destroy(&mut self, client: usize) {
        let domain = self.clients.remove(client).domain;
        self.xen.destroy(domain.id());
        self.remove_device(domain.id(), true);
    }

    pub(crate) fn remove_device(&mut self, client: DomId, force: bool) {
        self.store.detach_vbd(self.domain.id().0, client.0, XVDA, force);
        self.run();
    }

    /// `xl block-detach` of the only disk of M1.
    pub(crate) fn detach_disk(&mut self) {
        self.detach_disk_of(XVDA);
    }

    /// `xl block-detach` of a disk of M1.
    pub(crate) fn detach_disk_of(&mut self, devid: u32) {
        let (dom0, m1) = (self.dom0.id(), self.domain.id());
        let place = self.disks.iter().position(|disk| disk.devid == devid).expect("attached");
        self.disks[place].detach(&mut self.store, dom0, m1);
        self.run();
        self.disks[place].gone(&mut self.store, &self.dom0, m1);
        self.run();
        self.disks.remove(place);
    }

    /// `xl block-attach` of a disk with the content of this number.
    pub(crate) fn attach_disk(&mut self, number: u32, pages: u64) {
        self.attach_disk_as(XVDA, number, pages);
    }

    /// The same under a name.
    pub(crate) fn attach_disk_as(&mut self, devid: u32, number: u32, pages: u64) {
        let (dom0, m1) = (self.dom0.id(), self.domain.id());
        let mut disk = Disk::new(&mut self.store, dom0, m1, number, devid, pages);
        disk.stalled = false;
        self.disks.push(disk);
        self.run();
    }

    /// The engine's figures, counted in the grant table now.
    pub(crate) fn figures(&mut self) -> Figures {
        self.m1.engine.scan_all(&self.m1.lending);
        let figures = self.m1.engine.figures();
        assert_eq!(figures.bugs, 0, "the engine found a mistake of its own");
        assert_eq!(self.m1.lending.failures, 0, "the grant table refused an entry");
        figures
    }

    pub(crate) fn rest(&mut self) -> Rest {
        let figures = self.figures();
        Rest {
            own_references: self.m1.platform.refs.taken(),
            ports: self.domain.open_ports(),
            stuck: self.m1.devices.stuck(),
            devices: self.m1.devices.iter().count() + self.m1.backend.len(),
            clients: figures.clients,
            rings: figures.rings,
            references_free: figures.references_free,
            permitted: figures.permitted,
            mapped: figures.pages.shared,
            stale: figures.pages.stale_pinned,
        }
    }

    /// What pages are made of.
    pub(crate) fn facts(&mut self) -> Facts<'_> {
        let m1 = &mut self.m1;
        let host = Host {
            version: m1.hypervisor.xen_version(),
            grant_frames: m1.platform.grants.frames(),
            grant_frames_max: m1.platform.grants.frames_max(),
            own_references: m1.platform.refs.taken(),
            ports: 9,
            ports_max: xen_sys::event::PORTS,
            console_dropped: 3,
        };
        Facts {
            config: m1.config,
            block: &m1.block,
            overlays: m1.overlays.as_deref(),
            engine: m1.engine,
            lending: &m1.lending,
            volumes: m1.volumes,
            refusals: &m1.refusals,
            snapshots: m1.snapshots,
            host,
            ring_faults: m1.ring_faults,
            closed: m1.closed,
            strangers: m1.backend.strangers(0),
            control: m1.control.counters(),
            turns: m1.turns,
            started: m1.started,
            now: m1.started + 5,
            ready: true,
        }
    }

    /// A page of the endpoint's.
    pub(crate) fn render(&mut self, page: mm_http::Page) -> String {
        let mut text = String::new();
        let http = HttpStats::default();
        mm_http::Pages::render(&mut self.facts(), page, &http, &mut text).expect("strings take everything");
        text
    }
}

fn build(
    config: Config,
    domain: &FakeDomain,
    dom0: DomId,
    store_page: &'static PageWords,
    frames: u32,
    blocks: &[[u32; 1024]],
) -> M1 {
    let hypervisor: &'static FakeDomain = Box::leak(Box::new(domain.clone()));
    let (events, grants) = (domain.events(), domain.grants());
    grants.grow_to(GRANT_FRAMES).expect("it has as many");
    let platform = Platform { hypervisor, events, grants, refs: Box::leak(Box::new(RefPool::new())) };
    let frame = |_: usize| {
        let (words, mfn) = domain.page();
        Frame { words, mfn }
    };
    // As few as the driver takes: some requests wait for pages.
    let pool = || slice(MIN_POOL, |index| PoolPage::new(frame(index)));
    let count = usize::from(config.clients);
    let device_memory = DeviceMemory {
        places: slice(count, |_| None),
        by_port: slice(xen_sys::event::PORTS as usize, |_| NOBODY),
        by_ring: slice(count, |_| NOBODY),
        free: slice(count, |index| Some(frame(index))),
        stuck: slice(count, |_| None),
        trace: Trace::new(rows(count), rows(count * 8)),
    };
    let mut volumes = Volumes::new();
    for volume in &config.volumes {
        for number in 0..volume.devices.len() {
            let mut facts = VolumeFacts::new(volume, number);
            // The first is there at boot.
            if number > 0 {
                facts.state = VolumeState::Vacant;
            } else {
                facts.version = 1;
            }
            volumes.push(facts).expect("as many as the configuration has");
        }
    }
    let disks: &'static mut [Option<&'static mut disks::Disk>] = slice(config.places(), |index| {
        let devid = disks::devid(&volumes[index].device).expect("a device");
        Some(Box::leak(Box::new(disks::Disk::new(platform, devid, frame(0), frame(0), pool()))))
    });
    let infos = slice(config.places(), |index| Some(frame(index)));
    let first_reference = RefPool::END.0;
    let references = GRANT_FRAMES * 512 - first_reference;
    let clients = u32::from(config.clients);
    let sizes =
        TableSizes::new(frames, references, clients, clients, config.window).with_frozen(frames / 2, 4);
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
    let limits = Limits {
        first_reference,
        window: config.window,
        reserve: 2,
        client_references: config.quota(references),
        client_pages: config.quota(references),
        metadata_pages: METADATA,
        read_ahead: 16,
        seed: 11,
        ..Limits::default()
    };
    let mut engine = Engine::new(tables, limits);
    engine.add_frozen().expect("there is room");
    engine.extend_references(references);
    let owner = domain.clone();
    let lending = Lending {
        table: grants,
        frames: domain.pages(sizes.frames),
        mfn_of: Box::leak(Box::new(move |page: &PageWords| owner.mfn_of(page))),
        domains: slice(count, |_| DomId::SELF),
        failures: 0,
        secret: [5, 0x9e37_79b9_7f4a_7c15],
    };
    let block = BlockMemory {
        disks: slice(count, |_| None),
        jobs: slice(32, |_| None),
        scratch: frame(0),
        zero: frame(0),
        hidden: Hidden::new(rows(HIDDEN), rows(Hidden::buckets(HIDDEN)), 3),
    };
    let window = Box::leak(Box::new(FakeWindow::new(domain, 16)));
    let overlays = config.store_disk.as_ref().map(|device| {
        let devid = disks::devid(device).expect("a device");
        let opened = store_disk::open(BlkFront::new(platform, devid, frame(0), pool()), &frame, blocks);
        let volume = engine.add_volume(opened.blocks, GroupId(u16::MAX), Sharing::Private).expect("a volume");
        &mut *Box::leak(Box::new(opened.over(volume, config.overlay_quota)))
    });
    let pages = 1 << 20;
    let memory = engine.add_volume(pages, GroupId(u16::MAX), Sharing::Memory).expect("a volume");
    let block = Block::new(platform, window, block, Some((memory, pages)), config.memory_quota());
    let (console_page, _) = domain.page();
    let console_port = domain.evtchn_alloc_unbound(dom0).expect("a port");
    let card = NetFront::new(platform, 0, [frame(0), frame(0)], &[frame(0)], &[frame(0)]);
    M1 {
        config: Box::leak(Box::new(config)),
        platform,
        hypervisor,
        events,
        clock: domain.clock(),
        console: Console::on_ring(console_page, console_port, hypervisor),
        xenstore: Box::leak(Box::new(Connection::new(store_page))),
        xenstore_port: domain.evtchn_alloc_unbound(dom0).expect("a port"),
        _timer: domain.evtchn_bind_virq(Virq::Timer).expect("a port"),
        control: Control::new(Window::new(platform, &[frame(0), frame(0)], slice(13 << 10, |_| 0))),
        network: Network { card: Box::leak(Box::new(card)), memory: None, service: None, deadline: None },
        disks,
        infos,
        volumes: Box::leak(Box::new(volumes)),
        engine: Box::leak(Box::new(engine)),
        lending,
        overlays,
        block,
        devices: Devices::new(platform, device_memory),
        backend: VbdBackend::new(domain.id(), slice(count, |_| Slot::EMPTY)),
        undecided: heapless::Vec::new(),
        references,
        first_reference,
        refusals: Refusals::new(),
        snapshots: Box::leak(Box::new(Snapshots::new(slice(4, |index| Some(frame(index))), 7))),
        started: 1_700_000_000,
        turns: 0,
        ring_faults: 0,
        closed: 0,
        rechecked: 0,
        look: true,
        look_at: 0,
        disks_came: false,
        timer_at: None,
    }
}
