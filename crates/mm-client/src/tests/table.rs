//! The table of windows against the simplest one.

use std::collections::BTreeMap;

use mm_proto::Bitmap;
use proptest::prelude::*;

use super::rows;
use crate::held::Held;

proptest! {
    #[test]
    fn windows_are_found_by_any_page_of_theirs_and_by_age(
        size in 1usize..40,
        steps in proptest::collection::vec((any::<u8>(), 0u64..700, 0u8..10), 1..300),
    ) {
        let mut held = Held::new(rows(size));
        // First page, order and age, by first page.
        let mut model: BTreeMap<u64, (u8, u32)> = BTreeMap::new();
        let mut age = 0;
        let around = |model: &BTreeMap<u64, (u8, u32)>, page: u64| {
            model.range(..=page).next_back().filter(|(first, (order, _))| page < **first + (1 << order)).map(|(first, _)| *first)
        };
        for (what, page, order) in steps {
            let row = held.find(page);
            prop_assert_eq!(row.map(|row| held.row(row).page), around(&model, page));
            match (what % 4, row) {
                (0, Some(row)) => {
                    model.remove(&held.row(row).page);
                    held.remove(row);
                }
                (1, Some(row)) => {
                    age += 1;
                    model.get_mut(&held.row(row).page).unwrap().1 = age;
                    held.touch(row);
                }
                _ => {
                    let first = page >> order << order;
                    let overlaps = (first..first + (1 << order)).any(|page| around(&model, page).is_some());
                    prop_assert_eq!(held.overlaps(first, order), overlaps);
                    if !overlaps {
                        let row = held.insert(first, 7, order, Bitmap::EMPTY);
                        prop_assert_eq!(row.is_some(), model.len() < size);
                        if row.is_some() {
                            age += 1;
                            model.insert(first, (order, age));
                        }
                    }
                }
            }
            prop_assert_eq!(held.used() as usize, model.len());
            let mut by_age: Vec<_> = model.iter().map(|(first, (_, age))| (*age, *first)).collect();
            by_age.sort_unstable();
            let found: Vec<_> = held.by_age().map(|row| held.row(row).page).collect();
            prop_assert_eq!(found, by_age.into_iter().map(|(_, first)| first).collect::<Vec<_>>());
        }
    }
}
