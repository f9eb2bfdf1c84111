//! A driver's domain with a grant table that the test can read, and dom0's xenstored and event channels beside it.

use std::boxed::Box;
use std::collections::BTreeMap;
use std::sync::Mutex;

use xen::fake::{FakeDomain, FakeXen};
use xen::grant::{GrantArea, RefPool};
use xen::{Errno, GrantRef, GrantTable, Mfn, PageWords, Port};
use xenstore::Connection;
use xenstore::fake::{FakeXenstored, Flavour, Perm, Right};

use super::world::page;
use crate::{Frame, Platform};

/// Five frames: as many entries as [`RefPool`] hands out.
const TABLE: u32 = 5;

struct Area;

impl GrantArea for Area {
    fn grow(&self, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn may_share(&self, frame: Mfn) -> bool {
        FRAMES.lock().expect("no panic elsewhere").contains_key(&frame.0)
    }
}

/// All frames of all tests.
static FRAMES: Mutex<BTreeMap<u64, &'static PageWords>> = Mutex::new(BTreeMap::new());

pub(crate) fn frame() -> Frame {
    let words = page();
    let mut frames = FRAMES.lock().expect("no panic elsewhere");
    let mfn = Mfn(0x1000 + frames.len() as u64);
    frames.insert(mfn.0, words);
    Frame { words, mfn }
}

pub(crate) fn frames(count: usize) -> Vec<Frame> {
    (0..count).map(|_| frame()).collect()
}

const PERMIT: u32 = 1;
const READONLY: u32 = 4;
const WRITING: u32 = 16;

/// The machine, as far as one driver sees it.
pub(crate) struct Machine {
    pub(crate) server: FakeXenstored,
    pub(crate) connection: Connection,
    pub(crate) platform: Platform,
    table: &'static [PageWords],
    /// Our domain and the backend's.
    ours: FakeDomain,
    pub(crate) theirs: FakeDomain,
    pub(crate) now: u64,
    class: &'static str,
    /// The backend's end of our port.
    port: Option<Port>,
}

impl Machine {
    /// With one device of a class, number 0, as libxl makes it.
    pub(crate) fn new(class: &'static str) -> Self {
        let xen = FakeXen::new();
        let (ours, theirs) = (xen.domain(16, 4), xen.domain(16, 4));
        let table: &'static [PageWords] = Box::leak((0..TABLE).map(|_| PageWords::new()).collect());
        let grants: &'static GrantTable = Box::leak(Box::new(GrantTable::new(table, &Area)));
        grants.grow_to(TABLE).expect("it has as many");
        let platform = Platform {
            hypervisor: Box::leak(Box::new(ours.clone())),
            events: ours.events(),
            grants,
            refs: Box::leak(Box::new(RefPool::new())),
        };
        let store = page();
        let mut server = FakeXenstored::new(Flavour::C);
        server.introduce(ours.id().0, store);
        let mut machine = Self {
            server,
            connection: Connection::new(store),
            platform,
            table,
            ours,
            theirs,
            now: 1,
            class,
            port: None,
        };
        machine.attach();
        machine
    }

    /// What the toolstack writes for the device.
    pub(crate) fn attach(&mut self) {
        let (ours, theirs) = (self.ours.id().0, self.theirs.id().0);
        let (front, back) = (self.front(""), self.back(""));
        let none = |domain| Perm { domain, right: Right::None };
        let read = |domain| Perm { domain, right: Right::Read };
        self.server.set_with(&front, "", &[none(ours), read(theirs)]);
        self.server.set_with(&back, "", &[none(theirs), read(ours)]);
        for (key, value) in
            [("/backend", back.clone()), ("/backend-id", theirs.to_string()), ("/state", "1".into())]
        {
            self.server.set(&format!("{front}{key}"), &value);
        }
        self.server.set(&format!("{back}/state"), "1");
        self.server.set(&format!("{front}/mac"), "00:16:3e:01:02:0f");
    }

    pub(crate) fn front(&self, key: &str) -> String {
        format!("/local/domain/{}/device/{}/0{key}", self.ours.id().0, self.class)
    }

    pub(crate) fn back(&self, key: &str) -> String {
        format!("/local/domain/{}/backend/{}/{}/0{key}", self.theirs.id().0, self.class, self.ours.id().0)
    }

    pub(crate) fn front_state(&self) -> String {
        self.said("state")
    }

    /// What the frontend wrote; empty if nothing.
    pub(crate) fn said(&self, key: &str) -> String {
        self.server.get(&self.front(&format!("/{key}"))).unwrap_or_default()
    }

    pub(crate) fn set_back(&mut self, key: &str, value: &str) {
        let node = self.back(&format!("/{key}"));
        self.server.set(&node, value);
    }

    /// The page behind a reference that the frontend wrote under `key`, writable; pinned as a mapping of it is.
    pub(crate) fn map_ring(&self, key: &str) -> &'static PageWords {
        let reference = GrantRef(self.said(key).parse().expect("a reference"));
        let words = self.resolve(reference, true);
        self.pin(reference);
        words
    }

    /// Binds the frontend's port.
    pub(crate) fn bind(&mut self) {
        let port = Port(self.said("event-channel").parse().expect("a port"));
        use xen::Hypervisor;
        self.port =
            Some(self.theirs.evtchn_bind_interdomain(self.ours.id(), port).expect("it was allocated for us"));
    }

    /// Whether the backend was notified since it was last asked.
    pub(crate) fn notified(&self) -> bool {
        self.theirs.events().take_pending().any(|port| Some(port) == self.port)
    }

    /// The page that a grant names, if the backend may use it so.
    pub(crate) fn resolve(&self, reference: GrantRef, write: bool) -> &'static PageWords {
        let (header, frame) = self.entry(reference);
        assert_eq!(header >> 16, u32::from(self.theirs.id().0), "granted to another");
        assert_ne!(header & PERMIT, 0, "not granted");
        assert!(!write || header & READONLY == 0, "granted read-only");
        FRAMES.lock().expect("no panic elsewhere")[&u64::from(frame)]
    }

    /// The backend maps the page for as long as it likes.
    pub(crate) fn pin(&self, reference: GrantRef) {
        self.change(reference, |header| header | WRITING);
    }

    pub(crate) fn unpin(&self, reference: GrantRef) {
        self.change(reference, |header| header & !WRITING);
    }

    /// As a backend does when it disconnects: unmaps everything.
    pub(crate) fn unpin_all(&self) {
        for reference in 8..TABLE * 512 {
            self.unpin(GrantRef(reference));
        }
    }

    /// References that are lent now.
    pub(crate) fn lent(&self) -> Vec<GrantRef> {
        (8..TABLE * 512).map(GrantRef).filter(|reference| self.entry(*reference).0 & 0xffff != 0).collect()
    }

    pub(crate) fn open_ports(&self) -> usize {
        self.ours.open_ports()
    }

    fn entry(&self, reference: GrantRef) -> (u32, u32) {
        let (table, word) = (&self.table[(reference.0 / 512) as usize], (reference.0 % 512) as usize * 2);
        (table.load(word), table.load(word + 1))
    }

    fn change(&self, reference: GrantRef, to: impl Fn(u32) -> u32) {
        let (table, word) = (&self.table[(reference.0 / 512) as usize], (reference.0 % 512) as usize * 2);
        table.store(word, to(table.load(word)));
    }
}
