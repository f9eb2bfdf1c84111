//! The M1 that is not there: pages of the volume, and snapshots.

use mm_proto::SnapshotInfo;

use super::frozen::FIRST;
use super::{Fake, Frame, Mapped, read_only};
use crate::machine::{FreezeAnswer, FreezeStep, Freezer, Lender, Lent, Source, VolumeError};
use crate::page::VolumePage;

impl Lender for Fake {
    fn volume_identity(&self) -> mm_proto::VolumeIdentity {
        [9; 32]
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
}

impl Freezer for Fake {
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

    fn tell_thawed(&mut self) {
        self.frozen.0.borrow_mut().thawed += 1;
    }

    fn tell_hot(&mut self, page: u64, bitmap: mm_proto::Bitmap) {
        self.frozen.0.borrow_mut().hot.add(page as u32, &bitmap);
    }
}
