//! A small unikernel that uses a volume of M1's directly: no Linux ABI, no user mode, no heap.
//!
//! It maps every page of its volume read-only, and prints a digest of them; what it does beyond that its [`Options`] say. It shows that
//! the map protocol serves systems of any kind, and it is the instrument of M1's own tests.
#![cfg_attr(not(test), no_std)]

mod hostile;
mod options;
mod run;

pub use options::Options;
pub use run::run;

/// FNV-1a, 64 bits: a digest that three lines of any language can check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest(u64);

impl Digest {
    /// Of no bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Goes on with these.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        Self(
            bytes
                .iter()
                .fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)),
        )
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}
