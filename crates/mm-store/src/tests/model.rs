//! What may be on the disk: the state at the last flush, and every change since.

use std::collections::{BTreeMap, BTreeSet};

use super::disk::Disk;
use crate::{DiskBlock, Found, OverlayId, Page, Store, crc32c};

/// What a block shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Value {
    Base,
    Zero,
    /// Content that was written once and is like no other.
    Stamp(u64),
}

impl Value {
    pub(super) fn page(stamp: u64) -> Page {
        let mut page = [0; 4096];
        for (index, word) in page.chunks_mut(8).enumerate() {
            word.copy_from_slice(&(stamp << 16 | index as u64).to_le_bytes());
        }
        page
    }
}

/// What clients were told.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Create(u32, u32),
    Delete(u32),
    Set(u32, u32, Value),
    /// M1 was killed, and the next one found this: some of what was not flushed is not there, and the rest is not flushed.
    Found(State),
}

/// Overlays, each with what its blocks show.
pub(super) type State = BTreeMap<u32, Vec<Value>>;

#[derive(Clone, Default)]
pub(super) struct Model {
    /// Overlays that no cut of power leaves.
    pub(super) ephemeral: BTreeSet<u32>,
    flushed: State,
    since: Vec<Change>,
    /// Changes that went into `flushed`.
    before: u64,
}

impl Model {
    pub(super) fn new(flushed: State) -> Self {
        Self { flushed, ..Self::default() }
    }

    pub(super) fn change(&mut self, change: Change) {
        self.since.push(change);
    }

    /// M1 was killed, and the next one found this.
    pub(super) fn killed(&mut self, found: State) {
        // What was ephemeral is gone for good, and its numbers can be another's.
        for id in std::mem::take(&mut self.ephemeral) {
            self.flushed.remove(&id);
            self.since.retain(|change| match change {
                Change::Create(of, _) | Change::Delete(of) | Change::Set(of, ..) => *of != id,
                Change::Found(_) => true,
            });
        }
        self.change(Change::Found(found));
    }

    /// How many changes there were: what a flush that begins now covers.
    pub(super) fn changes(&self) -> u64 {
        self.before + self.since.len() as u64
    }

    /// A flush that covers so many changes is answered.
    pub(super) fn flushed(&mut self, changes: u64) {
        let count = usize::try_from(changes.saturating_sub(self.before)).expect("few");
        for change in self.since.drain(..count) {
            apply(&mut self.flushed, &change);
        }
        self.before += count as u64;
    }

    /// What is there now, without a cut of power.
    pub(super) fn now(&self) -> State {
        let mut state = self.flushed.clone();
        self.since.iter().for_each(|change| apply(&mut state, change));
        state
    }

    /// Judges what is there after a cut of power.
    pub(super) fn judge(&self, found: &State) -> Result<(), String> {
        let mut deleted = BTreeSet::new();
        let mut may: BTreeMap<u32, Vec<Vec<Value>>> = self
            .flushed
            .iter()
            .map(|(id, blocks)| (*id, blocks.iter().map(|v| vec![*v]).collect()))
            .collect();
        for change in &self.since {
            match *change {
                Change::Found(ref state) => {
                    deleted.extend(may.keys().filter(|id| !state.contains_key(id)));
                    for (id, blocks) in state {
                        let may = may.get_mut(id).expect("there");
                        may.iter_mut().zip(blocks).for_each(|(may, value)| may.push(*value));
                    }
                }
                Change::Create(id, pages) => {
                    may.insert(id, vec![vec![Value::Base]; pages as usize]);
                }
                Change::Delete(id) => {
                    deleted.insert(id);
                }
                Change::Set(id, block, value) => may.get_mut(&id).expect("there")[block as usize].push(value),
            }
        }
        for id in self.flushed.keys() {
            if !found.contains_key(id) && !deleted.contains(id) && !self.ephemeral.contains(id) {
                return Err(format!("overlay {id} is gone"));
            }
        }
        for (id, blocks) in found {
            let may = may
                .get(id)
                .filter(|_| !self.ephemeral.contains(id))
                .ok_or(format!("overlay {id} is back"))?;
            for (block, (value, may)) in blocks.iter().zip(may).enumerate() {
                if !may.contains(value) {
                    return Err(format!("overlay {id} block {block}: {value:?}, may be {may:?}"));
                }
            }
        }
        Ok(())
    }
}

fn apply(state: &mut State, change: &Change) {
    match *change {
        Change::Found(ref found) => state.clone_from(found),
        Change::Create(id, pages) => {
            state.insert(id, vec![Value::Base; pages as usize]);
        }
        Change::Delete(id) => {
            state.remove(&id);
        }
        Change::Set(id, block, value) => {
            if let Some(blocks) = state.get_mut(&id) {
                blocks[block as usize] = value;
            }
        }
    }
}

/// Everything that a store shows, read from its disk.
pub(super) fn show(store: &Store<'_>, disk: &Disk) -> Result<State, String> {
    let mut state = State::new();
    for overlay in store.overlays() {
        let blocks: Result<Vec<Value>, String> =
            (0..overlay.pages).map(|block| value(store, disk, overlay.id, block)).collect();
        state.insert(overlay.id.0, blocks?);
    }
    Ok(state)
}

pub(super) fn value(store: &Store<'_>, disk: &Disk, overlay: OverlayId, block: u32) -> Result<Value, String> {
    match store.lookup(overlay, block).map_err(|error| format!("{error:?}"))? {
        Found::Base => Ok(Value::Base),
        Found::Zero => Ok(Value::Zero),
        Found::At { disk: DiskBlock(at), crc } => {
            let page = disk.read(at);
            let stamp = u64::from_le_bytes(*page.first_chunk().expect("8 bytes")) >> 16;
            if crc32c(page) != crc || Value::page(stamp) != *page {
                return Err(format!("{overlay:?} block {block}: rotten at {at}"));
            }
            Ok(Value::Stamp(stamp))
        }
    }
}
