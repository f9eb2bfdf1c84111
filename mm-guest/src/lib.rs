//! A client kernel that runs one unmodified Linux x86-64 program in a PV domain, out of pages that M1 lends.
//!
//! The program runs in ring 3 with page tables of its own. File pages of the program, its interpreter and its libraries
//! come from the volume through the map service and are mapped as they are, text included; what the program writes is
//! its own. There is one process with one thread; `docs/SYSCALLS.md` says which calls it may make.
//!
//! This library is all of the kernel that needs no hypervisor. It is generic over [`Machine`]: the image's binary gives it
//! the real one, tests give it others, one of which runs real programs on the host. The story to follow is
//! [`Kernel::run`]: a trap, what is done about it, and back. A fault goes from there to [`vm`](crate::vm), whose
//! `fault.rs` first decides and then does.
//!
//! What it promises: nothing that the program does stops the kernel; memory that the program makes it use is taken
//! fallibly and refused with the error that Linux has for it.
#![cfg_attr(not(test), no_std)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "arguments of system calls are machine words, and x86-64 is the only target: usize is u64"
)]

extern crate alloc;

mod errno;
mod exec;
#[cfg(test)]
mod fake;
mod files;
mod freeze;
mod fs;
mod kernel;
mod machine;
mod options;
mod page;
mod proc_text;
mod process;
mod random;
mod signal;
mod syscalls;
mod vm;

/// The release of Linux whose behaviour programs find: what `uname` says.
macro_rules! release {
    () => {
        "6.1.0-mm-guest"
    };
}
pub(crate) use release;

pub use errno::Errno;
pub use exec::{ExecError, ImageError};
pub use freeze::{Moving, ThawError};
pub use fs::OpenError;
pub use kernel::{End, Figures, Kernel, StartError};
pub use machine::{
    AddressSpace, BlockDevice, Clocks, Console, DISK_RUN, DataDisk, DiskFailed, Domain, Exit, FrameCount,
    Frames, FreezeAnswer, FreezeStep, Freezer, Lender, Lent, Machine, NotThere, OutOfFrames, Processor,
    ProcessorTime, Prot, Registers, SharedMap, SharedPage, Source, VolumeError,
};
pub use options::{DataOption, Options};
pub use page::{PAGE_SIZE, USER_END, USER_START, UserPage, VolumePage};
pub use vm::{FaultCounts, HEAP_KEPT};
