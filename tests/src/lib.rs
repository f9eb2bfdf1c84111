//! The harness: real Xen, xl and a Linux dom0 in QEMU, as a library for tests and for people.
//!
//! Used by the integration tests beside this crate and by `cargo xtask`. It promises that
//! - nothing is installed on the host: Debian's packages are unpacked under `target/testbed`;
//! - every wait has an end, and what failed is shown with the logs that explain it;
//! - no process is left behind, however the caller ends.
//!
//! ```no_run
//! use m1_tests::Dom0;
//! # fn main() -> anyhow::Result<()> {
//! let dom0 = Dom0::builder().file("xl-config/m1.cfg", "/etc/xen/m1.cfg").boot()?;
//! let out = dom0.run("xl list")?;
//! assert_eq!(out.code, 0);
//! println!("{}", out.stdout_text());
//! # Ok(())
//! # }
//! ```

mod accelerator;
pub mod apt;
pub mod bench;
mod builder;
mod bzimage;
mod channel;
mod console;
mod cpio;
pub mod demo;
mod dom0;
mod elf;
pub mod full;
pub mod grants;
mod guest;
pub mod host;
pub mod http;
pub mod image;
mod initramfs;
mod linux_guest;
mod logs;
pub mod m1;
pub mod metrics;
pub mod mm_guest;
mod modules;
pub mod packages;
pub mod paths;
pub mod programs;
mod qemu;
pub mod raw_disk;
mod shared;
pub mod stage;
pub mod symbols;
pub mod system;
pub mod terminal;
pub mod tool;
pub mod unikernel;
pub mod volume;
pub mod xen_memory;
pub mod xl_config;

pub use builder::{Builder, Xenstored};
pub use channel::{Output, Stream};
pub use dom0::{Dom0, quote};
pub use guest::Guest;
pub use http::Response;
pub use linux_guest::{LinuxGuest, linux_guest};
pub use shared::{Shared, Watched};
