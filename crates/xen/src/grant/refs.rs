//! References for drivers' own pages: rings, buffers.

use core::sync::atomic::{AtomicU32, Ordering};

use xen_sys::GrantRef;
use xen_sys::grant::RESERVED_ENTRIES;

/// Words of the bitmap.
const WORDS: usize = 64;
/// References in it.
const REFS: u32 = 2048;
const _: () = assert!(WORDS * 32 == REFS as usize);

/// Hands out the references from 8 to 2055, one at a time. Whoever manages larger numbers of references (M1's engine) does
/// so above [`RefPool::END`], which are the first 5 frames of the table less a part.
#[derive(Debug)]
pub struct RefPool {
    taken: [AtomicU32; WORDS],
}

impl RefPool {
    /// The first reference that is never handed out here.
    pub const END: GrantRef = GrantRef(RESERVED_ENTRIES + REFS);

    /// All are free.
    #[must_use]
    pub const fn new() -> Self {
        Self { taken: [const { AtomicU32::new(0) }; WORDS] }
    }

    /// A reference that nobody has; `None` if all are taken. The table must reach [`Self::END`] (5 frames) for all of them to
    /// be usable.
    #[must_use]
    pub fn reserve(&self) -> Option<GrantRef> {
        for (index, word) in (0_u32..).zip(&self.taken) {
            let free = !word.load(Ordering::Relaxed);
            if free != 0 {
                let bit = free.trailing_zeros();
                word.fetch_or(1 << bit, Ordering::Relaxed);
                return Some(GrantRef(RESERVED_ENTRIES + index * 32 + bit));
            }
        }
        None
    }

    /// Gives a reference back. Revoke it first: one that is still in use must be kept.
    pub fn release(&self, reference: GrantRef) {
        let Some(number) = reference.0.checked_sub(RESERVED_ENTRIES) else { return };
        if let Some(word) = self.taken.get(number as usize / 32) {
            word.fetch_and(!(1 << (number % 32)), Ordering::Relaxed);
        }
    }

    /// References that are taken.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.taken.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }
}

impl Default for RefPool {
    fn default() -> Self {
        Self::new()
    }
}
