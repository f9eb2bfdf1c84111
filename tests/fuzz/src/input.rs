//! Numbers out of the fuzzer's bytes. When they run out the story ends.

/// What is left of an input.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `end`, which is at least 1.
    pub fn below(&mut self, end: u8) -> Option<u8> {
        self.byte().map(|byte| byte % end)
    }

    /// Two bytes.
    pub fn half(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes([self.byte()?, self.byte()?]))
    }

    /// A 32-bit number. Small ones, and those just below 2^32, take two bytes and are frequent; any takes five.
    pub fn word(&mut self) -> Option<u32> {
        let small = self.byte()?;
        Some(match small {
            0..=199 => u32::from(small),
            200..=229 => u32::from(small - 200) << 8 | u32::from(self.byte()?),
            230..=239 => u32::MAX - u32::from(self.byte()?),
            _ => u32::from_le_bytes([self.byte()?, self.byte()?, self.byte()?, self.byte()?]),
        })
    }

    /// A 64-bit number, mostly one that fits in 32 bits.
    pub fn wide(&mut self) -> Option<u64> {
        let low = u64::from(self.word()?);
        let high = if low % 16 == 15 { u64::from(self.word()?) } else { 0 };
        Some(low | high << 32)
    }

    /// Up to `most` bytes.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
