//! Taking back what deleted overlays held: a walk over all rows, some at each step.

use crate::overlays::State;
use crate::store::Store;

/// Rows that one step looks at.
const STEP: u32 = 1024;

/// Where the walk is.
#[derive(Default)]
pub(crate) struct Sweep {
    /// Deletions whose journal blocks are not known to be durable.
    pub(crate) deleting: u32,
    at: u32,
    /// Rows to be looked at: all of them after a deletion.
    pub(crate) left: u32,
}

impl Store<'_> {
    /// Overlays whose deletion has become durable are gone: their rows in the table can be used again, and what they held is
    /// nobody's.
    pub(crate) fn finish_deletions(&mut self) {
        if self.sweep.deleting == 0 {
            return;
        }
        for slot in 0..self.overlays.rows.len() {
            let row = self.overlays.rows.at_mut(slot);
            if let State::Deleting(sequence) = row.state
                && sequence <= self.journal.durable
            {
                row.state = State::Free;
                row.open = false;
                self.sweep.deleting -= 1;
                self.sweep.left = self.map.rows.len() + self.map.zeroes.len();
            }
        }
    }

    /// A bounded step. Whether there is more to do.
    pub(crate) fn sweep_step(&mut self) -> bool {
        let rows = self.map.rows.len();
        let all = rows + self.map.zeroes.len();
        for _ in 0..STEP.min(self.sweep.left) {
            self.sweep.left -= 1;
            let at = self.sweep.at;
            self.sweep.at = if at + 1 < all { at + 1 } else { 0 };
            match at.checked_sub(rows) {
                None => {
                    if self.map.is_live(at) && !self.overlays.exists(self.map.rows.at(at).overlay) {
                        self.map.drop_row(at);
                    }
                }
                Some(zero) => {
                    let overlay = self.map.zeroes.at(zero).overlay;
                    if overlay != crate::rows::FREE && !self.overlays.exists(overlay) {
                        self.map.drop_zero(zero);
                    }
                }
            }
        }
        self.sweep.left > 0
    }
}
