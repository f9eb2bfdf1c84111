//! A block backend in another domain: maps M1's ring and pages, and puts there what the disk holds.

use std::collections::{BTreeMap, BTreeSet};
use std::string::ToString;
use std::vec::Vec;

use xen::fake::{FakeDomain, Mapped};
use xen::{Access, DomId, GrantRef, Hypervisor, Port};
use xen_ring::Back;
use xenstore::fake::FakeXenstored;

/// Words of a page.
pub(crate) const WORDS: usize = 1024;

/// What the disk holds: no two words of all disks are the same, so no two pages are.
pub(crate) fn word(disk: u32, page: u64, index: usize) -> u32 {
    let place = u32::try_from(page * WORDS as u64 + index as u64).expect("a small disk");
    (disk + 1) << 26 | place
}

pub(crate) struct Disk {
    number: u32,
    pages: u64,
    pub(crate) devid: u32,
    ring: Option<(Back<28, 4>, Mapped, Port)>,
    /// Knows persistent grants, as every other disk does, and keeps these.
    persistent: bool,
    kept: BTreeMap<u32, Mapped>,
    /// Pages that cannot be read.
    pub(crate) bad: BTreeSet<u64>,
    /// Takes no requests for now.
    pub(crate) stalled: bool,
    /// Pages read so far.
    pub(crate) reads: Vec<u64>,
    /// What it holds, if it can be written.
    pub(crate) blocks: Option<Vec<[u32; WORDS]>>,
    /// Requests so far to one that can be written: code (`io/blkif.h`), page.
    pub(crate) asked: Vec<(u8, u64)>,
    /// What was written, block by block in its order; nothing: a flush.
    pub(crate) log: Vec<Option<(usize, [u32; WORDS])>>,
}

impl Disk {
    /// Makes the device's nodes in xenstore.
    pub(crate) fn new(
        store: &mut FakeXenstored,
        dom0: DomId,
        m1: DomId,
        number: u32,
        devid: u32,
        pages: u64,
    ) -> Self {
        Self::made(store, dom0, m1, number, devid, pages, None)
    }

    /// One that can be written, and holds these blocks.
    pub(crate) fn writable(
        store: &mut FakeXenstored,
        dom0: DomId,
        m1: DomId,
        devid: u32,
        blocks: Vec<[u32; WORDS]>,
    ) -> Self {
        let pages = blocks.len() as u64;
        let mut disk = Self::made(store, dom0, m1, 63, devid, pages, Some(blocks));
        disk.stalled = false;
        disk
    }

    fn made(
        store: &mut FakeXenstored,
        dom0: DomId,
        m1: DomId,
        number: u32,
        devid: u32,
        pages: u64,
        blocks: Option<Vec<[u32; WORDS]>>,
    ) -> Self {
        let (mode, info) = if blocks.is_some() { ("w", "0") } else { ("r", "4") };
        store.add_vbd(dom0.0, m1.0, devid, "/dev/base", mode);
        let disk = Self {
            number,
            pages,
            devid,
            ring: None,
            persistent: (devid / 16).is_multiple_of(2),
            kept: BTreeMap::new(),
            bad: BTreeSet::new(),
            stalled: true,
            reads: Vec::new(),
            blocks,
            asked: Vec::new(),
            log: Vec::new(),
        };
        let back = disk.back(dom0, m1);
        for (key, value) in [
            ("sectors", (pages * 8).to_string().as_str()),
            ("sector-size", "512"),
            ("info", info),
            ("feature-flush-cache", "1"),
            ("feature-persistent", if disk.persistent { "1" } else { "0" }),
        ] {
            store.set(&std::format!("{back}/{key}"), value);
        }
        store.set(&std::format!("{back}/state"), "2");
        disk
    }

    fn back(&self, dom0: DomId, m1: DomId) -> std::string::String {
        std::format!("/local/domain/{}/backend/vbd/{}/{}", dom0.0, m1.0, self.devid)
    }

    /// Connects when M1 has published its side, and does what is asked. True where something moved.
    pub(crate) fn serve(&mut self, store: &mut FakeXenstored, dom0: &FakeDomain, m1: DomId) -> bool {
        if self.ring.is_none() {
            return self.connect(store, dom0, m1);
        }
        let mut moved = false;
        while !self.stalled
            && let Some((back, _, port)) = &mut self.ring
            && let Some(words) = back.pop_request().expect("M1 is honest")
        {
            let port = *port;
            let answer = self.answer(&words, dom0, m1);
            let Some((back, ..)) = &mut self.ring else { break };
            back.push_response(&answer).expect("a request was taken");
            if back.publish() {
                dom0.evtchn_send(port).expect("M1 is there");
            }
            let _ = back.final_check();
            moved = true;
        }
        moved
    }

    fn connect(&mut self, store: &mut FakeXenstored, dom0: &FakeDomain, m1: DomId) -> bool {
        let front = std::format!("/local/domain/{}/device/vbd/{}", m1.0, self.devid);
        if store.get(&std::format!("{front}/state")).as_deref() != Some("3") {
            return false;
        }
        let number = |key| {
            let text = store.get(&std::format!("{front}/{key}")).expect("published");
            text.parse::<u32>().expect("a number")
        };
        let ring =
            dom0.map(m1, GrantRef(number("ring-ref")), Access::ReadWrite).expect("M1 granted its ring");
        let port = dom0.evtchn_bind_interdomain(m1, Port(number("event-channel"))).expect("allocated");
        self.ring = Some((Back::attach(ring.words()), ring, port));
        let state = std::format!("{}/state", self.back(dom0.id(), m1));
        store.set(&state, "4");
        true
    }

    /// `xl block-detach` of M1's disk: asks M1 to close, and once it has, removes both halves. Call [`Self::gone`] when M1 has run.
    pub(crate) fn detach(&mut self, store: &mut FakeXenstored, dom0: DomId, m1: DomId) {
        store.set(&std::format!("{}/state", self.back(dom0, m1)), "5");
        self.stalled = true;
    }

    /// The other half of that: M1 has closed its side.
    pub(crate) fn gone(&mut self, store: &mut FakeXenstored, dom0: &FakeDomain, m1: DomId) {
        let front = std::format!("/local/domain/{}/device/vbd/{}", m1.0, self.devid);
        assert_eq!(store.get(&std::format!("{front}/state")).as_deref(), Some("6"), "M1 has closed");
        let (_, ring, port) = self.ring.take().expect("it was connected");
        for mapped in core::mem::take(&mut self.kept).into_values().chain([ring]) {
            dom0.unmap(mapped).expect("mapped");
        }
        dom0.evtchn_close(port).expect("bound");
        store.remove(&self.back(dom0.id(), m1));
        store.remove(&front);
    }

    fn answer(&mut self, words: &[u32; 28], dom0: &FakeDomain, m1: DomId) -> [u32; 4] {
        let [operation, segments, ..] = words[0].to_le_bytes();
        assert!(operation == 0 || self.blocks.is_some(), "M1 only reads its volumes");
        let first = (u64::from(words[4]) | u64::from(words[5]) << 32) / 8;
        if self.blocks.is_some() {
            self.asked.push((operation, first));
        }
        let mut status = 0_u32;
        for (page, segment) in (first..).zip(words[6..].chunks(2).take(usize::from(segments))) {
            assert!(page < self.pages, "beyond the disk's end");
            self.reads.push(page);
            if self.bad.contains(&page) {
                status = 0xffff;
                continue;
            }
            let write = operation == 1 && !self.persistent;
            let access = if write { Access::ReadOnly } else { Access::ReadWrite };
            let kept = self.kept.remove(&segment[0]);
            let to = kept
                .unwrap_or_else(|| dom0.map(m1, GrantRef(segment[0]), access).expect("M1 granted its page"));
            let place = usize::try_from(page).expect("a small disk");
            for index in 0..WORDS {
                match &mut self.blocks {
                    Some(blocks) if operation == 1 => blocks[place][index] = to.words().load(index),
                    Some(blocks) => to.words().store(index, blocks[place][index]),
                    None => to.words().store(index, word(self.number, page, index)),
                }
            }
            if self.persistent {
                self.kept.insert(segment[0], to);
            } else {
                dom0.unmap(to).expect("mapped just now");
            }
            if let (Some(blocks), 1) = (&self.blocks, operation) {
                self.log.push(Some((place, blocks[place])));
            }
        }
        if operation == 3 {
            self.log.push(None);
        }
        [words[2], words[3], status << 16 | u32::from(operation), 0]
    }
}
