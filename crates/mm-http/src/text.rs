//! Small buffers without a heap, and escaping as a `Display`.

use core::fmt::{self, Display, Write};

/// At most `N` bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Bytes<N> {
    pub(crate) const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends, or returns false where it is full.
    #[must_use]
    pub(crate) fn push(&mut self, byte: u8) -> bool {
        match self.bytes.get_mut(self.len) {
            Some(place) => {
                *place = byte;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Writes what fits and says so where something did not.
impl<const N: usize> Write for Bytes<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|byte| self.push(byte)) { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Writes into a slice what fits, and counts all.
pub(crate) struct SliceWriter<'s> {
    slice: &'s mut [u8],
    total: usize,
}

impl<'s> SliceWriter<'s> {
    pub(crate) fn new(slice: &'s mut [u8]) -> Self {
        Self { slice, total: 0 }
    }

    /// Bytes that were written to it, whether they fitted or not.
    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

impl Write for SliceWriter<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(room) = self.slice.get_mut(self.total..) {
            let fits = text.len().min(room.len());
            room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        }
        self.total = self.total.saturating_add(text.len());
        Ok(())
    }
}

/// How one character is written: `None` as it is.
pub(crate) type Escape = fn(char, &mut dyn Write) -> Option<fmt::Result>;

/// `value`, with every character passed through `escape`.
pub(crate) struct Escaped<'v>(pub(crate) &'v dyn Display, pub(crate) Escape);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping { out: f, escape: self.1 }, "{}", self.0)
    }
}

struct Escaping<'o> {
    out: &'o mut dyn Write,
    escape: Escape,
}

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, c) in text.char_indices() {
            // Characters that need no escape are written in runs: pages are mostly those.
            let mut pending = Pending { out: self.out, before: &text[plain..at] };
            if let Some(result) = (self.escape)(c, &mut pending) {
                result?;
                plain = at + c.len_utf8();
            }
        }
        self.out.write_str(&text[plain..])
    }
}

/// Writes the run before an escaped character just before its first escape.
struct Pending<'o, 't> {
    out: &'o mut dyn Write,
    before: &'t str,
}

impl Write for Pending<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.write_str(core::mem::take(&mut self.before))?;
        self.out.write_str(text)
    }
}
