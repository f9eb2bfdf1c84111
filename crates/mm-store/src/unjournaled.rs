//! Blocks that read as zeroes, of overlays that are in no store: those that are only in their owner's memory.

use crate::hidden::NoRows;
use crate::rows::{Map, ZeroRow};
use crate::table::Table;

/// Which blocks of the base are hidden, of each of many overlays, in a table of a fixed size that they share. As in the store: a row
/// covers 64 blocks or 64 larger ranges, and what was hidden stays so until [`Self::forget`].
pub struct Hidden<'a> {
    map: Map<'a>,
}

/// No row is free: nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

impl<'a> Hidden<'a> {
    /// Buckets that so many rows need.
    #[must_use]
    pub const fn buckets(rows: usize) -> usize {
        rows / 2 * 3 + 3
    }

    /// Nothing is hidden. Rows for which there are too few buckets are left unused.
    #[must_use]
    pub fn new(rows: &'a mut [ZeroRow], buckets: &'a mut [u32], seed: u64) -> Self {
        let most = rows.len().min(buckets.len().saturating_sub(3) / 3 * 2);
        let rows = Table::new(rows, u32::try_from(most).unwrap_or(0));
        Self { map: Map::new(Table::new(&mut [], 0), rows, buckets, &mut [], seed) }
    }

    /// Whether a block of the overlay is hidden.
    #[must_use]
    pub fn contains(&self, overlay: u16, block: u32) -> bool {
        self.map.counts.zeroes > 0 && self.map.hidden(number(overlay), block)
    }

    /// Hides `count` blocks from `block` on, of an overlay of `pages` blocks.
    ///
    /// # Errors
    /// [`NoRoom`], with nothing done.
    pub fn hide(&mut self, overlay: u16, block: u32, count: u32, pages: u32) -> Result<(), NoRoom> {
        self.map.hide(number(overlay), block, count, pages).map(|_| ()).map_err(|NoRows| NoRoom)
    }

    /// The overlay is gone. Walks over the rows.
    pub fn forget(&mut self, overlay: u16) {
        for row in 0..self.map.counts.zeroes_end {
            if self.map.zeroes.at(row).overlay == number(overlay) {
                self.map.drop_zero(row);
            }
        }
    }

    /// Rows in use, and all.
    #[must_use]
    pub fn rows(&self) -> (u32, u32) {
        (self.map.counts.zeroes, self.map.zeroes.len())
    }
}

/// Its number in the table; 0 is nobody's.
fn number(overlay: u16) -> u32 {
    u32::from(overlay) + 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const PAGES: u32 = 700;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Hide(u16, u32, u32),
        Forget(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..3_u16, 0..PAGES, prop_oneof![1..4_u32, 1..PAGES])
                .prop_map(|(overlay, block, count)| Step::Hide(overlay, block, count.min(PAGES - block))),
            1 => (0..3_u16).prop_map(Step::Forget),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]
        #[test]
        fn what_is_hidden_is_what_was_hidden_since_its_overlay_came(
            steps in prop::collection::vec(step(), 1..60),
            rows in 0_usize..12,
        ) {
            let (mut table, mut buckets) = (vec![ZeroRow::default(); rows], vec![0; Hidden::buckets(rows)]);
            let mut hidden = Hidden::new(&mut table, &mut buckets, 5);
            let mut model = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Hide(overlay, block, count) => {
                        if hidden.hide(overlay, block, count, PAGES).is_ok() {
                            model.extend((block..block + count).map(|block| (overlay, block)));
                        }
                    }
                    Step::Forget(overlay) => {
                        hidden.forget(overlay);
                        model.retain(|(owner, _)| *owner != overlay);
                    }
                }
                for overlay in 0..3 {
                    for block in 0..PAGES {
                        prop_assert_eq!(hidden.contains(overlay, block), model.contains(&(overlay, block)));
                    }
                }
                let (used, all) = hidden.rows();
                prop_assert!(used <= all && all as usize <= rows);
                prop_assert_eq!(used == 0, model.is_empty());
            }
        }
    }
}
