//! The traced process: emptied of what it had, it maps what it is told and runs what it is given.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mm_guest::{Exit, Registers};
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// A page that the kernel under test does not use: a `syscall` instruction to make calls with, and room for a path.
const STUB: u64 = 0x7000_0000_0000;

/// Where the host puts what it tells of a signal.
const STACK: u64 = STUB + 4096;
const STACK_SIZE: u64 = 64 << 10;

const OPEN: u64 = 2;
const MMAP: u64 = 9;
const MUNMAP: u64 = 11;
const SIGACTION: u64 = 13;
const SIGRETURN: u64 = 15;
const SIGALTSTACK: u64 = 131;

/// Signals that stand for exceptions of the processor.
const EXCEPTIONS: [Signal; 5] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGTRAP];

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;

pub(super) struct Tracee {
    child: Child,
    pid: Pid,
    mem: File,
    template: user_regs_struct,
    memory: u64,
    image: u64,
    frozen: u64,
    /// Raised with each change of the alarm, so that an older one does nothing.
    alarms: Arc<AtomicU64>,
    /// One rang while the process worked for its tracer.
    rung: bool,
}

impl Drop for Tracee {
    fn drop(&mut self) {
        self.alarms.fetch_add(1, Ordering::SeqCst);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stopped(pid: Pid) -> WaitStatus {
    waitpid(pid, None).unwrap()
}

impl Tracee {
    /// Starts one with these files open; `None` where it cannot be traced.
    pub(super) fn start(memory: &File, image: &File, frozen: &File) -> Option<Self> {
        let child = Command::new("sleep")
            .arg("600")
            // The C library would register a piece of its memory with the host's kernel.
            .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        // It has to have started its own program before it is emptied.
        let started = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            call.starts_with("230 ") || call.starts_with("35 ")
        });
        assert!(started, "sleep does not sleep");
        let mut child = child;
        if ptrace::attach(pid).is_err() {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        stopped(pid);
        ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).unwrap();
        let mem = File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
        let mut template = ptrace::getregs(pid).unwrap();
        template.orig_rax = u64::MAX;
        let alarms = Arc::default();
        let mut tracee =
            Self { child, pid, mem, template, memory: 0, image: 0, frozen: 0, alarms, rung: false };
        tracee.empty();
        tracee.memory = tracee.open(memory);
        tracee.image = tracee.open(image);
        tracee.frozen = tracee.open(frozen);
        Some(tracee)
    }

    /// Leaves nothing but the stub.
    fn empty(&mut self) {
        // It sleeps in a system call, behind whose instruction it stands.
        self.template.rip -= 2;
        let at = self
            .call(MMAP, [STUB, 4096 + STACK_SIZE, 7, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, u64::MAX, 0]);
        assert_eq!(at, STUB);
        self.mem.write_all_at(&[0x0f, 0x05], STUB).unwrap();
        self.template.rip = STUB;
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        for line in maps.lines() {
            let range = line.split(' ').next().unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let parse = |digits| u64::from_str_radix(digits, 16).unwrap();
            let (start, end) = (parse(start), parse(end));
            if start != STUB && start < 1 << 47 {
                assert_eq!(self.call(MUNMAP, [start, end - start, 0, 0, 0, 0]), 0);
            }
        }
        self.put(&[STACK, 0, STACK_SIZE]);
        assert_eq!(self.call(SIGALTSTACK, [STUB + 64, 0, 0, 0, 0, 0]), 0);
        // SA_SIGINFO, SA_RESTORER, SA_ONSTACK, SA_NODEFER.
        self.put(&[STUB, 4 | 0x0400_0000 | 0x0800_0000 | 0x4000_0000, STUB, 0]);
        for signal in EXCEPTIONS {
            assert_eq!(self.call(SIGACTION, [signal as u64, STUB + 64, 0, 8, 0, 0]), 0);
        }
    }

    /// Writes words where calls find their arguments.
    fn put(&self, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.mem.write_all_at(&bytes, STUB + 64).unwrap();
    }

    fn open(&mut self, file: &File) -> u64 {
        let path = format!("/proc/{}/fd/{}\0", std::process::id(), file.as_raw_fd());
        self.mem.write_all_at(path.as_bytes(), STUB + 64).unwrap();
        let fd = self.call(OPEN, [STUB + 64, libc::O_RDWR as u64, 0, 0, 0, 0]);
        let fd = if fd as i64 >= 0 { fd } else { self.call(OPEN, [STUB + 64, 0, 0, 0, 0, 0]) };
        assert!(fd < 1000, "cannot open {path}: {}", fd as i64);
        fd
    }

    /// Has the process make a system call of the host.
    fn call(&mut self, number: u64, a: [u64; 6]) -> u64 {
        let regs = user_regs_struct {
            rax: number,
            rdi: a[0],
            rsi: a[1],
            rdx: a[2],
            r10: a[3],
            r8: a[4],
            r9: a[5],
            ..self.template
        };
        ptrace::setregs(self.pid, regs).unwrap();
        loop {
            ptrace::step(self.pid, None).unwrap();
            match stopped(self.pid) {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
                // The alarm rings in the middle of it: the program's next run ends at once.
                WaitStatus::Stopped(_, Signal::SIGSTOP) => self.rung = true,
                status => panic!("the traced process: {status:?}"),
            }
            let after = ptrace::getregs(self.pid).unwrap();
            // The first step out of a system call of the program's ends before the instruction.
            if after.rip != self.template.rip {
                return after.rax;
            }
        }
    }

    fn map(&mut self, address: u64, fd: u64, page: u64, prot: u64, kind: u64) {
        let at = self.call(MMAP, [address, 4096, prot, kind | MAP_FIXED, fd, page * 4096]);
        assert_eq!(at, address, "mmap: {}", at as i64);
    }

    pub(super) fn map_memory(&mut self, address: u64, page: u64, prot: u64) {
        self.map(address, self.memory, page, prot, MAP_SHARED);
    }

    pub(super) fn map_image(&mut self, address: u64, page: u64, prot: u64) {
        self.map(address, self.image, page, prot, MAP_PRIVATE);
    }

    pub(super) fn map_frozen(&mut self, address: u64, page: u64, prot: u64) {
        self.map(address, self.frozen, page, prot, MAP_PRIVATE);
    }

    pub(super) fn unmap(&mut self, address: u64) {
        assert_eq!(self.call(MUNMAP, [address, 4096, 0, 0, 0, 0]), 0);
    }

    /// Runs the program until it stops.
    pub(super) fn run(&mut self, r: &mut Registers) -> Exit {
        if std::mem::take(&mut self.rung) {
            return Exit::Event;
        }
        let regs = user_regs_struct {
            rax: r.rax,
            rbx: r.rbx,
            rcx: r.rcx,
            rdx: r.rdx,
            rsi: r.rsi,
            rdi: r.rdi,
            rbp: r.rbp,
            rsp: r.rsp,
            r8: r.r8,
            r9: r.r9,
            r10: r.r10,
            r11: r.r11,
            r12: r.r12,
            r13: r.r13,
            r14: r.r14,
            r15: r.r15,
            rip: r.rip,
            eflags: r.rflags,
            fs_base: r.fs_base,
            gs_base: r.gs_base,
            ..self.template
        };
        ptrace::setregs(self.pid, regs).unwrap();
        let mut signal = None;
        let status = loop {
            ptrace::sysemu(self.pid, signal).unwrap();
            match stopped(self.pid) {
                WaitStatus::Stopped(_, Signal::SIGCONT) => signal = None,
                status => break status,
            }
        };
        let regs = ptrace::getregs(self.pid).unwrap();
        *r = Registers {
            rax: regs.rax,
            rbx: regs.rbx,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rsi: regs.rsi,
            rdi: regs.rdi,
            rbp: regs.rbp,
            rsp: regs.rsp,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rip: regs.rip,
            rflags: regs.eflags,
            fs_base: regs.fs_base,
            gs_base: regs.gs_base,
        };
        match status {
            WaitStatus::PtraceSyscall(_) => {
                r.rax = regs.orig_rax;
                Exit::Syscall
            }
            // What `interrupt_after` sends.
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Exit::Event,
            WaitStatus::Stopped(_, signal) => self.exception(signal),
            other => panic!("the traced process: {other:?}"),
        }
    }

    /// Stops the program some time from now, instead of when this was last asked for.
    pub(super) fn interrupt_after(&mut self, after: Option<Duration>) {
        self.alarms.fetch_add(1, Ordering::SeqCst);
        let Some(after) = after else { return };
        let (pid, alarms, mine) = (self.pid, self.alarms.clone(), self.alarms.load(Ordering::SeqCst));
        std::thread::spawn(move || {
            std::thread::sleep(after);
            if alarms.load(Ordering::SeqCst) == mine {
                let _ = nix::sys::signal::kill(pid, Signal::SIGSTOP);
            }
        });
    }

    /// What the processor said. The host tells its handlers only, so the signal is let through to one, which does not
    /// run: what was put on its stack is read, and the process sent back.
    fn exception(&mut self, signal: Signal) -> Exit {
        assert!(EXCEPTIONS.contains(&signal), "the traced process got {signal:?}");
        ptrace::step(self.pid, signal).unwrap();
        assert!(matches!(stopped(self.pid), WaitStatus::Stopped(_, Signal::SIGTRAP)));
        let frame = ptrace::getregs(self.pid).unwrap().rsp;
        // Behind the return address: `ucontext`, 40 bytes into it `sigcontext`, whose words 19, 20 and 22 these are.
        let word = |index: u64| {
            let mut bytes = [0; 8];
            self.mem.read_exact_at(&mut bytes, frame + 8 + 40 + 8 * index).unwrap();
            u64::from_le_bytes(bytes)
        };
        let (error, vector, address) = (word(19), word(20), word(22));
        let template = self.template;
        self.template.rsp = frame + 8;
        self.call(SIGRETURN, [0; 6]);
        self.template = template;
        match vector {
            14 => Exit::PageFault { address, write: error & 2 != 0, fetch: error & 16 != 0 },
            vector => Exit::Exception { vector: vector as u8, code: error as u32 },
        }
    }

    pub(super) fn fpu(&self) -> [u8; 512] {
        let state = ptrace::getregset::<ptrace::regset::NT_PRFPREG>(self.pid).unwrap();
        let mut image = [0; 512];
        image[0..2].copy_from_slice(&state.cwd.to_le_bytes());
        image[2..4].copy_from_slice(&state.swd.to_le_bytes());
        image[4..6].copy_from_slice(&state.ftw.to_le_bytes());
        image[6..8].copy_from_slice(&state.fop.to_le_bytes());
        image[8..16].copy_from_slice(&state.rip.to_le_bytes());
        image[16..24].copy_from_slice(&state.rdp.to_le_bytes());
        image[24..28].copy_from_slice(&state.mxcsr.to_le_bytes());
        image[28..32].copy_from_slice(&state.mxcr_mask.to_le_bytes());
        let words = state.st_space.iter().chain(&state.xmm_space);
        for (bytes, word) in image[32..416].chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        image
    }

    pub(super) fn set_fpu(&mut self, image: &[u8; 512]) {
        let mut state = ptrace::getregset::<ptrace::regset::NT_PRFPREG>(self.pid).unwrap();
        let half = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let word = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
        let wide = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        (state.cwd, state.swd, state.ftw, state.fop) = (half(0), half(2), half(4), half(6));
        (state.rip, state.rdp) = (wide(8), wide(16));
        state.mxcsr = word(24) & 0xffff;
        for (index, to) in state.st_space.iter_mut().chain(&mut state.xmm_space).enumerate() {
            *to = word(32 + 4 * index);
        }
        ptrace::setregset::<ptrace::regset::NT_PRFPREG>(self.pid, state).unwrap();
    }
}
