//! Tries out the floor on real Xen: `ok NAME` or `not ok NAME: WHY` for each test on the console, then a shutdown.
#![no_std]
#![no_main]

use core::fmt::Write;

use xen::ShutdownReason;
use xen_rt::Boot;

xen_rt::entry!(main);

fn main(boot: Boot) -> ! {
    let mut console = boot.console;
    let _ = writeln!(console, "floor-test on Xen {:?}, domain {}", boot.hypervisor.xen_version(), boot.domid);
    let _ = writeln!(
        console,
        "cmdline {:?}, {:?}, {:?}, avx {}",
        boot.cmdline, boot.memory, boot.grants, boot.avx
    );
    log::info!("reservation {:?}", boot.hypervisor.memory_reservation());
    let _ = writeln!(console, "floor-test done");
    xen_rt::shutdown(ShutdownReason::Reboot)
}
