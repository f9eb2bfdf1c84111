//! What the files of `/proc` say. Written at open, from the state of that moment; only what is true of this kernel.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::errno::Errno;
use crate::fs::proc::Text;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::page::PAGE_SIZE;
use crate::vm::{Backing, NameId, Vma};

const SECOND: u64 = 1_000_000_000;
/// `USER_HZ`.
const TICK: u64 = SECOND / 100;

/// A text that grows only where there is memory.
#[derive(Default)]
struct Page {
    bytes: Vec<u8>,
}

impl Write for Page {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.bytes.try_reserve(text.len()).map_err(|_| core::fmt::Error)?;
        self.bytes.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// The last is there only with a disk.
const MOUNTS: [(&str, &str, &str); 6] = [
    ("/dev/xvda", "/", "erofs ro"),
    ("tmpfs", "/tmp", "tmpfs rw"),
    ("dev", "/dev", "devtmpfs rw"),
    ("tmpfs", "/dev/shm", "tmpfs rw"),
    ("proc", "/proc", "proc rw"),
    ("/dev/xvdb", "/data", "ext3 rw,noatime"),
];

/// Resources of `/proc/self/limits`, in the order of `asm-generic/resource.h`, with their units.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

impl<M: Machine> Kernel<M> {
    /// The content of a file of `/proc`.
    pub(crate) fn proc_text(&mut self, text: Text) -> Result<Vec<u8>, Errno> {
        let mut page = Page::default();
        match text {
            Text::SelfCmdline => return self.strings(self.process.args),
            Text::Environ => return self.strings(self.process.env),
            Text::Auxv => return Ok(self.process.auxiliary.clone()),
            _ => self.write_text(text, &mut page).map_err(|_| Errno::NOMEM)?,
        }
        Ok(page.bytes)
    }

    fn strings(&mut self, (start, end): (u64, u64)) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::new();
        let length = end.saturating_sub(start) as usize;
        bytes.try_reserve_exact(length)?;
        bytes.resize(length, 0);
        self.memory.read_bytes(start, &mut bytes)?;
        Ok(bytes)
    }

    fn write_text(&mut self, text: Text, page: &mut Page) -> core::fmt::Result {
        let frames = self.memory.machine.frames();
        let (private, shared) = self.memory.resident();
        let kilobytes = |pages: u64| pages * 4;
        let uptime = self.memory.machine.monotonic();
        match text {
            Text::Meminfo => {
                let lines = [
                    ("MemTotal:", frames.ceiling),
                    ("MemFree:", frames.available),
                    ("MemAvailable:", frames.available),
                    ("Buffers:", 0),
                    ("Cached:", self.memory.store.frames_held()),
                    ("SwapCached:", 0),
                    ("AnonPages:", private),
                    ("Mapped:", shared),
                    ("SwapTotal:", 0),
                    ("SwapFree:", 0),
                ];
                for (name, pages) in lines {
                    writeln!(page, "{name:<16}{:>8} kB", kilobytes(pages))?;
                }
                Ok(())
            }
            Text::Cpuinfo => {
                page.write_str(
                    "processor\t: 0\nvendor_id\t: unknown\nmodel name\t: Xen PV virtual processor\n",
                )?;
                page.write_str("siblings\t: 1\ncpu cores\t: 1\nflags\t\t: fpu sse sse2 syscall lm\n\n")
            }
            Text::Version => {
                writeln!(page, "Linux version {} (mm-guest {})", crate::release!(), env!("CARGO_PKG_VERSION"))
            }
            Text::Mounts => {
                self.mounts().try_for_each(|(device, at, kind)| writeln!(page, "{device} {at} {kind} 0 0"))
            }
            Text::Mountinfo => self.mounts().enumerate().try_for_each(|(index, (device, at, kind))| {
                let (name, mode) = kind.split_once(' ').unwrap_or((kind, "rw"));
                let parent = usize::from(index > 0);
                writeln!(
                    page,
                    "{} {parent} 0:{} / {at} {mode} - {name} {device} {mode}",
                    index + 1,
                    index + 16
                )
            }),
            Text::Stat => {
                let used = self.memory.machine.processor_time();
                let (user, system) = (used.user / TICK, used.system / TICK);
                let idle = (uptime / TICK).saturating_sub(user + system);
                for name in ["cpu ", "cpu0"] {
                    writeln!(page, "{name} {user} 0 {system} {idle} 0 0 0 0 0 0")?;
                }
                let boot = self.memory.machine.realtime().saturating_sub(uptime) / SECOND;
                writeln!(page, "btime {boot}\nprocesses 1\nprocs_running 1\nprocs_blocked 0")
            }
            Text::Uptime => {
                let used = self.memory.machine.processor_time();
                let idle = uptime.saturating_sub(used.user + used.system);
                let parts = |time: u64| (time / SECOND, time % SECOND / (SECOND / 100));
                let ((a, b), (c, d)) = (parts(uptime), parts(idle));
                writeln!(page, "{a}.{b:02} {c}.{d:02}")
            }
            Text::Loadavg => page.write_str("0.00 0.00 0.00 1/1 1\n"),
            Text::Filesystems => {
                page.write_str("\terofs\n\text3\nnodev\ttmpfs\nnodev\tdevtmpfs\nnodev\tproc\n")
            }
            Text::Cmdline => {
                let init = String::from_utf8_lossy(&self.options.init).into_owned();
                writeln!(page, "init={init}")
            }
            Text::Maps => self.write_maps(page),
            Text::Status => self.write_status(page),
            Text::SelfStat => self.write_stat(page),
            Text::Statm => {
                let total = self.memory.vmas.total();
                writeln!(page, "{total} {} {shared} 0 0 {private} 0", private + shared)
            }
            Text::Comm => writeln!(page, "{}", self.name()),
            Text::Limits => {
                writeln!(page, "{:<26}{:<21}{:<21}{:<10}", "Limit", "Soft Limit", "Hard Limit", "Units")?;
                let shown = |limit: u64| match limit {
                    u64::MAX => String::from("unlimited"),
                    limit => alloc::format!("{limit}"),
                };
                LIMITS.iter().zip(self.process.limits).try_for_each(|((name, unit), (soft, hard))| {
                    writeln!(page, "{name:<26}{:<21}{:<21}{unit:<10}", shown(soft), shown(hard))
                })
            }
            Text::Empty => Ok(()),
            Text::Fixed(fixed) => page.write_str(fixed),
            Text::BootId => write_uuid(page, &self.boot_id),
            Text::Generation => write_uuid(page, &self.generation),
            Text::Snapshot => match self.memory.machine.snapshot() {
                Some(snapshot) => write_uuid(page, &snapshot.identity),
                None => Ok(()),
            },
            Text::Memory => {
                let mut written = writeln!(page, "program {private}\nshared {shared}");
                self.memory.machine.account(&mut |name, pages| {
                    written = written.and_then(|()| writeln!(page, "{name} {pages}"));
                });
                written
            }
            Text::Uuid => {
                let mut bytes = [0; 16];
                self.random.fill(&mut bytes);
                write_uuid(page, &bytes)
            }
            // Answered before.
            Text::SelfCmdline | Text::Environ | Text::Auxv => Ok(()),
        }
    }

    fn name(&self) -> String {
        let name = &self.process.name;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    }

    fn path_of(&self, name: NameId) -> &[u8] {
        self.names.get(name.0 as usize).map_or(b"", Vec::as_slice)
    }

    fn write_maps(&self, page: &mut Page) -> core::fmt::Result {
        for vma in self.memory.vmas.iter() {
            let [r, w, x] = vma.rights.letters().map(char::from);
            let shared = if vma.shared { 's' } else { 'p' };
            let (offset, device, inode, path) = self.describe(vma);
            let (start, end) = (vma.start * PAGE_SIZE, vma.end * PAGE_SIZE);
            let head = alloc::format!("{start:x}-{end:x} {r}{w}{x}{shared} {offset:08x} {device} {inode}");
            if path.is_empty() {
                writeln!(page, "{head}")?;
            } else {
                writeln!(page, "{head:<73}{}", String::from_utf8_lossy(path))?;
            }
        }
        Ok(())
    }

    fn mounts(&self) -> impl Iterator<Item = &'static (&'static str, &'static str, &'static str)> {
        MOUNTS.iter().take(MOUNTS.len() - usize::from(self.memory.data.is_none()))
    }

    /// Offset, device, whether there is an inode, and path of a mapping.
    fn describe(&self, vma: &Vma) -> (u64, &'static str, u32, &[u8]) {
        let heap = &self.memory.heap;
        match vma.backing {
            Backing::Volume { file_page, name, .. } => {
                (file_page * PAGE_SIZE, "ca:00", 1, self.path_of(name))
            }
            Backing::Stored { file_page, name, .. } => {
                (file_page * PAGE_SIZE, "00:10", 1, self.path_of(name))
            }
            Backing::Data { file, file_page, name } => {
                (file_page * PAGE_SIZE, "ca:10", file.0, self.path_of(name))
            }
            Backing::Anonymous if vma.grows_down => (0, "00:00", 0, b"[stack]"),
            Backing::Anonymous if vma.start * PAGE_SIZE >= heap.start && vma.start * PAGE_SIZE < heap.end => {
                (0, "00:00", 0, b"[heap]")
            }
            Backing::Anonymous => (0, "00:00", 0, b""),
        }
    }

    fn write_status(&self, page: &mut Page) -> core::fmt::Result {
        let (private, shared) = self.memory.resident();
        let signals = &self.process.signals;
        let set = |wanted: &dyn Fn(u64) -> bool| {
            (1..=64)
                .filter(|signal| wanted(signals.action(*signal).handler))
                .fold(0, |set, signal| set | crate::signal::bit(signal))
        };
        writeln!(page, "Name:\t{}\nUmask:\t{:04o}\nState:\tR (running)", self.name(), self.process.umask)?;
        writeln!(page, "Tgid:\t1\nPid:\t1\nPPid:\t0\nTracerPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0")?;
        writeln!(page, "FDSize:\t{}\nGroups:\t", self.files.limit)?;
        writeln!(page, "VmSize:\t{:8} kB", 4 * self.memory.vmas.total())?;
        writeln!(page, "VmRSS:\t{:8} kB", 4 * (private + shared))?;
        writeln!(
            page,
            "RssAnon:\t{:8} kB\nRssFile:\t{:8} kB\nRssShmem:\t{:8} kB",
            4 * private,
            4 * shared,
            0
        )?;
        writeln!(
            page,
            "Threads:\t1\nSigPnd:\t{:016x}\nSigBlk:\t{:016x}",
            signals.pending(),
            signals.blocked
        )?;
        writeln!(page, "SigIgn:\t{:016x}", set(&|handler| handler == crate::signal::IGNORE))?;
        writeln!(page, "SigCgt:\t{:016x}", set(&|handler| handler > crate::signal::IGNORE))?;
        writeln!(page, "NoNewPrivs:\t{}\nSeccomp:\t0", u8::from(self.process.no_new_privileges))?;
        writeln!(page, "Cpus_allowed:\t1\nCpus_allowed_list:\t0")
    }

    /// The 52 fields of proc(5).
    fn write_stat(&self, page: &mut Page) -> core::fmt::Result {
        let (private, shared) = self.memory.resident();
        let counts = &self.memory.counts;
        let mut fields = [0_u64; 53];
        (fields[4], fields[5], fields[6]) = (0, 1, 1);
        fields[10] = counts.total - counts.asked;
        fields[12] = counts.asked;
        let used = self.memory.machine.processor_time();
        (fields[14], fields[15]) = (used.user / TICK, used.system / TICK);
        (fields[18], fields[20]) = (20, 1);
        fields[22] = self.process.started_at / TICK;
        fields[23] = self.memory.vmas.total() * PAGE_SIZE;
        fields[24] = private + shared;
        fields[25] = u64::MAX;
        write!(page, "1 ({}) R", self.name())?;
        fields[4..].iter().try_for_each(|field| write!(page, " {field}"))?;
        page.write_str("\n")
    }
}

fn write_uuid(page: &mut Page, bytes: &[u8; 16]) -> core::fmt::Result {
    let mut bytes = *bytes;
    // Version 4, variant 1 (RFC 4122).
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            page.write_str("-")?;
        }
        write!(page, "{byte:02x}")?;
    }
    page.write_str("\n")
}
