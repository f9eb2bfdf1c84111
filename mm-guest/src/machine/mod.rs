//! What the kernel needs of the machine below it: one trait, made of one for each concern.
//!
//! `image/machine` is the real one. Tests have two: a table of pages in memory (`fake.rs`), and a traced process of
//! the host whose system calls and faults are answered here (`tests/traced`).

mod clocks;
mod console;
mod data;
mod domain;
mod frames;
mod freezer;
mod lender;
mod processor;
mod space;

pub use clocks::Clocks;
pub use console::Console;
pub use data::{BlockDevice, DISK_RUN, DataDisk, DiskFailed};
pub use domain::Domain;
pub use frames::{FrameCount, Frames, OutOfFrames};
pub use freezer::{FreezeAnswer, FreezeStep, Freezer, Source};
pub use lender::{Lender, Lent, VolumeError};
pub use processor::{Exit, Processor, ProcessorTime, Registers};
pub use space::{AddressSpace, NotThere, Prot, SharedMap, SharedPage};

/// The machine. One program, one processor.
pub trait Machine:
    Frames + AddressSpace + Lender + Freezer + Processor + Clocks + Console + BlockDevice + Domain
{
}

impl<M> Machine for M where
    M: Frames + AddressSpace + Lender + Freezer + Processor + Clocks + Console + BlockDevice + Domain
{
}
