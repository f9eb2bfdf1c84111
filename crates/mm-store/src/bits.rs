//! A set of numbers that finds its next member in a few steps, however large and empty it is: the free blocks.

use core::num::NonZeroU64;

/// Levels are enough for 64⁶ members.
const LEVELS: usize = 6;

/// A bit for each member, a bit for each 64 of those that says whether any is set, and so on. All in one slice.
pub(crate) struct Bits<'a> {
    words: &'a mut [u64],
    /// Where each level begins; the lowest first.
    starts: [usize; LEVELS],
    levels: usize,
}

/// Words for a set of numbers below `count`.
pub(crate) const fn words(count: usize) -> usize {
    let (mut total, mut bits) = (0, count);
    loop {
        bits = bits.div_ceil(64);
        total += bits;
        if bits <= 1 {
            return total;
        }
    }
}

impl<'a> Bits<'a> {
    /// An empty set of numbers below `count`, in at least [`words`] words.
    pub(crate) fn new(slice: &'a mut [u64], count: usize) -> Self {
        slice.fill(0);
        let (mut starts, mut levels, mut start, mut bits) = ([0; LEVELS], 0, 0, count);
        for place in &mut starts {
            bits = bits.div_ceil(64);
            *place = start;
            start += bits;
            levels += 1;
            if bits <= 1 {
                break;
            }
        }
        Self { words: slice, starts, levels }
    }

    fn word_index(&self, level: usize, word: usize) -> Option<usize> {
        if level >= self.levels {
            return None;
        }
        let end = self.starts.get(level + 1).copied().filter(|_| level + 1 < self.levels);
        let index = self.starts.get(level)? + word;
        (index < end.unwrap_or(self.words.len())).then_some(index)
    }

    fn word(&self, level: usize, word: usize) -> Option<u64> {
        self.word_index(level, word).and_then(|index| self.words.get(index)).copied()
    }

    /// Puts `member` in.
    pub(crate) fn insert(&mut self, member: u32) {
        let mut at = member as usize;
        for level in 0..self.levels {
            if let Some(word) = self.word_index(level, at / 64).and_then(|index| self.words.get_mut(index)) {
                *word |= 1 << (at % 64);
            }
            at /= 64;
        }
    }

    /// Takes `member` out.
    pub(crate) fn remove(&mut self, member: u32) {
        let mut at = member as usize;
        for level in 0..self.levels {
            if let Some(word) = self.word_index(level, at / 64).and_then(|index| self.words.get_mut(index)) {
                *word &= !(1 << (at % 64));
                if *word != 0 {
                    return;
                }
            }
            at /= 64;
        }
    }

    /// Whether `member` is in.
    #[cfg(test)]
    pub(crate) fn contains(&self, member: u32) -> bool {
        self.word(0, member as usize / 64).is_some_and(|word| word >> (member % 64) & 1 == 1)
    }

    /// The first member from `from` on.
    pub(crate) fn next(&self, from: u32) -> Option<u32> {
        self.next_at(0, from as usize).and_then(|member| u32::try_from(member).ok())
    }

    // As deep as there are levels.
    fn next_at(&self, level: usize, from: usize) -> Option<usize> {
        let word = self.word(level, from / 64)? & (!0 << (from % 64));
        if let Some(word) = NonZeroU64::new(word) {
            return Some(from / 64 * 64 + word.trailing_zeros() as usize);
        }
        let above = self.next_at(level + 1, from / 64 + 1)?;
        let word = NonZeroU64::new(self.word(level, above)?)?;
        Some(above * 64 + word.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bits, words};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn is_a_set(count in 1_u32..9000, steps in prop::collection::vec((any::<bool>(), any::<u32>()), 1..200)) {
            let mut memory = vec![1; words(count as usize)];
            let mut bits = Bits::new(&mut memory, count as usize);
            let mut model = BTreeSet::new();
            for (put, member) in steps {
                let member = member % count;
                if put { bits.insert(member); model.insert(member); } else { bits.remove(member); model.remove(&member); }
                prop_assert_eq!(bits.contains(member), put);
                for from in [0, member, member / 2, count - 1, count] {
                    prop_assert_eq!(bits.next(from), model.range(from..).next().copied());
                }
            }
        }
    }
}
