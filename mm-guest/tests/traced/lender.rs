//! The M1 that is not there: pages of the volume, and snapshots.

use std::os::unix::fs::FileExt;

use mm_guest::{Frames, FreezeAnswer, FreezeStep, Freezer, Lender, Lent, Source, VolumeError, VolumePage};
use mm_proto::{FROZEN_FIRST, SnapshotInfo};

use super::{Frame, Mapped, Traced, read_only};

impl Lender for Traced {
    fn volume_identity(&self) -> mm_proto::VolumeIdentity {
        [1; 32]
    }

    fn lend(&mut self, page: VolumePage, _wanted: u32) -> Result<Lent, VolumeError> {
        self.page_of(page)?;
        if self.copy_only {
            return Ok(Lent::CopyOnly);
        }
        if !self.held.insert(page.0) {
            return Ok(Lent::Held);
        }
        self.requests += 1;
        let frozen = FROZEN_FIRST + self.frozen.part().pages.len() as u64;
        let pages = if page.0 >= FROZEN_FIRST { frozen } else { self.pages };
        let run = page.0..(page.0 + self.window).min(pages);
        self.held.extend(run.filter(|page| !self.unreadable.contains(page)));
        Ok(Lent::Granted)
    }

    fn copy_volume(&mut self, page: VolumePage, to: Frame) -> Result<Frame, (Option<Frame>, VolumeError)> {
        match self.page_of(page) {
            Ok(bytes) => {
                self.write_frame(&to, 0, &bytes);
                Ok(to)
            }
            Err(error) => Err((Some(to), error)),
        }
    }

    fn read_volume(&mut self, page: VolumePage, offset: usize, to: &mut [u8]) -> Result<(), VolumeError> {
        let bytes = self.page_of(page)?;
        to.copy_from_slice(&bytes[offset..offset + to.len()]);
        Ok(())
    }

    fn revoked(&mut self) -> Option<(VolumePage, u64)> {
        if self.revoke_every == 0 || !self.stops.is_multiple_of(self.revoke_every) {
            return None;
        }
        self.stops += 1;
        // Some page that is held, and its window.
        let held = self.held.iter().nth((self.stops * 7919) as usize % self.held.len().max(1))?;
        Some((VolumePage(held & !15), 16))
    }

    fn revoke_done(&mut self, page: VolumePage, count: u64) {
        let run = page.0..page.0 + count;
        for mapped in self.mapped.values() {
            assert!(!matches!(mapped, Mapped::Shared(volume) if run.contains(&volume.0)), "still mapped");
        }
        self.held.retain(|held| !run.contains(held));
        self.revocations += 1;
    }
}

impl Freezer for Traced {
    fn snapshot(&self) -> Option<SnapshotInfo> {
        self.attached
    }

    fn freeze_ordered(&mut self) -> bool {
        let mut part = self.frozen.part();
        let due = part.freeze_at.is_some_and(|at| self.stops >= at);
        if due {
            part.freeze_at = None;
        }
        due
    }

    fn freeze_send(&mut self, step: FreezeStep<'_, Frame>) {
        let mut part = self.frozen.part();
        match step {
            FreezeStep::Capture(sources) => {
                let number = |source: &Source<'_, Frame>| match source {
                    Source::Frame(frame) => frame.0,
                    Source::Mapped(page) => match self.mapped.get(&page.0) {
                        Some(Mapped::Private(number, prot)) => {
                            assert!(*prot == read_only(*prot), "{page:?} may change");
                            *number
                        }
                        _ => panic!("{page:?} is not there to be captured"),
                    },
                };
                let read = |number: u64| {
                    let mut bytes = [0; 4096];
                    self.memory.read_exact_at(&mut bytes, number * 4096).unwrap();
                    bytes
                };
                let contents: Vec<_> = sources.iter().map(|source| read(number(source))).collect();
                part.captured(&contents);
                return;
            }
            FreezeStep::Begin(_) => {}
            FreezeStep::Keep(_, bitmap) => part.kept += u64::from(bitmap.count()),
            FreezeStep::Commit(head, _) => part.heads.push(head as u32),
            FreezeStep::Abort(_) => part.aborted += 1,
        }
        part.answered(FreezeAnswer::Done([0; 16]));
    }

    fn freeze_answer(&mut self) -> Option<FreezeAnswer> {
        self.frozen.part().answer()
    }

    fn freeze_await(&mut self) -> FreezeAnswer {
        self.frozen.part().answer_now()
    }

    fn tell_thawed(&mut self) {
        self.frozen.part().thawed += 1;
    }

    fn tell_hot(&mut self, page: u64, bitmap: mm_proto::Bitmap) {
        self.frozen.part().hot.add(page as u32, &bitmap);
    }
}
