//! The real machine: Xen below, M1 beside.

use core::cell::Cell;

use mm_client::OwnFigures;
use mm_guest::{
    DataDisk, DataOption, DiskFailed, Exit, FrameCount, FreezeAnswer, FreezeStep, Lent, Machine, NotThere,
    OutOfFrames, PAGE_SIZE, ProcessorTime, Prot, Registers, SharedMap, SharedPage, Source, UserPage,
    VolumeError, VolumePage,
};
use mm_proto::{Bitmap, RequestBody, SnapshotInfo, VolumeIdentity};
use xen::{Clock, Events, GrantStatus, Hypervisor, Port, Virq};
use xen_rt::Boot;
use xen_rt::user::{self, Frame, FramePool, Unmapped, UserContext, UserSpace};

use crate::disk::Disk;
use crate::link::{Link, What};
use crate::registers;
use crate::seed;
use crate::store::Store;
use crate::trace::Trace;

/// Frames kept beside the reserve before any go back to Xen, how many stay when they do, and while the program sleeps.
const SLACK: usize = 160;
const KEPT: usize = 64;
const KEPT_ASLEEP: usize = 8;
/// A sleep is long, and worth giving frames back for, from here on.
const LONG_NS: u64 = 500_000_000;
/// Pages of one batch of [`Machine`]'s calls.
const BATCH: usize = 64;
/// How long the console may take nothing before what is written is dropped.
const CONSOLE_NS: u64 = 5_000_000_000;
/// Pages that a domain which waits for its device keeps for the connection.
const CONNECT_PAGES: usize = 240;
/// Where a clone says when its program first wrote something, in the domain's own directory.
const FIRST_OUTPUT: &str = "data/first-output";
/// Longest sleep between two looks at M1 and at the clock.
const LOOK_NS: u64 = 1_000_000_000;

/// The machine.
pub(crate) struct Xen {
    hypervisor: &'static (dyn Hypervisor + Sync),
    events: Events,
    clock: Clock,
    /// The latest time that was told.
    latest: Cell<u64>,
    /// Ticks of the time-stamp counter that the program used, in its own code and in the kernel's: nobody needs nanoseconds at
    /// every trap.
    used: (u64, u64),
    /// What it had used before it was thawed.
    used_before: ProcessorTime,
    /// The counter when the program trapped last, and ticks slept since.
    trapped: u64,
    slept: u64,
    console: xen::console::Console,
    timer: Option<Port>,
    alarm: Option<u64>,
    pub(crate) store: Store,
    pub(crate) link: Link,
    /// The disk behind `/data`.
    disk: Option<Disk>,
    pool: FramePool,
    space: UserSpace,
    context: UserContext,
    typed: heapless::Deque<u8, 1024>,
    /// Something came for the link.
    called: bool,
    /// Something came from xenstored.
    store_called: bool,
    /// A run that M1 wants back, taken with an answer.
    revoked: Option<(VolumePage, u64)>,
    pub(crate) trace: Trace,
    pub(crate) fault_trace: bool,
    ceiling: u64,
    seed: [u8; 32],
    /// Added to Xen's clock: a thawed program goes on where it stood.
    offset: u64,
    /// When the kernel began, and when it was connected to M1, by Xen's clock.
    begun: u64,
    connected: u64,
    /// When it had thawed, until its program has written something.
    thawed: Option<u64>,
}

fn prot(prot: Prot) -> user::Prot {
    match prot {
        Prot::None => user::Prot::None,
        Prot::Read => user::Prot::Read,
        Prot::ReadWrite => user::Prot::ReadWrite,
        Prot::ReadExec => user::Prot::ReadExec,
        Prot::ReadWriteExec => user::Prot::ReadWriteExec,
    }
}

/// A page of the kernel's own numbering as one of `xen-rt`'s: the kernel never names one beyond the program's half.
fn page(page: UserPage) -> user::UserPage {
    user::UserPage::try_new(page.address()).expect("a page of the program's half")
}

impl Xen {
    /// Connects to M1 and, as `data` says, to the disk behind `/data`, and sets up an empty address space; `reserve` frames are the kernel's.
    /// With `wait`, gives its memory back first and waits until dom0 attaches the device.
    pub(crate) fn new(
        mut boot: Boot,
        mut store: Store,
        reserve: usize,
        window: u32,
        wait: bool,
        data: DataOption,
    ) -> Result<Self, What> {
        let failed = |what: &str| What::from(what);
        let no_reserve = || failed("not enough memory for the reserve");
        let mut early = None;
        if wait {
            let frames = boot.memory.free_pages().saturating_sub(CONNECT_PAGES);
            let mut pool = FramePool::new(&mut boot.memory, frames, reserve).ok_or_else(no_reserve)?;
            pool.give_back(frames);
            store.wait_for_device();
            early = Some(pool);
        }
        let begun = boot.clock.now_ns();
        let link = Link::connect(&mut boot, &mut store, window)?;
        let disk = match data {
            DataOption::Required => Disk::connect(&mut boot, &mut store)?,
            DataOption::Optional => Disk::connect(&mut boot, &mut store).unwrap_or_else(|what| {
                log::warn!("data=optional: /data is not there: {what}");
                None
            }),
            DataOption::Off => None,
        };
        let connected = boot.clock.now_ns();
        let seed = seed::gather(&boot, &mut store);
        let mut pool = match early {
            Some(mut pool) => {
                pool.absorb(&mut boot.memory);
                pool
            }
            None => {
                let frames = boot.memory.free_pages();
                FramePool::new(&mut boot.memory, frames, reserve).ok_or_else(no_reserve)?
            }
        };
        let space = UserSpace::new(&mut pool).map_err(|_| failed("no page tables for the program"))?;
        let timer = boot.hypervisor.evtchn_bind_virq(Virq::Timer).ok();
        for port in timer.into_iter().chain(boot.console.port()) {
            boot.events.unmask(port);
        }
        let (_, ceiling) = boot.hypervisor.memory_reservation().unwrap_or_default();
        let mut xen = Self {
            hypervisor: boot.hypervisor,
            events: boot.events,
            clock: boot.clock,
            latest: Cell::new(0),
            used: (0, 0),
            used_before: ProcessorTime::default(),
            trapped: xen::clock::tsc(),
            slept: 0,
            console: boot.console,
            timer,
            alarm: None,
            store,
            link,
            disk,
            pool,
            space,
            context: UserContext::new(0, 0),
            typed: heapless::Deque::new(),
            called: false,
            store_called: true,
            revoked: None,
            trace: Trace::default(),
            fault_trace: false,
            ceiling,
            seed,
            offset: 0,
            begun,
            connected,
            thawed: None,
        };
        xen.store.watch_shutdown();
        xen.give_back(KEPT);
        Ok(xen)
    }

    /// Gives frames back to Xen that nobody needs now; `keep` stay beside the reserve.
    pub(crate) fn give_back(&mut self, keep: usize) {
        let spare = self.pool.available().saturating_sub(self.pool.reserve() + keep);
        self.pool.give_back(spare);
    }

    /// A thawed program has written its first words: when, beside when it was connected and thawed, is told in xenstore.
    fn tell_first_output(&mut self) {
        let Some(thawed) = self.thawed.take() else { return };
        let now = self.clock.now_ns();
        let [connected, thawed, output] =
            [self.connected, thawed, now].map(|moment| moment.saturating_sub(self.begun));
        let line = alloc::format!("connected={connected} thawed={thawed} output={output}");
        if let Err(error) = self.store.write(FIRST_OUTPUT, line.as_bytes()) {
            log::warn!("{FIRST_OUTPUT}: {error}");
        }
        // Whatever came from xenstored meanwhile was not looked at.
        self.store_called = true;
    }

    /// A moment of the program's monotonic clock by Xen's.
    fn system_time(&self, moment: u64) -> u64 {
        let from_now = moment.saturating_sub(self.clock.now_ns().wrapping_add(self.offset));
        self.clock.now_ns().saturating_add(from_now)
    }

    /// Takes what is pending: input to its buffer, the rest as marks.
    fn take_events(&mut self) {
        for port in self.events.take_pending() {
            self.called |= port == self.link.port;
            self.store_called |= port == self.store.port();
        }
        self.take_input();
    }

    fn take_input(&mut self) {
        let mut bytes = [0; 64];
        while self.typed.capacity() - self.typed.len() >= bytes.len() {
            let length = self.console.read(&mut bytes);
            if length == 0 {
                break;
            }
            for byte in &bytes[..length] {
                let _ = self.typed.push_back(*byte);
            }
        }
    }

    /// Does something with the disk. What came from xenstored meanwhile for others is looked at later.
    fn with_disk(
        &mut self,
        work: impl FnOnce(&mut Disk, &mut Store) -> Result<(), DiskFailed>,
    ) -> Result<(), DiskFailed> {
        let disk = self.disk.as_mut().ok_or(DiskFailed)?;
        let from = xen::clock::tsc();
        let done = work(disk, &mut self.store);
        self.slept += xen::clock::tsc().saturating_sub(from);
        self.store_called |= core::mem::take(&mut disk.others);
        self.called = true;
        done
    }

    /// Sleeps on all that can happen, but not longer than until `deadline`.
    fn sleep(&mut self, deadline: u64) {
        let mut ports: heapless::Vec<Port, 4> = heapless::Vec::new();
        let wanted = [Some(self.link.port), self.console.port(), self.timer, Some(self.store.port())];
        ports.extend(wanted.into_iter().flatten());
        if !self.link.look_again() {
            let from = xen::clock::tsc();
            let _ = self.hypervisor.sched_poll(&ports, Some(deadline));
            self.slept += xen::clock::tsc().saturating_sub(from);
        }
        self.called = true;
        self.take_events();
    }
}

impl Machine for Xen {
    type Frame = Frame;

    fn allocate(&mut self) -> Result<Frame, OutOfFrames> {
        let frame = self.allocate_unfilled()?;
        frame.zero();
        Ok(frame)
    }

    fn allocate_unfilled(&mut self) -> Result<Frame, OutOfFrames> {
        self.pool.alloc().map_err(|_| OutOfFrames)
    }

    fn release(&mut self, frame: Frame) {
        self.pool.free(frame);
        if self.pool.available() > self.pool.reserve() + SLACK {
            self.give_back(KEPT);
        }
    }

    fn frames(&self) -> FrameCount {
        let (current, _) = self.hypervisor.memory_reservation().unwrap_or_default();
        let free = self.pool.available() as u64;
        let program = self.space.private_pages() as u64;
        FrameCount {
            ceiling: self.ceiling,
            available: (free + self.pool.given_back() as u64).saturating_sub(self.pool.reserve() as u64),
            kernel: current.saturating_sub(free + program),
            populate_failed: self.pool.counters().populate_failures,
        }
    }

    fn account(&self, each: &mut dyn FnMut(&'static str, u64)) {
        let (current, _) = self.hypervisor.memory_reservation().unwrap_or_default();
        let boot = xen_rt::footprint();
        let counters = self.pool.counters();
        let parts = [
            ("image", boot.image),
            ("start", boot.start),
            ("direct-map", boot.direct_map + counters.tables_made - counters.tables_freed),
            ("heap", crate::heap::pages() as u64),
            ("program-tables", self.space.table_frames() as u64),
            ("spare", self.pool.available() as u64),
            ("mapped", self.space.private_pages() as u64),
        ];
        parts.iter().for_each(|(name, pages)| each(name, *pages));
        let known: u64 = parts.iter().map(|(_, pages)| pages).sum();
        // Windows' rows, rings, xenstore's buffers, tables for grants; copies of `/data`, files in memory.
        each("other", current.saturating_sub(known));
        each("all", current);
    }

    fn heap_left(&self) -> usize {
        crate::heap::left()
    }

    fn read_frame(&self, frame: &Frame, offset: usize, to: &mut [u8]) {
        let inside = frame.words().read(offset, to);
        debug_assert!(inside, "a part of a frame");
    }

    fn write_frame(&mut self, frame: &Frame, offset: usize, from: &[u8]) {
        let inside = frame.words().write(offset, from);
        debug_assert!(inside, "a part of a frame");
    }

    fn map_private(&mut self, at: UserPage, frame: Frame, wanted: Prot) -> Result<(), Frame> {
        self.space.map_private(&mut self.pool, page(at), frame, prot(wanted)).map_err(|(frame, error)| {
            log::warn!("{:#x} cannot be mapped: {error:?}", at.address());
            frame
        })
    }

    fn map_shared(&mut self, want: SharedMap, around: u64) -> u64 {
        let base = want.page.0 & !63;
        let index = want.page.0 - base;
        let volume = |place: u64| VolumePage(want.volume.0 + place - index);
        let wanted = if want.exec { user::Prot::ReadExec } else { user::Prot::Read };
        let mut maps: heapless::Vec<user::SharedMap, BATCH> = heapless::Vec::new();
        let mut statuses: heapless::Vec<GrantStatus, BATCH> = heapless::Vec::new();
        let mut left = around & !(1 << index);
        let mut next = Some(index);
        while let Some(place) = next {
            if let Some(reference) = self.link.lookup(volume(place)) {
                let page = page(UserPage(base + place));
                // There is room for a block's pages.
                let _ = maps.push(user::SharedMap { page, owner: self.link.owner, reference, prot: wanted });
                let _ = statuses.push(GrantStatus::GENERAL_ERROR);
            }
            next = (left != 0).then(|| u64::from(left.trailing_zeros()));
            left &= left.wrapping_sub(1);
        }
        self.space.map_shared(&mut self.pool, &maps, &mut statuses);
        let mut done = 0;
        for (map, status) in maps.iter().zip(&statuses) {
            let place = map.page.address() / PAGE_SIZE - base;
            if status.is_okay() {
                done |= 1 << place;
                self.link.mapped(volume(place));
            } else if place == index {
                // That M1 took back a neighbour is found out when that is needed itself.
                log::debug!("page {} cannot be mapped: {status:?}", want.volume.0);
                self.link.map_failed(want.volume);
            }
        }
        if self.trace.is_open() {
            self.trace.mapped(self.clock.now_ns());
        }
        done
    }

    fn replace_shared(&mut self, shared: SharedPage, frame: Frame, wanted: Prot) -> Result<(), Frame> {
        let replaced = self.space.replace_shared(page(shared.page), frame, prot(wanted));
        self.link.unmapped(shared.volume);
        replaced.map(drop).map_err(|(frame, error)| {
            log::warn!("{:#x} cannot be replaced: {error:?}", shared.page.address());
            frame
        })
    }

    fn unmap(&mut self, pages: &[UserPage]) {
        let mut list: heapless::Vec<user::UserPage, BATCH> = heapless::Vec::new();
        list.extend(pages.iter().map(|at| page(*at)));
        let Self { space, pool, .. } = self;
        space.unmap(&list, &mut |_, found| {
            if let Unmapped::Private(frame) = found {
                pool.free(frame);
            }
        });
        if self.pool.available() > self.pool.reserve() + SLACK {
            self.give_back(KEPT);
        }
    }

    fn unmap_shared(&mut self, pages: &[SharedPage]) {
        let mut list: heapless::Vec<user::UserPage, BATCH> = heapless::Vec::new();
        list.extend(pages.iter().map(|shared| page(shared.page)));
        self.space.unmap(&list, &mut |at, found| {
            if !matches!(found, Unmapped::Shared(_)) {
                log::error!("{:#x} should be shared: {found:?}", at.address());
            }
        });
        for shared in pages {
            self.link.unmapped(shared.volume);
        }
    }

    fn take(&mut self, at: UserPage) -> Option<Frame> {
        let mut taken = None;
        self.space.unmap(&[page(at)], &mut |_, found| {
            if let Unmapped::Private(frame) = found {
                taken = Some(frame);
            }
        });
        taken
    }

    fn protect(&mut self, pages: &[UserPage], wanted: Prot) {
        for at in pages {
            if let Err(error) = self.space.protect(page(*at), prot(wanted)) {
                log::error!("{:#x} cannot be protected: {error:?}", at.address());
            }
        }
    }

    fn copy_page(&mut self, from: UserPage, to: &Frame) {
        if self.space.copy_page(page(from), to).is_err() {
            log::error!("{:#x} cannot be copied", from.address());
        }
    }

    fn read_user(&self, address: u64, to: &mut [u8]) -> Result<(), NotThere> {
        self.space.read(address, to).map_err(|missing| NotThere { address: missing.va })
    }

    fn write_user(&mut self, address: u64, from: &[u8]) -> Result<(), NotThere> {
        self.space.write(address, from).map_err(|missing| NotThere { address: missing.va })
    }

    fn lend(&mut self, page: VolumePage, wanted: u32) -> Result<Lent, VolumeError> {
        let lent = self.link.lend(page, wanted);
        if let Some((page, pushed, timing, now)) = self.link.trip.take() {
            self.trace.answered(page, self.clock.ns_at(self.trapped), pushed, timing, now);
        }
        lent
    }

    fn copy_volume(&mut self, page: VolumePage, to: Frame) -> Result<Frame, (Option<Frame>, VolumeError)> {
        match self.link.copy(page, to.words(), to.mfn()) {
            Ok(()) => Ok(to),
            Err((error, false)) => Err((Some(to), error)),
            Err((error, true)) => {
                // It stays out of the pool for good.
                log::error!("M1 keeps a frame of ours: {to:?}");
                Err((None, error))
            }
        }
    }

    fn read_volume(&mut self, page: VolumePage, offset: usize, to: &mut [u8]) -> Result<(), VolumeError> {
        self.link.read(page, offset, to)
    }

    fn revoked(&mut self) -> Option<(VolumePage, u64)> {
        if let Some(revoked) = self.revoked.take().or_else(|| self.link.take_revoke()) {
            return Some(revoked);
        }
        if !core::mem::take(&mut self.called) {
            return None;
        }
        self.link.service()
    }

    fn revoke_done(&mut self, _page: VolumePage, _count: u64) {
        self.link.revoke_done();
        self.called = true;
    }

    fn volume_identity(&self) -> VolumeIdentity {
        self.link.identity
    }

    fn snapshot(&self) -> Option<SnapshotInfo> {
        self.link.snapshot
    }

    fn freeze_ordered(&mut self) -> bool {
        self.link.freeze_ordered()
    }

    fn freeze_send(&mut self, step: FreezeStep<'_, Frame>) {
        let mut frames: heapless::Vec<xen::Mfn, BATCH> = heapless::Vec::new();
        let body = match step {
            FreezeStep::Begin(pages) => RequestBody::Freeze { pages },
            FreezeStep::Capture(sources) => {
                frames.extend(sources.iter().map(|source| match source {
                    Source::Frame(frame) => frame.mfn(),
                    // What is not there is nobody's frame, and cannot be lent.
                    Source::Mapped(at) => self.space.private_frame(page(*at)).unwrap_or(xen::Mfn(u64::MAX)),
                }));
                RequestBody::Capture { count: 1, references: [0; mm_proto::CAPTURE_MAX] }
            }
            FreezeStep::Keep(page, bitmap) => RequestBody::Keep { page, bitmap },
            FreezeStep::Commit(page, standstill) => RequestBody::Commit { page, standstill },
            FreezeStep::Abort(reason) => RequestBody::Abort { reason },
        };
        self.link.freeze_send(body, &frames);
    }

    fn freeze_answer(&mut self) -> Option<FreezeAnswer> {
        self.link.freeze_answer()
    }

    fn freeze_await(&mut self) -> FreezeAnswer {
        self.link.freeze_await()
    }

    fn write_protect(&mut self, pages: &mut dyn Iterator<Item = UserPage>) {
        let mut pages = pages.map(page);
        if let Err(error) = self.space.write_protect(&mut pages) {
            log::error!("pages cannot be made read-only: {error:?}");
        }
    }

    fn map_ahead(&mut self, wanted: &[SharedMap]) -> u64 {
        let mut maps: heapless::Vec<user::SharedMap, BATCH> = heapless::Vec::new();
        let mut places: heapless::Vec<usize, BATCH> = heapless::Vec::new();
        let mut statuses = [GrantStatus::GENERAL_ERROR; BATCH];
        for (index, map) in wanted.iter().enumerate().take(BATCH) {
            if let Some(reference) = self.link.lookup(map.volume) {
                let prot = if map.exec { user::Prot::ReadExec } else { user::Prot::Read };
                let map = user::SharedMap { page: page(map.page), owner: self.link.owner, reference, prot };
                // There is room for a batch.
                let _ = (maps.push(map), places.push(index));
            }
        }
        self.space.map_shared(&mut self.pool, &maps, &mut statuses);
        let mut mapped: heapless::Vec<user::UserPage, BATCH> = heapless::Vec::new();
        let mut done = 0;
        for ((index, map), status) in places.iter().zip(&maps).zip(&statuses) {
            if status.is_okay() {
                done |= 1 << index;
                self.link.mapped(wanted[*index].volume);
                let _ = mapped.push(map.page);
            }
        }
        self.space.forget_accesses(&mapped);
        done
    }

    fn touched(&self, at: UserPage) -> bool {
        self.space.accessed(page(at))
    }

    fn report(&mut self, figures: &mm_guest::Figures) {
        let reserve = u64::try_from(self.pool.reserve()).unwrap_or(u64::MAX);
        self.link.report(OwnFigures {
            written: figures.written,
            kernel: figures.frames.kernel,
            mapped: figures.mapped,
            local_faults: figures.faults.local,
            cow_breaks: figures.faults.cow,
            populate_failed: figures.frames.populate_failed,
            ahead: figures.faults.ahead,
            ahead_used: figures.faults.ahead_used,
            reserve,
        });
        self.called = true;
    }

    fn tell_thawed(&mut self) {
        let now = self.clock.now_ns();
        self.thawed = Some(now);
        self.link.tell_thawed(now.saturating_sub(self.begun), now.saturating_sub(self.connected));
    }

    fn tell_hot(&mut self, page: u64, bitmap: Bitmap) {
        self.link.tell_hot(page, bitmap);
    }

    fn asked_to_end(&mut self) -> bool {
        core::mem::take(&mut self.store_called) && self.store.take_shutdown()
    }

    fn run(&mut self, registers: &mut Registers) -> Exit {
        self.context.regs = registers::to_context(registers);
        (self.context.fs_base, self.context.gs_base) = (registers.fs_base, registers.gs_base);
        if self.trace.is_open()
            && let Some(fault) = self.trace.resume(self.clock.now_ns())
            && self.fault_trace
        {
            self.console_write(alloc::format!("mm-guest: {fault}\n").as_bytes());
        }
        let resumed = xen::clock::tsc();
        self.used.1 += resumed.saturating_sub(self.trapped).saturating_sub(core::mem::take(&mut self.slept));
        let exit = self.context.run(&self.space);
        self.trapped = xen::clock::tsc();
        self.used.0 += self.trapped.saturating_sub(resumed);
        *registers = registers::from_context(&self.context);
        match exit {
            user::Exit::Syscall => Exit::Syscall,
            user::Exit::PageFault { va, write, fetch, .. } => Exit::PageFault { address: va, write, fetch },
            user::Exit::Exception { vector, code } => {
                Exit::Exception { vector, code: u32::try_from(code).unwrap_or(u32::MAX) }
            }
            user::Exit::Event => {
                self.take_events();
                Exit::Event
            }
        }
    }

    fn processor_time(&self) -> ProcessorTime {
        let (user, system) = self.used;
        ProcessorTime {
            user: self.used_before.user + self.clock.span_ns(user),
            system: self.used_before.system + self.clock.span_ns(system),
        }
    }

    fn fpu(&self) -> [u8; 512] {
        self.context.fx
    }

    fn set_fpu(&mut self, image: &[u8; 512]) {
        self.context.fx = *image;
    }

    fn vectors(&self) -> Option<[u8; 256]> {
        UserContext::upper_halves()
    }

    fn set_vectors(&mut self, halves: &[u8; 256]) -> bool {
        UserContext::set_upper_halves(halves)
    }

    fn set_processor_time(&mut self, used: ProcessorTime) {
        self.used_before = used;
    }

    fn monotonic(&self) -> u64 {
        // Xen's clocks of two processors may differ, and the domain may change from one to the other.
        let now = self.clock.now_ns().max(self.latest.get());
        self.latest.set(now);
        now.wrapping_add(self.offset)
    }

    fn set_monotonic(&mut self, now: u64) {
        self.offset = now.wrapping_sub(self.clock.now_ns());
    }

    fn realtime(&self) -> u64 {
        self.clock.unix_ns()
    }

    fn set_alarm(&mut self, at: Option<u64>) {
        self.alarm = at;
        let _ = self.hypervisor.set_timer(at.map(|at| self.system_time(at)));
    }

    fn wait(&mut self, deadline: Option<u64>) {
        let deadline = deadline.map(|deadline| self.system_time(deadline));
        let now = self.clock.now_ns();
        if deadline.is_none_or(|deadline| deadline.saturating_sub(now) >= LONG_NS) {
            self.give_back(KEPT_ASLEEP);
        }
        let look = now.saturating_add(LOOK_NS);
        self.sleep(deadline.unwrap_or(look).min(look));
    }

    fn seed(&mut self) -> ([u8; 32], bool) {
        (core::mem::take(&mut self.seed), false)
    }

    fn hwcap(&self) -> u64 {
        u64::from(core::arch::x86_64::__cpuid(1).edx)
    }

    fn console_write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut until = self.clock.now_ns().saturating_add(CONSOLE_NS);
        while !rest.is_empty() {
            let written = self.console.write_some(rest);
            rest = &rest[written..];
            let now = self.clock.now_ns();
            if written > 0 {
                until = now.saturating_add(CONSOLE_NS);
            } else if now >= until {
                return;
            } else if let Some(port) = self.console.port() {
                let _ = self.hypervisor.sched_poll(&[port], Some(now.saturating_add(LOOK_NS / 10)));
                self.events.clear(port);
                self.take_input();
            }
        }
        self.tell_first_output();
    }

    fn console_read(&mut self, to: &mut [u8]) -> usize {
        self.take_input();
        let mut length = 0;
        while length < to.len()
            && let Some(byte) = self.typed.pop_front()
        {
            to[length] = byte;
            length += 1;
        }
        length
    }

    fn console_ready(&mut self) -> bool {
        self.take_input();
        !self.typed.is_empty()
    }

    fn data_disk(&self) -> Option<DataDisk> {
        self.disk.as_ref().map(Disk::about)
    }

    fn disk_read(&mut self, first: u64, to: &[Frame]) -> Result<(), DiskFailed> {
        self.with_disk(|disk, store| disk.read(store, first, to))
    }

    fn disk_write(&mut self, first: u64, from: &[&Frame]) -> Result<(), DiskFailed> {
        self.with_disk(|disk, store| disk.write(store, first, from))
    }

    fn disk_flush(&mut self) -> Result<(), DiskFailed> {
        self.with_disk(Disk::flush)
    }

    fn disk_discard(&mut self, first: u64, count: u64) {
        let _ = self.with_disk(|disk, store| {
            disk.discard(store, first, count);
            Ok(())
        });
    }
}
