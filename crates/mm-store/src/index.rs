//! The hash: row numbers in open addressing with linear probing. Keys are compared through the tables.
//!
//! Numbers of zero rows follow those of data rows. There are one and a half buckets for each row, so a bucket is always free.

use crate::rows::{FREE, Map};
use crate::table::NIL;

impl Map<'_> {
    /// The row of a logical block.
    pub(crate) fn find(&self, overlay: u32, logical: u32) -> Option<u32> {
        self.search(self.home(overlay, logical, false), |map, index| {
            let row = map.rows.at(index);
            index < map.rows.len() && row.overlay == overlay && row.logical == logical
        })
    }

    /// The row of a range of zeroes.
    pub(crate) fn find_zero(&self, overlay: u32, key: u32) -> Option<u32> {
        let found = self.search(self.home(overlay, key, true), |map, index| {
            index.checked_sub(map.rows.len()).is_some_and(|index| {
                let row = map.zeroes.at(index);
                row.overlay == overlay && row.key == key
            })
        });
        found.map(|index| index - self.rows.len())
    }

    /// A zero row for a key that has none.
    pub(crate) fn add_zero(&mut self, overlay: u32, key: u32) -> Option<u32> {
        let index = self.free_zero;
        if index == NIL {
            return None;
        }
        let row = self.zeroes.at_mut(index);
        self.free_zero = row.key;
        (row.overlay, row.key, row.bits) = (overlay, key, 0);
        self.counts.zeroes += 1;
        self.counts.zeroes_end = self.counts.zeroes_end.max(index + 1);
        self.hash(self.rows.len() + index);
        Some(index)
    }

    /// A zero row whose overlay is gone.
    pub(crate) fn drop_zero(&mut self, index: u32) {
        self.unhash(self.rows.len() + index);
        let next = self.free_zero;
        let row = self.zeroes.at_mut(index);
        (row.overlay, row.key, row.bits) = (FREE, next, 0);
        self.free_zero = index;
        self.counts.zeroes -= 1;
    }

    /// Puts a row in, whose key is there and not in.
    pub(crate) fn hash(&mut self, index: u32) {
        let mut at = self.home_of(index);
        for _ in 0..self.buckets.len() {
            match self.buckets.get_mut(at) {
                Some(bucket) if *bucket == NIL => {
                    *bucket = index;
                    return;
                }
                _ => at = self.after(at),
            }
        }
    }

    /// Takes a row out, whose key still is there, and moves up those that had to go round it.
    pub(crate) fn unhash(&mut self, index: u32) {
        let mut hole = self.home_of(index);
        for _ in 0..self.buckets.len() {
            match self.bucket(hole) {
                NIL => return,
                found if found == index => break,
                _ => hole = self.after(hole),
            }
        }
        let mut at = hole;
        for _ in 0..self.buckets.len() {
            at = self.after(at);
            let index = self.bucket(at);
            if index == NIL {
                break;
            }
            if self.distance(self.home_of(index), at) >= self.distance(hole, at) {
                self.put(hole, index);
                hole = at;
            }
        }
        self.put(hole, NIL);
    }

    fn search(&self, home: usize, same: impl Fn(&Self, u32) -> bool) -> Option<u32> {
        let mut at = home;
        for _ in 0..self.buckets.len() {
            match self.bucket(at) {
                NIL => return None,
                index if same(self, index) => return Some(index),
                _ => at = self.after(at),
            }
        }
        None
    }

    fn home_of(&self, index: u32) -> usize {
        match index.checked_sub(self.rows.len()) {
            None => {
                let row = self.rows.at(index);
                self.home(row.overlay, row.logical, false)
            }
            Some(zero) => {
                let row = self.zeroes.at(zero);
                self.home(row.overlay, row.key, true)
            }
        }
    }

    fn home(&self, overlay: u32, word: u32, zero: bool) -> usize {
        let key = u64::from(overlay) << 32 | u64::from(word);
        let seed = if zero { self.seed.rotate_left(32) } else { self.seed };
        // A product's upper half spreads over any number of buckets (Lemire, "Fast random integer generation in an interval").
        let wide = u128::from(scramble(seed ^ key)) * self.buckets.len() as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    fn bucket(&self, at: usize) -> u32 {
        self.buckets.get(at).copied().unwrap_or(NIL)
    }

    fn put(&mut self, at: usize, index: u32) {
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket = index;
        }
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 < self.buckets.len() { at + 1 } else { 0 }
    }

    /// Steps from one bucket to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.buckets.len() - from }
    }
}

/// The finalizer of the splitmix64 generator (public domain): every input bit reaches every output bit.
fn scramble(key: u64) -> u64 {
    let x = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
