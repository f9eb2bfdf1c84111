//! The mapping and the hidden ranges against naive ones, without a disk that forgets.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::machine::Machine;
use super::model::{Model, show};
use super::power::{SMALL, WIDE};
use super::{Random, formatted, full};
use crate::bits::words;
use crate::host::Tables;
use crate::rows::{Map, Row, ZeroRow};
use crate::table::Table;

const ROWS: u32 = 60;

struct Memory {
    rows: Vec<Row>,
    zeroes: Vec<ZeroRow>,
    buckets: Vec<u32>,
    free: Vec<u64>,
}

impl Memory {
    fn new(zeroes: usize) -> Self {
        let all = ROWS as usize + zeroes;
        Self {
            rows: vec![Row::default(); ROWS as usize],
            zeroes: vec![ZeroRow::default(); zeroes],
            buckets: vec![0; all / 2 * 3 + 3],
            free: vec![0; words(ROWS as usize)],
        }
    }

    fn map(&mut self, seed: u64) -> Map<'_> {
        let zeroes = u32::try_from(self.zeroes.len()).expect("few");
        let (rows, zeroes) = (Table::new(&mut self.rows, ROWS), Table::new(&mut self.zeroes, zeroes));
        let mut map = Map::new(rows, zeroes, &mut self.buckets, &mut self.free, seed);
        map.count();
        map
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(full(60, 2000)))]

    /// Blocks are mapped, superseded, given back and dropped; every key finds its row, and no other.
    #[test]
    fn the_mapping_is_a_map(seed: u64, steps in prop::collection::vec((0_u8..5, 0_u32..3, 0_u32..20), 1..300)) {
        let mut memory = Memory::new(8);
        let mut map = memory.map(seed);
        let (mut model, mut pending, mut sequence) = (BTreeMap::new(), 0_u32, 0_u64);
        for (what, overlay, logical) in steps {
            let overlay = overlay + 100;
            match what {
                0..=2 => {
                    let Some(row) = map.take(overlay, logical) else {
                        prop_assert_eq!(model.len() + pending as usize, ROWS as usize);
                        continue;
                    };
                    let old = map.bind(row, logical + 7);
                    prop_assert_eq!(old, model.insert((overlay, logical), row));
                    if let Some(old) = old {
                        sequence += 1;
                        map.supersede(old, sequence, 0);
                        pending += 1;
                    }
                }
                3 => {
                    if let Some(row) = model.remove(&(overlay, logical)) {
                        map.drop_row(row);
                    }
                }
                _ => {
                    let keep = u64::from(pending / 2);
                    prop_assert!(!map.reclaim(sequence - keep, 1000));
                    pending /= 2;
                }
            }
            for overlay in 100..103 {
                for logical in 0..20 {
                    prop_assert_eq!(map.find(overlay, logical), model.get(&(overlay, logical)).copied());
                }
            }
            let counts = map.counts;
            prop_assert_eq!((counts.live as usize, counts.pending, counts.writing), (model.len(), pending, 0));
            prop_assert_eq!(counts.free + counts.live + counts.pending, ROWS);
        }
    }

    /// Ranges are hidden; each block is or is not, and what does not fit changes nothing.
    #[test]
    fn hidden_ranges_are_a_set(
        pages in prop::sample::select(vec![1_u32, 63, 64, 65, 4095, 5000, 20_000]),
        zeroes in 1_usize..12,
        steps in prop::collection::vec((0_u32..2, any::<u32>(), any::<u32>(), 0_u32..14), 1..30),
    ) {
        let mut memory = Memory::new(zeroes);
        let mut map = memory.map(1);
        let mut model = BTreeSet::new();
        for (overlay, start, count, shift) in steps {
            let start = start % pages;
            let count = 1 + (count >> 18 >> shift) % (pages - start);
            let before = map.counts.zeroes;
            match map.hide(overlay + 9, start, count, pages) {
                Ok(Some(rows)) => {
                    prop_assert_eq!(map.counts.zeroes, before + rows);
                    model.extend((start..start + count).map(|block| (overlay, block)));
                }
                Ok(None) => prop_assert!((start..start + count).all(|block| model.contains(&(overlay, block)))),
                Err(_) => prop_assert_eq!(map.counts.zeroes, before),
            }
            for overlay in 0..2 {
                let step = (pages / 200).max(1) as usize;
                for block in (0..pages).step_by(step).chain([start, start + count - 1, pages - 1]) {
                    prop_assert_eq!(map.hidden(overlay + 9, block), model.contains(&(overlay, block)), "{}", block);
                }
            }
        }
    }
}

/// A whole disk is hidden in one row, whatever its size.
#[test]
fn discarding_a_whole_disk_takes_few_rows() {
    for pages in [1, 64, 100_000, 1 << 24, u32::MAX - 1] {
        let mut memory = Memory::new(300);
        let mut map = memory.map(1);
        let rows = map.hide(50, 0, pages, pages).expect("fits").expect("new");
        assert!(rows <= 1 + (pages >> 24), "{pages}: {rows}");
        assert!(map.hidden(50, 0) && map.hidden(50, pages - 1) && !map.hidden(51, 0));
    }
}

/// Without cuts of power the store is a map from blocks to what was last written.
#[test]
fn shows_what_was_written_in_any_order_of_completions() {
    for seed in 0..full(12, 300) {
        let story = if seed % 3 == 0 { WIDE } else { SMALL };
        let story = super::machine::Story { every: u32::MAX, steps: 400, ..story };
        let mut tables = Tables::new(&story.geometry);
        let random = Random::new(seed + 1000);
        let mut machine =
            Machine::new(story, formatted(story.geometry), &mut tables, Model::default(), random)
                .expect("opens");
        machine.run().and_then(|()| machine.drain()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(show(&machine.store, &machine.disk), Ok(machine.model.now()));
    }
}
