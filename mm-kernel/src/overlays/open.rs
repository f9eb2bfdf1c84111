//! The store disk at boot: connected, formatted if it is blank, and recovered, before anybody is served.
//!
//! How much memory the store's tables take is known when its superblock was read, and memory is handed out once, at boot. So this waits,
//! for a bounded time.

use core::fmt;

use mm_engine::VolumeId;
use mm_store::{
    BLOCK, Geometry, Memory, OpenError, Page, Reading, Recovery, Store, TableSizes, format_block, probe,
};
use xen::{Clock, Events, Hypervisor, PageWords, Port};
use xen_drivers::blkfront::{BlkFront, Health, MAX_PAGES, MAX_REQUESTS, Operation};
use xen_drivers::{Frame, Platform};
use xen_rt::BootMemory;
use xenstore::Connection;

use super::{META, Overlays, WRITES};
use crate::disks::disk_pool;

/// For connecting, and for each request.
const PATIENCE_NS: u64 = 20_000_000_000;
/// Between two looks.
const LOOK_NS: u64 = 50_000_000;
/// Blocks read at once.
const RUN: usize = MAX_PAGES;

/// Why there is no store. M1 serves everything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenFailed {
    /// No backend connects, or it does not answer.
    NoDisk,
    /// The disk cannot be written.
    ReadOnly,
    /// The disk has another size than any store can have.
    Size,
    /// Its tables need more memory than M1 has left: so many MiB.
    Memory(usize),
    /// What is on the disk.
    Store(OpenError),
}

impl fmt::Display for OpenFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk => f.write_str("its disk does not answer: is it in M1's disk= line?"),
            Self::ReadOnly => f.write_str("its disk is read-only: it needs access=rw"),
            Self::Size => f.write_str("its disk is smaller than 512 KiB, or larger than 8 TiB"),
            Self::Memory(mib) => write!(f, "its tables need {mib} MiB more of M1's memory="),
            Self::Store(OpenError::NoStore) => {
                f.write_str("its disk holds something else: m1-fsck format makes a store")
            }
            Self::Store(error) => write!(f, "{error:?}: m1-fsck check says more"),
        }
    }
}

/// What waiting needs.
pub(crate) struct Waiter<'b> {
    pub(crate) xenstore: &'b mut Connection,
    pub(crate) xenstore_port: Port,
    pub(crate) hypervisor: &'static (dyn Hypervisor + Sync),
    pub(crate) events: Events,
    pub(crate) clock: Clock,
}

impl Waiter<'_> {
    /// Turns until `done`, or until patience is at its end: whether it was done.
    fn wait(&mut self, front: &mut BlkFront, mut done: impl FnMut(&mut BlkFront) -> bool) -> bool {
        let end = self.clock.now_ns().saturating_add(PATIENCE_NS);
        loop {
            while let Ok(Some(incoming)) = self.xenstore.poll() {
                let _ = front.on_message(&incoming.message);
            }
            let now = self.clock.now_ns();
            front.advance(&mut self.xenstore.client, now);
            let _ = self.xenstore.flush();
            if self.xenstore.take_notify() {
                let _ = self.hypervisor.evtchn_send(self.xenstore_port);
            }
            if done(front) {
                return true;
            }
            if now >= end {
                return false;
            }
            let mut ports: heapless::Vec<Port, 2> = heapless::Vec::new();
            let _ = ports.push(self.xenstore_port);
            if let Some(port) = front.port() {
                let _ = ports.push(port);
            }
            if front.look_again() || self.xenstore.look_again() {
                continue;
            }
            let _ = self.hypervisor.sched_poll(&ports, Some(now + LOOK_NS));
            for port in ports {
                self.events.clear(port);
            }
        }
    }

    /// One request, to its end.
    fn request(
        &mut self,
        front: &mut BlkFront,
        operation: Operation,
        block: u32,
        pages: &[Frame],
    ) -> Result<(), OpenFailed> {
        let submitted = front.submit(operation, u64::from(block) * 8, pages, 0);
        submitted.map_err(|_| OpenFailed::NoDisk)?;
        front.publish_requests();
        let mut outcome = None;
        self.wait(front, |front| {
            outcome = outcome.or(front.next_completion());
            outcome.is_some()
        });
        match outcome {
            Some(completion) if completion.outcome.is_ok() => Ok(()),
            _ => Err(OpenFailed::NoDisk),
        }
    }
}

/// Opens the store on the disk `device/vbd/<devid>`, one of `disks` that M1 has. Not inlined, for its stack.
///
/// # Errors
/// [`OpenFailed`].
#[inline(never)]
pub(crate) fn open(
    waiter: &mut Waiter<'_>,
    memory: &mut BootMemory,
    platform: Platform,
    devid: u32,
    disks: usize,
) -> Result<Opened, OpenFailed> {
    let none = || OpenFailed::Memory(1);
    let start = waiter.clock.now_ns();
    let ring = frame(memory).ok_or_else(none)?;
    let pool = disk_pool(memory, disks);
    let front = memory.place(BlkFront::new(platform, devid, ring, pool)).ok_or_else(none)?;
    let words = memory.pages(RUN).ok_or_else(none)?;
    let pages = memory.slice::<Page>(RUN, [0; BLOCK]).ok_or_else(none)?;
    if !waiter.wait(front, |front| front.health() == Health::Connected) {
        return Err(OpenFailed::NoDisk);
    }
    if front.geometry().read_only {
        return Err(OpenFailed::ReadOnly);
    }
    let blocks = u32::try_from(front.geometry().sectors / 8).map_err(|_| OpenFailed::Size)?;
    read(waiter, front, words, pages, Reading { block: 0, blocks: 2 })?;
    let [first, second, ..] = &mut *pages else { return Err(none()) };
    let blank = first.iter().chain(second.iter()).all(|byte| *byte == 0);
    let geometry = match probe([first, second]) {
        Err(OpenError::NoStore) if blank => {
            let geometry = Geometry::for_disk(blocks).ok_or(OpenFailed::Size)?;
            let uuid = u128::from(waiter.clock.unix_ns()) << 64 | u128::from(xen::clock::tsc());
            for which in [0, 1] {
                format_block(geometry, uuid.to_le_bytes(), which, first);
                let _ = words[0].write(0, first);
                waiter.request(front, Operation::Write, which, &[framed(&words[0])])?;
            }
            log::info!("store: a blank disk of {} MiB is formatted", blocks / 256);
            geometry
        }
        found => found.map_err(OpenFailed::Store)?,
    };
    let sizes = TableSizes::new(&geometry);
    let room = memory.free_pages() * BLOCK;
    // The page store wants some, too.
    if sizes.bytes() + room / 4 > room {
        return Err(OpenFailed::Memory((sizes.bytes() + room / 4 - room).div_ceil(1 << 20)));
    }
    let tables = tables(memory, &sizes).ok_or_else(none)?;
    let mut recovery = Recovery::new(tables, blocks, u32::try_from(RUN).unwrap_or(2));
    // Each turn reads something, and how much there is to read is bounded (`Geometry::recovery_blocks`).
    while let Some(reading) = recovery.next() {
        match read(waiter, front, words, pages, reading) {
            Ok(count) => recovery.done(Ok(&pages[..count])),
            Err(_) => recovery.done(Err(mm_store::IoFailed)),
        }
    }
    let store = recovery.finish().map_err(OpenFailed::Store)?;
    let figures = store.figures();
    let recovery_ns = waiter.clock.now_ns().saturating_sub(start);
    log::info!(
        "store: {} overlays, {} of {} MiB free, {} records replayed, opened in {} ms",
        figures.overlays,
        figures.free / 256,
        figures.geometry.data / 256,
        figures.recovery.records,
        recovery_ns / 1_000_000
    );
    let store = memory.place(store).ok_or_else(none)?;
    let page = memory.place([0; BLOCK]).ok_or_else(none)?;
    let first = frame(memory).ok_or_else(none)?;
    let mut meta_frames = [first; META];
    for place in &mut meta_frames[1..] {
        *place = frame(memory).ok_or_else(none)?;
    }
    Ok(Opened { front, store, page, meta_frames, blocks: u64::from(blocks), recovery_ns })
}

/// Reads as many blocks as asked for, or as there are pages.
fn read(
    waiter: &mut Waiter<'_>,
    front: &mut BlkFront,
    words: &'static [PageWords],
    pages: &mut [Page],
    reading: Reading,
) -> Result<usize, OpenFailed> {
    let count = (reading.blocks as usize).min(words.len());
    let mut frames: heapless::Vec<Frame, RUN> = heapless::Vec::new();
    for page in &words[..count] {
        // As many as there are pages.
        let _ = frames.push(framed(page));
    }
    waiter.request(front, Operation::Read, reading.block, &frames)?;
    for (page, words) in pages.iter_mut().zip(&words[..count]) {
        let _ = words.read(0, page);
    }
    Ok(count)
}

/// An open store that the engine does not know yet.
pub(crate) struct Opened {
    pub(crate) front: &'static mut BlkFront,
    pub(crate) store: &'static mut Store<'static>,
    pub(crate) page: &'static mut Page,
    pub(crate) meta_frames: [Frame; META],
    /// Blocks of its disk.
    pub(crate) blocks: u64,
    pub(crate) recovery_ns: u64,
}

impl Opened {
    /// With the engine's volume for its blocks. Not inlined: it is large, and so is what its caller makes.
    #[inline(never)]
    pub(crate) fn with(
        self,
        volume: VolumeId,
        quota: Option<u32>,
        memory: &mut BootMemory,
    ) -> Option<&'static mut Overlays> {
        memory.place(self.over(volume, quota))
    }

    /// The same, not yet at its place.
    pub(crate) fn over(self, volume: VolumeId, quota: Option<u32>) -> Overlays {
        let Self { front, store, page, meta_frames, recovery_ns, .. } = self;
        Overlays {
            front,
            store,
            volume,
            page,
            meta: [None; META],
            meta_frames,
            reads: [const { None }; MAX_REQUESTS],
            waiting_reads: heapless::Deque::new(),
            frozen: None,
            writes: [const { None }; WRITES],
            waiting_writes: heapless::Deque::new(),
            finished: heapless::Deque::new(),
            closing: heapless::Vec::new(),
            changed: false,
            flushed_ns: 0,
            flushing: heapless::Deque::new(),
            flushed_writes: 0,
            quota,
            recovery_ns,
        }
    }
}

fn framed(words: &'static PageWords) -> Frame {
    Frame { words, mfn: xen_rt::mfn_of(words) }
}

fn frame(memory: &mut BootMemory) -> Option<Frame> {
    Some(framed(memory.page()?))
}

fn tables(memory: &mut BootMemory, sizes: &TableSizes) -> Option<Memory<'static>> {
    Some(Memory {
        rows: memory.slice_with(sizes.rows, |_| mm_store::Row::default())?,
        zeroes: memory.slice_with(sizes.zeroes, |_| mm_store::ZeroRow::default())?,
        buckets: memory.slice(sizes.buckets, 0)?,
        free: memory.slice(sizes.free, 0)?,
        overlays: memory.slice_with(sizes.overlays, |_| mm_store::OverlayRow::default())?,
        journal: memory.slice(sizes.journal, [0; BLOCK])?,
    })
}
