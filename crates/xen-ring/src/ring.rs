//! Request/response rings in Xen's layout (`io/ring.h`), one type for each role.
//!
//! Header words: req_prod 0, req_event 1, rsp_prod 2, rsp_event 3; slots from byte 64, each as large as the larger of request
//! and response; as many slots as the largest power of two that fits. Indices run free and wrap at 2^32. A ring of several pages
//! is laid out as if they lay one behind the other, which they need not: a slot may begin in one page and end in the next.
//!
//! Notify hold-off: each side says from which index on it wants an event, and sleeps only after it has said so, fenced, and
//! looked once more ([`Front::final_check`], [`Back::final_check`]). The producer publishes, fences, and then reads that wish.

use crate::sync::{AtomicU32, Ordering, fence};
use crate::{Full, PageWords, RingFault, WORDS};

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;
const RSP_EVENT: usize = 3;
const HEADER_WORDS: usize = 16;

/// Words of a slot: the larger of request and response.
const fn stride(req: usize, rsp: usize) -> usize {
    if req > rsp { req } else { rsp }
}

/// Slots of a ring of so many pages.
const fn slots(pages: usize, req: usize, rsp: usize) -> u32 {
    let fit = (pages * WORDS - HEADER_WORDS) / stride(req, rsp);
    assert!(fit > 0, "a slot does not fit in the page");
    let mut n: u32 = 1;
    while (n as usize) * 2 <= fit {
        n *= 2;
    }
    n
}

/// First word of the slot that a free-running index names.
const fn slot(index: u32, slots: u32, stride: usize) -> usize {
    HEADER_WORDS + (index & (slots - 1)) as usize * stride
}

/// The pages of a ring, in their order.
#[derive(Clone, Copy, Debug)]
struct Pages<const PAGES: usize> {
    /// Those beyond the ring's own repeat the first, so that no index leaves the array.
    pages: [&'static PageWords; PAGES],
    slots: u32,
}

impl<const PAGES: usize> Pages<PAGES> {
    /// `None`: not a power of two, or more than `PAGES`.
    fn new(pages: &[&'static PageWords], req: usize, rsp: usize) -> Option<Self> {
        let first = *pages.first().filter(|_| pages.len().is_power_of_two() && pages.len() <= PAGES)?;
        let of = |index| pages.get(index).copied().unwrap_or(first);
        Some(Self { pages: core::array::from_fn(of), slots: slots(pages.len(), req, rsp) })
    }

    /// The page with the header.
    fn head(&self) -> &'static PageWords {
        self.pages[0]
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        self.pages[index / WORDS].word(index % WORDS)
    }

    fn store<const N: usize>(&self, index: u32, stride: usize, words: &[u32; N]) {
        let first = slot(index, self.slots, stride);
        for (i, word) in words.iter().enumerate() {
            self.word(first + i).store(*word, Ordering::Relaxed);
        }
    }

    fn load<const N: usize>(&self, index: u32, stride: usize) -> [u32; N] {
        let first = slot(index, self.slots, stride);
        core::array::from_fn(|i| self.word(first + i).load(Ordering::Relaxed))
    }
}

/// Publishes `new` in the producer word and says whether the peer asked for an event about it.
fn publish(page: &PageWords, prod: usize, event: usize, old: u32, new: u32) -> bool {
    page.word(prod).store(new, Ordering::Release);
    // The store above must be visible before the peer's wish is read, else both sides could miss each other.
    fence(Ordering::SeqCst);
    let wish = page.word(event).load(Ordering::Relaxed);
    new.wrapping_sub(wish) < new.wrapping_sub(old)
}

/// Makes the pages, all of them zeroed, an empty ring.
fn lay_out(pages: &[&'static PageWords]) {
    pages.iter().for_each(|page| page.zero());
    if let Some(head) = pages.first() {
        head.store(REQ_EVENT, 1);
        head.store(RSP_EVENT, 1);
    }
}

/// The side that sends requests.
#[derive(Debug)]
pub struct Front<const REQ: usize, const RSP: usize, const PAGES: usize = 1> {
    pages: Pages<PAGES>,
    req_prod: u32,
    req_published: u32,
    rsp_cons: u32,
}

impl<const REQ: usize, const RSP: usize> Front<REQ, RSP> {
    /// Lays out an empty ring in `page`, all of it zeroed, before the page is granted to the peer.
    #[must_use]
    pub fn init(page: &'static PageWords) -> Self {
        lay_out(&[page]);
        Self::attach(page)
    }

    /// Takes part in a ring that the other side has laid out ([`Back::init`]), and in which nobody has produced anything yet.
    #[must_use]
    pub fn attach(page: &'static PageWords) -> Self {
        let pages = Pages { pages: [page], slots: Self::SLOTS };
        Self { pages, req_prod: 0, req_published: 0, rsp_cons: 0 }
    }
}

impl<const REQ: usize, const RSP: usize, const PAGES: usize> Front<REQ, RSP, PAGES> {
    /// Slots of the ring, requests that can be outstanding at once; of one that has all its pages.
    pub const SLOTS: u32 = slots(PAGES, REQ, RSP);
    const STRIDE: usize = stride(REQ, RSP);

    /// Lays out an empty ring in several pages, as [`Self::init`] does in one. `None`: their number is not a power of two, or more
    /// than `PAGES`.
    #[must_use]
    pub fn init_pages(pages: &[&'static PageWords]) -> Option<Self> {
        lay_out(pages);
        let pages = Pages::new(pages, REQ, RSP)?;
        Some(Self { pages, req_prod: 0, req_published: 0, rsp_cons: 0 })
    }

    /// Slots of this ring.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.pages.slots
    }

    /// Requests that can be pushed before responses must be taken.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.pages.slots - self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Puts a request into the next slot. The peer sees it after [`Self::publish`].
    ///
    /// # Errors
    /// [`Full`]: every slot holds a request that was not answered.
    pub fn push_request(&mut self, request: &[u32; REQ]) -> Result<(), Full> {
        if self.free() == 0 {
            return Err(Full);
        }
        self.pages.store(self.req_prod, Self::STRIDE, request);
        self.req_prod = self.req_prod.wrapping_add(1);
        Ok(())
    }

    /// Shows the pushed requests to the peer. `true`: send it an event.
    #[must_use = "the peer sleeps until it is notified"]
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.req_published, self.req_prod);
        old != self.req_prod && publish(self.pages.head(), REQ_PROD, REQ_EVENT, old, self.req_prod)
    }

    /// Copies the next response out, if there is one.
    ///
    /// # Errors
    /// [`RingFault`]: the peer claims to have answered more than was asked.
    pub fn pop_response(&mut self) -> Result<Option<[u32; RSP]>, RingFault> {
        let theirs = self.pages.head().load(RSP_PROD);
        let ready = theirs.wrapping_sub(self.rsp_cons);
        if ready > self.req_published.wrapping_sub(self.rsp_cons) {
            return Err(RingFault { ours: self.rsp_cons, theirs });
        }
        if ready == 0 {
            return Ok(None);
        }
        let response = self.pages.load(self.rsp_cons, Self::STRIDE);
        self.rsp_cons = self.rsp_cons.wrapping_add(1);
        Ok(Some(response))
    }

    /// Asks for an event at the next response and looks once more. `true`: there is one already, take it before sleeping.
    #[must_use = "sleeping without looking loses an event"]
    pub fn final_check(&mut self) -> bool {
        self.pages.head().word(RSP_EVENT).store(self.rsp_cons.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.pages.head().load(RSP_PROD) != self.rsp_cons
    }

    /// As if the ring had been in use up to `index`: tests of wrapping start there.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn skip_to(&mut self, index: u32) {
        (self.req_prod, self.req_published, self.rsp_cons) = (index, index, index);
        for (word, value) in [(REQ_PROD, 0), (REQ_EVENT, 1), (RSP_PROD, 0), (RSP_EVENT, 1)] {
            self.pages.head().store(word, index.wrapping_add(value));
        }
    }
}

/// The side that answers requests.
#[derive(Debug)]
pub struct Back<const REQ: usize, const RSP: usize, const PAGES: usize = 1> {
    pages: Pages<PAGES>,
    req_cons: u32,
    rsp_prod: u32,
    rsp_published: u32,
}

impl<const REQ: usize, const RSP: usize> Back<REQ, RSP> {
    /// Lays out an empty ring in `page`, all of it zeroed. For a backend that owns the page, as M1 does with the map ring.
    #[must_use]
    pub fn init(page: &'static PageWords) -> Self {
        lay_out(&[page]);
        Self::attach(page)
    }

    /// Takes part in a ring that the other side has laid out ([`Front::init`]), and of which nobody has consumed anything yet.
    #[must_use]
    pub fn attach(page: &'static PageWords) -> Self {
        let pages = Pages { pages: [page], slots: Self::SLOTS };
        Self { pages, req_cons: 0, rsp_prod: 0, rsp_published: 0 }
    }
}

impl<const REQ: usize, const RSP: usize, const PAGES: usize> Back<REQ, RSP, PAGES> {
    /// Slots of the ring, requests that can be outstanding at once; of one that has all its pages.
    pub const SLOTS: u32 = slots(PAGES, REQ, RSP);
    const STRIDE: usize = stride(REQ, RSP);

    /// Takes part in a ring of several pages where another backend has left off: at the responses that are there
    /// (`BACK_RING_ATTACH` in io/ring.h). In a ring that is new there are none. `None`: the number of pages is not a power of two, or more
    /// than `PAGES`.
    #[must_use]
    pub fn attach_pages(pages: &[&'static PageWords]) -> Option<Self> {
        let pages = Pages::new(pages, REQ, RSP)?;
        let from = pages.head().load(RSP_PROD);
        Some(Self { pages, req_cons: from, rsp_prod: from, rsp_published: from })
    }

    /// Slots of this ring.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.pages.slots
    }

    /// Copies the next request out, if there is one.
    ///
    /// # Errors
    /// [`RingFault`]: the peer claims more requests than there are slots, or took some back.
    pub fn pop_request(&mut self) -> Result<Option<[u32; REQ]>, RingFault> {
        let theirs = self.pages.head().load(REQ_PROD);
        let unanswered = self.req_cons.wrapping_sub(self.rsp_published);
        let claimed = theirs.wrapping_sub(self.rsp_published);
        if claimed > self.pages.slots || claimed < unanswered {
            return Err(RingFault { ours: self.req_cons, theirs });
        }
        if claimed == unanswered {
            return Ok(None);
        }
        let request = self.pages.load(self.req_cons, Self::STRIDE);
        self.req_cons = self.req_cons.wrapping_add(1);
        Ok(Some(request))
    }

    /// Requests that were taken and not answered yet.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod)
    }

    /// Puts a response into the next slot. The peer sees it after [`Self::publish`].
    ///
    /// # Errors
    /// [`Full`]: no taken request is without a response, so there is no slot that is ours to write.
    pub fn push_response(&mut self, response: &[u32; RSP]) -> Result<(), Full> {
        if self.unanswered() == 0 {
            return Err(Full);
        }
        self.pages.store(self.rsp_prod, Self::STRIDE, response);
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
        Ok(())
    }

    /// Shows the pushed responses to the peer. `true`: send it an event.
    #[must_use = "the peer sleeps until it is notified"]
    pub fn publish(&mut self) -> bool {
        let old = core::mem::replace(&mut self.rsp_published, self.rsp_prod);
        old != self.rsp_prod && publish(self.pages.head(), RSP_PROD, RSP_EVENT, old, self.rsp_prod)
    }

    /// Asks for an event at the next request and looks once more. `true`: there is one already, take it before sleeping.
    #[must_use = "sleeping without looking loses an event"]
    pub fn final_check(&mut self) -> bool {
        self.check_for(1)
    }

    /// Asks for an event at the request with which there are so many, at least 1, and looks once more. `true`: there are as many already. Of fewer
    /// the peer sends no event: who asks for more than one looks again at some time.
    #[must_use = "sleeping without looking loses an event"]
    pub fn check_for(&mut self, count: u32) -> bool {
        self.pages.head().word(REQ_EVENT).store(self.req_cons.wrapping_add(count), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.pages.head().load(REQ_PROD).wrapping_sub(self.req_cons) >= count
    }

    /// Responses that the peer does not see yet.
    #[must_use]
    pub fn unpublished(&self) -> u32 {
        self.rsp_prod.wrapping_sub(self.rsp_published)
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn skip_to(&mut self, index: u32) {
        (self.req_cons, self.rsp_prod, self.rsp_published) = (index, index, index);
    }
}
