//! What the kernel keeps of the one process besides memory and files.

use alloc::vec::Vec;

use crate::exec::Stack;
use crate::files::MAX_FDS;
use crate::fs::Walked;
use crate::signal::Signals;
use crate::vm::STACK_LIMIT;

/// Its number, and its only thread's.
pub(crate) const PID: u64 = 1;

/// Resources that have a limit (`asm-generic/resource.h`).
pub(crate) const RESOURCES: usize = 16;
const STACK: usize = 3;
const CORE: usize = 4;
const NPROC: usize = 6;
pub(crate) const NOFILE: usize = 7;
const INFINITY: u64 = u64::MAX;

/// The process.
pub(crate) struct Process {
    pub(crate) cwd: Walked,
    pub(crate) exe: Walked,
    pub(crate) name: [u8; 16],
    pub(crate) umask: u32,
    pub(crate) signals: Signals,
    /// Soft and hard.
    pub(crate) limits: [(u64, u64); RESOURCES],
    /// Where argument and environment strings are.
    pub(crate) args: (u64, u64),
    pub(crate) env: (u64, u64),
    pub(crate) auxiliary: Vec<u8>,
    pub(crate) robust_list: (u64, u64),
    pub(crate) dumpable: u64,
    pub(crate) no_new_privileges: bool,
    pub(crate) parent_death_signal: u32,
    /// When it started (monotonic).
    pub(crate) started_at: u64,
    /// `ITIMER_REAL`: next expiry (monotonic, zero is off) and interval, nanoseconds.
    pub(crate) alarm: (u64, u64),
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

impl Process {
    pub(crate) fn new(root: Walked, now: u64) -> Self {
        let mut limits = [(INFINITY, INFINITY); RESOURCES];
        limits[STACK] = (STACK_LIMIT, STACK_LIMIT);
        limits[CORE] = (0, 0);
        limits[NPROC] = (1, 1);
        limits[NOFILE] = (1024, MAX_FDS);
        Self {
            cwd: root.clone(),
            exe: root,
            name: [0; 16],
            umask: 0o022,
            signals: Signals::new(),
            limits,
            args: (0, 0),
            env: (0, 0),
            auxiliary: Vec::new(),
            robust_list: (0, 24),
            dumpable: 1,
            no_new_privileges: false,
            parent_death_signal: 0,
            started_at: now,
            alarm: (0, 0),
            bytes_read: 0,
            bytes_written: 0,
        }
    }

    /// A program was loaded.
    pub(crate) fn started(&mut self, file: &Walked, stack: &Stack) {
        self.exe = file.clone();
        let name = file.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        self.name = [0; 16];
        let length = name.len().min(15);
        self.name[..length].copy_from_slice(&name[..length]);
        (self.args, self.env) = (stack.args, stack.env);
        self.auxiliary = stack.auxiliary.clone();
    }
}
