//! The engine's view of the grant table: here, and nowhere else, a page of the store becomes a machine frame and a client a
//! domain.

use mm_engine::{ClientId, Contents, FrameId, Grants, InUse, Reference};
use xen::{Access, GrantTable};
use xen_drivers::Frame;
use xen_ring::PageWords;
use xen_sys::{DomId, GrantRef, Mfn};

/// Words of a page.
const WORDS: usize = 1024;

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
    /// Secret numbers, for digests that nobody can foretell.
    pub secret: [u64; 2],
}

impl Lending {
    /// A frame's words and number.
    #[must_use]
    pub fn frame(&self, frame: FrameId) -> Option<(&'static PageWords, Mfn)> {
        let words = self.frames.get(frame.0 as usize)?;
        Some((words, (self.mfn_of)(words)))
    }

    /// The same as the drivers have it.
    #[must_use]
    pub fn driver_frame(&self, frame: FrameId) -> Option<Frame> {
        self.frame(frame).map(|(words, mfn)| Frame { words, mfn })
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

impl Contents for Lending {
    fn digest(&self, frame: FrameId) -> u64 {
        let Some((words, _)) = self.frame(frame) else { return 0 };
        // Each step multiplies by a secret number and folds the product, so that no change of the bytes has a result that can be
        // foretold. Pages with equal digests are compared all the same.
        let [mut hash, secret] = self.secret;
        for index in 0..WORDS / 2 {
            let pair = u64::from(words.load(2 * index)) | u64::from(words.load(2 * index + 1)) << 32;
            let product = u128::from(hash ^ pair) * u128::from(secret | 1 << 63 | 1);
            let [low, high] = [product & u128::from(u64::MAX), product >> 64];
            hash = u64::try_from(low ^ high).unwrap_or(0).wrapping_add(index as u64);
        }
        hash
    }

    fn equal(&self, one: FrameId, other: FrameId) -> bool {
        let (Some((one, _)), Some((other, _))) = (self.frame(one), self.frame(other)) else { return false };
        (0..WORDS).all(|index| one.load(index) == other.load(index))
    }
}
