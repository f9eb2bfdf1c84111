//! The store's own writes and flushes.

use mm_store::{Command, IoFailed};
use xen_drivers::blkfront::{Completion, Failure, Operation, SubmitError};

use super::{Meta, Overlays, io};

impl Overlays {
    /// Does what the store asks for, as far as there is room.
    pub(super) fn work(&mut self) {
        self.send_meta();
        // Each step fills a place; there are few.
        while let Some(place) = self.meta.iter().position(Option::is_none) {
            let Some(command) = self.store.poll(self.page) else { break };
            let meta = match command {
                Command::Write { ticket, block } => {
                    let _ = self.meta_frames[place].words.write(0, self.page);
                    Meta { ticket, block: Some(block.0), sent: false }
                }
                Command::Flush { ticket } => Meta { ticket, block: None, sent: false },
            };
            self.meta[place] = Some(meta);
            self.send_meta();
        }
    }

    fn send_meta(&mut self) {
        for place in 0..self.meta.len() {
            let Some(meta) = self.meta[place].as_mut().filter(|meta| !meta.sent) else { continue };
            let token = io::META | place as u64;
            let frame = [self.meta_frames[place]];
            let submitted = match meta.block {
                Some(block) => self.front.submit(Operation::Write, u64::from(block) * 8, &frame, token),
                // A backend without flushes writes through.
                None if !self.front.geometry().flush => {
                    let ticket = meta.ticket;
                    self.meta[place] = None;
                    self.store.completed(ticket, Ok(()));
                    continue;
                }
                None => self.front.submit(Operation::Flush, 0, &[], token),
            };
            match submitted {
                Ok(()) => meta.sent = true,
                Err(SubmitError::Full) => {}
                Err(error) => {
                    log::error!("store: its disk is of no use any more: {error:?}");
                    let ticket = meta.ticket;
                    self.meta[place] = None;
                    self.store.completed(ticket, Err(IoFailed));
                }
            }
        }
    }

    pub(super) fn meta_completed(&mut self, place: usize, completion: Completion) {
        let Some(meta) = self.meta.get_mut(place).and_then(Option::take) else { return };
        let outcome = match (completion.outcome, meta.block) {
            // It said that it knows flushes, and does not: as if it had not said so.
            (Err(Failure::Unsupported), None) | (Ok(()), _) => Ok(()),
            (Err(failure), _) => {
                log::error!("store: its disk failed: {failure:?}; nothing more is written");
                Err(IoFailed)
            }
        };
        self.store.completed(meta.ticket, outcome);
    }
}
