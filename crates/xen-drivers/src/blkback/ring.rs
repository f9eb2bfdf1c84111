//! A ring that is mapped and bound, from [`BlockRing::open`] to [`BlockRing::close`].

use xen::grant::{Direction, PageCopy};
use xen::{DomId, Errno, ForeignPage, ForeignPages, GrantRef, GrantStatus, PageWords, Port};
use xen_ring::{Back, Full, RingFault};
use xen_sys::blkif::{REQUEST_WORDS, RESPONSE_WORDS};

use super::{RING_PAGES, Request, Status, Tag};
use crate::vbdback::{BlockOffer, BlockRingInfo};
use crate::{Frame, Platform};

/// Why a ring cannot be used. Nothing is mapped or bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// A page of it cannot be mapped: not granted to us, or not writable. [`GrantStatus::NO_SPACE`]: our window is full.
    Map(GrantStatus),
    /// Its port cannot be bound: `EINVAL` if it is not one that waits for us.
    Bind(Errno),
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Map(status) => write!(f, "cannot map the ring: {status}"),
            Self::Bind(errno) => write!(f, "cannot bind event-channel: {errno:?}"),
        }
    }
}

/// A connected frontend's ring.
#[must_use = "a ring that is dropped stays mapped, and its client a zombie when it dies"]
#[derive(Debug)]
pub struct BlockRing {
    platform: Platform,
    domain: DomId,
    port: Port,
    ring: Back<REQUEST_WORDS, RESPONSE_WORDS, RING_PAGES>,
    pages: heapless::Vec<ForeignPage, RING_PAGES>,
    disk: BlockOffer,
    /// Where an indirect request's segments are copied to.
    scratch: Frame,
    fault: Option<RingFault>,
    refused: u64,
}

impl BlockRing {
    /// Maps and binds a ring ([`Event::BlockRing`](crate::vbdback::Event::BlockRing)). There may be requests on it already: an
    /// event need not come for them.
    ///
    /// `scratch` is a page of ours that may be written whenever a request is taken; all rings can have the same.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        platform: Platform,
        window: &mut dyn ForeignPages,
        scratch: Frame,
        info: &BlockRingInfo,
        disk: BlockOffer,
    ) -> Result<Self, OpenError> {
        let mut pages = heapless::Vec::new();
        let mut words: heapless::Vec<&'static PageWords, RING_PAGES> = heapless::Vec::new();
        let mut failed = None;
        for reference in info.references() {
            match window.map(info.domain, *reference) {
                Ok((page, at)) => {
                    // As many as there can be in `info`.
                    let _ = (pages.push(page), words.push(at));
                }
                Err(status) => {
                    failed = Some(OpenError::Map(status));
                    break;
                }
            }
        }
        let bound = match failed {
            Some(error) => Err(error),
            None => platform.bind_port(info.domain, info.port).map_err(OpenError::Bind),
        };
        let ring = Back::attach_pages(&words);
        match (bound, ring) {
            (Ok(port), Some(ring)) => Ok(Self {
                platform,
                domain: info.domain,
                port,
                ring,
                pages,
                disk: disk.bounded(),
                scratch,
                fault: None,
                refused: 0,
            }),
            (bound, _) => {
                unmap_all(window, pages);
                // `info` has a power of two of pages, so there is a ring wherever all of them are mapped.
                Err(bound.err().unwrap_or(OpenError::Map(GrantStatus::GENERAL_ERROR)))
            }
        }
    }

    /// The client.
    #[must_use]
    pub fn domain(&self) -> DomId {
        self.domain
    }

    /// Our port.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Requests that can be under way at once.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.ring.slots()
    }

    /// Requests that were taken and not answered.
    #[must_use]
    pub fn under_way(&self) -> u32 {
        self.ring.unanswered()
    }

    /// Requests that were answered without their owner.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The next request that makes sense. Those before it that do not are answered; [`Self::publish`] shows that.
    ///
    /// # Errors
    /// The frontend's index is impossible: end the device. It stays so, whatever the frontend writes then.
    pub fn pop(&mut self) -> Result<Option<Request>, RingFault> {
        // At most a ring full of requests that make none: what is answered now frees no slot before it is published.
        for _ in 0..=self.ring.slots() {
            if let Some(fault) = self.fault {
                return Err(fault);
            }
            let words = match self.ring.pop_request() {
                Ok(Some(words)) => words,
                Ok(None) => return Ok(None),
                Err(fault) => {
                    self.fault = Some(fault);
                    return Err(fault);
                }
            };
            let (platform, domain, scratch) = (self.platform, self.domain, self.scratch);
            let mut read_page =
                |reference, bytes: &mut [u8]| read_page(platform, domain, scratch, reference, bytes);
            match Request::check(&words, &self.disk, &mut read_page) {
                Ok(request) => return Ok(Some(request)),
                Err(refused) => {
                    self.refused += 1;
                    log::debug!("domain {domain}: request refused: {:?}", refused.why);
                    // It was taken just now, so there is a slot for its answer.
                    let _ = self.complete(refused.tag, refused.status);
                }
            }
        }
        Ok(None)
    }

    /// Answers a request. The client sees it after [`Self::publish`].
    ///
    /// # Errors
    /// Every request that was taken has its answer: one was answered twice.
    pub fn complete(&mut self, tag: Tag, status: Status) -> Result<(), Full> {
        self.ring.push_response(&tag.response(status))
    }

    /// Shows answers to the client, and sends an event if it asked for one: whether it did.
    pub fn publish(&mut self) -> bool {
        let wanted = self.ring.publish();
        if wanted {
            // A port that nobody hears is a client that is going: xenstore says so.
            let _ = self.platform.hypervisor.evtchn_send(self.port);
        }
        wanted
    }

    /// Asks for an event at the next request. `true`: there is one already.
    #[must_use = "sleeping without looking loses an event"]
    pub fn final_check(&mut self) -> bool {
        self.check_for(1)
    }

    /// Asks for an event at the request with which there are so many. `true`: there are as many already. Of fewer the client sends none.
    #[must_use = "sleeping without looking loses an event"]
    pub fn check_for(&mut self, count: u32) -> bool {
        self.fault.is_none() && self.ring.check_for(count)
    }

    /// Answers that the client does not see yet.
    #[must_use]
    pub fn unpublished(&self) -> u32 {
        self.ring.unpublished()
    }

    /// Unbinds and unmaps. Requests that are under way are nobody's from now on: nothing of the client's may be written to for them.
    pub fn close(self, window: &mut dyn ForeignPages) {
        self.platform.close_port(self.port);
        unmap_all(window, self.pages);
    }
}

fn unmap_all(window: &mut dyn ForeignPages, pages: heapless::Vec<ForeignPage, RING_PAGES>) {
    for page in pages {
        window.unmap(page);
    }
}

/// Copies the first bytes of a client's page, by way of `scratch`.
fn read_page(platform: Platform, peer: DomId, scratch: Frame, reference: GrantRef, bytes: &mut [u8]) -> bool {
    let Ok(len) = u16::try_from(bytes.len()) else { return false };
    let mut copies = [PageCopy { len, ..PageCopy::page(scratch.mfn, peer, reference, Direction::FromPeer) }];
    let asked = platform.grants.copy(platform.hypervisor, &mut copies);
    asked.is_ok() && copies[0].status.is_okay() && scratch.words.read(0, bytes)
}
