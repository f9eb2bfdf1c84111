//! Block reads: what is missing, what to read ahead, and what came of it.

use mm_proto::Status;

use crate::effect::{Effect, Effects, Grants, READ_RUN, Read};
use crate::engine::Engine;
use crate::frozen::FIRST;
use crate::ids::{FrameId, VolumeId};
use crate::rings::{Ask, RingEntry, SLOTS};
use crate::serve::{Bug, STEP};
use crate::stats::FaultResult;
use crate::store::{FORGOTTEN, State, WANTED};
use crate::table::NIL;
use crate::volumes::Sharing;
use crate::windows::GRANULE_ORDER;

/// Reads that one step begins, at most: a reply and a revocation are in [`STEP`] too.
const RUNS: u32 = 8;
const _: () = assert!(RUNS as usize + 4 <= STEP);

impl Engine<'_> {
    /// The page of a request is not in memory: reads it, with what may be wanted next.
    pub(crate) fn fetch<G: Grants>(&mut self, request: u32, turn: bool, grants: &mut G, out: &mut Effects) {
        let (page, ask) = (self.requests.at(request).page, self.requests.at(request).ask);
        let row = *self.rings.at(request / SLOTS);
        let number = self.volume_of(&row, page);
        let Some(volume) = self.volumes.get_mut(usize::from(number)) else {
            return self.starve(request);
        };
        // What is only in memory is there, or it is no page: nothing else is to be read.
        if volume.sharing == Sharing::Frozen && !self.frozen.is_stored(page) {
            self.bugs += 1;
            return self.refuse(request, Status::ReadError, FaultResult::ReadError, out);
        }
        let pages = volume.pages;
        // Who came earlier goes first.
        let early = !turn && !volume.parked.is_empty();
        if early || !volume.has_read(self.limits.reads) {
            self.counters.starved += 1;
            return volume.parked.push(&mut self.requests, request);
        }
        if !turn && !self.starved.is_empty() {
            return self.starve(request);
        }
        let Some(frame) = self.take(grants) else {
            return self.starve(request);
        };
        self.store.begin_read(frame, number, page);
        self.wait(request, frame);
        // Ahead, but not out of the window that the page gets.
        let order = match ask {
            Ask::Grant { order } => match self.window(request / SLOTS, page) {
                Some(window) => self.windows.table.at(window).order,
                None => order,
            },
            Ask::Copy { .. } | Ask::Capture { .. } => row.growth.min(row.max_order.max(GRANULE_ORDER)),
        };
        let end = (page | ((1 << order) - 1)).saturating_add(1);
        let ahead = (1u32 << row.growth.min(order)).max(row.wanted).min(self.limits.read_ahead);
        let end = end.min(pages).min(page.saturating_add(ahead)).max(page.saturating_add(1));
        self.read_span(number, row.snapshot, page, end, Some(frame), out);
    }

    /// The volume that a ring's page is of.
    pub(crate) fn volume_of(&self, row: &RingEntry, page: u32) -> u16 {
        if page >= FIRST { self.frozen_volume.unwrap_or(row.volume) } else { row.volume }
    }

    /// Begins to read what of `page..end` is missing, without waiting for it.
    pub(crate) fn read_ahead(&mut self, ring: u32, page: u32, end: u32, out: &mut Effects) {
        let row = *self.rings.at(ring);
        let number = self.volume_of(&row, page);
        let Some(volume) = self.volume(number) else { return };
        let ahead = (1u32 << row.growth).min(self.limits.read_ahead);
        let end = end.min(volume.pages).min(page.saturating_add(ahead));
        self.read_span(number, row.snapshot, page, end, None, out);
    }

    /// Reads what of `page..end` is missing. The frame of the first page may be there already; the others come from what
    /// is to spare. Of frozen pages, it reads those that are in the snapshot and on a disk.
    pub(crate) fn read_span(
        &mut self,
        volume: u16,
        snapshot: u8,
        page: u32,
        end: u32,
        mut first: Option<u32>,
        out: &mut Effects,
    ) {
        let mut runs = 0;
        let mut run = Read { volume: VolumeId(volume), page: u64::from(page), frames: heapless::Vec::new() };
        for page in page..end {
            let frame = match first.take() {
                Some(frame) => Some(frame),
                None if self.store.find(volume, page).is_some() => None,
                None if Some(volume) == self.frozen_volume
                    && !(self.frozen.is_stored(page) && self.frozen.is_in(page, snapshot)) =>
                {
                    None
                }
                None => match self.spare(volume, runs) {
                    Some(frame) => {
                        self.store.begin_read(frame, volume, page);
                        self.counters.pages_ahead += 1;
                        Some(frame)
                    }
                    None => break,
                },
            };
            // Frozen pages that follow each other need not do so on the store's disk.
            let scattered = Some(volume) == self.frozen_volume;
            let most = if scattered { 1 } else { (self.limits.read_run as usize).min(READ_RUN) };
            let full = run.frames.len() >= most;
            if (frame.is_none() || full) && !run.frames.is_empty() {
                runs += 1;
                self.begin(core::mem::replace(&mut run, empty(volume, page)), out);
            }
            if run.frames.is_empty() {
                run.page = u64::from(page);
            }
            if let Some(frame) = frame {
                let _ = run.frames.push(FrameId(frame));
            }
        }
        if !run.frames.is_empty() {
            self.begin(run, out);
        }
    }

    fn begin(&mut self, run: Read, out: &mut Effects) {
        self.counters.reads += 1;
        self.counters.pages_read += run.frames.len() as u64;
        if let Some(volume) = self.volumes.get_mut(usize::from(run.volume.0)) {
            volume.reads += 1;
        }
        out.push(Effect::Read(run));
    }

    /// A frame for something that nobody has asked for: only while there are plenty, and few reads.
    fn spare(&mut self, volume: u16, runs: u32) -> Option<u32> {
        let busy =
            self.volumes.get(usize::from(volume)).is_none_or(|volume| volume.reads + 1 >= self.limits.reads);
        if busy || runs + 1 >= RUNS || !self.starved.is_empty() || self.store.at_hand() <= self.limits.reserve
        {
            return None;
        }
        self.taken()
    }

    /// A frame for what somebody waits for.
    pub(crate) fn take<G: Grants>(&mut self, grants: &mut G) -> Option<u32> {
        if self.store.at_hand() == 0 {
            self.reclaim(grants);
        }
        if self.store.at_hand() > 0 { self.taken() } else { None }
    }

    fn taken(&mut self) -> Option<u32> {
        let (frame, evicted) = self.store.take()?;
        self.counters.evictions += u64::from(evicted);
        Some(frame)
    }

    /// A read is over, well or not. Whoever waits for its pages goes on in [`Self::advance`]. Where a run of several pages
    /// failed, those that somebody waits for are read again one by one, so that a bad page is only its own.
    ///
    /// # Errors
    /// [`Bug`] where this was not being read.
    pub fn read_done(&mut self, read: &Read, outcome: Result<(), ReadFailed>) -> Result<(), Bug> {
        self.end(read)?;
        self.counters.read_errors += u64::from(outcome.is_err());
        for frame in &read.frames {
            let row = self.store.frames.at(frame.0);
            let waited_for = row.holds > 0 || row.flags & (WANTED | FORGOTTEN) == WANTED;
            let last = match outcome {
                Ok(()) => self.store.end_read(frame.0),
                Err(ReadFailed) if waited_for && read.frames.len() > 1 => {
                    self.store.frames.at_mut(frame.0).second = self.rereads;
                    self.rereads = frame.0;
                    continue;
                }
                Err(ReadFailed) => self.fail(frame.0),
            };
            self.ready.append(&mut self.requests, last);
        }
        Ok(())
    }

    /// A read will never be over, because its disk's backend went away and may still write to its frames: whoever waits hears
    /// of an error, and the frames are never used again. They count as stale-pinned.
    ///
    /// # Errors
    /// [`Bug`] where this was not being read.
    pub fn read_lost(&mut self, read: &Read) -> Result<(), Bug> {
        self.end(read)?;
        self.counters.read_errors += 1;
        for frame in &read.frames {
            self.store.lose(frame.0);
            let last = self.fail(frame.0);
            self.ready.append(&mut self.requests, last);
        }
        Ok(())
    }

    /// A frame could not be read. Gives the last waiting request.
    fn fail(&mut self, frame: u32) -> u32 {
        let row = self.store.frames.at(frame);
        if row.flags & (WANTED | FORGOTTEN) == WANTED {
            self.failures.note(row.volume, row.page);
        }
        self.store.fail_read(frame)
    }

    /// A read is no longer under way.
    fn end(&mut self, read: &Read) -> Result<(), Bug> {
        let volume = read.volume.0;
        for (page, frame) in (read.page..).zip(&read.frames) {
            let row = self.store.frames.at(frame.0);
            let matches = row.state == State::Reading && row.volume == volume && u64::from(row.page) == page;
            if !matches {
                self.bugs += 1;
                return Err(Bug("the end of a read of frames that are not being read"));
            }
        }
        if let Some(volume) = self.volumes.get_mut(usize::from(volume)) {
            volume.reads = volume.reads.saturating_sub(1);
        }
        self.stalled = false;
        Ok(())
    }

    /// Reads a page of a failed run again, alone. False where there is none. The limit of reads is not asked: a read
    /// of the run has just ended.
    pub(crate) fn read_again(&mut self, out: &mut Effects) -> bool {
        let frame = self.rereads;
        if frame == NIL {
            return false;
        }
        let row = *self.store.frames.at(frame);
        if self.volumes.get(usize::from(row.volume)).is_some_and(|volume| volume.reads >= self.limits.reads) {
            return false;
        }
        self.rereads = row.second;
        self.store.frames.at_mut(frame).second = NIL;
        let mut run = empty(row.volume, row.page);
        let _ = run.frames.push(FrameId(frame));
        self.begin(run, out);
        true
    }
}

/// The volume's disk said no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadFailed;

fn empty(volume: u16, page: u32) -> Read {
    Read { volume: VolumeId(volume), page: u64::from(page), frames: heapless::Vec::new() }
}
