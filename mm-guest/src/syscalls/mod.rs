//! System calls: the table of those there are, and the way in and out.
//!
//! `docs/SYSCALLS.md` says of each how far it goes. A call that is not there gives `ENOSYS`, as on a Linux without it,
//! and is named on the console once.

mod dir;
mod exec;
mod file;

mod memory;
mod names;
mod paths;
mod poll;
mod process;
mod range;
mod read;
mod signals;
mod stat;
#[cfg(test)]
pub(crate) mod tests;
mod time;
mod trace;
mod write;

use crate::errno::{Errno, SysResult};
use crate::freeze::Waiting;
use crate::fs::Last;
use crate::kernel::{Kernel, negative};
use crate::machine::Machine;

/// The arguments, as they stand in `rdi`, `rsi`, `rdx`, `r10`, `r8`, `r9`.
type Args = [u64; 6];

/// The call that puts registers back itself.
const SIGRETURN: u64 = 15;

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waited {
    Ready,
    TimedOut,
    /// A signal is to be delivered.
    Interrupted,
}

impl<M: Machine> Kernel<M> {
    /// Serves the call that the registers hold.
    pub(crate) fn system_call(&mut self) {
        let r = &self.registers;
        let (call, args) = (r.rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
        let now = self.memory.machine.realtime();
        self.vfs.tmp.set_now(now);
        self.memory.set_data_now(now);
        let before = self.options.strace.then(|| self.trace_arguments(call, &args));
        let result = self.dispatch(call, args);
        self.resume = None;
        if let Some(before) = before {
            self.trace_result(call, &before, result);
        }
        if call == SIGRETURN && result.is_ok() {
            return;
        }
        self.registers.rax = match result {
            Ok(value) => value,
            Err(Errno::RESTARTSYS) => {
                self.interrupted = Some(call);
                negative(Errno::INTR)
            }
            Err(error) => negative(error),
        };
    }

    /// The table. Numbers are those of `arch/x86/entry/syscalls/syscall_64.tbl`.
    #[expect(clippy::too_many_lines, reason = "one line for each call")]
    pub(super) fn dispatch(&mut self, call: u64, a: Args) -> SysResult {
        match call {
            0 => self.sys_read(a[0], a[1], a[2]),
            1 => self.sys_write(a[0], a[1], a[2]),
            2 => self.sys_open(AT_FDCWD, a[0], a[1] as u32, a[2] as u32),
            3 => self.sys_close(a[0]),
            4 => self.sys_stat(AT_FDCWD, a[0], a[1], 0),
            5 => self.sys_fstat(a[0], a[1]),
            6 => self.sys_stat(AT_FDCWD, a[0], a[1], AT_SYMLINK_NOFOLLOW),
            7 => self.sys_poll(a[0], a[1], a[2]),
            8 => self.sys_lseek(a[0], a[1] as i64, a[2]),
            9 => self.sys_mmap(a),
            10 => self.sys_mprotect(a[0], a[1], a[2]),
            11 => self.sys_munmap(a[0], a[1]),
            12 => Ok(self.memory.set_break(a[0])),
            13 => self.sys_rt_sigaction(a[0], a[1], a[2], a[3]),
            14 => self.sys_rt_sigprocmask(a[0], a[1], a[2], a[3]),
            SIGRETURN => self.sys_rt_sigreturn(),
            16 => self.sys_ioctl(a[0], a[1], a[2]),
            17 => self.sys_pread(a[0], a[1], a[2], a[3]),
            18 => self.sys_pwrite(a[0], a[1], a[2], a[3]),
            19 => self.sys_readv(a[0], a[1], a[2], None),
            20 => self.sys_writev(a[0], a[1], a[2], None),
            21 => self.sys_access(AT_FDCWD, a[0], a[1], 0),
            22 => self.sys_pipe(a[0], 0),
            23 => self.sys_select(a[0], [a[1], a[2], a[3]], a[4]),
            24 => Ok(0),
            25 => self.sys_mremap(a),
            26 => self.sys_msync(a[0], a[1], a[2]),
            27 => self.sys_mincore(a[0], a[1], a[2]),
            28 => self.sys_madvise(a[0], a[1], a[2]),
            32 => self.sys_dup(a[0]),
            33 => self.sys_dup2(a[0], a[1]),
            34 => self.sys_pause(),
            35 => self.sys_nanosleep(a[0], a[1]),
            36 => self.sys_getitimer(a[0], a[1]),
            37 => self.sys_alarm(a[0]),
            38 => self.sys_setitimer(a[0], a[1], a[2]),
            39 | 186 => Ok(crate::process::PID),
            40 => self.sys_sendfile(a[0], a[1], a[2], a[3]),
            // No network: no address family.
            41 | 53 => Err(Errno::AFNOSUPPORT),
            42..=52 | 54 | 55 | 288 => self.files.get(a[0]).and(Err(Errno::NOTSOCK)),
            // clone, fork, vfork: the one process that there is room for exists.
            56..=58 => Err(Errno::AGAIN),

            59 => self.sys_execve(a[0], a[1], a[2]),
            60 | 231 => self.sys_exit(a[0]),
            // wait4, waitid: there are no children.
            61 | 247 => Err(Errno::CHILD),
            62 => self.sys_kill(a[0] as i32, a[1]),
            63 => self.sys_uname(a[0]),
            72 => self.sys_fcntl(a[0], a[1], a[2]),
            73 => self.sys_flock(a[0], a[1]),
            74 | 75 => self.sys_fsync(a[0]),
            76 => self.sys_truncate(a[0], a[1] as i64),
            77 => self.sys_ftruncate(a[0], a[1] as i64),
            79 => self.sys_getcwd(a[0], a[1]),
            80 => self.sys_chdir(a[0]),
            81 => self.sys_fchdir(a[0]),
            82 => self.sys_rename(AT_FDCWD, a[0], AT_FDCWD, a[1], 0),
            83 => self.sys_mkdir(AT_FDCWD, a[0], a[1] as u32),
            84 => self.sys_unlink(AT_FDCWD, a[0], AT_REMOVEDIR),
            85 => self.sys_open(AT_FDCWD, a[0], CREAT_FLAGS, a[1] as u32),
            86 => self.sys_link(AT_FDCWD, a[0], AT_FDCWD, a[1], 0),
            87 => self.sys_unlink(AT_FDCWD, a[0], 0),
            88 => self.sys_symlink(a[0], AT_FDCWD, a[1]),
            89 => self.sys_readlink(AT_FDCWD, a[0], a[1], a[2]),
            90 => self.sys_chmod(AT_FDCWD, a[0], a[1] as u32),
            91 => self.sys_fchmod(a[0], a[1] as u32),
            92 => self.sys_chown(AT_FDCWD, a[0], (a[1] as u32, a[2] as u32), Last::Follow),
            93 => self.sys_fchown(a[0], (a[1] as u32, a[2] as u32)),
            94 => self.sys_chown(AT_FDCWD, a[0], (a[1] as u32, a[2] as u32), Last::Keep),
            95 => Ok(u64::from(core::mem::replace(&mut self.process.umask, a[0] as u32 & 0o777))),
            96 => self.sys_gettimeofday(a[0], a[1]),
            97 => self.sys_prlimit(0, a[0], 0, a[1]),
            98 => self.sys_getrusage(a[0], a[1]),
            99 => self.sys_sysinfo(a[0]),
            100 => self.sys_times(a[0]),
            // Users and groups: all are zero.
            102 | 104 | 107 | 108 => Ok(0),
            // setuid and its like may only confirm that.
            105 | 106 | 122 | 123 => self.sys_set_id(&a[..1]),
            113 | 114 => self.sys_set_id(&a[..2]),
            117 | 119 => self.sys_set_id(&a[..3]),
            118 | 120 => self.sys_get_ids(&a[..3]),
            // Process groups and sessions: the one process leads the one of each.
            109 | 112 => Ok(0),
            110 => Ok(0),
            111 | 121 | 124 => Ok(crate::process::PID),
            115 => Ok(0),
            116 => self.sys_set_id(&[]),
            127 => self.sys_rt_sigpending(a[0], a[1]),
            128 => self.sys_rt_sigtimedwait(a[0], a[1], a[2], a[3]),
            129 => self.sys_rt_sigqueueinfo(a[0], a[1], a[2]),
            130 => self.sys_rt_sigsuspend(a[0], a[1]),
            131 => self.sys_sigaltstack(a[0], a[1]),
            132 => self.sys_utime(a[0], a[1]),
            135 => self.sys_personality(a[0]),
            137 => self.sys_statfs(a[0], a[1]),
            138 => self.sys_fstatfs(a[0], a[1]),
            140 => Ok(20),
            141 => Ok(0),
            143 => self.sys_sched_getparam(a[1]),
            145 => Ok(0),
            146 | 147 => Ok(0),
            149..=152 => self.sys_mlock(call, a[0], a[1]),
            157 => self.sys_prctl(a),
            158 => self.sys_arch_prctl(a[0], a[1]),
            160 => self.sys_prlimit(0, a[0], a[1], 0),
            161 => Err(Errno::PERM),
            // sync tells nobody how it went.
            162 => Ok(self.memory.sync_data().map_or(0, |()| 0)),
            // Extended attributes: no file has any.
            188..=190 | 197..=199 => Err(Errno::OPNOTSUPP),
            191..=196 => self.sys_xattr(call, a[0]),
            200 => self.sys_kill(a[0] as i32, a[1]),
            201 => self.sys_time(a[0]),
            202 => self.sys_futex(a),
            203 => self.sys_sched_setaffinity(a[0], a[1], a[2]),
            204 => self.sys_sched_getaffinity(a[0], a[1], a[2]),
            217 => self.sys_getdents64(a[0], a[1], a[2]),
            218 => Ok(crate::process::PID),
            221 => self.sys_fadvise(a[0], a[3]),
            228 => self.sys_clock_gettime(a[0], a[1]),
            229 => self.sys_clock_getres(a[0], a[1]),
            230 => self.sys_clock_nanosleep(a[0], a[1], a[2], a[3]),
            234 => self.sys_tgkill(a[0], a[1], a[2]),
            235 => self.sys_utimes(AT_FDCWD, a[0], a[1]),
            257 => self.sys_open(a[0], a[1], a[2] as u32, a[3] as u32),
            258 => self.sys_mkdir(a[0], a[1], a[2] as u32),
            260 => self.sys_fchownat(a),
            261 => self.sys_utimes(a[0], a[1], a[2]),
            262 => self.sys_stat(a[0], a[1], a[2], a[3]),
            263 => self.sys_unlink(a[0], a[1], a[2]),
            264 => self.sys_rename(a[0], a[1], a[2], a[3], 0),
            265 => self.sys_link(a[0], a[1], a[2], a[3], a[4]),
            266 => self.sys_symlink(a[0], a[1], a[2]),
            267 => self.sys_readlink(a[0], a[1], a[2], a[3]),
            268 => self.sys_chmod(a[0], a[1], a[2] as u32),
            269 => self.sys_access(a[0], a[1], a[2], 0),
            270 => self.sys_pselect6(a[0], [a[1], a[2], a[3]], a[4], a[5]),
            271 => self.sys_ppoll(a[0], a[1], a[2], a[3]),
            273 => self.sys_set_robust_list(a[0], a[1]),
            274 => self.sys_get_robust_list(a[0], a[1], a[2]),
            280 => self.sys_utimensat(a[0], a[1], a[2], a[3]),
            284 => self.sys_eventfd(a[0], 0),
            285 => self.sys_fallocate(a[0], a[1], a[2], a[3]),
            290 => self.sys_eventfd(a[0], a[1] as u32),
            292 => self.sys_dup3(a[0], a[1], a[2] as u32),
            293 => self.sys_pipe(a[0], a[1] as u32),
            295 => self.sys_readv(a[0], a[1], a[2], Some(a[3])),
            296 => self.sys_writev(a[0], a[1], a[2], Some(a[3])),
            302 => self.sys_prlimit(a[0], a[1], a[2], a[3]),
            306 => self.sys_fsync(a[0]),
            309 => self.sys_getcpu(a[0], a[1]),
            316 => self.sys_rename(a[0], a[1], a[2], a[3], a[4]),
            318 => self.sys_getrandom(a[0], a[1], a[2]),
            319 => self.sys_memfd_create(a[0], a[1]),
            326 => self.sys_copy_file_range(a),
            327 => self.sys_preadv2(a),
            328 => self.sys_pwritev2(a),
            332 => self.sys_statx(a[0], a[1], a[2], a[3], a[4]),
            436 => self.sys_close_range(a[0], a[1], a[2]),
            437 => self.sys_openat2(a[0], a[1], a[2], a[3]),
            439 => self.sys_access(a[0], a[1], a[2], a[3]),
            447 => self.sys_memfd_secret(a[0]),
            _ => Err(self.unknown(call)),
        }
    }

    /// A call that is not there. `rseq` and `clone3` are asked for by every C library and not worth a line.
    fn unknown(&mut self, call: u64) -> Errno {
        const EXPECTED: [u64; 2] = [334, 435];
        let logged = self.logged.get_mut(call as usize / 64);
        let first = logged.is_none_or(|word| {
            let bit = 1 << (call % 64);
            let first = *word & bit == 0;
            *word |= bit;
            first
        });
        if first && !EXPECTED.contains(&call) {
            let name = names::name(call);
            self.say(format_args!("system call {name} ({call}) is not supported (ENOSYS)"));
        }
        Errno::NOSYS
    }

    /// Waits until `ready`, the deadline (monotonic), or a signal.
    fn wait_until(&mut self, mut deadline: Option<u64>, mut ready: impl FnMut(&mut Self) -> bool) -> Waited {
        loop {
            if ready(self) {
                return Waited::Ready;
            }
            if self.process.signals.deliverable() {
                return Waited::Interrupted;
            }
            if deadline.is_some_and(|deadline| self.memory.machine.monotonic() >= deadline) {
                return Waited::TimedOut;
            }
            // A wait that a snapshot was taken in goes on to its old end.
            if let Some(end) = self.resume.take() {
                deadline = deadline.map(|deadline| deadline.min(end));
                continue;
            }
            let alarm = Some(self.process.alarm.0).filter(|at| *at != 0);
            self.report_turn();
            let until = [deadline, alarm].into_iter().flatten().min();
            self.memory.machine.wait(until);
            self.serve();
            self.freeze_now(Some(Waiting { deadline }));
        }
    }
}

/// The directory descriptor that means the current directory.
const AT_FDCWD: u64 = -100_i64 as u64;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_REMOVEDIR: u64 = 0x200;
const AT_EMPTY_PATH: u64 = 0x1000;
/// What `creat` opens with: `O_CREAT | O_WRONLY | O_TRUNC`.
const CREAT_FLAGS: u32 = 0o1101;
