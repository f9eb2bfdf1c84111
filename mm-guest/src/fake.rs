//! A machine in memory for tests: a table of pages, a volume of bytes, a clock that moves when somebody waits. It keeps
//! the rules that the real one has (only absent pages are filled, only held references mapped) and panics where the
//! kernel breaks one.

mod frozen;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use mm_proto::SnapshotInfo;

use crate::machine::{
    DataDisk, DiskFailed, Exit, FrameCount, FreezeAnswer, FreezeStep, Lent, Machine, NotThere, OutOfFrames,
    ProcessorTime, Prot, Registers, SharedMap, SharedPage, Source, VolumeError,
};
use crate::page::{UserPage, VolumePage};
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
                to.copy_from_slice(&self.page(*page).expect("what is mapped is there")[range]);
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
        let frozen = FIRST + self.frozen.0.borrow().pages.len() as u64;
        let pages = if page.0 >= FIRST { frozen } else { self.volume.len() as u64 / 4096 };
        self.held.extend(page.0..(page.0 + self.window).min(pages));
        Ok(Lent::Granted)
    }

    fn copy_volume(&mut self, page: VolumePage, to: Frame) -> Result<Frame, (Option<Frame>, VolumeError)> {
        if self.gone && !self.held.contains(&page.0) {
            return Err((Some(to), VolumeError::Gone));
        }
        match self.page(page) {
            Ok(bytes) => {
                to.0.borrow_mut().copy_from_slice(&bytes);
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

    fn volume_identity(&self) -> mm_proto::VolumeIdentity {
        [9; 32]
    }

    fn snapshot(&self) -> Option<SnapshotInfo> {
        self.frozen.0.borrow().snapshot
    }

    fn freeze_ordered(&mut self) -> bool {
        core::mem::take(&mut self.frozen.0.borrow_mut().ordered)
    }

    fn freeze_send(&mut self, step: FreezeStep<'_, Frame>) {
        let content = |source: &Source<'_, Frame>| match source {
            Source::Frame(frame) => **frame.0.borrow(),
            Source::Mapped(page) => match self.mapped.get(&page.0) {
                Some(Mapped::Private(frame, prot)) => {
                    assert_eq!(*prot, read_only(*prot), "{page:?} may change");
                    **frame.0.borrow()
                }
                _ => panic!("{page:?} is not there to be captured"),
            },
        };
        let contents = match step {
            FreezeStep::Capture(sources) => sources.iter().map(content).collect(),
            _ => Vec::new(),
        };
        self.frozen.0.borrow_mut().take(&step, contents);
    }

    fn freeze_answer(&mut self) -> Option<FreezeAnswer> {
        self.frozen.0.borrow_mut().take_answer()
    }

    fn freeze_await(&mut self) -> FreezeAnswer {
        self.frozen.0.borrow_mut().answer.take().expect("something was sent")
    }

    fn write_protect(&mut self, pages: &mut dyn Iterator<Item = UserPage>) {
        for page in pages {
            match self.mapped.get_mut(&page.0) {
                Some(Mapped::Private(_, prot)) => *prot = read_only(*prot),
                _ => panic!("{page:?} is not private"),
            }
        }
    }

    fn map_ahead(&mut self, maps: &[SharedMap]) -> u64 {
        let mut done = 0;
        for (index, map) in maps.iter().enumerate() {
            if self.held.contains(&map.volume.0) {
                let before = self.mapped.insert(map.page.0, Mapped::Shared(map.volume, map.exec));
                assert!(before.is_none(), "{:?} is filled twice", map.page);
                done |= 1 << index;
            }
        }
        done
    }

    fn touched(&self, _page: UserPage) -> bool {
        false
    }

    fn tell_thawed(&mut self) {
        self.frozen.0.borrow_mut().thawed += 1;
    }

    fn tell_hot(&mut self, page: u64, bitmap: mm_proto::Bitmap) {
        self.frozen.0.borrow_mut().hot.add(page as u32, &bitmap);
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

    fn vectors(&self) -> Option<[u8; 256]> {
        self.vectors
    }

    fn set_vectors(&mut self, halves: &[u8; 256]) -> bool {
        self.vectors.replace(*halves).is_some()
    }

    fn set_processor_time(&mut self, _used: ProcessorTime) {}

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

/// The same without writing.
fn read_only(prot: Prot) -> Prot {
    match prot {
        Prot::ReadWrite => Prot::Read,
        Prot::ReadWriteExec => Prot::ReadExec,
        other => other,
    }
}
