//! What goes on in the background, a bounded piece at a time: closing rings, stale windows, and frames kept at hand.

use crate::effect::Grants;
use crate::engine::Engine;
use crate::rings::RingState;
use crate::table::NIL;

impl Engine<'_> {
    /// Goes on with what detached rings left behind, looks at up to `budget` stale windows and frames of retired volumes, and keeps
    /// some frames at hand. True as long as there is more to do at once, here or in [`Self::advance`]; stale windows alone are worth a look now
    /// and then. Once each turn of the caller's.
    pub fn sweep<G: Grants>(&mut self, budget: u32, grants: &mut G) -> bool {
        self.failures.next_turn();
        let mut more = false;
        for volume in &mut self.volumes {
            more |= volume.end_turn();
        }
        self.close_rings(budget, grants);
        // The list goes round: what is still mapped becomes its newest.
        let last = self.stale.newest;
        for _ in 0..budget {
            let window = self.stale.oldest;
            if window == NIL {
                break;
            }
            self.retry_stale(window, grants);
            if window == last {
                break;
            }
        }
        more |= self.reap_snapshots(budget, grants);
        if self.store.at_hand() <= self.limits.reserve {
            self.reclaim(grants);
        }
        more |= self.retire_step(budget);
        more || self.can_go_on() || self.closing != NIL && !self.only_awaited()
    }

    /// Takes back up to `budget` windows of rings that are closing.
    pub(crate) fn close_rings<G: Grants>(&mut self, budget: u32, grants: &mut G) {
        let mut left = budget;
        let (mut before, mut ring) = (NIL, self.closing);
        for _ in 0..self.rings.len() {
            if ring == NIL {
                return;
            }
            let next = self.rings.at(ring).next;
            loop {
                let window = self.rings.at(ring).windows.oldest;
                if window == NIL {
                    break;
                }
                if left == 0 {
                    return;
                }
                left -= 1;
                self.retire(window, grants);
            }
            // Its requests are dropped when their reads or copies end.
            if self.rings.at(ring).slots == 0 {
                if before == NIL {
                    self.closing = next;
                } else {
                    self.rings.at_mut(before).next = next;
                }
                self.free_ring(ring);
            } else {
                before = ring;
            }
            ring = next;
        }
    }

    /// Closing rings wait for nothing but their last reads and copies.
    fn only_awaited(&self) -> bool {
        let mut ring = self.closing;
        for _ in 0..self.rings.len() {
            if ring == NIL {
                break;
            }
            let row = self.rings.at(ring);
            if row.state != RingState::Closing || row.windows.oldest != NIL {
                return false;
            }
            ring = row.next;
        }
        true
    }
}
