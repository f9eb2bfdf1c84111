//! [`xen::ForeignPages`] over a window: what the block service maps stock frontends' rings with.

use xen::foreign::{ForeignPage, ForeignPages};
use xen::{Access, DomId, GrantRef, GrantStatus, PageWords};

use super::{ForeignWindow, StaticPage};

/// A window whose pages are known by number, so that a caller's mistake can unmap the wrong ring, and nothing else.
#[derive(Debug)]
pub struct RingWindow {
    window: ForeignWindow,
    pages: &'static mut [Option<StaticPage>],
}

impl RingWindow {
    /// As many pages as `pages`, which holds none, has places; `window` should have as many addresses.
    #[must_use]
    pub fn new(window: ForeignWindow, pages: &'static mut [Option<StaticPage>]) -> Self {
        Self { window, pages }
    }
}

impl ForeignPages for RingWindow {
    fn map(
        &mut self,
        owner: DomId,
        reference: GrantRef,
    ) -> Result<(ForeignPage, &'static PageWords), GrantStatus> {
        let free = (0_u32..).zip(self.pages.iter_mut()).find(|(_, place)| place.is_none());
        let (token, place) = free.ok_or(GrantStatus::NO_SPACE)?;
        let page = self.window.map_static(owner, reference, Access::ReadWrite)?;
        let words = page.words();
        *place = Some(page);
        Ok((ForeignPage::new(token), words))
    }

    fn unmap(&mut self, page: ForeignPage) {
        let known = usize::try_from(page.token()).ok().and_then(|token| self.pages.get_mut(token)?.take());
        match known {
            Some(page) => self.window.retire(page),
            None => log::error!("bug: page {} of a client is not mapped", page.token()),
        }
    }
}
