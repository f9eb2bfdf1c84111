//! The kernel as a whole, and its loop.

use alloc::vec::Vec;
use core::fmt::Write;

use crate::errno::Errno;
use crate::exec::ExecError;
use crate::files::{Description, Files, Object, flags};
use crate::freeze::{Freezing, ThawError};
use crate::fs::dev::Device;
use crate::fs::{Node, OpenError, Vfs, Volume, Walked};
use crate::machine::{Exit, FrameCount, Machine, Registers};
use crate::options::{DataOption, Options};
use crate::process::Process;
use crate::random::Random;
use crate::signal::{self, Info, Next};
use crate::vm::{Access, FaultCounts, Memory, NameId};

/// How the program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It called `exit` with this status.
    Exited(u8),
    /// A signal ended it.
    Killed(u32),
}

/// Why the program never ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The volume is no root filesystem.
    Volume(OpenError),
    /// There is a disk for `/data`, and what is on it cannot be mounted.
    Data(ext3::MountError),
    /// The directory to start in.
    Directory(Errno),
    /// The program itself.
    Program(ExecError),
    /// The snapshot that it was to go on from.
    Thaw(ThawError),
}

/// Figures of the moment, for the last line and for M1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// W: the program's private pages.
    pub written: u64,
    /// R: distinct shared pages mapped.
    pub mapped: u64,
    /// KAS and what else the machine counts.
    pub frames: FrameCount,
    /// Faults by kind.
    pub faults: FaultCounts,
}

/// The kernel: one program on one machine.
pub struct Kernel<M: Machine> {
    pub(crate) memory: Memory<M>,
    pub(crate) vfs: Vfs,
    pub(crate) files: Files,
    pub(crate) process: Process,
    pub(crate) registers: Registers,
    pub(crate) random: Random,
    pub(crate) options: Options,
    /// Paths that mappings show.
    pub(crate) names: Vec<Vec<u8>>,
    /// Unknown system calls that were logged.
    pub(crate) logged: [u64; 8],
    /// The call that a signal interrupted, if it can be made again.
    pub(crate) interrupted: Option<u64>,
    pub(crate) ended: Option<End>,
    /// The toolstack has asked the domain to end.
    end_asked: bool,
    pub(crate) boot_id: [u8; 16],
    /// Another one in every domain that goes on from a snapshot: `/proc/m1/generation`.
    pub(crate) generation: [u8; 16],
    /// M1 has ordered a freeze.
    pub(crate) freeze_wanted: bool,
    /// The freeze that is under way.
    pub(crate) freezing: Option<Freezing<M::Frame>>,
    /// When the wait ends (monotonic) that the program was in when it was frozen, and whose call it makes again.
    pub(crate) resume: Option<u64>,
    /// When M1 was told figures last (monotonic).
    reported: Option<u64>,
}

/// Between two reports of a program that waits.
const REPORT_NS: u64 = 10_000_000_000;

/// Writes a line of the kernel's own to the console.
struct Line<'a, M: Machine>(&'a mut M);

impl<M: Machine> Write for Line<'_, M> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.console_write(text.as_bytes());
        Ok(())
    }
}

impl<M: Machine> Kernel<M> {
    /// Opens the volume and loads the program.
    ///
    /// # Errors
    /// [`StartError`], with the machine, which can still say why.
    pub fn start(machine: M, options: Options) -> Result<Self, (M, StartError)> {
        let mut kernel = Self::new(machine, options)?;
        match kernel.begin() {
            Ok(()) => Ok(kernel),
            Err(error) => Err((kernel.memory.machine, error)),
        }
    }

    /// A kernel with a root filesystem and an open console, and nothing to run yet.
    pub(crate) fn new(machine: M, mut options: Options) -> Result<Self, (M, StartError)> {
        let mut memory = Memory::new(machine, options.fault_around);
        let volume = match Volume::open(&mut memory.machine) {
            Ok(volume) => volume,
            Err(error) => return Err((memory.machine, StartError::Volume(error))),
        };
        let mounted = if options.data == DataOption::Off { Ok(()) } else { memory.mount_data() };
        match mounted {
            Err(error) if options.data == DataOption::Required => {
                return Err((memory.machine, StartError::Data(error)));
            }
            Err(error) => {
                options.complaints.push(alloc::format!("data=optional: /data is not mounted: {error}"))
            }
            Ok(()) => {}
        }
        let vfs = Vfs::new(volume);
        let (seed, hardware) = memory.machine.seed();
        let mut random = Random::new(&seed);
        let mut boot_id = [0; 16];
        random.fill(&mut boot_id);
        let mut generation = [0; 16];
        random.fill(&mut generation);
        let root = vfs.root_walked();
        let now = memory.machine.monotonic();
        let mut kernel = Self {
            memory,
            vfs,
            files: Files::new(),
            process: Process::new(root, now),
            registers: Registers::default(),
            random,
            options,
            names: Vec::new(),
            logged: [0; 8],
            interrupted: None,
            ended: None,
            end_asked: false,
            boot_id,
            generation,
            freeze_wanted: false,
            freezing: None,
            resume: None,
            reported: None,
        };
        for complaint in core::mem::take(&mut kernel.options.complaints) {
            kernel.say(format_args!("option ignored: {complaint}"));
        }
        if !hardware {
            kernel.say(format_args!("the processor has no RDRAND: random numbers may be guessed"));
        }
        for _ in 0..3 {
            let console = Description::new(Object::Device(Device::Console), None, flags::RDWR);
            if let Err(error) = kernel.files.open(console, false) {
                return Err((kernel.memory.machine, StartError::Directory(error)));
            }
        }
        Ok(kernel)
    }

    fn begin(&mut self) -> Result<(), StartError> {
        if let Err(error) = self.memory.free_data_orphans() {
            self.say(format_args!("/data: files that nobody has open could not be freed: {}", error.name()));
        }
        let options = self.options.clone();
        self.change_directory(&options.cwd).map_err(StartError::Directory)?;
        self.exec(&options.init, options.args, &options.env).map_err(StartError::Program)
    }

    /// Runs the program to its end.
    pub fn run(&mut self) -> End {
        loop {
            match self.memory.machine.run(&mut self.registers) {
                Exit::Syscall => self.system_call(),
                Exit::PageFault { address, write, fetch } => self.page_fault(address, write, fetch),
                Exit::Exception { vector, code } => {
                    self.process.signals.force(Info::exception(vector, code, self.registers.rip));
                }
                Exit::Event => {}
            }
            self.serve();
            self.deliver();
            if let Some(end) = self.ended {
                self.memory.tell_hot();
                self.freeze_abandon();
                return end;
            }
            self.freeze_now(None);
        }
    }

    pub(crate) fn page_fault(&mut self, address: u64, write: bool, fetch: bool) {
        let access = match (fetch, write) {
            (true, _) => Access::Fetch,
            (_, true) => Access::Write,
            _ => Access::Read,
        };
        let served = self.memory.fault(address, access);
        if self.options.fault_trace {
            let rip = self.registers.rip;
            self.say(format_args!("fault {access:?} {address:#x} at {rip:#x}: {served:?}"));
        }
        if let Err(fault) = served {
            if !matches!(fault, crate::vm::Fault::NotMapped | crate::vm::Fault::Forbidden) {
                self.say(format_args!("bus error at {address:#x}: {fault:?}"));
            }
            self.process.signals.force(Info::fault(fault, address, write, fetch));
        }
    }

    /// Serves what came from outside: pages that M1 wants back, the toolstack's wish, and the alarm clock.
    pub fn serve(&mut self) {
        if self.memory.machine.asked_to_end() {
            self.process.signals.send(Info::kernel(signal::number::TERM));
            self.end_asked = true;
        }
        while let Some((page, count)) = self.memory.machine.revoked() {
            self.memory.drop_volume_run(page, count);
            self.memory.machine.revoke_done(page, count);
        }
        self.freeze_turn();
        self.memory.hot_turn();
        self.memory.write_back_data();
        let (at, interval) = self.process.alarm;
        if at != 0 {
            let now = self.memory.machine.monotonic();
            if now >= at {
                let missed = (now - at).checked_div(interval).map(|missed| missed + 1);
                self.process.alarm.0 = missed.map_or(0, |missed| at.saturating_add(missed * interval));
                self.arm_alarm();
                self.process.signals.send(Info::kernel(signal::number::ALRM));
            }
        }
    }

    /// Has the machine come back at the alarm's time.
    pub(crate) fn arm_alarm(&mut self) {
        let at = Some(self.process.alarm.0).filter(|at| *at != 0);
        self.memory.machine.set_alarm(at);
    }

    /// Acts upon the next pending signal.
    pub(crate) fn deliver(&mut self) {
        // A handler's frame that cannot be written raises SIGSEGV, once more with its default action.
        for _ in 0..3 {
            match self.process.signals.next() {
                Next::Nothing => break,
                Next::Kill(signal) => {
                    self.ended = Some(End::Killed(signal));
                    return;
                }
                Next::Handle(info, action) => {
                    if let Some(call) = self.interrupted.take() {
                        if action.flags & signal::sa::RESTART != 0 {
                            self.restart(call);
                        } else {
                            self.registers.rax = negative(Errno::INTR);
                        }
                    }
                    if self.enter_handler(&info, &action).is_some() {
                        return;
                    }
                    self.process.signals.actions[signal::number::SEGV as usize - 1] =
                        signal::Action::default();
                    self.process.signals.force(Info::kernel(signal::number::SEGV));
                }
            }
        }
        if let Some(call) = self.interrupted.take() {
            self.restart(call);
        }
        if let Some(saved) = self.process.signals.saved.take() {
            self.process.signals.set_blocked(saved);
        }
    }

    /// The call will be made again when the program goes on: `syscall` has two bytes.
    fn restart(&mut self, call: u64) {
        self.registers.rax = call;
        self.registers.rip = self.registers.rip.wrapping_sub(2);
    }

    fn enter_handler(&mut self, info: &Info, action: &signal::Action) -> Option<()> {
        let signals = &mut self.process.signals;
        let before = signals.saved.unwrap_or(signals.blocked);
        let frame = signal::build(&self.registers, info, action, &signals.alternate, before)?;
        let fpu = self.memory.machine.fpu();
        self.memory.write_bytes(frame.fpu_at, &fpu).ok()?;
        self.memory.write_bytes(frame.at, &frame.bytes).ok()?;
        let signals = &mut self.process.signals;
        signals.enter(info.signal, action);
        if signals.alternate.flags & signal::SS_AUTODISARM != 0 {
            signals.alternate = signal::AlternateStack::NONE;
        }
        self.registers = frame.registers;
        Some(())
    }

    /// Writes a line with the kernel's prefix to the console.
    pub(crate) fn say(&mut self, text: core::fmt::Arguments<'_>) {
        let _ = writeln!(Line(&mut self.memory.machine), "mm-guest: {text}");
    }

    /// The machine below.
    pub fn machine(&mut self) -> &mut M {
        &mut self.memory.machine
    }

    /// Figures of now.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let (written, places) = self.memory.resident();
        let mapped = self.memory.distinct_shared().unwrap_or(places);
        Figures { written, mapped, frames: self.memory.machine.frames(), faults: self.memory.counts }
    }

    /// Tells M1 figures now and then: when the program is about to wait, for counting takes a while.
    pub(crate) fn report_turn(&mut self) {
        let now = self.memory.machine.monotonic();
        // A thawed program's clock goes on where it stood.
        let early = |told: u64| now.abs_diff(told) < REPORT_NS;
        if self.reported.is_none_or(|told| !early(told)) {
            self.reported = Some(now);
            let figures = self.figures();
            self.memory.machine.report(&figures);
        }
    }

    /// Serves M1 without running anything until the toolstack asks for the end: what `hold=1` does after the program's.
    pub fn hold(&mut self) {
        while !self.end_asked {
            self.memory.machine.wait(None);
            self.serve();
            self.freeze_abandon();
        }
    }

    /// Everything that was written to `/data` is on its disk afterwards, and the filesystem there is whole: what freezing calls. Open
    /// files are described by their inodes' numbers and opened again by them after the next mount, those without a
    /// name included.
    ///
    /// # Errors
    /// [`Errno::IO`]: the disk failed. What was flushed before is still there.
    pub fn sync_data(&mut self) -> Result<(), Errno> {
        self.memory.sync_data()
    }

    /// Closes `/data` for good, so that its disk needs no recovery: after the program's end. Says so where that fails.
    pub fn finish_data(&mut self) {
        if let Err(error) = self.memory.unmount_data() {
            self.say(format_args!(
                "/data: the disk failed; what was not flushed may be lost ({})",
                error.name()
            ));
        }
    }

    /// Gives up the program's memory.
    pub fn finish(&mut self) {
        self.memory.clear();
    }

    /// The index of a path in the table of names that mappings show.
    pub(crate) fn mapped_name(&mut self, path: &[u8]) -> Result<NameId, Errno> {
        let found = self.names.iter().position(|name| name == path);
        let index = match found {
            Some(index) => index,
            None => {
                let mut name = Vec::new();
                name.try_reserve_exact(path.len())?;
                name.extend_from_slice(path);
                self.names.try_reserve(1)?;
                self.names.push(name);
                self.names.len() - 1
            }
        };
        Ok(NameId(index as u32))
    }

    /// Opens a regular file for mapping or reading.
    pub(crate) fn open_regular(&mut self, node: Node) -> Result<Object, Errno> {
        match node {
            Node::Volume(nid) => Ok(Object::Volume(self.vfs.volume.inode(&mut self.memory.machine, nid)?)),
            Node::Tmp(id) => Ok(Object::Tmp(id, self.vfs.tmp.content(id)?)),
            Node::Data(ino) => Ok(Object::Data(ino)),
            _ => Err(Errno::ACCES),
        }
    }

    /// Reads a regular file; gives the bytes read.
    pub(crate) fn read_object(
        &mut self,
        object: &Object,
        offset: u64,
        to: &mut [u8],
    ) -> Result<usize, Errno> {
        match object {
            Object::Volume(inode) => self.vfs.volume.read(&mut self.memory.machine, inode, offset, to),
            Object::Tmp(_, store) => Ok(self.memory.store.read(&mut self.memory.machine, *store, offset, to)),
            Object::Data(ino) => self.memory.with_data(|fs, disk| fs.read(disk, *ino, offset, to)),
            _ => Err(Errno::INVAL),
        }
    }

    fn change_directory(&mut self, path: &[u8]) -> Result<(), Errno> {
        let walked: Walked = self.walk(path, crate::fs::Last::Follow)?;
        if !self.vfs.attributes(&mut self.memory, walked.node)?.is_directory() {
            return Err(Errno::NOTDIR);
        }
        self.process.cwd = walked;
        Ok(())
    }
}

/// An error as it stands in `rax`.
pub(crate) fn negative(error: Errno) -> u64 {
    0_u64.wrapping_sub(u64::from(error.0))
}
