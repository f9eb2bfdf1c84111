//! Short text that can be copied: tables of it are carved from memory at boot.

/// At most `N` bytes of text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    len: u16,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// No text.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; N] };

    /// `None`: longer than `N` bytes, or not text.
    #[must_use]
    pub fn new(value: &[u8]) -> Option<Self> {
        core::str::from_utf8(value).ok()?;
        let mut text = Self { len: u16::try_from(value.len()).ok()?, bytes: [0; N] };
        text.bytes.get_mut(..value.len())?.copy_from_slice(value);
        Some(text)
    }

    /// As much of `text` as fits.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let end = (0..=text.len().min(N)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        Self::new(&text.as_bytes()[..end]).unwrap_or(Self::EMPTY)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl<const N: usize> core::fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.as_str().fmt(f)
    }
}

impl<const N: usize> core::fmt::Display for Text<N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}
