//! Random bytes for the program: ChaCha20 (RFC 8439) keyed from what the machine offers, the key replaced after every
//! request, so that what was given out cannot be computed from what is left.
//!
//! Its limits: where the processor has no RDRAND, the seed is the jitter of the time-stamp counter and identifiers of
//! the domain, which a neighbour may guess. It is not reseeded while the program runs.

/// A generator.
pub(crate) struct Random {
    key: [u32; 8],
    counter: u64,
}

fn quarter(state: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    state[a] = state[a].wrapping_add(state[b]);
    state[d] = (state[d] ^ state[a]).rotate_left(16);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_left(12);
    state[a] = state[a].wrapping_add(state[b]);
    state[d] = (state[d] ^ state[a]).rotate_left(8);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_left(7);
}

/// One block of key stream.
fn block(key: &[u32; 8], counter: u32, nonce: [u32; 3]) -> [u8; 64] {
    let mut state = [0; 16];
    state[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    state[4..12].copy_from_slice(key);
    state[12] = counter;
    state[13..].copy_from_slice(&nonce);
    let start = state;
    for _ in 0..10 {
        for column in 0..4 {
            quarter(&mut state, column, column + 4, column + 8, column + 12);
        }
        for column in 0..4 {
            let at = |row: usize| 4 * row + (column + row) % 4;
            quarter(&mut state, at(0), at(1), at(2), at(3));
        }
    }
    let mut bytes = [0; 64];
    for ((out, word), start) in bytes.chunks_exact_mut(4).zip(state).zip(start) {
        out.copy_from_slice(&word.wrapping_add(start).to_le_bytes());
    }
    bytes
}

impl Random {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let mut random = Self { key: [0; 8], counter: 0 };
        random.rekey(seed);
        random
    }

    fn rekey(&mut self, bytes: &[u8]) {
        for (word, bytes) in self.key.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }

    /// Fills `out`.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        self.counter += 1;
        let nonce = [self.counter as u32, (self.counter >> 32) as u32, 0];
        let next = block(&self.key, 0, nonce);
        for (index, chunk) in out.chunks_mut(64).enumerate() {
            let stream = block(&self.key, index as u32 + 1, nonce);
            chunk.copy_from_slice(&stream[..chunk.len()]);
        }
        self.rekey(&next[..32]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_function_gives_the_vector_of_rfc_8439_section_2_3_2() {
        let mut key = [0; 8];
        for (index, word) in key.iter_mut().enumerate() {
            *word = u32::from_le_bytes(core::array::from_fn(|byte| (4 * index + byte) as u8));
        }
        let bytes = block(&key, 1, [0x0900_0000, 0x4a00_0000, 0]);
        assert_eq!(bytes[..8], [0x10, 0xf1, 0xe7, 0xe4, 0xd1, 0x3b, 0x59, 0x15]);
        assert_eq!(bytes[60..], [0xa2, 0x50, 0x3c, 0x4e]);
    }

    #[test]
    fn two_requests_differ_and_the_same_seed_repeats() {
        let (mut one, mut two) = (Random::new(&[7; 32]), Random::new(&[7; 32]));
        let (mut a, mut b, mut c) = ([0; 100], [0; 100], [0; 100]);
        one.fill(&mut a);
        two.fill(&mut b);
        one.fill(&mut c);
        assert_eq!(a, b);
        assert_ne!(a, c);
    }
}
