//! Snapshots through the link.

use mm_guest::{FreezeAnswer, FreezeStep, Freezer, Source};
use mm_proto::{Bitmap, RequestBody, SnapshotInfo};
use xen_rt::user::Frame;

use super::{BATCH, Xen, page};

impl Freezer for Xen {
    fn snapshot(&self) -> Option<SnapshotInfo> {
        self.link.snapshot
    }

    fn freeze_ordered(&mut self) -> bool {
        self.link.freeze_ordered()
    }

    fn freeze_send(&mut self, step: FreezeStep<'_, Frame>) {
        let mut frames: heapless::Vec<xen::Mfn, BATCH> = heapless::Vec::new();
        let body = match step {
            FreezeStep::Begin(pages) => RequestBody::Freeze { pages },
            FreezeStep::Capture(sources) => {
                frames.extend(sources.iter().map(|source| match source {
                    Source::Frame(frame) => frame.mfn(),
                    // What is not there is nobody's frame, and cannot be lent.
                    Source::Mapped(at) => self.space.private_frame(page(*at)).unwrap_or(xen::Mfn(u64::MAX)),
                }));
                RequestBody::Capture { count: 1, references: [0; mm_proto::CAPTURE_MAX] }
            }
            FreezeStep::Keep(page, bitmap) => RequestBody::Keep { page, bitmap },
            FreezeStep::Commit(page, standstill) => RequestBody::Commit { page, standstill },
            FreezeStep::Abort(reason) => RequestBody::Abort { reason },
        };
        self.link.freeze_send(body, &frames);
    }

    fn freeze_answer(&mut self) -> Option<FreezeAnswer> {
        self.link.freeze_answer()
    }

    fn freeze_await(&mut self) -> FreezeAnswer {
        self.link.freeze_await()
    }

    fn tell_thawed(&mut self) {
        let now = self.clock.now_ns();
        self.thawed = Some(now);
        self.link.tell_thawed(now.saturating_sub(self.begun), now.saturating_sub(self.connected));
    }

    fn tell_hot(&mut self, page: u64, bitmap: Bitmap) {
        self.link.tell_hot(page, bitmap);
    }
}
