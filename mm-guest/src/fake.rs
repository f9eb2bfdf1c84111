//! A machine in memory for tests: a table of pages, a volume of bytes, a clock that moves when somebody waits. It keeps
//! the rules that the real one has (only absent pages are filled, only held references mapped) and panics where the
//! kernel breaks one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::machine::{
    Exit, FrameCount, Lent, Machine, NotThere, OutOfFrames, ProcessorTime, Prot, Registers, SharedMap,
    SharedPage, VolumeError,
};
use crate::page::{UserPage, VolumePage};

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
        }
    }

    fn page(&self, page: VolumePage) -> Result<&[u8], VolumeError> {
        if self.unreadable.contains(&page.0) {
            return Err(VolumeError::Unreadable);
        }
        let start = page.0 as usize * 4096;
        self.volume.get(start..start + 4096).ok_or(VolumeError::Unreadable)
    }

    /// Places where a shared page is mapped.
    pub(crate) fn shared_places(&self) -> u64 {
        self.mapped.values().filter(|mapped| matches!(mapped, Mapped::Shared(..))).count() as u64
    }
}

impl Machine for Fake {
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

    fn map_private(&mut self, page: UserPage, frame: Frame, prot: Prot) -> Result<(), Frame> {
        if self.known.insert(page.0)
            && let Some(budget) = &mut self.table_budget
        {
            match budget.checked_sub(1) {
                Some(rest) => *budget = rest,
                None => {
                    self.known.remove(&page.0);
                    return Err(frame);
                }
            }
        }
        let before = self.mapped.insert(page.0, Mapped::Private(frame, prot));
        assert!(before.is_none(), "{page:?} is filled twice");
        Ok(())
    }

    fn map_shared(&mut self, want: SharedMap, around: u64) -> u64 {
        let (base, index) = (want.page.0 & !63, want.page.0 & 63);
        let mut done = 0;
        for place in (0..64).filter(|place| *place == index || around >> place & 1 == 1) {
            let volume = want.volume.0 + place - index;
            if !self.held.contains(&volume) {
                continue;
            }
            if self.failing_maps > 0 && place == index {
                self.failing_maps -= 1;
                self.held.remove(&volume);
                continue;
            }
            let before = self.mapped.insert(base + place, Mapped::Shared(VolumePage(volume), want.exec));
            assert!(before.is_none(), "{:#x} is filled twice", base + place);
            done |= 1 << place;
        }
        done
    }

    fn replace_shared(&mut self, shared: SharedPage, frame: Frame, prot: Prot) -> Result<(), Frame> {
        let before = self.mapped.insert(shared.page.0, Mapped::Private(frame, prot));
        assert!(matches!(before, Some(Mapped::Shared(volume, _)) if volume == shared.volume), "{shared:?}");
        Ok(())
    }

    fn unmap(&mut self, pages: &[UserPage]) {
        for page in pages {
            let frame = self.take(*page).expect("a private page is unmapped");
            self.release(frame);
        }
    }

    fn unmap_shared(&mut self, pages: &[SharedPage]) {
        for shared in pages {
            let before = self.mapped.remove(&shared.page.0);
            assert!(
                matches!(before, Some(Mapped::Shared(volume, _)) if volume == shared.volume),
                "{shared:?}"
            );
        }
    }

    fn take(&mut self, page: UserPage) -> Option<Frame> {
        match self.mapped.remove(&page.0) {
            Some(Mapped::Private(frame, _)) => Some(frame),
            Some(Mapped::Shared(..)) => panic!("{page:?} is shared, not to be taken"),
            None => None,
        }
    }

    fn protect(&mut self, pages: &[UserPage], prot: Prot) {
        for page in pages {
            match self.mapped.get_mut(&page.0) {
                Some(Mapped::Private(_, now)) => *now = prot,
                _ => panic!("{page:?} is not private"),
            }
        }
    }

    fn copy_page(&mut self, from: UserPage, to: &Frame) {
        let mut bytes = [0; 4096];
        self.read_user(from.address(), &mut bytes).expect("what is copied is mapped");
        **to.0.borrow_mut() = bytes;
    }

    fn read_user(&self, address: u64, to: &mut [u8]) -> Result<(), NotThere> {
        let within = (address % 4096) as usize;
        let range = within..within + to.len();
        match self.mapped.get(&(address / 4096)) {
            Some(Mapped::Private(frame, prot)) if *prot != Prot::None => {
                to.copy_from_slice(&frame.0.borrow()[range])
            }
            Some(Mapped::Shared(page, _)) => {
                let start = page.0 as usize * 4096;
                to.copy_from_slice(&self.volume[start..start + 4096][range]);
            }
            _ => return Err(NotThere { address }),
        }
        Ok(())
    }

    fn write_user(&mut self, address: u64, from: &[u8]) -> Result<(), NotThere> {
        let within = (address % 4096) as usize;
        match self.mapped.get_mut(&(address / 4096)) {
            Some(Mapped::Private(frame, Prot::ReadWrite | Prot::ReadWriteExec)) => {
                frame.0.borrow_mut()[within..within + from.len()].copy_from_slice(from);
                Ok(())
            }
            _ => Err(NotThere { address }),
        }
    }

    fn lend(&mut self, page: VolumePage, _wanted: u32) -> Result<Lent, VolumeError> {
        if self.held.contains(&page.0) {
            return Ok(Lent::Held);
        }
        if self.gone {
            return Err(VolumeError::Gone);
        }
        self.page(page)?;
        self.lends += 1;
        if self.window == 0 {
            return Ok(Lent::CopyOnly);
        }
        let pages = self.volume.len() as u64 / 4096;
        self.held.extend(page.0..(page.0 + self.window).min(pages));
        Ok(Lent::Granted)
    }

    fn copy_volume(&mut self, page: VolumePage, to: Frame) -> Result<Frame, (Option<Frame>, VolumeError)> {
        if self.gone && !self.held.contains(&page.0) {
            return Err((Some(to), VolumeError::Gone));
        }
        match self.page(page) {
            Ok(bytes) => {
                to.0.borrow_mut().copy_from_slice(bytes);
                Ok(to)
            }
            Err(error) => Err((Some(to), error)),
        }
    }

    fn read_volume(&mut self, page: VolumePage, offset: usize, to: &mut [u8]) -> Result<(), VolumeError> {
        let length = to.len();
        to.copy_from_slice(&self.page(page)?[offset..offset + length]);
        Ok(())
    }

    fn revoked(&mut self) -> Option<(VolumePage, u64)> {
        self.revocations.pop_front()
    }

    fn revoke_done(&mut self, page: VolumePage, count: u64) {
        let run = page.0..page.0 + count;
        for mapped in self.mapped.values() {
            assert!(!matches!(mapped, Mapped::Shared(volume, _) if run.contains(&volume.0)));
        }
        self.held.retain(|held| !run.contains(held));
        self.revoked.push((page, count));
    }

    fn asked_to_end(&mut self) -> bool {
        core::mem::take(&mut self.end_asked)
    }

    fn run(&mut self, registers: &mut Registers) -> Exit {
        let (exit, after) = self.script.pop_front().expect("the script goes on to the program's end");
        *registers = after;
        exit
    }

    fn processor_time(&self) -> ProcessorTime {
        ProcessorTime::default()
    }

    fn fpu(&self) -> [u8; 512] {
        self.fpu
    }

    fn set_fpu(&mut self, image: &[u8; 512]) {
        self.fpu = *image;
    }

    fn monotonic(&self) -> u64 {
        self.now
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

    fn seed(&mut self) -> ([u8; 32], bool) {
        ([7; 32], true)
    }

    fn hwcap(&self) -> u64 {
        0x0178_bfbf
    }

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
