//! What the kernel keeps of the one process besides memory and files.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::exec::Stack;
use crate::files::MAX_FDS;
use crate::fs::Walked;
use crate::signal::{FrozenSignals, Signals};
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

/// The same as a snapshot has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenProcess {
    cwd: Walked,
    exe: Walked,
    name: [u8; 16],
    umask: u32,
    signals: FrozenSignals,
    limits: [(u64, u64); RESOURCES],
    args: (u64, u64),
    env: (u64, u64),
    auxiliary: Vec<u8>,
    robust_list: (u64, u64),
    dumpable: u64,
    no_new_privileges: bool,
    parent_death_signal: u32,
    started_at: u64,
    alarm: (u64, u64),
    bytes_read: u64,
    bytes_written: u64,
}

impl Process {
    /// For a snapshot.
    pub(crate) fn freeze(&self) -> FrozenProcess {
        FrozenProcess {
            cwd: self.cwd.clone(),
            exe: self.exe.clone(),
            name: self.name,
            umask: self.umask,
            signals: self.signals.freeze(),
            limits: self.limits,
            args: self.args,
            env: self.env,
            auxiliary: self.auxiliary.clone(),
            robust_list: self.robust_list,
            dumpable: self.dumpable,
            no_new_privileges: self.no_new_privileges,
            parent_death_signal: self.parent_death_signal,
            started_at: self.started_at,
            alarm: self.alarm,
            bytes_read: self.bytes_read,
            bytes_written: self.bytes_written,
        }
    }

    /// From a snapshot.
    pub(crate) fn thaw(frozen: FrozenProcess) -> Self {
        Self {
            cwd: frozen.cwd,
            exe: frozen.exe,
            name: frozen.name,
            umask: frozen.umask,
            signals: Signals::thaw(frozen.signals),
            limits: frozen.limits,
            args: frozen.args,
            env: frozen.env,
            auxiliary: frozen.auxiliary,
            robust_list: frozen.robust_list,
            dumpable: frozen.dumpable,
            no_new_privileges: frozen.no_new_privileges,
            parent_death_signal: frozen.parent_death_signal,
            started_at: frozen.started_at,
            alarm: frozen.alarm,
            bytes_read: frozen.bytes_read,
            bytes_written: frozen.bytes_written,
        }
    }

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
