//! From boot to shutdown.

use alloc::string::String;
use core::fmt::Write;

use mm_guest::{Console, End, Figures, Freezer, Kernel, Lender, Options, StartError};
use xen::ShutdownReason;
use xen_rt::Boot;

use crate::heap;
use crate::machine::Xen;
use crate::store::Store;

/// Where the way that the program ended is written, in the domain's own directory.
const STATUS: &str = "data/exit-status";

/// The image's main function.
pub(crate) fn main(mut boot: Boot) -> ! {
    if heap::start(&mut boot.memory).is_none() {
        log::error!("not enough memory for a heap");
        xen_rt::shutdown(ShutdownReason::Crash);
    }
    let Some(store) = Store::new(&mut boot) else {
        log::error!("there is no xenstore");
        xen_rt::shutdown(ShutdownReason::Crash);
    };
    let options = Options::parse(boot.cmdline.as_bytes());
    let (hold, fault_trace) = (options.hold, options.fault_trace);
    let reserve = usize::try_from(options.reserve).unwrap_or(usize::MAX);
    let mut xen = match Xen::new(boot, store, reserve, options.window, options.pool, options.data) {
        Ok(xen) => xen,
        Err(what) => {
            log::error!("{what}");
            xen_rt::shutdown(ShutdownReason::Crash);
        }
    };
    xen.fault_trace = fault_trace;
    let started = match xen.snapshot() {
        Some(snapshot) => Kernel::thaw(xen, options, &snapshot),
        None => Kernel::start(xen, options),
    };
    let status = match started {
        Ok(mut kernel) => run(&mut kernel, hold),
        Err((mut xen, error)) => {
            let status = match error {
                StartError::Thaw(why) => alloc::format!("not started: {why}"),
                StartError::Data(error) => alloc::format!("not started: /data: {error}"),
                error => alloc::format!("not started: {error:?}"),
            };
            say(&mut xen, format_args!("{status}"));
            write_status(&mut xen, &status);
            ShutdownReason::Crash
        }
    };
    xen_rt::shutdown(status)
}

fn run(kernel: &mut Kernel<Xen>, hold: bool) -> ShutdownReason {
    let end = kernel.run();
    kernel.finish_data();
    let status = match end {
        End::Exited(code) => alloc::format!("exited {code}"),
        End::Killed(signal) => alloc::format!("signal {signal}"),
    };
    kernel.machine().link.forget_own();
    let figures = kernel.figures();
    let xen = kernel.machine();
    let faults: alloc::vec::Vec<_> = xen.trace.kept().collect();
    for fault in faults {
        say(xen, format_args!("{fault}"));
    }
    let asked = xen.link.asked();
    let heap = heap::used() / 1024;
    say(xen, format_args!("{} asked={asked} heap={heap}K", Statistics(&figures)));
    say(xen, format_args!("{status}"));
    xen.report(&figures);
    // Sends it, and serves what comes meanwhile.
    kernel.serve();
    let xen = kernel.machine();
    write_status(xen, &status);
    if hold {
        xen.give_back(0);
        say(xen, format_args!("holding"));
        kernel.hold();
    }
    kernel.finish();
    ShutdownReason::Poweroff
}

fn write_status(xen: &mut Xen, status: &str) {
    if let Err(error) = xen.store.write(STATUS, status.as_bytes()) {
        log::warn!("{STATUS}: {error}");
    }
}

fn say(xen: &mut Xen, text: core::fmt::Arguments<'_>) {
    let mut line = String::new();
    let _ = writeln!(line, "mm-guest: {text}");
    xen.console_write(line.as_bytes());
}

struct Statistics<'a>(&'a Figures);

impl core::fmt::Display for Statistics<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Figures { written, mapped, frames, faults } = self.0;
        write!(
            f,
            "R={mapped} W={written} KAS={} faults local={} map={} copy={} cow={} populate_failed={} zero={} total={}",
            frames.kernel,
            faults.local,
            faults.mapped,
            faults.copied,
            faults.cow,
            frames.populate_failed,
            faults.zero,
            faults.total
        )
    }
}
