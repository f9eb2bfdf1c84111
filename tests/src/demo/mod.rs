//! The whole idea on one screen: several domains run Debian's programs out of pages that M1 lends, and what that saves is
//! measured in Xen's own account, against domains that get copies of the same pages.
//!
//! `cargo demo` shows it to people. [`Workload::prepare`] makes fresh files and knows what Linux makes of them, [`boot`] starts
//! the machine, [`run`] does the rest in the order of its stages and gives a [`Report`]; what has to hold is in its checks.

mod clients;
pub mod clone;
pub mod picture;
mod report;
mod runs;
mod screen;
mod stages;
pub mod storage;
mod workload;

use anyhow::Result;

pub use clients::Ran;
pub use report::{Breakdown, Check, ClientReport, Report, Saving, WindowOne};
pub use stages::{STAGES, run};
pub use workload::{Deb, Program, Workload, forget_files};

use crate::dom0::Dom0;
use crate::grants::CONRING;
use crate::image::Image;
use crate::{host, initramfs};

/// Clients at most: more do not fit in Xen's default limits and the machine's memory.
pub const CLIENTS_MAX: u32 = 32;

/// Gets and unpacks the machine's packages, as far as that was not done before.
///
/// # Errors
/// Where they cannot be had, or the host lacks a program.
pub fn packages() -> Result<()> {
    host::require(&["qemu-system-x86_64", "setpriv", "dpkg-deb"])?;
    initramfs::base().map(drop)
}

/// Boots the machine for a demonstration with so many clients.
///
/// # Errors
/// Where it does not boot; with the logs.
pub fn boot(workload: &Workload, images: &[Image]) -> Result<Dom0> {
    let clients = u32::try_from(workload.clients.len()).unwrap_or(CLIENTS_MAX);
    // A client that gets copies has all that it touches for itself.
    let mut builder = Dom0::builder()
        .disk_read_only(&workload.volume.image)
        .memory(1536 + 64 * clients)
        .xen_arguments(CONRING)
        .forward(runs::OTHER_ADDRESS, 80);
    for image in images {
        builder = builder.image(image);
    }
    builder.boot()
}
