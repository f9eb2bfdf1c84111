//! Freezing: the program's state of one instant goes to M1 as a snapshot, and the program goes on.
//!
//! In the order of what happens:
//! 1. M1 orders it ([`freeze_ordered`](crate::machine::Freezer::freeze_ordered)). Between two instructions of the program, or while a call waits, it *stands still*: what it has
//!    is written down ([`Manifest`]), its pages are noted and made read-only, and M1 is told that this is the instant.
//! 2. It goes on at once. What it writes to meanwhile moves away first (`vm/capture.rs`).
//! 3. Step by step, between the program's traps: M1 copies the pages, is told which pages of the snapshot before are kept, gets the
//!    manifest with the numbers that the pages have now, and the head page.
//! 4. `Commit`: only now is there a snapshot.
//!
//! Whatever goes wrong ends in `Abort`, a line on the console, and a program that has noticed nothing. [`thaw`] is the other direction.

mod files;
mod manifest;
mod moving;
#[cfg(test)]
mod tests;
mod thaw;

use alloc::vec::Vec;

use mm_proto::{AbortReason, Bitmap, CAPTURE_MAX, WINDOW_MAX};

use self::files::FrozenFiles;
pub use self::manifest::ThawError;
use self::manifest::{Head, Manifest, checksum};
pub use self::moving::Moving;
use crate::kernel::Kernel;
use crate::machine::{FreezeAnswer, FreezeStep, Machine, Source};
use crate::page::PAGE_SIZE;
use crate::vm::{Captured, FrozenMap, Presence, StoreId};

/// Pages of the manifest and the head that M1 is told of beforehand, beside one for so many pages of the program.
const EXTRA_PAGES: u64 = 16;
const PAGES_PER_PAGE: u64 = 256;

/// Where a wait has got to: what a snapshot says of the call that the program is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiting {
    /// When it ends (monotonic).
    pub(crate) deadline: Option<u64>,
}

enum Phase<F> {
    /// M1 copies pages.
    Pages,
    /// M1 is told what is kept: from this block on.
    Keep(usize),
    /// The manifest goes to M1: so many of its frames were sent.
    Manifest { bytes: u32, crc: u32, frames: Vec<F>, sent: usize, numbers: Vec<u32> },
    /// The head.
    Head(F),
    /// The snapshot is to become visible.
    Commit,
}

/// A freeze that is under way.
pub(crate) struct Freezing<F> {
    manifest: Manifest,
    /// Pages of files in memory that were mapped in the program: file, page, where.
    mapped: Vec<(StoreId, u64, u64)>,
    /// Pages of the snapshot before that belong to this one too, in blocks.
    kept: Vec<(u64, Bitmap)>,
    standstill: u64,
    pages: u64,
    phase: Phase<F>,
}

impl<M: Machine> Kernel<M> {
    /// Takes note of M1's order, and moves on with a freeze that is under way. Part of [`Kernel::serve`].
    pub(crate) fn freeze_turn(&mut self) {
        if self.memory.machine.freeze_ordered() {
            self.freeze_wanted = true;
        }
        // Every trap comes by here: where there is no freeze, not even the place for one is moved.
        if self.freezing.is_none() {
            return;
        }
        while let Some(mut freezing) = self.freezing.take() {
            match self.freeze_step(&mut freezing) {
                Ok(Progress::Waits) => {
                    self.freezing = Some(freezing);
                    return;
                }
                Ok(Progress::Went) => self.freezing = Some(freezing),
                Ok(Progress::Complete) => self.freeze_done(freezing),
                Err(reason) => self.freeze_failed(freezing.phase, reason),
            }
        }
    }

    /// The program stands still, between two instructions or in a wait: if M1 has ordered it, this is the snapshot's instant.
    pub(crate) fn freeze_now(&mut self, waiting: Option<Waiting>) {
        if !core::mem::take(&mut self.freeze_wanted) || self.freezing.is_some() {
            return;
        }
        let from = self.memory.machine.monotonic();
        match self.stand_still(waiting) {
            Ok(mut freezing) => {
                freezing.standstill = self.memory.machine.monotonic().saturating_sub(from);
                self.freezing = Some(freezing);
            }
            Err(reason) => self.freeze_failed(Phase::Pages, reason),
        }
    }

    /// Ends a freeze: the program has ended, or is about to be another.
    pub(crate) fn freeze_abandon(&mut self) {
        if core::mem::take(&mut self.freeze_wanted) {
            self.freeze_failed(Phase::Pages, Some(AbortReason::Ended));
        }
        if let Some(freezing) = self.freezing.take() {
            if !matches!(freezing.phase, Phase::Pages) {
                let _ = self.memory.machine.freeze_await();
            }
            self.freeze_failed(freezing.phase, Some(AbortReason::Ended));
        }
    }

    fn stand_still(&mut self, waiting: Option<Waiting>) -> Result<Freezing<M::Frame>, Option<AbortReason>> {
        if self.memory.store.has_secret() {
            return Err(Some(AbortReason::Secret));
        }
        let memory = |_| Some(AbortReason::Memory);
        // What clones find on their disks is what the program finds on its own now.
        self.memory.sync_data().map_err(|_| Some(AbortReason::Disk))?;
        let mut mapped = Vec::new();
        let store = self.memory.store.freeze(|file, page, at| {
            if let Some(at) = at {
                mapped.push((file, page, at.0));
            }
            Some(0)
        });
        let store = store.map_err(memory)?;
        mapped.sort_unstable();
        let (frozen, kept) = self.kept_pages().map_err(memory)?;
        let mut registers = self.registers;
        if waiting.is_some() {
            // The call is made again: `syscall` has two bytes, and rax still holds the call's number.
            registers.rip = registers.rip.wrapping_sub(2);
        }
        let machine = &self.memory.machine;
        let manifest = Manifest {
            registers,
            fpu: machine.fpu().to_vec(),
            vectors: machine.vectors().map(|halves| halves.to_vec()),
            monotonic: machine.monotonic(),
            realtime: machine.realtime(),
            used: machine.processor_time(),
            deadline: waiting.and_then(|waiting| waiting.deadline),
            process: self.process.freeze(),
            files: FrozenFiles::of(&self.files),
            names: self.names.clone(),
            tmp: self.vfs.tmp.clone(),
            store,
            vmas: self.memory.vmas.iter().copied().collect(),
            heap: self.memory.heap.clone(),
            frozen,
        };
        let pages = self.memory.begin_capture().map_err(memory)?;
        self.memory.machine.freeze_send(FreezeStep::Begin(pages + pages / PAGES_PER_PAGE + EXTRA_PAGES));
        match self.memory.machine.freeze_await() {
            FreezeAnswer::Done(_) => {}
            // M1 has given it up already.
            FreezeAnswer::NoRoom | FreezeAnswer::Lost => return Err(None),
            FreezeAnswer::Refused => return Err(Some(AbortReason::Refused)),
        }
        Ok(Freezing { manifest, mapped, kept, standstill: 0, pages, phase: Phase::Pages })
    }

    /// What of the snapshot that the program was thawed from is as it was: by address, and in blocks of the frozen part.
    fn kept_pages(&self) -> Result<(FrozenMap, Vec<(u64, Bitmap)>), crate::errno::Errno> {
        let mut frozen = FrozenMap::default();
        let mut blocks: Vec<(u64, Bitmap)> = Vec::new();
        let mut keep = |page: u64| {
            let first = page - page % u64::from(WINDOW_MAX);
            let place = match blocks.binary_search_by_key(&first, |(block, _)| *block) {
                Ok(place) => place,
                Err(place) => {
                    blocks.try_reserve(1)?;
                    blocks.insert(place, (first, Bitmap::EMPTY));
                    place
                }
            };
            blocks[place].1.set((page - first) as u32);
            Ok::<(), crate::errno::Errno>(())
        };
        for (page, shown) in self.memory.frozen.pages(0..u64::MAX) {
            let wiped = self.memory.vmas.find(page).is_none_or(|vma| vma.wiped);
            if self.memory.presence(page) != Presence::Private && !wiped {
                frozen.push(page, shown.0 as u32)?;
                keep(shown.0)?;
            }
        }
        for page in self.memory.store.frozen() {
            keep(page.into())?;
        }
        Ok((frozen, blocks))
    }

    fn freeze_step(&mut self, freezing: &mut Freezing<M::Frame>) -> Result<Progress, Option<AbortReason>> {
        if matches!(freezing.phase, Phase::Pages) {
            return match self.memory.capture_turn() {
                Captured::Waiting => Ok(Progress::Waits),
                Captured::Failed(reason) => Err(Some(reason)),
                Captured::All => {
                    self.send_next(freezing)?;
                    Ok(Progress::Went)
                }
            };
        }
        let Some(answer) = self.memory.machine.freeze_answer() else { return Ok(Progress::Waits) };
        let FreezeAnswer::Done(pages) = answer else {
            let given_up = matches!(answer, FreezeAnswer::NoRoom | FreezeAnswer::Lost);
            return Err((!given_up).then_some(AbortReason::Refused));
        };
        match &mut freezing.phase {
            Phase::Manifest { frames, sent, numbers, .. } => {
                let count = (frames.len() - *sent).min(CAPTURE_MAX);
                *sent += count;
                numbers.extend_from_slice(&pages[..count]);
            }
            Phase::Head(_) => {
                let Phase::Head(frame) = core::mem::replace(&mut freezing.phase, Phase::Commit) else {
                    return Ok(Progress::Complete);
                };
                self.memory.machine.release(frame);
                let step = FreezeStep::Commit(pages[0].into(), freezing.standstill);
                self.memory.machine.freeze_send(step);
                return Ok(Progress::Waits);
            }
            Phase::Commit => return Ok(Progress::Complete),
            Phase::Pages | Phase::Keep(_) => {}
        }
        self.send_next(freezing)?;
        Ok(Progress::Waits)
    }

    /// Sends what comes after what was answered.
    fn send_next(&mut self, freezing: &mut Freezing<M::Frame>) -> Result<(), Option<AbortReason>> {
        let block = match freezing.phase {
            Phase::Pages => Some(0),
            Phase::Keep(block) => Some(block),
            _ => None,
        };
        if let Some(block) = block {
            if let Some((page, bitmap)) = freezing.kept.get(block) {
                freezing.phase = Phase::Keep(block + 1);
                self.memory.machine.freeze_send(FreezeStep::Keep(*page, *bitmap));
                return Ok(());
            }
            freezing.phase = self.write_manifest(freezing)?;
        }
        let memory = Some(AbortReason::Memory);
        let Phase::Manifest { bytes, crc, frames, sent, numbers } = &mut freezing.phase else {
            return Ok(());
        };
        if *sent < frames.len() {
            let mut sources: Vec<Source<'_, M::Frame>> = Vec::new();
            sources.try_reserve_exact(CAPTURE_MAX).map_err(|_| memory)?;
            sources.extend(frames[*sent..].iter().take(CAPTURE_MAX).map(Source::Frame));
            self.memory.machine.freeze_send(FreezeStep::Capture(&sources));
            return Ok(());
        }
        let volume = self.memory.machine.volume_identity();
        let head = Head { bytes: *bytes, crc: *crc, volume, pages: core::mem::take(numbers) };
        let frame = self.memory.machine.allocate_unfilled().map_err(|_| memory)?;
        self.memory.machine.write_frame(&frame, 0, &head.encode());
        for frame in core::mem::take(frames) {
            self.memory.machine.release(frame);
        }
        self.memory.machine.freeze_send(FreezeStep::Capture(&[Source::Frame(&frame)]));
        freezing.phase = Phase::Head(frame);
        Ok(())
    }

    /// Puts the numbers that pages have now into the manifest, and the manifest into frames.
    fn write_manifest(
        &mut self,
        freezing: &mut Freezing<M::Frame>,
    ) -> Result<Phase<M::Frame>, Option<AbortReason>> {
        let memory = Some(AbortReason::Memory);
        let Some(capture) = &self.memory.capture else { return Err(Some(AbortReason::Unsupported)) };
        let manifest = &mut freezing.manifest;
        for (file, content) in (0..).map(StoreId).zip(&mut manifest.store) {
            for (page, frozen) in content.iter_mut().flat_map(|content| &mut content.pages) {
                if *frozen != 0 {
                    continue;
                }
                let at =
                    freezing.mapped.binary_search_by_key(&(file, *page), |(file, page, _)| (*file, *page));
                let known = match at {
                    Ok(at) => capture.page(freezing.mapped[at].2),
                    Err(_) => capture.stored(file, *page),
                };
                *frozen = known.ok_or(Some(AbortReason::Unsupported))?;
            }
        }
        let mut shown: Vec<u64> = Vec::new();
        shown.try_reserve_exact(freezing.mapped.len()).map_err(|_| memory)?;
        shown.extend(freezing.mapped.iter().map(|(.., at)| *at));
        shown.sort_unstable();
        let own = capture.pages().filter(|(page, _)| shown.binary_search(page).is_err());
        let kept = core::mem::take(&mut manifest.frozen);
        manifest.frozen = kept.merged(own).map_err(|_| memory)?;
        let encoded = manifest.encode().ok_or(memory)?;
        let mut frames = Vec::new();
        let count = encoded.len().div_ceil(PAGE_SIZE as usize);
        let mut numbers = Vec::new();
        frames.try_reserve_exact(count).map_err(|_| memory)?;
        numbers.try_reserve_exact(count).map_err(|_| memory)?;
        for part in encoded.chunks(PAGE_SIZE as usize) {
            match self.memory.machine.allocate() {
                Ok(frame) => {
                    self.memory.machine.write_frame(&frame, 0, part);
                    frames.push(frame);
                }
                Err(_) => {
                    frames.into_iter().for_each(|frame| self.memory.machine.release(frame));
                    return Err(memory);
                }
            }
        }
        let (bytes, crc) = (encoded.len() as u32, checksum(&encoded));
        Ok(Phase::Manifest { bytes, crc, frames, sent: 0, numbers })
    }

    fn freeze_done(&mut self, freezing: Freezing<M::Frame>) {
        self.memory.drop_capture();
        let Freezing { pages, standstill, .. } = freezing;
        let kept: u32 = freezing.kept.iter().map(|(_, bitmap)| bitmap.count()).sum();
        let preserved = self.memory.counts.preserved;
        self.say(format_args!(
            "frozen: pages={pages} kept={kept} preserved={preserved} standstill={} us",
            standstill / 1000
        ));
    }

    /// Gives a freeze up. `None`: M1 knows.
    fn freeze_failed(&mut self, phase: Phase<M::Frame>, reason: Option<AbortReason>) {
        self.memory.drop_capture();
        let frames = match phase {
            Phase::Manifest { frames, .. } => frames,
            Phase::Head(frame) => alloc::vec![frame],
            Phase::Pages | Phase::Keep(_) | Phase::Commit => Vec::new(),
        };
        frames.into_iter().for_each(|frame| self.memory.machine.release(frame));
        if let Some(reason) = reason {
            self.memory.machine.freeze_send(FreezeStep::Abort(reason));
            let _ = self.memory.machine.freeze_await();
        }
        match reason {
            Some(reason) => self.say(format_args!("not frozen: {reason:?}")),
            None => self.say(format_args!("not frozen: M1 has no room for it, or is gone")),
        }
    }
}

/// What came of looking at a freeze.
enum Progress {
    /// M1 has to answer first.
    Waits,
    Went,
    Complete,
}
