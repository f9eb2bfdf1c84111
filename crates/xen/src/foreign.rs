//! Pages that another domain lends us for as long as a connection lasts: the ring of a stock frontend.
//!
//! Who uses it: the block service. `xen_rt::foreign::RingWindow` maps for real, `fake::FakeWindow` in tests.

use xen_ring::PageWords;
use xen_sys::{DomId, GrantRef, GrantStatus};

/// A page of another domain that is mapped. [`ForeignPages::unmap`] ends it: until then its owner cannot be taken apart
/// altogether, however dead it is.
#[must_use = "a page that is dropped stays mapped for ever, and its owner a zombie"]
#[derive(PartialEq, Eq, Debug)]
pub struct ForeignPage {
    token: u32,
}

impl ForeignPage {
    /// For implementations of [`ForeignPages`]: `token` is what they find the mapping by.
    pub const fn new(token: u32) -> Self {
        Self { token }
    }

    /// What the implementation called it.
    #[must_use]
    pub const fn token(&self) -> u32 {
        self.token
    }
}

/// Maps pages of other domains, one at a time, for reading and writing.
pub trait ForeignPages {
    /// Maps a page that `owner` grants under `reference`, writable, and says where it is.
    ///
    /// The words stay words for ever, whatever becomes of the mapping: after [`Self::unmap`] they have no meaning, and
    /// later perhaps that of another page.
    ///
    /// # Errors
    /// Xen's status; [`GrantStatus::NO_SPACE`] also when there is no address left.
    fn map(
        &mut self,
        owner: DomId,
        reference: GrantRef,
    ) -> Result<(ForeignPage, &'static PageWords), GrantStatus>;

    /// Gives a page back. One that is not known is a mistake of the caller's, and nothing happens.
    fn unmap(&mut self, page: ForeignPage);
}
