//! Which of at most 1024 devices something is to be done for: looking for the few that there are costs no walk over all.

/// Words of it.
const WORDS: usize = 16;
/// Numbers that it has room for.
pub const FLAGS: usize = WORDS * 64;

/// A set of numbers below [`FLAGS`]; larger ones are never in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags([u64; WORDS]);

impl Flags {
    /// None.
    pub const NONE: Self = Self([0; WORDS]);

    /// Puts a number in.
    pub fn insert(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word |= 1 << (number % 64);
        }
    }

    /// Takes a number out.
    pub fn remove(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// The first number from this one on.
    #[must_use]
    pub fn next(&self, from: usize) -> Option<usize> {
        let mut mask = u64::MAX << (from % 64);
        for (place, word) in self.0.iter().enumerate().skip(from / 64) {
            let word = word & core::mem::replace(&mut mask, u64::MAX);
            if word != 0 {
                return Some(place * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{FLAGS, Flags};

    #[test]
    fn they_are_found_in_order() {
        let mut flags = Flags::NONE;
        for number in [1023, 0, 63, 64, 200, FLAGS, usize::MAX] {
            flags.insert(number);
        }
        let mut found = std::vec::Vec::new();
        let mut from = 0;
        while let Some(number) = flags.next(from) {
            found.push(number);
            from = number + 1;
        }
        assert_eq!(found, [0, 63, 64, 200, 1023]);
        flags.remove(64);
        flags.remove(FLAGS);
        assert_eq!((flags.next(64), flags.next(201), flags.next(1024)), (Some(200), Some(1023), None));
    }
}
