//! A machine made of a traced process of the host: its address space is the program's, its system calls and faults stop it,
//! and the kernel under test answers them. So real programs run on the kernel at the host's speed, without Xen.
//!
//! Frames are pages of a file in memory that the process maps, shared pages are pages of the volume's image.

mod frozen;
mod lender;
mod process;
mod space;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant, SystemTime};

use mm_guest::{
    BlockDevice, Clocks, Console, DataDisk, DiskFailed, Domain, Exit, FrameCount, Frames, OutOfFrames,
    Processor, ProcessorTime, Prot, Registers, UserPage, VolumeError, VolumePage,
};
use mm_proto::{FROZEN_FIRST, SnapshotInfo};

pub(crate) use frozen::Frozen;

use process::Tracee;

/// A page of the file that stands for memory.
pub(crate) struct Frame(u64);

enum Mapped {
    Private(u64, Prot),
    Shared(VolumePage),
}

/// The machine.
pub(crate) struct Traced {
    tracee: Tracee,
    image: File,
    pages: u64,
    memory: File,
    free: Vec<u64>,
    fresh: u64,
    /// Frames that there are.
    pub(crate) ceiling: u64,
    used: u64,
    mapped: BTreeMap<u64, Mapped>,
    held: BTreeSet<u64>,
    /// Pages given with each answer to a request.
    pub(crate) window: u64,
    /// Requests that a Grant would have been sent for.
    pub(crate) requests: u64,
    /// Lends nothing, so that everything is copied.
    pub(crate) copy_only: bool,
    /// M1 takes a window back at every so many stops of the program; never if zero.
    pub(crate) revoke_every: u64,
    pub(crate) stops: u64,
    /// Windows taken back.
    pub(crate) revocations: u64,
    /// Pages whose reading fails.
    pub(crate) unreadable: BTreeSet<u64>,
    /// All that was written to the console.
    pub(crate) console: Vec<u8>,
    /// What is typed.
    pub(crate) input: VecDeque<u8>,
    started: Instant,
    time: ProcessorTime,
    trapped: u64,
    /// When the program has to have ended.
    pub(crate) deadline: Instant,
    /// Snapshots.
    pub(crate) frozen: Frozen,
    /// The one that this machine is attached to.
    pub(crate) attached: Option<SnapshotInfo>,
    /// Added to the host's clock.
    offset: u64,
    /// M1 orders a freeze at the next wait.
    pub(crate) order_while_waiting: bool,
    /// The disk behind `/data`.
    pub(crate) disk: Option<File>,
}

impl Traced {
    /// A machine whose volume is this image; `None` where processes cannot be traced.
    pub(crate) fn new(image: File, ceiling: u64) -> Option<Self> {
        Self::with(image, ceiling, Frozen::new())
    }

    /// The same beside others, with which it shares an M1.
    pub(crate) fn with(image: File, ceiling: u64, frozen: Frozen) -> Option<Self> {
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(ceiling * 4096).unwrap();
        let pages = image.metadata().unwrap().len() / 4096;
        let tracee = Tracee::start(&memory, &image, &frozen.part().file)?;
        Some(Self {
            tracee,
            image,
            pages,
            memory,
            free: Vec::new(),
            fresh: 0,
            ceiling,
            used: 0,
            mapped: BTreeMap::new(),
            held: BTreeSet::new(),
            window: 16,
            requests: 0,
            copy_only: false,
            revoke_every: 0,
            stops: 0,
            revocations: 0,
            unreadable: BTreeSet::new(),
            console: Vec::new(),
            input: VecDeque::new(),
            started: Instant::now(),
            time: ProcessorTime::default(),
            trapped: 0,
            deadline: Instant::now() + Duration::from_secs(60),
            frozen,
            attached: None,
            offset: 0,
            order_while_waiting: false,
            disk: None,
        })
    }

    fn bits(prot: Prot) -> u64 {
        match prot {
            Prot::None => 0,
            Prot::Read => 1,
            Prot::ReadWrite => 3,
            Prot::ReadExec => 5,
            Prot::ReadWriteExec => 7,
        }
    }

    fn map_page(&mut self, page: UserPage, volume: VolumePage, exec: bool) {
        let prot = if exec { 5 } else { 1 };
        match volume.0.checked_sub(FROZEN_FIRST) {
            Some(frozen) => self.tracee.map_frozen(page.address(), frozen, prot),
            None => self.tracee.map_image(page.address(), volume.0, prot),
        }
    }

    fn page_of(&mut self, page: VolumePage) -> Result<[u8; 4096], VolumeError> {
        let mut bytes = [0; 4096];
        if page.0 >= FROZEN_FIRST && self.attached.is_some() {
            return self.frozen.part().page(page).copied().ok_or(VolumeError::Unreadable);
        }
        if page.0 >= self.pages || self.unreadable.contains(&page.0) {
            return Err(VolumeError::Unreadable);
        }
        self.image.read_exact_at(&mut bytes, page.0 * 4096).unwrap();
        Ok(bytes)
    }
}

impl Frames for Traced {
    type Frame = Frame;

    fn allocate(&mut self) -> Result<Frame, OutOfFrames> {
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.fresh < self.ceiling => {
                self.fresh += 1;
                self.fresh - 1
            }
            None => return Err(OutOfFrames),
        };
        self.memory.write_all_at(&[0; 4096], number * 4096).unwrap();
        self.used += 1;
        Ok(Frame(number))
    }

    fn allocate_unfilled(&mut self) -> Result<Frame, OutOfFrames> {
        self.allocate()
    }

    fn release(&mut self, frame: Frame) {
        self.used -= 1;
        self.free.push(frame.0);
    }

    fn frames(&self) -> FrameCount {
        FrameCount {
            ceiling: self.ceiling,
            available: self.ceiling - self.used,
            kernel: 0,
            populate_failed: 0,
        }
    }

    fn heap_left(&self) -> usize {
        usize::MAX
    }

    fn read_frame(&self, frame: &Frame, offset: usize, to: &mut [u8]) {
        self.memory.read_exact_at(to, frame.0 * 4096 + offset as u64).unwrap();
    }

    fn write_frame(&mut self, frame: &Frame, offset: usize, from: &[u8]) {
        self.memory.write_all_at(from, frame.0 * 4096 + offset as u64).unwrap();
    }
}

impl Processor for Traced {
    fn run(&mut self, registers: &mut Registers) -> Exit {
        assert!(Instant::now() < self.deadline, "the program takes too long");
        self.stops += 1;
        let resumed = self.monotonic();
        self.time.system += resumed.saturating_sub(self.trapped);
        let exit = self.tracee.run(registers);
        self.trapped = self.monotonic();
        self.time.user += self.trapped - resumed;
        exit
    }

    fn processor_time(&self) -> ProcessorTime {
        self.time
    }

    fn set_processor_time(&mut self, used: ProcessorTime) {
        self.time = used;
    }

    fn fpu(&self) -> [u8; 512] {
        self.tracee.fpu()
    }

    fn set_fpu(&mut self, image: &[u8; 512]) {
        self.tracee.set_fpu(image);
    }

    fn vectors(&self) -> Option<[u8; 256]> {
        None
    }

    fn set_vectors(&mut self, _halves: &[u8; 256]) -> bool {
        false
    }

    fn hwcap(&self) -> u64 {
        0x178b_fbff
    }
}

impl Clocks for Traced {
    fn monotonic(&self) -> u64 {
        (self.started.elapsed().as_nanos() as u64 + 1).wrapping_add(self.offset)
    }

    fn set_monotonic(&mut self, now: u64) {
        self.offset = 0;
        self.offset = now.wrapping_sub(self.monotonic());
        self.trapped = now;
    }

    fn realtime(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
    }

    fn set_alarm(&mut self, at: Option<u64>) {
        let after = at.map(|at| Duration::from_nanos(at.saturating_sub(self.monotonic())));
        self.tracee.interrupt_after(after);
    }

    fn wait(&mut self, deadline: Option<u64>) {
        assert!(Instant::now() < self.deadline, "the program waits too long");
        if std::mem::take(&mut self.order_while_waiting) {
            self.frozen.part().freeze_at = Some(0);
        }
        let left = deadline.map_or(u64::MAX, |deadline| deadline.saturating_sub(self.monotonic()));
        std::thread::sleep(Duration::from_nanos(left.min(5_000_000)));
    }
}

impl Console for Traced {
    fn console_write(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }

    fn console_read(&mut self, to: &mut [u8]) -> usize {
        let length = to.len().min(self.input.len());
        for byte in &mut to[..length] {
            *byte = self.input.pop_front().unwrap();
        }
        length
    }

    fn console_ready(&mut self) -> bool {
        !self.input.is_empty()
    }
}

impl BlockDevice for Traced {
    fn data_disk(&self) -> Option<DataDisk> {
        let disk = self.disk.as_ref()?;
        Some(DataDisk { blocks: disk.metadata().unwrap().len() / 4096, read_only: false })
    }

    fn disk_read(&mut self, first: u64, to: &[Frame]) -> Result<(), DiskFailed> {
        for (frame, block) in to.iter().zip(first..) {
            let mut bytes = [0; 4096];
            self.disk.as_ref().unwrap().read_exact_at(&mut bytes, block * 4096).unwrap();
            self.write_frame(frame, 0, &bytes);
        }
        Ok(())
    }

    fn disk_write(&mut self, first: u64, from: &[&Frame]) -> Result<(), DiskFailed> {
        for (frame, block) in from.iter().zip(first..) {
            let mut bytes = [0; 4096];
            self.read_frame(frame, 0, &mut bytes);
            self.disk.as_ref().unwrap().write_all_at(&bytes, block * 4096).unwrap();
        }
        Ok(())
    }

    fn disk_flush(&mut self) -> Result<(), DiskFailed> {
        Ok(())
    }

    fn disk_discard(&mut self, _first: u64, _count: u64) {}
}

impl Domain for Traced {
    fn asked_to_end(&mut self) -> bool {
        false
    }

    fn seed(&mut self) -> ([u8; 32], bool) {
        let mut seed = [0; 32];
        std::io::Read::read_exact(&mut File::open("/dev/urandom").unwrap(), &mut seed).unwrap();
        (seed, true)
    }
}

/// The same without writing.
fn read_only(prot: Prot) -> Prot {
    match prot {
        Prot::ReadWrite => Prot::Read,
        Prot::ReadWriteExec => Prot::ReadExec,
        other => other,
    }
}
