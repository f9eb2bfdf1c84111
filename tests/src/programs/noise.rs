//! Fresh input, made again from its seed.

/// A generator of bytes that look random (SplitMix64).
#[derive(Clone, Debug)]
pub struct Noise {
    state: u64,
}

impl Noise {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number of 64 bits.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.number().to_le_bytes()).flatten().take(count).collect()
    }

    /// A word of 1 to 9 small letters.
    pub fn word(&mut self) -> String {
        let length = 1 + self.below(9);
        (0..length).filter_map(|_| char::from_digit(u32::try_from(10 + self.below(26)).ok()?, 36)).collect()
    }

    /// So many lines, each made by `line`.
    pub fn lines(&mut self, count: usize, mut line: impl FnMut(&mut Self) -> String) -> Vec<u8> {
        let lines: Vec<String> = (0..count).map(|_| line(self)).collect();
        (lines.join("\n") + "\n").into_bytes()
    }
}
