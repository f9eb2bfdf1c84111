//! M1's image.
#![no_std]
#![no_main]

use core::fmt::Write;

use xen::ShutdownReason;
use xen_rt::Boot;

xen_rt::entry!(main);

fn main(boot: Boot) -> ! {
    let mut console = boot.console;
    let _ = writeln!(console, "M1 on Xen {:?}, {:?}, {:?}", boot.hypervisor.xen_version(), boot.memory, boot.grants);
    xen_rt::shutdown(if boot.is_initial_domain { ShutdownReason::Reboot } else { ShutdownReason::Poweroff })
}
