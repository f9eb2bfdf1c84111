//! M1: pages of the volume through the link.

use mm_client::OwnFigures;
use mm_guest::{Lender, Lent, VolumeError, VolumePage};
use mm_proto::VolumeIdentity;
use xen_rt::user::Frame;

use super::Xen;

impl Lender for Xen {
    fn volume_identity(&self) -> VolumeIdentity {
        self.link.identity
    }

    fn lend(&mut self, page: VolumePage, wanted: u32) -> Result<Lent, VolumeError> {
        let lent = self.link.lend(page, wanted);
        if let Some((page, pushed, timing, now)) = self.link.trip.take() {
            self.trace.answered(page, self.clock.ns_at(self.trapped), pushed, timing, now);
        }
        lent
    }

    fn copy_volume(&mut self, page: VolumePage, to: Frame) -> Result<Frame, (Option<Frame>, VolumeError)> {
        match self.link.copy(page, to.words(), to.mfn()) {
            Ok(()) => Ok(to),
            Err((error, false)) => Err((Some(to), error)),
            Err((error, true)) => {
                // It stays out of the pool for good.
                log::error!("M1 keeps a frame of ours: {to:?}");
                Err((None, error))
            }
        }
    }

    fn read_volume(&mut self, page: VolumePage, offset: usize, to: &mut [u8]) -> Result<(), VolumeError> {
        self.link.read(page, offset, to)
    }

    fn revoked(&mut self) -> Option<(VolumePage, u64)> {
        if let Some(revoked) = self.revoked.take().or_else(|| self.link.take_revoke()) {
            return Some(revoked);
        }
        if !core::mem::take(&mut self.called) {
            return None;
        }
        self.link.service()
    }

    fn revoke_done(&mut self, _page: VolumePage, _count: u64) {
        self.link.revoke_done();
        self.called = true;
    }

    fn report(&mut self, figures: &mm_guest::Figures) {
        let reserve = u64::try_from(self.pool.reserve()).unwrap_or(u64::MAX);
        self.link.report(OwnFigures {
            written: figures.written,
            kernel: figures.frames.kernel,
            mapped: figures.mapped,
            local_faults: figures.faults.local,
            cow_breaks: figures.faults.cow,
            populate_failed: figures.frames.populate_failed,
            ahead: figures.faults.ahead,
            ahead_used: figures.faults.ahead_used,
            reserve,
        });
        self.called = true;
    }
}
