//! The engine's view of the grant table: here, and nowhere else, a page of the store becomes a machine frame and a client a
//! domain.

use mm_engine::{ClientId, FrameId, Grants, InUse, Reference};
use xen::{Access, GrantTable};
use xen_ring::PageWords;
use xen_sys::{DomId, GrantRef, Mfn};

/// Says which machine frame a page of ours is: [`xen_rt::mfn_of`], and a fake Xen's in tests.
pub type MfnOf = &'static (dyn Fn(&PageWords) -> Mfn + Sync);

/// The page store's memory, and who the engine's clients are.
pub struct Lending {
    /// Our grant table.
    pub table: &'static GrantTable,
    /// The store: frame by frame.
    pub frames: &'static [PageWords],
    /// Which machine frames they are.
    pub mfn_of: MfnOf,
    /// Which domain a client is.
    pub domains: &'static mut [DomId],
    /// Entries that the table would not take: a bug of ours, shown in /metrics.
    pub failures: u64,
}

impl Lending {
    /// A frame's words and number.
    #[must_use]
    pub fn frame(&self, frame: FrameId) -> Option<(&'static PageWords, Mfn)> {
        let words = self.frames.get(frame.0 as usize)?;
        Some((words, (self.mfn_of)(words)))
    }

    /// The domain of a client.
    #[must_use]
    pub fn domain(&self, client: ClientId) -> DomId {
        self.domains.get(usize::from(client.0)).copied().unwrap_or(DomId::SELF)
    }
}

impl Grants for Lending {
    fn is_reading(&self, reference: Reference) -> bool {
        self.table.is_reading(GrantRef(reference.0))
    }

    fn permit(&mut self, reference: Reference, client: ClientId, frame: FrameId) {
        let Some((_, mfn)) = self.frame(frame) else {
            self.failures += 1;
            return;
        };
        let domain = self.domain(client);
        // The client's map fails where this did not take, and it asks again: slower, never wrong.
        if let Err(error) = self.table.permit(GrantRef(reference.0), domain, mfn, Access::ReadOnly) {
            self.failures += 1;
            log::error!("bug: reference {} for frame {}: {error:?}", reference.0, frame.0);
        }
    }

    fn try_revoke(&mut self, reference: Reference) -> Result<(), InUse> {
        self.table.try_revoke(GrantRef(reference.0)).map_err(|_| InUse)
    }
}
