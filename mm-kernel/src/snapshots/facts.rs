//! What is said of snapshots.

use mm_engine::{Engine, SnapshotState};
use xen_sys::DomId;

use super::{Identity, Persist, Slot, Snapshots};
use crate::m1::M1;

/// How far a freeze is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Where it is.
    pub state: SnapshotState,
    /// Clones can be attached.
    pub ready: bool,
    /// Whether it outlives M1.
    pub persist: Persist,
    /// Pages that the client announced.
    pub announced: u64,
    /// Pages that came so far.
    pub captured: u64,
    /// Pages kept of the snapshot that the client came from.
    pub kept: u64,
    /// How long the program stood still, in nanoseconds; 0 before it is complete.
    pub standstill: u64,
}

/// A snapshot, for lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotFacts<'a> {
    /// What it is called, over its volume.
    pub name: &'a str,
    /// The volume that it lies over.
    pub volume: &'a str,
    /// Whose program it was.
    pub source: DomId,
    /// Which one it is.
    pub identity: Identity,
    /// Seconds since 1970 when it was ordered.
    pub ordered: u64,
    /// Where it is in its life.
    pub state: SnapshotState,
    /// Clones can be attached.
    pub ready: bool,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// Pages among them that no other snapshot has.
    pub unique: u64,
    /// Pages that were copied for it, and of those, pages whose bytes were there already.
    pub captured: u64,
    /// See [`Self::captured`].
    pub deduplicated: u64,
    /// Pages that it has from the snapshot that its client came from.
    pub kept: u64,
    /// Devices that are attached to it.
    pub clones: u32,
    /// Programs that went on from it.
    pub thawed: u64,
    /// How long the program stood still for it, in nanoseconds.
    pub standstill: u64,
    /// Whether it outlives M1.
    pub persist: Persist,
    /// A list of what clones touch first is there.
    pub hot: bool,
}

impl Snapshots {
    /// All of them, in no order.
    pub fn facts<'a>(&'a self, engine: &'a Engine<'static>) -> impl Iterator<Item = SnapshotFacts<'a>> + 'a {
        self.iter().filter_map(move |slot| one(slot, engine))
    }
}

fn one<'a>(slot: &'a Slot, engine: &Engine<'static>) -> Option<SnapshotFacts<'a>> {
    let figures = engine.snapshot(slot.id)?;
    Some(SnapshotFacts {
        name: &slot.name,
        volume: &slot.over,
        persist: slot.persist,
        source: slot.source,
        identity: slot.identity,
        ordered: slot.ordered,
        state: figures.state,
        ready: slot.ready,
        pages: u64::from(figures.pages),
        unique: u64::from(figures.unique),
        captured: figures.progress.captured,
        deduplicated: figures.progress.deduplicated,
        kept: figures.progress.kept,
        clones: figures.rings,
        thawed: figures.progress.thawed,
        standstill: figures.progress.standstill,
        hot: figures.hot != 0,
    })
}

impl M1 {
    /// How far a freeze is that was ordered of this domain under this name, or how it ended. `None`: there is none (any more).
    #[must_use]
    pub fn freeze_progress(&self, domain: DomId, name: &str) -> Option<Progress> {
        let slot = self.snapshots.iter().find(|slot| slot.source == domain && slot.name == name)?;
        let figures = self.engine.snapshot(slot.id)?;
        Some(Progress {
            state: figures.state,
            ready: slot.ready,
            persist: slot.persist,
            announced: figures.progress.announced,
            captured: figures.progress.captured,
            kept: figures.progress.kept,
            standstill: figures.progress.standstill,
        })
    }

    /// The snapshots, in no order.
    pub fn snapshots(&self) -> impl Iterator<Item = SnapshotFacts<'_>> {
        self.snapshots.facts(self.engine)
    }
}
