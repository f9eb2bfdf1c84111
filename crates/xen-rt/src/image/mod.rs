//! What only a bootable image has.

pub(crate) mod boot;
pub(crate) mod cpu;
mod entry;
mod functions;
mod panic;
pub(crate) mod traps;
pub(crate) mod user;
