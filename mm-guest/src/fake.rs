//! A machine in memory for tests: a table of pages, a volume of bytes, a clock that moves when somebody waits. It keeps
//! the rules that the real one has (only absent pages are filled, only held references mapped) and panics where the
//! kernel breaks one.

mod frozen;
mod lender;
mod space;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use crate::machine::{
    BlockDevice, Clocks, Console, DataDisk, DiskFailed, Domain, Exit, FrameCount, Frames, OutOfFrames,
    Processor, ProcessorTime, Prot, Registers, VolumeError,
};
use crate::page::VolumePage;
use frozen::FIRST;
pub(crate) use frozen::{Frozen, FrozenPart};

/// A frame: its bytes.
pub(crate) struct Frame(RefCell<Box<[u8; 4096]>>);

/// What is mapped.
pub(crate) enum Mapped {
    Private(Frame, Prot),
    Shared(VolumePage, bool),
}

/// The machine.
pub(crate) struct Fake {
    pub(crate) mapped: BTreeMap<u64, Mapped>,
    /// Frames given out, and how many there are.
    pub(crate) used: u64,
    pub(crate) limit: u64,
    /// Maps of private pages that succeed at pages never mapped before, if not all: what memory for page tables allows.
    pub(crate) table_budget: Option<u32>,
    known: BTreeSet<u64>,
    pub(crate) volume: Vec<u8>,
    pub(crate) held: BTreeSet<u64>,
    /// Pages given with an answer; none are lent if zero.
    pub(crate) window: u64,
    pub(crate) unreadable: BTreeSet<u64>,
    /// Maps that will fail.
    pub(crate) failing_maps: u32,
    pub(crate) gone: bool,
    /// Requests to M1.
    pub(crate) lends: u64,
    pub(crate) revocations: VecDeque<(VolumePage, u64)>,
    pub(crate) revoked: Vec<(VolumePage, u64)>,
    /// Traps to come, and what each leaves in the registers.
    pub(crate) script: VecDeque<(Exit, Registers)>,
    pub(crate) now: u64,
    pub(crate) alarm: Option<u64>,
    pub(crate) end_asked: bool,
    pub(crate) heap_left: usize,
    pub(crate) console: Vec<u8>,
    pub(crate) input: VecDeque<u8>,
    pub(crate) fpu: [u8; 512],
    pub(crate) vectors: Option<[u8; 256]>,
    /// M1's frozen part.
    pub(crate) frozen: Frozen,
    /// The disk behind `/data`: whole blocks.
    pub(crate) disk: Option<Vec<u8>>,
    pub(crate) disk_fails: bool,
    pub(crate) disk_flushes: u64,
    pub(crate) disk_discarded: u64,
}

impl Fake {
    /// A machine with so many frames and this volume, a number of whole pages.
    pub(crate) fn new(limit: u64, volume: Vec<u8>) -> Self {
        Self {
            mapped: BTreeMap::new(),
            used: 0,
            limit,
            table_budget: None,
            known: BTreeSet::new(),
            volume,
            held: BTreeSet::new(),
            window: 4,
            unreadable: BTreeSet::new(),
            failing_maps: 0,
            gone: false,
            lends: 0,
            revocations: VecDeque::new(),
            revoked: Vec::new(),
            script: VecDeque::new(),
            now: 1_000_000_000,
            alarm: None,
            end_asked: false,
            heap_left: usize::MAX,
            console: Vec::new(),
            input: VecDeque::new(),
            fpu: [0; 512],
            vectors: None,
            frozen: Frozen(Rc::new(RefCell::new(FrozenPart { room: usize::MAX, ..FrozenPart::default() }))),
            disk: None,
            disk_fails: false,
            disk_flushes: 0,
            disk_discarded: 0,
        }
    }

    fn page(&self, page: VolumePage) -> Result<[u8; 4096], VolumeError> {
        if self.unreadable.contains(&page.0) {
            return Err(VolumeError::Unreadable);
        }
        if page.0 >= FIRST {
            return self.frozen.0.borrow().page(page).copied().ok_or(VolumeError::Unreadable);
        }
        let start = page.0 as usize * 4096;
        let bytes = self.volume.get(start..start + 4096).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or(VolumeError::Unreadable)
    }

    /// Places where a shared page is mapped.
    pub(crate) fn shared_places(&self) -> u64 {
        self.mapped.values().filter(|mapped| matches!(mapped, Mapped::Shared(..))).count() as u64
    }
}

impl Frames for Fake {
    type Frame = Frame;

    fn allocate(&mut self) -> Result<Frame, OutOfFrames> {
        if self.used >= self.limit {
            return Err(OutOfFrames);
        }
        self.used += 1;
        Ok(Frame(RefCell::new(Box::new([0; 4096]))))
    }

    fn allocate_unfilled(&mut self) -> Result<Frame, OutOfFrames> {
        let frame = self.allocate()?;
        frame.0.borrow_mut().fill(0xa5);
        Ok(frame)
    }

    fn release(&mut self, _frame: Frame) {
        self.used -= 1;
    }

    fn frames(&self) -> FrameCount {
        FrameCount { ceiling: self.limit, available: self.limit - self.used, ..FrameCount::default() }
    }

    fn heap_left(&self) -> usize {
        self.heap_left
    }

    fn read_frame(&self, frame: &Frame, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&frame.0.borrow()[offset..offset + to.len()]);
    }

    fn write_frame(&mut self, frame: &Frame, offset: usize, from: &[u8]) {
        frame.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
    }
}

impl Processor for Fake {
    fn run(&mut self, registers: &mut Registers) -> Exit {
        let (exit, after) = self.script.pop_front().expect("the script goes on to the program's end");
        *registers = after;
        exit
    }

    fn processor_time(&self) -> ProcessorTime {
        ProcessorTime::default()
    }

    fn set_processor_time(&mut self, _used: ProcessorTime) {}

    fn fpu(&self) -> [u8; 512] {
        self.fpu
    }

    fn set_fpu(&mut self, image: &[u8; 512]) {
        self.fpu = *image;
    }

    fn vectors(&self) -> Option<[u8; 256]> {
        self.vectors
    }

    fn set_vectors(&mut self, halves: &[u8; 256]) -> bool {
        self.vectors.replace(*halves).is_some()
    }

    fn hwcap(&self) -> u64 {
        0x0178_bfbf
    }
}

impl Clocks for Fake {
    fn monotonic(&self) -> u64 {
        self.now
    }

    fn set_monotonic(&mut self, now: u64) {
        self.now = now;
    }

    fn realtime(&self) -> u64 {
        self.now + 1_700_000_000_000_000_000
    }

    fn set_alarm(&mut self, at: Option<u64>) {
        self.alarm = at;
    }

    fn wait(&mut self, deadline: Option<u64>) {
        self.now = deadline.expect("nothing else would end this wait").max(self.now + 1);
    }
}

impl Console for Fake {
    fn console_write(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }

    fn console_read(&mut self, to: &mut [u8]) -> usize {
        let length = to.len().min(self.input.len());
        for byte in &mut to[..length] {
            *byte = self.input.pop_front().unwrap_or(0);
        }
        length
    }

    fn console_ready(&mut self) -> bool {
        !self.input.is_empty()
    }
}

impl BlockDevice for Fake {
    fn data_disk(&self) -> Option<DataDisk> {
        Some(DataDisk { blocks: self.disk.as_ref()?.len() as u64 / 4096, read_only: false })
    }

    fn disk_read(&mut self, first: u64, to: &[Frame]) -> Result<(), DiskFailed> {
        let disk = self.disk.as_ref().filter(|_| !self.disk_fails).ok_or(DiskFailed)?;
        for (frame, block) in to.iter().zip(disk[first as usize * 4096..].chunks(4096)) {
            frame.0.borrow_mut().copy_from_slice(block);
        }
        Ok(())
    }

    fn disk_write(&mut self, first: u64, from: &[&Frame]) -> Result<(), DiskFailed> {
        let disk = self.disk.as_mut().filter(|_| !self.disk_fails).ok_or(DiskFailed)?;
        for (frame, block) in from.iter().zip(disk[first as usize * 4096..].chunks_mut(4096)) {
            block.copy_from_slice(&frame.0.borrow()[..]);
        }
        Ok(())
    }

    fn disk_flush(&mut self) -> Result<(), DiskFailed> {
        self.disk_flushes += 1;
        if self.disk_fails { Err(DiskFailed) } else { Ok(()) }
    }

    fn disk_discard(&mut self, _first: u64, count: u64) {
        self.disk_discarded += count;
    }
}

impl Domain for Fake {
    fn asked_to_end(&mut self) -> bool {
        core::mem::take(&mut self.end_asked)
    }

    fn seed(&mut self) -> ([u8; 32], bool) {
        ([7; 32], true)
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
