//! Cuts of power.

use super::machine::{Machine, Story};
use super::model::Model;
use super::mutation::{Mutation, with};
use super::{Random, formatted, full};
use crate::Geometry;
use crate::host::Tables;

/// Small, so that everything comes round: the journal, the blocks, rows of overlays and zeroes.
const SMALL: Story = Story {
    geometry: Geometry { journal: 16, data: 100, overlays: 4, zeroes: 8 },
    pages: 70,
    steps: 150,
    every: 1,
};

/// Several blocks of each kind in a checkpoint.
const WIDE: Story = Story {
    geometry: Geometry { journal: 40, data: 700, overlays: 40, zeroes: 300 },
    pages: 200,
    steps: 500,
    every: 6,
};

/// Histories one after another on one disk, power cut between them. Gives how many writes there were and how many cuts.
fn histories(story: Story, seed: u64, count: u32) -> Result<(u64, u64), String> {
    let mut random = Random::new(seed);
    let (mut disk, mut model) = (formatted(story.geometry), Model::default());
    let (mut writes, mut cuts) = (0, 0);
    for _ in 0..count {
        let mut tables = Tables::new(&story.geometry);
        let mut machine = Machine::new(story, disk, &mut tables, model, random)?;
        machine.run()?;
        if machine.writes % 3 == 0 {
            machine.drain()?;
        }
        writes += machine.writes;
        cuts += machine.cuts + 1;
        (disk, model, random) = machine.cut()?;
    }
    Ok((writes, cuts))
}

fn all(story: Story, seeds: u64) {
    let (mut writes, mut cuts) = (0, 0);
    for seed in 0..seeds {
        let done = histories(story, seed, 4).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        writes += done.0;
        cuts += done.1;
    }
    println!("{writes} writes, {cuts} cuts of power");
    assert!(cuts > 100 * seeds, "{writes} writes, {cuts} cuts");
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
        let noticed =
            with(mutation, || (0..60).find_map(|seed| histories(SMALL, seed, 4).err().map(|e| (seed, e))));
        println!("{mutation:?}: {noticed:?}");
        assert!(noticed.is_some(), "{mutation:?} is not noticed");
    }
}
