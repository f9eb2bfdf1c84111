//! Pages of the driver's own that stay lent to a backend: persistent grants (`xen/include/public/io/blkif.h`,
//! `feature-persistent`). The backend maps each once and copies from then on; so does the driver.

use xen::grant::PermitError;
use xen::{Access, DomId, GrantRef, PageWords};

use super::wire::{PAGE_SECTORS, Segment};
use crate::{Frame, Lent, Platform};

/// A page of a disk's pool.
#[derive(Debug)]
pub struct PoolPage {
    frame: Frame,
    /// Stays as long as the backend does.
    lent: Option<Lent>,
    /// Where what is read goes, and how many bytes of it.
    to: Option<&'static PageWords>,
    bytes: usize,
    /// The next page that is free, or the next of the same request.
    next: Option<u16>,
}

impl PoolPage {
    /// The page is the driver's from now on.
    #[must_use]
    pub fn new(frame: Frame) -> Self {
        Self { frame, lent: None, to: None, bytes: 0, next: None }
    }
}

/// The pages of one request; [`Pool::put_back`] ends it.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    first: Option<u16>,
}

impl Chain {
    pub(super) const EMPTY: Self = Self { first: None };
}

/// All pages. Those used last are used next: of a disk that does little, a backend maps few.
#[derive(Debug)]
pub(super) struct Pool {
    pages: &'static mut [PoolPage],
    free: Option<u16>,
    left: usize,
}

impl Pool {
    /// A pool too small for one request of `least` pages has none.
    pub(super) fn new(pages: &'static mut [PoolPage], least: usize) -> Self {
        let pages = if pages.len() < least { &mut [] } else { pages };
        let (mut free, mut left) = (None, 0);
        for (index, page) in (0..u16::MAX).zip(pages.iter_mut()).rev() {
            page.next = free.replace(index);
            left += 1;
        }
        Self { pages, free, left }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Pages that no request has.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    fn page(&mut self, index: u16) -> Option<&mut PoolPage> {
        self.pages.get_mut(usize::from(index))
    }

    /// Lends all pages to a backend that has come, so that what is lent does not depend on what is asked of it.
    pub(super) fn lend(&mut self, platform: Platform, backend: DomId) {
        for page in self.pages.iter_mut().filter(|page| page.lent.is_none()) {
            // Where references are short now, a page is lent when it is needed.
            page.lent = platform.lend(backend, page.frame.mfn, Access::ReadWrite).ok();
        }
    }

    /// Takes one more page for a request, and puts there what its segments are.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) fn describe(
        &mut self,
        chain: &mut Chain,
        peer: (Platform, DomId),
        segments: &[Segment],
    ) -> Result<GrantRef, Option<PermitError>> {
        let (reference, own) = self.add(chain, peer)?;
        for (place, segment) in segments.iter().enumerate() {
            let [low, high] = segment.words();
            own.frame.words.store(2 * place, low);
            own.frame.words.store(2 * place + 1, high);
        }
        Ok(reference)
    }

    /// Takes one more page for a request, with `sectors` of what is written from `page`, or to be read to it.
    ///
    /// # Errors
    /// As [`Platform::lend`]; `None` where no page is free, too.
    pub(super) fn take(
        &mut self,
        chain: &mut Chain,
        peer: (Platform, DomId),
        page: &'static PageWords,
        sectors: u8,
        write: bool,
    ) -> Result<GrantRef, Option<PermitError>> {
        let (reference, own) = self.add(chain, peer)?;
        own.bytes = usize::from(sectors) * 512;
        if write {
            own.frame.words.copy_start(page, own.bytes);
        } else {
            own.to = Some(page);
        }
        Ok(reference)
    }

    /// A free page becomes the request's.
    fn add(
        &mut self,
        chain: &mut Chain,
        (platform, backend): (Platform, DomId),
    ) -> Result<(GrantRef, &mut PoolPage), Option<PermitError>> {
        let index = self.free.ok_or(None)?;
        let own = self.pages.get_mut(usize::from(index)).ok_or(None)?;
        let lent = match &mut own.lent {
            Some(lent) => lent,
            // Backends map all of them for writing, whatever they are used for first.
            place => place.insert(platform.lend(backend, own.frame.mfn, Access::ReadWrite)?),
        };
        let reference = lent.reference();
        self.free = core::mem::replace(&mut own.next, chain.first);
        chain.first = Some(index);
        self.left -= 1;
        Ok((reference, own))
    }

    /// Ends a request; with `read`, what was read goes where it was wanted.
    pub(super) fn put_back(&mut self, chain: &mut Chain, read: bool) {
        while let Some(index) = chain.first {
            let free = self.free;
            let Some(own) = self.page(index) else { break };
            if let Some(to) = own.to.take().filter(|_| read) {
                to.copy_start(own.frame.words, own.bytes);
            }
            chain.first = core::mem::replace(&mut own.next, free);
            self.free = Some(index);
            self.left += 1;
        }
    }

    /// Takes the pages back from a backend that has gone. `true`: it has none any more.
    pub(super) fn reclaim(&mut self, platform: Platform) -> bool {
        platform.reclaim_all(self.pages.iter_mut().map(|page| &mut page.lent))
    }
}

const _: () = assert!(PAGE_SECTORS * 512 == xen_ring::PAGE_SIZE as u64);
