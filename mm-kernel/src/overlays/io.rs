//! What the numbers of requests to the disk mean.

use xen_drivers::blkfront::Completion;

use super::{Asker, Overlays};
use crate::effects::Hands;

/// Kinds of requests, in the upper half of their numbers; the lower half is a place in a table.
pub(super) const READ: u64 = 1 << 32;
pub(super) const WRITE: u64 = 2 << 32;
pub(super) const META: u64 = 3 << 32;

/// A flush's number is whose it is.
pub(super) fn token(asker: Asker) -> u64 {
    u64::from(asker.job) << 32 | u64::from(asker.serial)
}

pub(super) fn asker(token: u64) -> Asker {
    let [a, b, c, d, job @ .., _, _] = token.to_le_bytes();
    Asker { job: u16::from_le_bytes(job), serial: u32::from_le_bytes([a, b, c, d]) }
}

impl Overlays {
    pub(super) fn completed(&mut self, completion: Completion, hands: &mut Hands<'_>) {
        let place = usize::try_from(completion.token & 0xffff_ffff).unwrap_or(usize::MAX);
        match completion.token & !0xffff_ffff {
            READ => self.read_completed(place, completion, hands),
            WRITE => self.write_completed(place, completion, hands),
            _ => self.meta_completed(place, completion),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_knows_whose_it_is() {
        for asker in [
            Asker { job: 0, serial: 0 },
            Asker { job: u16::MAX, serial: u32::MAX },
            Asker { job: 7, serial: 9 },
        ] {
            assert_eq!(super::asker(token(asker)), asker);
        }
    }
}
