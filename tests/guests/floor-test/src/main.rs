//! Tries out the floor on real Xen: `ok NAME` or `not ok NAME: WHY` for each test on the console, then a shutdown.
//!
//! Started as the initial domain by Xen itself, or by `xl create`. Grants are tried out on the domain itself. With `die=panic` or
//! `die=fault` in the command line it dies that way instead, for a look at the call chain.
#![no_std]
#![no_main]

mod basics;
mod grants;
mod program;
mod user;

use core::fmt::Write;

use xen::ShutdownReason;
use xen_rt::Boot;
use xen_rt::foreign::ForeignWindow;
use xen_rt::user::FramePool;

xen_rt::entry!(main);

/// What went wrong.
pub(crate) type Outcome = Result<(), &'static str>;

/// Fails the test unless the condition holds.
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            return Err(concat!("line ", line!(), ": ", stringify!($condition)));
        }
    };
}
pub(crate) use check;

/// What the tests work with.
pub(crate) struct World {
    pub(crate) boot: Boot,
    pub(crate) pool: FramePool,
    pub(crate) window: ForeignWindow,
}

const TESTS: &[(&str, fn(&mut World) -> Outcome)] = &[
    ("clock", basics::clock),
    ("events", basics::events),
    ("masks", basics::masks),
    ("timer", basics::timer),
    ("poll", basics::poll),
    ("grow", grants::grow),
    ("lend", grants::lend),
    ("unshareable", grants::unshareable),
    ("lost", grants::lost),
    ("refusals", grants::refusals),
    ("copy", grants::copy),
    ("batches", grants::batches),
    ("retire", grants::retire),
    ("balloon", basics::balloon),
    ("syscalls", user::syscalls),
    ("demand", user::demand),
    ("copy-on-write", user::copy_on_write),
    ("shared-text", user::shared_text),
    ("shared-batch", user::shared_batch),
    ("protect", user::protect),
    ("registers", user::registers),
    ("exceptions", user::exceptions),
    ("preempt", user::preempt),
    ("two-spaces", user::two_spaces),
    ("conformance", grants::conformance),
];

/// Frames that the pool has, here or at Xen, and those that it has from the direct map's tables not counted.
fn all_frames(pool: &FramePool) -> u64 {
    let counters = pool.counters();
    (pool.available() + pool.given_back()) as u64 + counters.tables_made - counters.tables_freed
}

fn main(mut boot: Boot) -> ! {
    let mut console = boot.console;
    let version = boot.hypervisor.xen_version();
    let _ =
        writeln!(console, "floor-test on Xen {version:?}, domain {}, cmdline {:?}", boot.domid, boot.cmdline);
    let _ = writeln!(console, "{:?}, {:?}, avx {}", boot.memory, boot.grants, boot.avx);
    let window = ForeignWindow::new(128, &mut boot.memory).expect("a window");
    let frames = boot.memory.free_pages() - 256;
    let pool = FramePool::new(&mut boot.memory, frames, 64).expect("a pool");
    if boot.cmdline.contains("die=panic") {
        panic!("as asked");
    }
    // The daemons behind these raise them as they like.
    boot.console
        .port()
        .into_iter()
        .chain(boot.xenstore.map(|ring| ring.port))
        .for_each(|port| boot.events.mask(port));
    let mut world = World { boot, pool, window };
    if world.boot.cmdline.contains("die=fault") {
        grants::write_to_read_only(&mut world);
    }
    let mut failed = 0;
    for (name, test) in TESTS {
        let before = all_frames(&world.pool);
        let free = world.window.free();
        let outcome = test(&mut world).and_then(|()| {
            let leak = all_frames(&world.pool) != before && *name != "lost";
            let kept = world.window.free() != free && *name != "retire";
            if leak || kept { Err("frames or addresses were lost") } else { Ok(()) }
        });
        let _ = match outcome {
            Ok(()) => writeln!(console, "ok {name}"),
            Err(why) => {
                failed += 1;
                writeln!(console, "not ok {name}: {why}")
            }
        };
    }
    let _ = writeln!(console, "floor-test done, {failed} failed, {:?}", world.pool);
    xen_rt::shutdown(if world.boot.is_initial_domain {
        ShutdownReason::Reboot
    } else {
        ShutdownReason::Poweroff
    })
}
