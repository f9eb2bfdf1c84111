//! Runs of blocks that clients write.

use mm_store::{IoFailed, OverlayId};
use xen_drivers::Frame;
use xen_drivers::blkfront::{Completion, MAX_PAGES, Operation, SubmitError};

use super::{Asker, Overlays, Run, WAITING, io};
use crate::effects::Hands;

/// Something of a job's has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Finished {
    pub(crate) asker: Asker,
    /// Blocks written; 0: a flush.
    pub(crate) blocks: usize,
    pub(crate) good: bool,
}

impl Overlays {
    /// Whether a request's runs can be taken: at most as many as it has blocks.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting_writes.len() + xen_drivers::blkback::MAX_SEGMENTS < WAITING
    }

    /// Takes a run; [`Finished`] follows.
    ///
    /// # Errors
    /// The run: ask [`Self::has_room`] before.
    #[expect(
        clippy::result_large_err,
        reason = "the caller gives back what it has begun, which is all in it"
    )]
    pub(crate) fn write(&mut self, run: Run) -> Result<(), Run> {
        self.waiting_writes.push_back(run)
    }

    /// Asks that everything answered so far be durable; [`Finished`] follows.
    ///
    /// # Errors
    /// Too many flushes wait.
    pub(crate) fn flush(&mut self, asker: Asker) -> Result<(), mm_store::FlushRefused> {
        let (token, writes) = (io::token(asker), self.store.writes());
        self.store.flush(token)?;
        // One that is not noted is durable with the next.
        let _ = self.flushing.push_back((token, writes));
        Ok(())
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.waiting_writes.iter().chain(self.writes.iter().flatten())
    }

    /// Whether this block of the overlay is on its way.
    pub(crate) fn is_writing(&self, overlay: OverlayId, block: u32) -> bool {
        let this = |place: &mm_store::Place| place.overlay == overlay && place.block == block;
        self.runs().any(|run| run.blocks.iter().any(|block| this(&block.place)))
    }

    /// The overlay's client has gone. Another may have it when nothing of the first is on its way any more.
    pub(crate) fn close(&mut self, overlay: OverlayId) {
        if !self.is_used(overlay) || self.closing.push(overlay).is_err() {
            self.store.close(overlay);
        }
        // The next turn makes durable what it wrote.
        self.flushed_ns = 0;
    }

    fn is_used(&self, overlay: OverlayId) -> bool {
        self.runs().any(|run| run.blocks.iter().any(|block| block.place.overlay == overlay))
    }

    pub(super) fn close_late(&mut self) {
        for index in (0..self.closing.len()).rev() {
            if !self.is_used(self.closing[index]) {
                let overlay = self.closing.swap_remove(index);
                self.store.close(overlay);
            }
        }
    }

    pub(super) fn send_writes(&mut self, hands: &mut Hands<'_>) {
        while let Some(run) = self.waiting_writes.front() {
            let Some(place) = self.writes.iter().position(Option::is_none) else { break };
            let mut frames: heapless::Vec<Frame, MAX_PAGES> = heapless::Vec::new();
            for block in &run.blocks {
                if let Some(own) = hands.lending.driver_frame(block.frame) {
                    // As long as the run.
                    let _ = frames.push(own);
                }
            }
            let first = run.blocks.first().map_or(0, |block| u64::from(block.place.disk.0));
            match self.front.submit(Operation::Write, first * 8, &frames, io::WRITE | place as u64) {
                Ok(()) => self.writes[place] = self.waiting_writes.pop_front(),
                Err(SubmitError::Full) => break,
                Err(error) => {
                    log::error!("store: a write is refused: {error:?}");
                    if let Some(run) = self.waiting_writes.pop_front() {
                        self.run_ended(run, Err(IoFailed), hands);
                    }
                }
            }
        }
    }

    pub(super) fn write_completed(&mut self, place: usize, completion: Completion, hands: &mut Hands<'_>) {
        let Some(run) = self.writes.get_mut(place).and_then(Option::take) else { return };
        if let Err(failure) = completion.outcome {
            log::error!("store: a write failed: {failure:?}");
        }
        self.run_ended(run, completion.outcome.map_err(|_| IoFailed), hands);
    }

    /// A run that did not reach the disk leaves the blocks as they were, and its client hears of it.
    fn run_ended(&mut self, run: Run, outcome: Result<(), IoFailed>, hands: &mut Hands<'_>) {
        let Run { asker, blocks } = run;
        let (mut good, count) = (true, blocks.len());
        for block in blocks {
            let frozen = self.frozen_page(&block.place);
            let ended = self.store.written(block.place, block.crc, outcome);
            good &= ended.is_ok();
            if let Some(page) = frozen {
                // A frozen page is in memory until it is here; where it could not be written it stays there.
                if ended.is_ok() {
                    hands.engine.page_stored(page);
                }
                continue;
            }
            let kept = match ended {
                Ok(()) => hands.engine.filled(block.frame),
                Err(IoFailed) => hands.engine.unfill(block.frame),
            };
            if let Err(bug) = kept {
                log::error!("bug: {bug:?}");
            }
        }
        self.finish(Finished { asker, blocks: count, good });
    }
}
