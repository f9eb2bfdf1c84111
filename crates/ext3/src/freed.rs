//! Blocks that were freed and must not be used again before the transaction that freed them is committed.
//!
//! Until then the disk's last state still has them: data written into one would be found in the old file after a power cut.

use alloc::vec::Vec;

use crate::Error;

/// Runs that are kept. A change is begun only while there is room for what it may free.
pub(crate) const MAX_RUNS: usize = 2048;

/// Ascending runs, none touching another.
#[derive(Default)]
pub(crate) struct Freed {
    runs: Vec<(u32, u32)>,
    total: u32,
}

impl Freed {
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    pub(crate) fn runs(&self) -> &[(u32, u32)] {
        &self.runs
    }

    /// Whether `more` blocks, wherever they lie, may not fit.
    pub(crate) fn is_full(&self, more: usize) -> bool {
        self.runs.len() + more > MAX_RUNS
    }

    fn before(&self, block: u32) -> usize {
        self.runs.partition_point(|(first, _)| *first <= block)
    }

    pub(crate) fn contains(&self, block: u32) -> bool {
        let before = self.before(block).checked_sub(1).and_then(|index| self.runs.get(index));
        before.is_some_and(|(first, count)| block - first < *count)
    }

    /// Adds a block that is not there.
    pub(crate) fn add(&mut self, block: u32) -> Result<(), Error> {
        let at = self.before(block);
        let follows = self.runs.get(at).is_some_and(|(first, _)| block.checked_add(1) == Some(*first));
        let extends = at.checked_sub(1).and_then(|index| self.runs.get_mut(index));
        match extends.filter(|(first, count)| first.saturating_add(*count) == block) {
            Some(run) => {
                run.1 += 1;
                if follows {
                    let (_, more) = self.runs.remove(at);
                    if let Some(run) = self.runs.get_mut(at - 1) {
                        run.1 += more;
                    }
                }
            }
            None if follows => {
                if let Some(run) = self.runs.get_mut(at) {
                    *run = (block, run.1 + 1);
                }
            }
            None => {
                self.runs.try_reserve(1)?;
                self.runs.insert(at, (block, 1));
            }
        }
        self.total += 1;
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
        self.total = 0;
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn blocks_in_any_order_become_runs() {
        let mut freed = Freed::default();
        for block in [5, 9, 7, 6, 20, 8, 1, 0] {
            freed.add(block).unwrap();
        }
        assert_eq!(freed.runs(), [(0, 2), (5, 5), (20, 1)]);
        assert_eq!(freed.total(), 8);
        let there: Vec<u32> = (0..25).filter(|block| freed.contains(*block)).collect();
        assert_eq!(there, [0, 1, 5, 6, 7, 8, 9, 20]);
    }
}
