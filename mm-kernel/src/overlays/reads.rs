//! Reads of the store's blocks for the cache.

use mm_engine::{Read, ReadFailed};
use mm_store::{BLOCK, DiskBlock, Found, crc32c};
use xen_drivers::Frame;
use xen_drivers::blkfront::{Completion, MAX_PAGES, Operation, SubmitError};

use super::{Overlays, io};
use crate::effects::Hands;

impl Overlays {
    /// Takes a read of the engine's.
    ///
    /// # Errors
    /// The read, if there is no room even to wait: a bug of ours.
    pub(crate) fn read(&mut self, read: Read) -> Result<(), Read> {
        self.waiting_reads.push_back(read)
    }

    pub(super) fn send_reads(&mut self, hands: &mut Hands<'_>) {
        while let Some(read) = self.waiting_reads.front() {
            let Some(place) = self.reads.iter().position(Option::is_none) else { break };
            let mut frames: heapless::Vec<Frame, MAX_PAGES> = heapless::Vec::new();
            for frame in &read.frames {
                if let Some(own) = hands.lending.driver_frame(*frame) {
                    // As long as the read's own list.
                    let _ = frames.push(own);
                }
            }
            let Some(first) = self.first_block(read) else {
                log::error!("store: frozen page {:#x} is not on its disk", read.page);
                if let Some(read) = self.waiting_reads.pop_front() {
                    end(hands, &read, Err(ReadFailed));
                }
                continue;
            };
            let sector = u64::from(first) * 8;
            match self.front.submit(Operation::Read, sector, &frames, io::READ | place as u64) {
                Ok(()) => self.reads[place] = self.waiting_reads.pop_front().map(|read| (read, first)),
                Err(SubmitError::Full) => break,
                // A store disk that has gone does not come back to this M1: what was on its way is not known.
                Err(_) => {
                    if let Some(read) = self.waiting_reads.pop_front() {
                        end(hands, &read, Err(ReadFailed));
                    }
                }
            }
        }
    }

    pub(super) fn read_completed(&mut self, place: usize, completion: Completion, hands: &mut Hands<'_>) {
        let Some((read, first)) = self.reads.get_mut(place).and_then(Option::take) else { return };
        if completion.quarantined {
            if let Err(bug) = hands.engine.read_lost(&read) {
                log::error!("bug: {bug:?}");
            }
            return;
        }
        let outcome = match completion.outcome {
            Ok(()) if self.is_what_was_written(&read, first, hands) => Ok(()),
            Ok(()) => Err(ReadFailed),
            Err(failure) => {
                log::warn!("a read of the store failed: {failure:?}");
                Err(ReadFailed)
            }
        };
        end(hands, &read, outcome);
    }

    /// Looks at checksums. A block that no mapping leads to any more is nobody's, whatever it holds.
    fn is_what_was_written(&mut self, read: &Read, first: u32, hands: &Hands<'_>) -> bool {
        let mut good = true;
        for (disk, frame) in (first..).map(DiskBlock).zip(&read.frames) {
            let Some(live) = self.store.mapped_at(disk) else { continue };
            let Some((words, _)) = hands.lending.frame(*frame) else { continue };
            let mut bytes = [0; BLOCK];
            let _ = words.read(0, &mut bytes);
            let found = Found::At { disk, crc: live.crc };
            if self.store.verdict(live.overlay, live.block, found, crc32c(&bytes))
                == mm_store::Verdict::Rotten
            {
                let name = self.store.overlays().find(|overlay| overlay.id == live.overlay);
                let name = name.map_or("?", |overlay| overlay.name);
                log::error!(
                    "store: overlay {name} block {} (block {} of the disk) is rotten",
                    live.block,
                    disk.0
                );
                good = false;
            }
        }
        good
    }
}

fn end(hands: &mut Hands<'_>, read: &Read, outcome: Result<(), ReadFailed>) {
    if let Err(bug) = hands.engine.read_done(read, outcome) {
        log::error!("bug: {bug:?}");
    }
}
