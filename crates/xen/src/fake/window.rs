//! [`ForeignPages`] for a domain of the fake Xen.

use xen_ring::PageWords;
use xen_sys::{DomId, GrantRef, GrantStatus};

use super::{FakeDomain, Mapped};
use crate::Access;
use crate::foreign::{ForeignPage, ForeignPages};

/// Room for some pages of other domains.
#[derive(Debug)]
pub struct FakeWindow {
    domain: FakeDomain,
    pages: Vec<Option<Mapped>>,
}

impl FakeWindow {
    /// A window of `domain` with room for `pages` pages.
    #[must_use]
    pub fn new(domain: &FakeDomain, pages: usize) -> Self {
        Self { domain: domain.clone(), pages: (0..pages).map(|_| None).collect() }
    }

    /// Pages that are mapped.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.pages.iter().flatten().count()
    }
}

impl ForeignPages for FakeWindow {
    fn map(
        &mut self,
        owner: DomId,
        reference: GrantRef,
    ) -> Result<(ForeignPage, &'static PageWords), GrantStatus> {
        let free = (0_u32..).zip(&mut self.pages).find(|(_, place)| place.is_none());
        let (token, place) = free.ok_or(GrantStatus::NO_SPACE)?;
        let mapped = self.domain.map(owner, reference, Access::ReadWrite)?;
        let words = mapped.words();
        *place = Some(mapped);
        Ok((ForeignPage::new(token), words))
    }

    fn unmap(&mut self, page: ForeignPage) {
        let place = self.pages.get_mut(page.token() as usize).and_then(Option::take);
        self.domain.unmap(place.expect("a page that this window has")).expect("it is mapped");
    }
}
