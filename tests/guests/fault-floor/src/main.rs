//! Measures what a fault costs at least on this Xen: the same trap, the same hypercalls and the same way back as in a
//! client kernel, with a handler that does nothing else; from user mode to user mode, by the time-stamp counter.
//!
//! Two of these domains work together. Each waits until dom0 writes `data/role` below its home in xenstore: `lend DOMID`
//! makes it lend pages to that domain, write `data/port`, and answer every event until it is destroyed;
//! `measure DOMID PORT` makes it borrow them, measure, and print `fault-floor: sample NAME TICKS` for each sample.
//! `tsc_mode="native"` is needed: else Xen may emulate the counter in user mode, and is measured itself.
#![no_std]
#![no_main]

mod program;
mod store;

use xen::grant::RefPool;
use xen::{Access, DomId, GrantRef, Port, ShutdownReason};
use xen_rt::Boot;
use xen_rt::user::{Exit, Floor, Frame, FramePool, Prot, UserContext, UserPage, UserSpace};

use program::{CALLS, READS, WRITES};
use store::{Role, Store};

xen_rt::entry!(main);

/// What is measured went well, or what did not.
type Outcome<T> = Result<T, &'static str>;

/// Pages lent, pages of a batch, and times that all pages are gone through.
const PAGES: usize = 64;
const BATCH: usize = 32;
const ROUNDS: usize = 2;
/// Frames of the grant table, which reach behind the drivers' own references.
const GRANT_FRAMES: u32 = 5;
/// Longest wait for the peer's answer.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Samples of everything, at most.
const SAMPLES: usize = 2048;
/// How often, and after how long, a full console is looked at again.
const CONSOLE_LOOKS: usize = 1000;
const CONSOLE_NS: u64 = 5_000_000;
/// Traps of one sample, at most.
const TRAPS: usize = 100;

/// Where the three programs, their stack and the lent pages are.
const TEXT: [u64; 3] = [0x40_0000, 0x40_1000, 0x40_2000];
const STACK: u64 = 0x60_0000;
const LENT: u64 = 0x80_0000;

fn main(mut boot: Boot) -> ! {
    boot.console.port().into_iter().for_each(|port| boot.events.mask(port));
    let done = work(&mut boot);
    match done {
        Ok(()) => say(&mut boot, format_args!("ended: done")),
        Err(why) => say(&mut boot, format_args!("ended: {why}")),
    }
    xen_rt::shutdown(if done.is_ok() { ShutdownReason::Poweroff } else { ShutdownReason::Crash })
}

fn work(boot: &mut Boot) -> Outcome<()> {
    let mut store = Store::new(boot).ok_or("no xenstore")?;
    match store.wait_role(boot).ok_or("no role")? {
        Role::Lend { to } => lend(boot, store, to),
        Role::Measure { owner, port } => {
            store.finish(boot);
            measure(boot, owner, port)
        }
    }
}

fn references() -> [GrantRef; PAGES] {
    let mut next = RefPool::END.0;
    [(); PAGES].map(|()| {
        next += 1;
        GrantRef(next)
    })
}

/// Lends one page, which begins with a return instruction, under many references, and answers events.
fn lend(boot: &mut Boot, mut store: Store, to: DomId) -> Outcome<()> {
    let page = boot.memory.page().ok_or("no page")?;
    if !page.write(0, &[program::RETURN]) {
        return Err("a page's first byte");
    }
    boot.grants.grow_to(GRANT_FRAMES).map_err(|_| "no grant table")?;
    for reference in references() {
        boot.grants
            .permit(reference, to, xen_rt::mfn_of(page), Access::ReadOnly)
            .map_err(|_| "no reference")?;
    }
    let port = boot.hypervisor.evtchn_alloc_unbound(to).map_err(|_| "no port")?;
    store.write_port(boot, port)?;
    store.finish(boot);
    boot.events.unmask(port);
    loop {
        boot.events.wait(boot.hypervisor);
        if boot.events.take_pending().any(|pending| pending == port) {
            boot.hypervisor.evtchn_send(port).map_err(|_| "send")?;
        }
    }
}

struct Bench {
    pool: FramePool,
    floor: Floor,
    context: UserContext,
    results: Results,
}

fn measure(boot: &mut Boot, owner: DomId, port: Port) -> Outcome<()> {
    let samples = boot.memory.slice(SAMPLES, ("", 0)).ok_or("no memory for samples")?;
    let results = Results { samples, count: 0 };
    let frames = boot.memory.free_pages().saturating_sub(64);
    let mut pool = FramePool::new(&mut boot.memory, frames, 8).ok_or("no pool")?;
    let mut space = UserSpace::new(&mut pool).map_err(|_| "no space")?;
    for (at, program) in TEXT.into_iter().zip([READS, WRITES, CALLS]) {
        private(&mut space, &mut pool, at, &program, Prot::ReadExec)?;
    }
    private(&mut space, &mut pool, STACK - 0x1000, &[], Prot::ReadWrite)?;
    let first = UserPage::try_new(LENT).ok_or("no page")?;
    let floor = Floor::new(space, &mut pool, owner, first, &references()).ok_or("no floor")?;
    let mut bench = Bench { pool, floor, context: UserContext::new(TEXT[0], STACK), results };

    // Masked: the event makes the port pending and nothing else, which polling sees.
    let port = boot.hypervisor.evtchn_bind_interdomain(owner, port).map_err(|_| "bind")?;
    boot.events.mask(port);
    let (hypervisor, events, clock) = (boot.hypervisor, boot.events, boot.clock);
    let trip = || {
        let _ = hypervisor.evtchn_send(port);
        let late = clock.now_ns().saturating_add(PATIENCE_NS);
        let _ = hypervisor.sched_poll(&[port], Some(late));
        events.clear(port);
        clock.now_ns() < late
    };
    // Binding raised an event on both sides, here perhaps before the port was masked.
    events.take_pending().for_each(drop);
    events.clear(port);
    for _ in 0..8 {
        if !trip() {
            return Err("the peer is silent");
        }
    }
    for _ in 0..ROUNDS * PAGES {
        let start = xen::clock::tsc();
        let answered = trip();
        let ticks = xen::clock::tsc() - start;
        bench.results.push("trip", ticks)?;
        if !answered {
            return Err("the peer is silent");
        }
    }
    for _ in 0..ROUNDS {
        bench.pages("touch", READS_AT, 1, true, |_, _| false)?;
        bench.pages("data", READS_AT, 1, false, |floor, index| floor.map(index, 1, false))?;
        bench.pages("text", CALLS_AT, 1, false, |floor, index| floor.map(index, 1, true))?;
        bench.pages("asked", READS_AT, 1, false, |floor, index| trip() && floor.map(index, 1, false))?;
        bench.breaks()?;
    }
    for _ in 0..ROUNDS * BATCH / 2 {
        bench.pages("batch", READS_AT, BATCH, false, |floor, index| floor.map(index, BATCH, false))?;
    }
    bench.results.print(boot);
    Ok(())
}

/// Indices of the programs.
const READS_AT: usize = 0;
const WRITES_AT: usize = 1;
const CALLS_AT: usize = 2;

impl Bench {
    /// Runs a program over all pages, `count` at a time, with this handler of the one fault that each time brings; `mapped`
    /// says that they are mapped before, and none comes.
    fn pages(
        &mut self,
        name: &'static str,
        program: usize,
        count: usize,
        mapped: bool,
        mut handler: impl FnMut(&mut Floor, usize) -> bool,
    ) -> Outcome<()> {
        if mapped && !(self.floor.map(0, BATCH, false) && self.floor.map(BATCH, BATCH, false)) {
            return Err("map");
        }
        for index in (0..PAGES).step_by(count) {
            let ticks = self.sample(program, index, count, |floor| handler(floor, index))?;
            self.results.push(name, ticks)?;
        }
        self.floor.undo(&mut self.pool);
        Ok(())
    }

    /// Writes to pages that are mapped.
    fn breaks(&mut self) -> Outcome<()> {
        for index in 0..PAGES {
            let mut frame = Some(self.pool.alloc().map_err(|_| "no frame")?);
            if !self.floor.map(index, 1, false) {
                return Err("map");
            }
            let ticks = self.sample(WRITES_AT, index, 1, |floor| {
                frame.take().is_some_and(|frame| floor.break_shared(index, frame))
            })?;
            self.results.push("break", ticks)?;
        }
        self.floor.undo(&mut self.pool);
        Ok(())
    }

    fn sample(
        &mut self,
        program: usize,
        index: usize,
        count: usize,
        mut handler: impl FnMut(&mut Floor) -> bool,
    ) -> Outcome<u64> {
        let regs = &mut self.context.regs;
        regs.rip = TEXT[program];
        regs.r9 = LENT + ((index as u64) << 12);
        regs.r10 = count as u64;
        for _ in 0..TRAPS {
            match self.context.run(self.floor.space()) {
                Exit::PageFault { .. } if handler(&mut self.floor) => {}
                Exit::PageFault { .. } => return Err("a fault was not served"),
                Exit::Syscall => return Ok(self.context.regs.rdi),
                Exit::Exception { .. } => return Err("an exception"),
                Exit::Event => return Err("an event"),
            }
        }
        Err("too many traps")
    }
}

fn private(space: &mut UserSpace, pool: &mut FramePool, at: u64, bytes: &[u8], prot: Prot) -> Outcome<()> {
    let frame: Frame = pool.alloc().map_err(|_| "no frame")?;
    frame.zero();
    if !frame.words().write(0, bytes) {
        return Err("program too long");
    }
    let page = UserPage::try_new(at).ok_or("no page")?;
    space.map_private(pool, page, frame, prot).map_err(|_| "map_private")
}

/// What was measured. It is printed at the end: printing wakes dom0 up, which would run in the middle of a sample.
struct Results {
    samples: &'static mut [(&'static str, u64)],
    count: usize,
}

impl Results {
    fn push(&mut self, name: &'static str, ticks: u64) -> Outcome<()> {
        *self.samples.get_mut(self.count).ok_or("too many samples")? = (name, ticks);
        self.count += 1;
        Ok(())
    }

    fn print(&self, boot: &mut Boot) {
        for (name, ticks) in &self.samples[..self.count] {
            say(boot, format_args!("sample {name} {ticks}"));
        }
    }
}

/// Prints a line, and waits while the console is full.
fn say(boot: &mut Boot, text: core::fmt::Arguments<'_>) {
    let mut line = heapless::String::<128>::new();
    // Cut where it does not fit.
    let _ = core::fmt::Write::write_fmt(&mut line, format_args!("fault-floor: {text}\n"));
    let mut rest = line.as_bytes();
    for _ in 0..CONSOLE_LOOKS {
        rest = &rest[boot.console.write_some(rest)..];
        if rest.is_empty() {
            break;
        }
        let soon = boot.clock.now_ns().saturating_add(CONSOLE_NS);
        let _ = boot.hypervisor.sched_poll(&[], Some(soon));
    }
}
