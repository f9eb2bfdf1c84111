//! What the machine is.

use std::collections::{BTreeMap, HashMap, VecDeque};

use xen_ring::PageWords;
use xen_sys::start::shared_info;
use xen_sys::{DomId, Errno, Mfn};

use super::events::Channel;
use super::grants::{Active, Mapping};
use super::{Call, Fault};
use crate::ShutdownReason;

/// Everything.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) domains: HashMap<DomId, Domain>,
    pub(super) frames: HashMap<Mfn, FrameInfo>,
    by_address: HashMap<usize, Mfn>,
    pub(super) faults: HashMap<(DomId, Call), VecDeque<Fault>>,
    pub(super) leaked: usize,
    next_domain: u16,
    next_frame: u64,
}

/// A frame that somebody has or maps.
pub(super) struct FrameInfo {
    pub(super) owner: DomId,
    pub(super) words: &'static PageWords,
    /// The owner has it (`PGC_allocated`); without, it lives on others' mappings.
    pub(super) owned: bool,
    /// Mappings by grant.
    pub(super) mapped: usize,
}

/// A domain, or what is left of one.
pub(super) struct Domain {
    pub(super) alive: bool,
    pub(super) shared_info: &'static PageWords,
    pub(super) ports: Vec<Channel>,
    pub(super) grant_area: &'static [PageWords],
    pub(super) grant_frames: u32,
    /// Grants that somebody maps now.
    pub(super) active: HashMap<u32, Active>,
    /// Own mappings of others' grants, by handle.
    pub(super) mappings: HashMap<u32, Mapping>,
    pub(super) next_handle: u32,
    /// What is mapped where.
    pub(super) entries: BTreeMap<u64, Mfn>,
    /// Frames that are accounted to it.
    pub(super) pages: usize,
    /// Frames that it may have.
    pub(super) max_pages: usize,
    pub(super) timer: Option<u64>,
    pub(super) ended: Option<ShutdownReason>,
    pub(super) idle: Option<Box<dyn FnMut() + Send>>,
}

/// Where fake frame numbers begin.
const FIRST_FRAME: u64 = 0x1000;
/// Where frame numbers of grant tables begin: Xen's own memory.
pub(super) const XEN_FRAMES: u64 = 0x100_0000;

pub(super) fn new_page() -> &'static PageWords {
    Box::leak(Box::new(PageWords::new()))
}

fn new_pages(count: usize) -> &'static [PageWords] {
    Box::leak((0..count).map(|_| PageWords::new()).collect::<Vec<_>>().into_boxed_slice())
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: 1_000_000_000,
            domains: HashMap::new(),
            frames: HashMap::new(),
            by_address: HashMap::new(),
            faults: HashMap::new(),
            leaked: 0,
            next_domain: 1,
            next_frame: FIRST_FRAME,
        }
    }

    /// The number of the next domain.
    pub(super) fn number(&mut self) -> DomId {
        let id = DomId(self.next_domain);
        self.next_domain += 1;
        id
    }

    pub(super) fn create(
        &mut self,
        id: DomId,
        max_pages: usize,
        grant_frames: u32,
    ) -> (&'static PageWords, &'static [PageWords]) {
        let shared_info = new_page();
        let grant_area = new_pages(grant_frames as usize);
        self.domains.insert(
            id,
            Domain {
                alive: true,
                shared_info,
                ports: vec![Channel::Reserved],
                grant_area,
                grant_frames: 0,
                active: HashMap::new(),
                mappings: HashMap::new(),
                next_handle: 0,
                entries: BTreeMap::new(),
                pages: 0,
                max_pages,
                timer: None,
                ended: None,
                idle: None,
            },
        );
        self.write_time(shared_info);
        (shared_info, grant_area)
    }

    /// The domain that makes a call.
    pub(super) fn caller(&mut self, id: DomId) -> Result<&mut Domain, Errno> {
        self.domains.get_mut(&id).filter(|domain| domain.alive).ok_or(Errno::SRCH)
    }

    /// The fault that was put in for this call.
    pub(super) fn fault(&mut self, id: DomId, call: Call) -> Option<Fault> {
        self.faults.get_mut(&(id, call))?.pop_front()
    }

    /// As [`Self::fault`], for calls that can only fail as a whole.
    pub(super) fn errno_fault(&mut self, id: DomId, call: Call) -> Result<(), Errno> {
        match self.fault(id, call) {
            Some(Fault::Errno(errno)) => Err(errno),
            Some(other) => panic!("{other:?} means nothing to {call:?}"),
            None => Ok(()),
        }
    }

    pub(super) fn new_frame(&mut self, owner: DomId, words: &'static PageWords) -> Mfn {
        let frame = Mfn(self.next_frame);
        // Frames of a domain do not follow each other, so that nobody counts on it.
        self.next_frame += 3;
        self.frames.insert(frame, FrameInfo { owner, words, owned: true, mapped: 0 });
        self.by_address.insert(std::ptr::from_ref(words).addr(), frame);
        if let Some(domain) = self.domains.get_mut(&owner) {
            domain.pages += 1;
        }
        frame
    }

    pub(super) fn advance(&mut self, ns: u64) {
        self.now += ns;
        let now = self.now;
        let due: Vec<DomId> = self
            .domains
            .iter()
            .filter(|(_, domain)| domain.timer.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for domain in self.domains.values() {
            self.write_time(domain.shared_info);
        }
        for id in due {
            if let Some(domain) = self.domains.get_mut(&id) {
                domain.timer = None;
            }
            self.raise_virq(id, xen_sys::Virq::Timer);
        }
    }

    /// With a time-stamp counter of 0, system time is what is written here.
    fn write_time(&self, page: &PageWords) {
        let version = page.load(shared_info::TIME_VERSION / 4);
        page.store(shared_info::TIME_VERSION / 4, version + 1);
        let written = page.write(shared_info::SYSTEM_TIME, &self.now.to_le_bytes());
        assert!(written, "within the page");
        page.store(shared_info::TIME_VERSION / 4, version + 2);
        page.store(shared_info::WC_SEC / 4, 1_700_000_000);
    }

    /// `domain_kill`: mappings first, then ports, then memory (`xen/common/domain.c`).
    pub(super) fn destroy(&mut self, id: DomId) {
        let Some(domain) = self.domains.get_mut(&id) else { return };
        domain.alive = false;
        domain.timer = None;
        domain.idle = None;
        let handles: Vec<u32> = domain.mappings.keys().copied().collect();
        for handle in handles {
            self.release_mapping(id, handle);
        }
        self.close_all(id);
        let frames: Vec<Mfn> =
            self.frames.iter().filter(|(_, info)| info.owner == id).map(|(frame, _)| *frame).collect();
        for frame in frames {
            if let Some(info) = self.frames.get_mut(&frame) {
                info.owned = false;
            }
            self.bury(frame);
        }
        self.bury_domain(id);
    }

    /// Forgets a frame that nobody has and nobody maps, and its owner if that is dead and this was its last.
    pub(super) fn bury(&mut self, frame: Mfn) {
        let Some(info) = self.frames.get(&frame) else { return };
        if info.owned || info.mapped != 0 {
            return;
        }
        let owner = info.owner;
        self.by_address.remove(&std::ptr::from_ref(info.words).addr());
        self.frames.remove(&frame);
        if let Some(domain) = self.domains.get_mut(&owner) {
            domain.pages -= 1;
        }
        self.bury_domain(owner);
    }

    fn bury_domain(&mut self, id: DomId) {
        if self.domains.get(&id).is_some_and(|domain| !domain.alive && domain.pages == 0) {
            self.domains.remove(&id);
        }
    }

    pub(super) fn frame_of(&self, id: DomId, page: &PageWords) -> Option<Mfn> {
        let frame = self.by_address.get(&std::ptr::from_ref(page).addr())?;
        (self.frames.get(frame)?.owner == id).then_some(*frame)
    }
}
