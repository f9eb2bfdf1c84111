//! Cuts of power.

use super::machine::{Machine, Story};
use super::model::Model;
use super::mutation::{Mutation, with};
use super::{Random, formatted, full};
use crate::Geometry;
use crate::host::Tables;

/// Small, so that everything comes round: the journal, the blocks, rows of overlays and zeroes.
pub(super) const SMALL: Story = Story {
    geometry: Geometry { journal: 16, data: 100, overlays: 4, zeroes: 8 },
    pages: 70,
    steps: 150,
    every: 1,
};

/// Several blocks of each kind in a checkpoint.
pub(super) const WIDE: Story = Story {
    geometry: Geometry { journal: 40, data: 700, overlays: 40, zeroes: 300 },
    pages: 200,
    steps: 500,
    every: 6,
};

/// What happened in histories.
#[derive(Default, Debug)]
struct Seen {
    writes: u64,
    cuts: u64,
    checkpoints: u64,
    /// Writes that recovery found not to have happened.
    lost: u64,
    /// Flushes that clients asked for, and flushes of the disk.
    flushes: u64,
    device_flushes: u64,
}

/// Histories one after another on one disk; between them power is cut, or M1 is killed.
fn histories(story: Story, seed: u64, count: u32, seen: &mut Seen) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (mut disk, mut model) = (formatted(story.geometry), Model::default());
    for _ in 0..count {
        let mut tables = Tables::new(&story.geometry);
        let mut machine = Machine::new(story, disk, &mut tables, model, random)?;
        machine.run()?;
        if machine.writes % 3 == 0 {
            machine.drain()?;
        }
        let figures = machine.store.figures();
        seen.writes += machine.writes;
        seen.cuts += machine.cuts + 1;
        seen.checkpoints += figures.checkpoints;
        seen.lost += machine.lost;
        seen.flushes += figures.flushes;
        seen.device_flushes += figures.device_flushes;
        (disk, model, random) =
            if machine.writes.is_multiple_of(2) { machine.cut()? } else { machine.kill()? };
    }
    Ok(())
}

fn all(story: Story, seeds: u64) {
    let mut seen = Seen::default();
    for seed in 0..seeds {
        histories(story, seed, 4, &mut seen).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    println!("{seen:?}");
    assert!(seen.cuts > 100 * seeds && seen.checkpoints > 4 * seeds && seen.lost > seeds, "{seen:?}");
    assert!(seen.flushes > 50 * seeds && seen.device_flushes > 20 * seeds, "{seen:?}");
}

#[test]
fn nothing_flushed_is_lost_wherever_the_power_is_cut() {
    all(SMALL, full(8, 400));
}

#[test]
fn nothing_flushed_is_lost_where_checkpoints_are_long() {
    all(WIDE, full(4, 200));
}

#[test]
fn every_mistake_in_the_order_of_writes_is_noticed() {
    for mutation in Mutation::ALL {
        let noticed = with(mutation, || {
            (0..60).find_map(|seed| histories(SMALL, seed, 4, &mut Seen::default()).err().map(|e| (seed, e)))
        });
        println!("{mutation:?}: {noticed:?}");
        assert!(noticed.is_some(), "{mutation:?} is not noticed");
    }
}
