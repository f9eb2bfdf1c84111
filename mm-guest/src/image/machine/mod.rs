//! The real machine: Xen below, M1 beside.

mod clocks;
mod console;
mod data;
mod frames;
mod freezer;
mod lender;
mod processor;
mod space;

use core::cell::Cell;

use mm_guest::{DataOption, Domain, ProcessorTime, UserPage, VolumePage};
use xen::{Clock, Events, Hypervisor, Port, Virq};
use xen_rt::Boot;
use xen_rt::user::{self, FramePool, UserContext, UserSpace};

use crate::disk::Disk;
use crate::link::{Link, What};
use crate::seed;
use crate::store::Store;
use crate::trace::Trace;

/// Frames kept beside the reserve before any go back to Xen, how many stay when they do, and while the program sleeps.
const SLACK: usize = 160;
const KEPT: usize = 64;
const KEPT_ASLEEP: usize = 8;
/// Pages of one batch of the machine's calls.
const BATCH: usize = 64;
/// Pages that a domain which waits for its device keeps for the connection.
const CONNECT_PAGES: usize = 240;
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
}

impl Domain for Xen {
    fn asked_to_end(&mut self) -> bool {
        core::mem::take(&mut self.store_called) && self.store.take_shutdown()
    }

    fn seed(&mut self) -> ([u8; 32], bool) {
        (core::mem::take(&mut self.seed), false)
    }
}

/// A page of the kernel's own numbering as one of `xen-rt`'s: the kernel never names one beyond the program's half.
fn page(page: UserPage) -> user::UserPage {
    user::UserPage::try_new(page.address()).expect("a page of the program's half")
}
