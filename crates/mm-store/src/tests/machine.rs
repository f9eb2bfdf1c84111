//! Runs random histories over a store and its disk: everything under way at once, completed in any order.

use std::collections::VecDeque;

use super::disk::Disk;
use super::model::{Change, Model, Value, show, value};
use super::{Random, recover};
use crate::host::Tables;
use crate::{Base, Command, Geometry, Lifetime, OverlayId, Place, Store, Ticket, WriteRefused, crc32c};

/// Something that the disk is doing.
enum Under {
    Write(Ticket, u64),
    Flush(Ticket, Vec<u64>),
    Data(Place, u64, u64),
}

/// What a history is made of.
#[derive(Clone, Copy)]
pub(super) struct Story {
    pub(super) geometry: Geometry,
    /// Blocks of each overlay.
    pub(super) pages: u32,
    /// Client operations.
    pub(super) steps: u32,
    /// Power is cut, on a copy, after one of so many writes.
    pub(super) every: u32,
}

pub(super) struct Machine<'a> {
    story: Story,
    pub(super) store: Store<'a>,
    pub(super) disk: Disk,
    pub(super) model: Model,
    random: Random,
    under: Vec<Under>,
    /// Flushes that wait: token and changes that they cover.
    flushes: VecDeque<(u64, u64)>,
    stamp: u64,
    /// Writes to the disk, and cuts that were tried.
    pub(super) writes: u64,
    pub(super) cuts: u64,
    /// Writes that did not happen, in all cuts.
    pub(super) lost: u64,
    probe: Tables,
    again: Tables,
}

pub(super) const BASE: Base = Base { identity: [9; 16], pages: 0 };

impl<'a> Machine<'a> {
    pub(super) fn new(
        story: Story,
        disk: Disk,
        tables: &'a mut Tables,
        model: Model,
        mut random: Random,
    ) -> Result<Self, String> {
        let run = 2 + random.below(9);
        let store = recover(&disk, tables, run).map_err(|error| format!("{error:?}"))?;
        let mut disk = disk;
        disk.data = store.geometry.disk_block(0);
        let stamp = random.next() >> 24;
        Ok(Self {
            story,
            store,
            disk,
            model,
            random,
            under: Vec::new(),
            flushes: VecDeque::new(),
            stamp,
            writes: 0,
            cuts: 0,
            lost: 0,
            probe: Tables::new(&story.geometry),
            again: Tables::new(&story.geometry),
        })
    }

    /// A history; cut after its writes. Leaves things under way.
    pub(super) fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.story.steps {
            self.client()?;
            while self.under.len() > 10 || (!self.under.is_empty() && self.random.once_in(2)) {
                self.complete();
            }
            for _ in 0..self.random.below(4) {
                if !self.poll()? {
                    break;
                }
            }
            self.answers()?;
        }
        Ok(())
    }

    /// Lets everything come to its end, with a flush.
    pub(super) fn drain(&mut self) -> Result<(), String> {
        self.flush();
        for _ in 0..10_000 {
            while self.poll()? {}
            self.answers()?;
            if self.under.is_empty() && !self.store.has_background_work() {
                break;
            }
            if !self.under.is_empty() {
                self.complete();
            }
        }
        if !self.under.is_empty() || !self.flushes.is_empty() {
            return Err(format!("does not come to an end: {:?}", self.store.figures()));
        }
        if show(&self.store, &self.disk)? != self.model.now() {
            return Err("shows something else than was written".to_string());
        }
        self.sound()
    }

    /// What holds at any moment.
    pub(super) fn sound(&self) -> Result<(), String> {
        let f = self.store.figures();
        let sum = f.free + f.writing + f.live + f.pending;
        let waiting = self.under.iter().filter(|under| matches!(under, Under::Data(..))).count();
        let good = sum == f.geometry.data && f.bugs == 0 && f.writing as usize == waiting;
        if good { Ok(()) } else { Err(format!("unsound: {f:?}")) }
    }

    fn client(&mut self) -> Result<(), String> {
        let ids: Vec<OverlayId> = self.store.overlays().map(|overlay| overlay.id).collect();
        let pages = self.story.pages;
        let Some(id) = ids.get(self.random.below(u32::try_from(ids.len()).expect("few")) as usize).copied()
        else {
            return self.create(pages);
        };
        // Half of all goes to few blocks: overwriting is what is hard.
        let block = if self.random.once_in(2) { self.random.below(4) } else { self.random.below(pages) };
        match self.random.below(40) {
            0 => self.create(pages)?,
            1 if ids.len() > 1 => {
                if self.store.delete(id).is_ok() {
                    self.model.change(Change::Delete(id.0));
                }
            }
            2..=4 => {
                let count = if self.random.once_in(3) { pages } else { 1 + self.random.below(9) };
                self.zero(id, block, count.min(pages - block))?;
            }
            5..=9 => self.flush(),
            10 => self.store.checkpoint(),
            11..=13 => {
                let now = self.model.now();
                let found = value(&self.store, &self.disk, id, block)?;
                if now[&id.0][block as usize] != found {
                    return Err(format!("{id:?} {block}: {found:?}, not {:?}", now[&id.0][block as usize]));
                }
            }
            _ => return self.write(id, block),
        }
        Ok(())
    }

    fn create(&mut self, pages: u32) -> Result<(), String> {
        let name = format!("o{}", self.random.below(100));
        let lifetime = if self.random.once_in(5) { Lifetime::Ephemeral } else { Lifetime::Persistent };
        if let Ok(id) = self.store.create(&name, Base { pages, ..BASE }, None, lifetime) {
            if lifetime == Lifetime::Ephemeral {
                self.model.ephemeral.insert(id.0);
            }
            self.model.change(Change::Create(id.0, pages));
        }
        Ok(())
    }

    fn write(&mut self, overlay: OverlayId, block: u32) -> Result<(), String> {
        match self.store.begin_write(overlay, block) {
            Ok(place) => {
                self.stamp += 1;
                let id = self.disk.write(place.disk.0, Value::page(self.stamp));
                self.under.push(Under::Data(place, self.stamp, id));
                self.wrote()
            }
            Err(WriteRefused::Busy | WriteRefused::Full) => Ok(()),
            Err(other) => Err(format!("{other:?}")),
        }
    }

    fn zero(&mut self, overlay: OverlayId, mut block: u32, mut count: u32) -> Result<(), String> {
        while count > 0 {
            let done = match self.store.zero(overlay, block, count) {
                Ok(done) if done > 0 && done <= count => done,
                Err(WriteRefused::Busy | WriteRefused::Full) => return Ok(()),
                other => return Err(format!("{other:?}")),
            };
            for block in block..block + done {
                self.model.change(Change::Set(overlay.0, block, Value::Zero));
            }
            (block, count) = (block + done, count - done);
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.stamp += 1;
        if self.store.flush(self.stamp).is_ok() {
            self.flushes.push_back((self.stamp, self.model.changes()));
        }
    }

    fn answers(&mut self) -> Result<(), String> {
        while let Some((token, result)) = self.store.flushed() {
            let (expected, changes) = self.flushes.pop_front().ok_or("an answer to nothing")?;
            if token != expected || result.is_err() {
                return Err(format!("flush {token}: {result:?}"));
            }
            self.model.flushed(changes);
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<bool, String> {
        let mut page = [0x55; 4096];
        match self.store.poll(&mut page) {
            None => Ok(false),
            Some(Command::Flush { ticket }) => {
                self.under.push(Under::Flush(ticket, self.disk.flush()));
                Ok(true)
            }
            Some(Command::Write { ticket, block }) => {
                let id = self.disk.write(block.0, page);
                self.under.push(Under::Write(ticket, id));
                self.wrote().map(|()| true)
            }
        }
    }

    fn complete(&mut self) {
        let index = self.random.below(u32::try_from(self.under.len()).expect("few")) as usize;
        match self.under.swap_remove(index) {
            Under::Write(ticket, id) => {
                self.disk.finish(id);
                self.store.completed(ticket, Ok(()));
            }
            Under::Flush(ticket, covered) => {
                self.disk.flushed(&covered);
                self.store.completed(ticket, Ok(()));
            }
            Under::Data(place, stamp, id) => {
                self.disk.finish(id);
                let (overlay, block) = (place.overlay, place.block);
                let result = if self.random.once_in(30) { Err(crate::IoFailed) } else { Ok(()) };
                let there = self.store.figures().overlays > 0 && self.store.lookup(overlay, block).is_ok();
                let crc = crc32c(&Value::page(stamp));
                if self.store.written(place, crc, result).is_ok() && there {
                    self.model.change(Change::Set(overlay.0, block, Value::Stamp(stamp)));
                }
            }
        }
    }

    /// A write is under way: what if the power is cut now?
    fn wrote(&mut self) -> Result<(), String> {
        self.writes += 1;
        self.sound()?;
        if !self.random.once_in(self.story.every) {
            return Ok(());
        }
        self.cuts += 1;
        let image = self.disk.cut(&mut self.random);
        let run = 2 + self.random.below(9);
        let first = recover(&image, &mut self.probe, run).map_err(|error| format!("recovery: {error:?}"))?;
        self.lost += first.figures().recovery.lost_writes;
        let found = show(&first, &image)?;
        self.model.judge(&found)?;
        // Another recovery, that reads otherwise, finds the same.
        let second = recover(&image, &mut self.again, 64).map_err(|error| format!("again: {error:?}"))?;
        if show(&second, &image)? == found { Ok(()) } else { Err("two recoveries differ".to_string()) }
    }

    /// The disk after M1 was killed, what may be there, and what of it is there.
    pub(super) fn kill(mut self) -> Result<(Disk, Model, Random), String> {
        let disk = self.disk.abandoned(&mut self.random);
        let store = recover(&disk, &mut self.probe, 4).map_err(|error| format!("recovery: {error:?}"))?;
        let found = show(&store, &disk)?;
        self.model.judge(&found)?;
        self.model.killed(found);
        Ok((disk, self.model, self.random))
    }

    /// The disk after a cut of power, and what is there.
    pub(super) fn cut(mut self) -> Result<(Disk, Model, Random), String> {
        let image = self.disk.cut(&mut self.random);
        let store = recover(&image, &mut self.probe, 4).map_err(|error| format!("recovery: {error:?}"))?;
        let found = show(&store, &image)?;
        self.model.judge(&found)?;
        Ok((image, Model::new(found), self.random))
    }
}
