//! User mode: a program's address space and its registers.
//!
//! Who uses it: `mm-guest`. The program runs in ring 3 with page tables of its own; its half is hooked into the kernel's tables too, so the
//! kernel can read what is mapped. The kernel looks up each page before it touches it, so it never faults on the
//! program's memory.

pub(crate) mod context;

pub use context::{Exit, Registers, UserContext};
