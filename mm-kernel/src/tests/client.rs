//! A client domain: `mm-client` on a mapped ring, with grant mappings of its own.

use std::boxed::Box;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use mm_client::{AskError, Event, Lookup, MapClient, PageError, Retry, Settings, Window};
use mm_proto::{CAPTURE_MAX, InfoPage, Request, Response, SLOT_WORDS, Status, VERSION};
use xen::fake::{FakeDomain, Mapped};
use xen::{Access, DomId, GrantRef, Hypervisor, PageWords, Port};
use xen_ring::Front;

use super::disk::word;

/// Reference under which the client lends the frame that pages are copied to.
const COPY: GrantRef = GrantRef(9);

pub(crate) struct Client {
    pub(crate) domain: FakeDomain,
    m1: DomId,
    disk: u32,
    pub(crate) front: Front<SLOT_WORDS, SLOT_WORDS>,
    pub(crate) ring: Mapped,
    pub(crate) info: Mapped,
    pub(crate) port: Port,
    pub(crate) mm: MapClient<'static>,
    /// Pages that it maps.
    pub(crate) maps: BTreeMap<u64, Mapped>,
    /// Pages that were copied to it.
    pub(crate) copied: Vec<u64>,
    pub(crate) failed: Vec<(u64, PageError)>,
    /// Pages that its program waits for.
    pub(crate) waiting: BTreeSet<u64>,
    to_copy: Vec<u64>,
    frame: &'static PageWords,
    copying: bool,
    /// M1 wants its program frozen.
    pub(crate) ordered: bool,
    /// Answers to the steps of a freeze.
    pub(crate) steps: Vec<(Status, [u32; CAPTURE_MAX])>,
    /// What frozen pages that it may touch have to hold: see [`super::freeze::frozen_word`].
    pub(crate) frozen: BTreeMap<u64, u32>,
}

/// What a device's nodes say.
#[derive(Clone, Copy)]
pub(crate) struct Published {
    pub(crate) ring: GrantRef,
    pub(crate) port: Port,
    pub(crate) info: GrantRef,
}

impl Client {
    /// Maps and binds what M1 published, and greets.
    pub(crate) fn connect(domain: FakeDomain, m1: DomId, disk: u32, at: Published, rows: usize) -> Self {
        let ring = domain.map(m1, at.ring, Access::ReadWrite).expect("M1 granted the ring");
        let info = domain.map(m1, at.info, Access::ReadOnly).expect("M1 granted the info page");
        let port = domain.evtchn_bind_interdomain(m1, at.port).expect("M1 allocated the port");
        domain.events().unmask(port);
        let page = info_page(&info);
        let settings = Settings {
            version: VERSION,
            window: page.window,
            pages: page.pages,
            frozen: page.snapshot.is_some(),
            patience: 1_000_000_000,
        };
        let rows: &'static mut [Window] = Box::leak(std::vec![Window::default(); rows].into_boxed_slice());
        domain.grants().grow_to(1).expect("one frame");
        let (frame, _) = domain.page();
        Self {
            front: Front::attach(ring.words()),
            domain,
            m1,
            disk,
            ring,
            info,
            port,
            mm: MapClient::new(rows, settings),
            maps: BTreeMap::new(),
            copied: Vec::new(),
            failed: Vec::new(),
            waiting: BTreeSet::new(),
            to_copy: Vec::new(),
            frame,
            copying: false,
            ordered: false,
            steps: Vec::new(),
            frozen: BTreeMap::new(),
        }
    }

    pub(crate) fn info(&self) -> InfoPage {
        info_page(&self.info)
    }

    pub(crate) fn now(&self) -> u64 {
        self.domain.clock().now_ns()
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.front.push_request(&request.encode()).expect("never more than the ring has slots");
        if self.front.publish() {
            self.domain.evtchn_send(self.port).expect("bound");
        }
    }

    /// The program touches a page: it is mapped now, or asked for.
    pub(crate) fn touch(&mut self, page: u64) {
        if self.maps.contains_key(&page) {
            return;
        }
        self.waiting.insert(page);
        if let Lookup::Have(reference) = self.mm.lookup(page) {
            if self.map(page, reference) {
                return;
            }
            if self.mm.map_failed(page) == Retry::Copy {
                self.to_copy.push(page);
                return;
            }
        }
        self.ask(page);
    }

    fn ask(&mut self, page: u64) {
        match self.mm.ask(page, 8, self.now()) {
            Ok(request) => self.send(&request),
            Err(AskError::TableFull) => self.to_copy.push(page),
            // It is asked for when the ring is looked at again.
            Err(AskError::NotReady | AskError::RingFull | AskError::Asked) => {}
            Err(AskError::OutOfRange) => panic!("page {page} is beyond the volume's end"),
        }
    }

    fn map(&mut self, page: u64, reference: u32) -> bool {
        let Ok(mapped) = self.domain.map(self.m1, GrantRef(reference), Access::ReadOnly) else {
            return false;
        };
        assert!(self.holds(page, mapped.words()), "the bytes of page {page} are wrong");
        self.maps.insert(page, mapped);
        self.mm.mapped(page);
        self.waiting.remove(&page);
        true
    }

    fn holds(&self, page: u64, words: &PageWords) -> bool {
        if let Some(content) = self.frozen.get(&page) {
            return (0..1024).all(|index| words.load(index) == super::freeze::frozen_word(*content, index));
        }
        (0..1024).all(|index| words.load(index) == word(self.disk, page, index))
    }

    /// Everything that it maps is still what it was.
    pub(crate) fn check(&self) {
        for (page, mapped) in &self.maps {
            assert!(self.holds(*page, mapped.words()), "page {page} changed under its mapping");
        }
    }

    /// Lets go of a page that it maps.
    pub(crate) fn drop_page(&mut self, page: u64) {
        if let Some(mapped) = self.maps.remove(&page) {
            self.domain.unmap(mapped).expect("it is mapped");
            self.mm.unmapped(page);
        }
    }

    /// Looks at the ring, and sends what is to be sent. True where something moved.
    pub(crate) fn pump(&mut self) -> bool {
        let mut moved = false;
        while let Some(words) = self.front.pop_response().expect("M1 is honest") {
            moved = true;
            let response = Response::decode(&words).expect("M1 speaks the protocol");
            let event = self.mm.on_response(&response).expect("M1 keeps the protocol");
            self.on_event(event);
        }
        while let Some(request) = self.mm.next_request(self.now()) {
            self.send(&request);
            moved = true;
        }
        if self.mm.is_ready() {
            for page in self.waiting.clone() {
                if self.mm.lookup(page) != Lookup::Missing {
                    self.touch(page);
                    moved = true;
                } else if !self.to_copy.contains(&page) {
                    self.ask(page);
                }
            }
            self.copy_next();
        }
        let _ = self.front.final_check();
        moved
    }

    fn copy_next(&mut self) {
        if self.copying {
            return;
        }
        let Some(page) = self.to_copy.last().copied() else { return };
        let mfn = self.domain.mfn_of(self.frame);
        if let Ok(request) = self.mm.copy(page, COPY.0, self.now()) {
            self.domain.grants().permit(COPY, self.m1, mfn, Access::ReadWrite).expect("free");
            self.copying = true;
            self.send(&request);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Ready { .. } | Event::Nothing => {}
            Event::FreezeOrdered => self.ordered = true,
            Event::FreezeAnswered { status, pages } => self.steps.push((status, pages)),
            Event::Unsupported => panic!("M1 does not speak its own version"),
            Event::Granted { page } => {
                if let Lookup::Have(reference) = self.mm.lookup(page)
                    && !self.map(page, reference)
                    && self.mm.map_failed(page) == Retry::Copy
                {
                    self.to_copy.push(page);
                }
            }
            Event::CopyInstead { page } => self.to_copy.push(page),
            Event::Copied { page, .. } => {
                self.copy_ends(page);
                assert!(self.holds(page, self.frame), "the copy of page {page} is wrong");
                self.copied.push(page);
            }
            Event::Failed { page, error } => {
                if self.to_copy.last() == Some(&page) && self.copying {
                    self.copy_ends(page);
                }
                self.waiting.remove(&page);
                self.failed.push((page, error));
            }
            Event::Revoke { page, count, .. } => {
                for page in page..page + u64::from(count) {
                    self.drop_page(page);
                }
                self.mm.revoked();
            }
        }
    }

    fn copy_ends(&mut self, page: u64) {
        self.domain.grants().try_revoke(COPY).expect("M1 copies and does not map");
        self.copying = false;
        self.to_copy.retain(|other| *other != page);
        self.waiting.remove(&page);
    }

    /// Unmaps everything, the ring last.
    pub(crate) fn let_go(self) {
        for mapped in self.maps.into_values().chain([self.info, self.ring]) {
            self.domain.unmap(mapped).expect("it is mapped");
        }
        self.domain.evtchn_close(self.port).expect("bound");
    }
}

fn info_page(info: &Mapped) -> InfoPage {
    let words: [u32; InfoPage::WORDS] = core::array::from_fn(|index| info.words().load(index));
    InfoPage::decode(&words).expect("M1's info page")
}
