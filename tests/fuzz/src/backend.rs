//! What surrounds a frontend whose backend lies: a fake Xen with both domains, and a xenstored in which the backend writes anything.
//!
//! Domains and pages are made once for each thread, because a fake Xen never gives memory back; a story that leaves something
//! lent would be noticed by the next one, and is noticed at its own end.

use ::xenstore::Connection;
use ::xenstore::fake::{FakeXenstored, Flavour, Perm, Right};
use xen::fake::{FakeDomain, FakeXen, Mapped};
use xen::{Access, GrantRef, PageWords};
use xen_drivers::{Frame, Platform};

use super::input::Input;

pub mod blk;
pub mod net;

/// Values that a backend may put anywhere.
const VALUES: [&str; 13] =
    ["0", "1", "2", "3", "4", "5", "6", "8", "64", "", "-1", "18446744073709551615", "00:16:3e:00:00:0g"];

/// Both domains, and pages for one driver.
pub struct Machine {
    ours: FakeDomain,
    theirs: FakeDomain,
    platform: Platform,
    store: &'static PageWords,
    frames: Vec<Frame>,
}

impl Machine {
    fn new(pages: usize) -> &'static Self {
        let xen = FakeXen::new();
        let (ours, theirs) = (xen.domain(pages + 1, 5), xen.domain(1, 1));
        ours.grants().grow_to(5).expect("it has as many");
        let frame = |_| {
            let (words, mfn) = ours.page();
            Frame { words, mfn }
        };
        let frames = (0..pages).map(frame).collect();
        let platform = Platform {
            hypervisor: Box::leak(Box::new(ours.clone())),
            events: ours.events(),
            grants: ours.grants(),
            refs: Box::leak(Box::default()),
        };
        let (store, _) = ours.page();
        Box::leak(Box::new(Self { ours, theirs, platform, store, frames }))
    }
}

/// One story: a device of one class, and what the backend holds of it.
struct Story {
    machine: &'static Machine,
    class: &'static str,
    server: FakeXenstored,
    connection: Connection,
    now: u64,
    mapped: Vec<Mapped>,
}

impl Story {
    fn new(machine: &'static Machine, class: &'static str) -> Self {
        machine.store.zero();
        for frame in &machine.frames {
            frame.words.zero();
        }
        let (ours, theirs) = (machine.ours.id().0, machine.theirs.id().0);
        let mut server = FakeXenstored::new(Flavour::Ocaml);
        server.introduce(ours, machine.store);
        let connection = Connection::new(machine.store);
        let mut story = Self { machine, class, server, connection, now: 1, mapped: Vec::new() };
        let (front, back) = (story.front(""), story.back(""));
        let none = |domain| Perm { domain, right: Right::None };
        let read = |domain| Perm { domain, right: Right::Read };
        story.server.set_with(&front, "", &[none(ours), read(theirs)]);
        story.server.set_with(&back, "", &[none(theirs), read(ours)]);
        story.server.set(&format!("{front}/backend"), &back);
        story.server.set(&format!("{front}/backend-id"), &theirs.to_string());
        story.server.set(&format!("{front}/mac"), "00:16:3e:01:02:03");
        story.server.set(&format!("{front}/state"), "1");
        story.server.set(&format!("{back}/state"), "1");
        story
    }

    fn front(&self, key: &str) -> String {
        format!("/local/domain/{}/device/{}/0{key}", self.machine.ours.id().0, self.class)
    }

    fn back(&self, key: &str) -> String {
        let (ours, theirs) = (self.machine.ours.id().0, self.machine.theirs.id().0);
        format!("/local/domain/{theirs}/backend/{}/{ours}/0{key}", self.class)
    }

    /// The backend writes a node of its own directory.
    fn says(&mut self, key: &str, value: &str) {
        let node = self.back(&format!("/{key}"));
        self.server.set(&node, value);
    }

    fn says_something(&mut self, input: &mut Input<'_>, keys: &[&str]) -> Option<()> {
        let key = keys[usize::from(input.byte()?) % keys.len()];
        let value = VALUES[usize::from(input.byte()?) % VALUES.len()];
        self.says(key, value);
        Some(())
    }

    /// The backend maps whatever reference, and keeps it for a while.
    fn maps(&mut self, input: &mut Input<'_>) -> Option<()> {
        let reference = GrantRef(8 + u32::from(input.byte()?));
        let access = if input.byte()? & 1 == 0 { Access::ReadOnly } else { Access::ReadWrite };
        if self.mapped.len() < 64
            && let Ok(mapped) = self.machine.theirs.map(self.machine.ours.id(), reference, access)
        {
            self.mapped.push(mapped);
        }
        Some(())
    }

    /// The backend lets go of everything.
    fn unmaps(&mut self) {
        for mapped in self.mapped.drain(..) {
            self.machine.theirs.unmap(mapped).expect("it is mapped");
        }
    }

    /// Time passes, but never so much that pages which the backend still maps are given up: there is only one set of them.
    fn passes(&mut self, ns: u64) {
        if self.mapped.is_empty() {
            self.now += ns;
        }
    }

    /// Everything lent is back, and every port closed.
    fn end(&self) {
        assert_eq!(self.machine.platform.refs.taken(), 0, "something is still lent");
        assert_eq!(self.machine.ours.open_ports(), 0, "a port is still open");
    }
}

/// Any word of a ring page: a header word as often as another.
fn poke(input: &mut Input<'_>, page: &PageWords) -> Option<()> {
    let at = input.half()?;
    let word = usize::from(at >> 1) % if at & 1 == 0 { 4 } else { 1024 };
    page.store(word, input.word()?);
    Some(())
}
