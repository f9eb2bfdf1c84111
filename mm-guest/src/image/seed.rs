//! Seed material for random numbers.

use xen_rt::Boot;

use crate::store::Store;

/// What differs from domain to domain and from start to start: identifiers, clocks, and how long reading them takes.
pub(crate) fn gather(boot: &Boot, store: &mut Store) -> [u8; 32] {
    let mut seed = [0; 32];
    let mut at = 0;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            // FNV-1a over the whole, one lane for each place.
            seed[at % 32] = (seed[at % 32] ^ byte).wrapping_mul(0x93).rotate_left(3);
            seed[(at + 1) % 32] ^= seed[at % 32];
            at += 1;
        }
    };
    if let Some(uuid) = store.read("vm") {
        mix(uuid.as_bytes());
    }
    mix(&boot.domid.0.to_le_bytes());
    mix(&boot.clock.unix_ns().to_le_bytes());
    for _ in 0..256 {
        mix(&boot.clock.now_ns().to_le_bytes());
        mix(&xen::clock::tsc().to_le_bytes());
    }
    seed
}
