//! From what Xen gave the domain to an M1 that can serve: who gets which memory is decided here, once.

use mm_engine::{
    ClientEntry, Engine, FrameEntry, FrozenEntry, GroupId, Limits, RequestEntry, RingEntry, SNAPSHOTS,
    Sharing, SnapshotEntry, TableSizes, Tables, WindowEntry,
};
use mm_http::{Connection as HttpConnection, NetMemory};
use smoltcp::iface::SocketStorage;
use xen::grant::RefPool;
use xen::{ForeignPages, PageWords, Virq};
use xen_drivers::blkfront::{MAX_PAGES, PoolPage};
use xen_drivers::netfront::NetFront;
use xen_drivers::vbdback::{Slot, VbdBackend};
use xen_drivers::{Frame, Platform};
use xen_rt::foreign::{ForeignWindow, RingWindow};
use xen_rt::{Boot, BootMemory};
use xen_sys::DomId;
use xenstore::{Blocking, Connection, Pause, Transaction};

use crate::block::{Block, BlockMemory, RING_ORDER};
use crate::config::{Config, Problem, Reason};
use crate::control::{Control, TEXT_BYTES, TEXT_BYTES_PER_CLIENT, WINDOW_PAGES, Window};
use crate::devices::{DeviceMemory, Devices};
use crate::disks::{Disk, devid, disk_pool};
use crate::lending::Lending;
use crate::m1::{M1, Network};
use crate::overlays::{self, Opened, Overlays, Waiter};
use crate::refusals::Refusals;
use crate::snapshots::Snapshots;
use crate::volumes::{self, VolumeFacts, VolumeState, Volumes};

/// Pages for frames on their way out and in.
const NET_PAGES: usize = 64;
/// Pages that M1 keeps for nothing but copies and reads.
const RESERVE: u32 = 32;
/// Patience with xenstored at boot.
const XENSTORE_NS: u64 = 10_000_000_000;
/// Grant table frames that M1 starts with: the drivers' references and the first windows. More come in steps.
const FIRST_GRANT_FRAMES: u32 = 8;
/// Frames that hold the drivers' references, whatever `grant_frames=` says.
const OWN_GRANT_FRAMES: u32 = RefPool::END.0.div_ceil(512);

/// Snapshots that there can be in a domain of a few MiB.
const SNAPSHOTS_SMALL: usize = 8;

/// Pages of the engine's volume for what clients write in memory: as many as there can be, shared out among the devices.
const MEMORY_PAGES: u64 = (1 << 32) - 2;

/// References of drivers and devices.
static REFS: RefPool = RefPool::new();

/// Builds M1.
///
/// # Panics
/// Where the domain has not the memory for M1's smallest form; xl's own minimum has.
pub fn build(mut boot: Boot) -> &'static mut M1 {
    let begun = begin(&mut boot);
    finish(boot, begun)
}

/// Not inlined, as [`begin`] is not: what either has on the stack is too much for both.
#[inline(never)]
fn finish(mut boot: Boot, begun: Begun) -> &'static mut M1 {
    let Begun { config, all_pages, platform, xenstore, xenstore_port, disks_present, opened } = begun;
    let memory = &mut boot.memory;
    let devices =
        DeviceMemory::new(memory, usize::from(config.clients)).unwrap_or_else(|| fatal("memory: devices"));
    let devices = Devices::new(platform, devices);
    let slots =
        memory.slice(usize::from(config.clients), Slot::EMPTY).unwrap_or_else(|| fatal("memory: devices"));
    let control =
        control(memory, platform, usize::from(config.clients)).unwrap_or_else(|| fatal("memory: control"));
    let network = network(memory, platform).unwrap_or_else(|| fatal("memory: network"));

    let seed = xen::clock::tsc() ^ boot.clock.unix_ns();
    // A domain of a few MiB serves fewer requests at a time.
    let (rings, jobs) =
        if memory.free_pages() > 4096 { (clients_of(config).min(256), 512) } else { (32, 64) };
    let block = BlockMemory::new(memory, clients_of(config), jobs, seed)
        .unwrap_or_else(|| fatal("memory: block service"));
    let window = ring_window(memory, rings << RING_ORDER).unwrap_or_else(|| fatal("memory: ring window"));

    let Places { volumes, disks, infos } = places(memory, platform, config, &disks_present);
    for problem in &config.problems {
        log::error!("{problem}");
    }

    let snapshots = if memory.free_pages() > 4096 { SNAPSHOTS } else { SNAPSHOTS_SMALL };
    let frozen = place_snapshots(memory, snapshots).unwrap_or_else(|| fatal("memory: snapshots"));
    let clients = u32::from(config.clients);
    let first_reference = RefPool::END.0;
    let wanted = config.grant_frames.unwrap_or(u32::MAX).min(boot.grants.frames_max());
    if config.grant_frames.is_some_and(|frames| frames > boot.grants.frames_max()) {
        late_problem(
            config,
            "grant_frames=",
            "no more frames than Xen allows: see max_grant_frames= in xl.cfg",
        );
    }
    let references = (wanted * 512).saturating_sub(first_reference);
    let domains =
        memory.slice(usize::from(config.clients), DomId::SELF).unwrap_or_else(|| fatal("memory: clients"));
    // What is left is the store's and its tables', but for M1's own state and some pages of alignment.
    let own =
        u32::try_from((size_of::<M1>() + size_of::<Engine<'_>>() + size_of::<Overlays>()).div_ceil(4096))
            .unwrap_or(u32::MAX)
            .saturating_add(16);
    let free = u32::try_from(memory.free_pages()).unwrap_or(u32::MAX).saturating_sub(own);
    let mut sizes = TableSizes::fit(free, references, clients, clients, config.window, 0);
    if let Some(limit) = config.store_pages.filter(|limit| (*limit as usize) < sizes.frames) {
        sizes = TableSizes::new(limit, references, clients, clients, config.window);
    }
    sizes = sizes.with_frozen(u32::try_from(sizes.frozen).unwrap_or(0), snapshots);
    let frames = memory.pages(sizes.frames).unwrap_or_else(|| fatal("memory: store"));
    let limits = Limits {
        first_reference,
        window: config.window,
        reserve: RESERVE.min(u32::try_from(sizes.frames / 8).unwrap_or(RESERVE)).max(1),
        client_references: config.quota(references),
        client_pages: config.quota(references),
        metadata_pages: all_pages.saturating_sub(sizes.frames as u64),
        read_run: u32::try_from(MAX_PAGES).unwrap_or(1),
        read_ahead: if config.window == 1 { 1 } else { 64 },
        seed,
        ..Limits::default()
    };
    let engine = engine(memory, &sizes, limits).unwrap_or_else(|| fatal("memory: tables"));
    if engine.add_frozen().is_err() {
        log::error!("there is no memory for snapshots");
    }
    engine.extend_references(boot.grants.capacity().min(wanted * 512).saturating_sub(first_reference));
    log::info!(
        "store: {} MiB for pages of volumes, {} references of {}",
        sizes.frames / 256,
        boot.grants.capacity().saturating_sub(first_reference),
        references
    );

    let overlays = opened.and_then(|opened| {
        let volume = engine.add_volume(opened.blocks, GroupId(u16::MAX), Sharing::Private).ok()?;
        opened.with(volume, config.overlay_quota, &mut boot.memory)
    });
    let memory_volume = engine.add_volume(MEMORY_PAGES, GroupId(u16::MAX), Sharing::Memory).ok();
    let memory_volume = memory_volume.map(|volume| (volume, MEMORY_PAGES));
    let block = Block::new(platform, window, block, memory_volume, config.memory_quota());
    let timer = boot.hypervisor.evtchn_bind_virq(Virq::Timer).unwrap_or_else(|_| fatal("no timer"));
    boot.events.unmask(timer);
    let secret = [seed.rotate_left(23) ^ xen::clock::tsc(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)];
    let lending =
        Lending { table: boot.grants, frames, mfn_of: &xen_rt::mfn_of, domains, failures: 0, secret };
    let m1 = M1 {
        config,
        platform,
        hypervisor: boot.hypervisor,
        events: boot.events,
        clock: boot.clock,
        console: boot.console,
        xenstore,
        xenstore_port,
        _timer: timer,
        network,
        control,
        disks,
        infos,
        volumes,
        engine,
        lending,
        devices,
        overlays,
        block,
        backend: VbdBackend::new(boot.domid, slots),
        undecided: heapless::Vec::new(),
        references,
        first_reference,
        refusals: Refusals::new(),
        snapshots: frozen,
        started: boot.clock.unix_ns() / 1_000_000_000,
        turns: 0,
        ring_faults: 0,
        closed: 0,
        rechecked: 0,
        look: true,
        look_at: 0,
        disks_came: false,
        timer_at: None,
    };
    boot.memory.place(m1).unwrap_or_else(|| fatal("memory: M1 itself"))
}

/// The disks of all volumes.
struct Places {
    volumes: &'static mut Volumes,
    disks: &'static mut [Option<&'static mut Disk>],
    infos: &'static mut [Option<Frame>],
}

/// Not inlined, as all that makes something large: its stack is used again by the next.
#[inline(never)]
fn places(memory: &mut BootMemory, platform: Platform, config: &Config, disks_present: &[u32]) -> Places {
    let volumes = memory.place(Volumes::new()).unwrap_or_else(|| fatal("memory: volumes"));
    let places = config.places();
    let disks = memory.slice_with(places, |_| None).unwrap_or_else(|| fatal("memory: disks"));
    let infos = memory.slice_with(places, |_| None).unwrap_or_else(|| fatal("memory: volumes"));
    let all =
        config.volumes.iter().flat_map(|volume| (0..volume.devices.len()).map(move |disk| (volume, disk)));
    for (index, (volume, number)) in all.enumerate() {
        let mut facts = VolumeFacts::new(volume, number);
        let devid = devid(&facts.device);
        if devid.is_some_and(|devid| disks_present.contains(&devid)) {
            facts.version = volumes::next_version(volumes, &facts.name);
        } else if number > 0 {
            facts.state = VolumeState::Vacant;
        } else {
            facts.state = VolumeState::NoDisk;
            log::error!("volume {}: M1 has no disk {}: is it in M1's disk= line?", facts.name, facts.device);
        }
        // One that is not there now may be attached later.
        if let Some(devid) = devid {
            let frames = (frame(memory), frame(memory), frame(memory));
            let (Some(ring), Some(first), Some(info)) = frames else { fatal("memory: disks") };
            // One more may be the store's.
            let pool = disk_pool(memory, places + 1);
            disks[index] = disk(memory, platform, devid, (ring, first), pool);
            infos[index] = Some(info);
        }
        // As many as the configuration has.
        let _ = volumes.push(facts);
    }
    Places { volumes, disks, infos }
}

#[inline(never)]
fn disk(
    memory: &mut BootMemory,
    platform: Platform,
    devid: u32,
    (ring, first): (Frame, Frame),
    pool: &'static mut [PoolPage],
) -> Option<&'static mut Disk> {
    memory.place(Disk::new(platform, devid, ring, first, pool))
}

#[inline(never)]
fn engine(
    memory: &mut BootMemory,
    sizes: &TableSizes,
    limits: Limits,
) -> Option<&'static mut Engine<'static>> {
    let tables = tables(memory, sizes)?;
    memory.place(Engine::new(tables, limits))
}

/// Not inlined: it is large, and on the stack for a moment.
#[inline(never)]
fn place_snapshots(memory: &mut BootMemory, count: usize) -> Option<&'static mut Snapshots> {
    let infos = memory.slice_with(count, |_| None)?;
    for info in infos.iter_mut() {
        *info = Some(frame(memory)?);
    }
    memory.place(Snapshots::new(infos, xen::clock::tsc()))
}

/// What the rest of booting needs.
struct Begun {
    config: &'static mut Config,
    all_pages: u64,
    platform: Platform,
    xenstore: &'static mut Connection,
    xenstore_port: xen::Port,
    disks_present: heapless::Vec<u32, 64>,
    opened: Option<Opened>,
}

/// The options, xenstore, and the store's disk.
#[inline(never)]
fn begin(boot: &mut Boot) -> Begun {
    let config = parse(boot).unwrap_or_else(|| fatal("memory: options"));
    log::set_max_level(config.log);
    let (major, minor) = boot.hypervisor.xen_version();
    log::info!(
        "M1 {} on Xen {major}.{minor}, {} KiB of memory",
        env!("CARGO_PKG_VERSION"),
        boot.memory.free_pages() * 4
    );
    let all_pages = boot.hypervisor.memory_reservation().map_or(0, |(now, _)| now);
    let platform =
        Platform { hypervisor: boot.hypervisor, events: boot.events, grants: boot.grants, refs: &REFS };
    let first = FIRST_GRANT_FRAMES.min(config.grant_frames.unwrap_or(u32::MAX)).max(OWN_GRANT_FRAMES);
    if let Err(error) = boot.grants.grow_to(first.min(boot.grants.frames_max())) {
        log::error!("Xen gives no grant table frames: {error:?}");
    }

    let Some(store_page) = boot.xenstore else { fatal("there is no xenstore: start M1 with xl create") };
    boot.events.unmask(store_page.port);
    let xenstore = connection(boot, store_page.page).unwrap_or_else(|| fatal("memory: xenstore"));
    let disks_present = list_disks(xenstore, boot, store_page.port);
    let opened = open_store(config, &disks_present, boot, xenstore, store_page.port, platform);
    Begun { config, all_pages, platform, xenstore, xenstore_port: store_page.port, disks_present, opened }
}

#[inline(never)]
fn parse(boot: &mut Boot) -> Option<&'static mut Config> {
    boot.memory.place(Config::parse(boot.cmdline))
}

#[inline(never)]
fn connection(boot: &mut Boot, page: &'static PageWords) -> Option<&'static mut Connection> {
    boot.memory.place(Connection::new(page))
}

/// Ends M1 before it served anything, with one line that says why.
fn fatal(what: &str) -> ! {
    panic!("M1 cannot start: {what}: give it more memory= or see the line above")
}

fn late_problem(config: &mut Config, word: &str, expected: &'static str) {
    config.problem(word, Reason::Expected(expected));
    if let Some(problem) = config.problems.last() {
        let problem: &Problem = problem;
        log::error!("{problem}");
    }
}

fn frame(memory: &mut BootMemory) -> Option<Frame> {
    let words = memory.page()?;
    Some(Frame { words, mfn: xen_rt::mfn_of(words) })
}

/// The device numbers of the disks that dom0 gave M1.
fn list_disks(xenstore: &mut Connection, boot: &Boot, port: xen::Port) -> heapless::Vec<u32, 64> {
    let deadline = boot.clock.now_ns() + XENSTORE_NS;
    let mut wait = |pause| match pause {
        Pause::Notify => boot.hypervisor.evtchn_send(port).is_ok(),
        Pause::Sleep => {
            boot.events.clear(port);
            let soon = boot.clock.now_ns() + 100_000_000;
            let _ = boot.hypervisor.sched_poll(&[port], Some(soon));
            boot.clock.now_ns() < deadline
        }
    };
    let mut blocking = Blocking::new(xenstore, &mut wait);
    let mut found = heapless::Vec::new();
    match blocking.list(Transaction::NONE, "device/vbd") {
        Ok(names) => {
            for name in names.split(|byte| *byte == 0) {
                if let Some(number) = xenstore::number(name) {
                    // More than any configuration has volumes.
                    let _ = found.push(number);
                }
            }
        }
        Err(error) if error.is_missing() => {}
        Err(error) => log::error!("xenstore: {error}"),
    }
    boot.events.set_pending(port);
    found
}

fn network(memory: &mut BootMemory, platform: Platform) -> Option<Network> {
    let rings = [frame(memory)?, frame(memory)?];
    let mut pages = [None; NET_PAGES * 2];
    for page in &mut pages {
        *page = frame(memory);
    }
    let mut frames = [rings[0]; NET_PAGES * 2];
    for (to, from) in frames.iter_mut().zip(&pages) {
        *to = (*from)?;
    }
    let (tx, rx) = frames.split_at(NET_PAGES);
    let card = memory.place(NetFront::new(platform, 0, rings, tx, rx))?;
    // A domain of a few MiB gets smaller buffers: slower downloads, the same answers.
    let share = if memory.free_pages() > 4096 { 1 } else { 4 };
    let storage = NetMemory {
        sockets: memory.slice_with(mm_http::SOCKET_STORAGE, |_| SocketStorage::EMPTY)?,
        connections: memory.slice_with(mm_http::SOCKETS, |_| HttpConnection::EMPTY)?,
        receive: memory.slice(mm_http::RECEIVE_BYTES / share, 0_u8)?,
        transmit: memory.slice(mm_http::TRANSMIT_BYTES / share, 0_u8)?,
        snapshots: memory.slice(mm_http::SNAPSHOT_BYTES / share, 0_u8)?,
    };
    Some(Network { card, memory: Some(storage), service: None, deadline: None })
}

/// The control channel's pages, and room for its answers.
fn control(memory: &mut BootMemory, platform: Platform, clients: usize) -> Option<Control> {
    let mut frames = heapless::Vec::<Frame, WINDOW_PAGES>::new();
    for _ in 0..WINDOW_PAGES {
        frames.push(frame(memory)?).ok()?;
    }
    let text = memory.slice(TEXT_BYTES + clients * TEXT_BYTES_PER_CLIENT, 0_u8)?;
    Some(Control::new(Window::new(platform, &frames, text)))
}

/// The store, where there is a disk for it.
fn open_store(
    config: &mut Config,
    disks: &[u32],
    boot: &mut Boot,
    xenstore: &mut Connection,
    xenstore_port: xen::Port,
    platform: Platform,
) -> Option<Opened> {
    let device = config.store_disk.clone()?;
    let Some(devid) = devid(&device).filter(|devid| disks.contains(devid)) else {
        late_problem(config, "store_disk=", "a disk of M1's own disk= line");
        return None;
    };
    let mut waiter = Waiter {
        xenstore,
        xenstore_port,
        hypervisor: boot.hypervisor,
        events: boot.events,
        clock: boot.clock,
    };
    let opened = overlays::open(&mut waiter, &mut boot.memory, platform, devid, config.places() + 1);
    boot.events.set_pending(xenstore_port);
    match opened {
        Ok(opened) => Some(opened),
        Err(why) => {
            log::error!("store: {why}");
            config.problem("store_disk=", Reason::Store(why));
            None
        }
    }
}

fn clients_of(config: &Config) -> usize {
    usize::from(config.clients)
}

/// Addresses for so many pages of clients' rings.
fn ring_window(memory: &mut BootMemory, pages: usize) -> Option<&'static mut dyn ForeignPages> {
    let places = memory.slice_with(pages, |_| None)?;
    let window = ForeignWindow::new(pages, memory).ok()?;
    Some(memory.place(RingWindow::new(window, places))?)
}

fn tables(memory: &mut BootMemory, sizes: &TableSizes) -> Option<Tables<'static>> {
    Some(Tables {
        frames: memory.slice_with(sizes.frames, |_| FrameEntry::default())?,
        frame_buckets: memory.slice(sizes.frame_buckets, 0)?,
        windows: memory.slice_with(sizes.windows, |_| WindowEntry::default())?,
        window_buckets: memory.slice(sizes.window_buckets, 0)?,
        lender_buckets: memory.slice(sizes.lender_buckets, 0)?,
        rings: memory.slice_with(sizes.rings, |_| RingEntry::default())?,
        requests: memory.slice_with(sizes.requests, |_| RequestEntry::default())?,
        clients: memory.slice_with(sizes.clients, |_| ClientEntry::default())?,
        frozen: memory.slice_with(sizes.frozen, |_| FrozenEntry::default())?,
        frozen_members: memory.slice(sizes.frozen, 0)?,
        frozen_buckets: memory.slice(sizes.frozen_buckets, 0)?,
        snapshots: memory.slice_with(sizes.snapshots, |_| SnapshotEntry::default())?,
    })
}
