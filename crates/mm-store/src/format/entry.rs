//! An overlay as checkpoints and `Create` records hold it: 128 bytes.

use core::fmt;

use super::Bad;
use crate::bytes::{array_at, put, put_u32, u32_at};

/// Bytes of an entry.
pub(crate) const ENTRY: usize = 128;
/// Most bytes of an overlay's name.
pub const NAME: usize = 64;
/// The quota of an overlay that has none.
pub(crate) const NO_QUOTA: u32 = u32::MAX;

/// A name: 1 to 64 bytes, letters, digits, `.`, `_` and `-`. (libxl cuts `target=` at a colon, and `+` and `@` have a meaning in it.)
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Text {
    bytes: [u8; NAME],
    length: u8,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; NAME], length: 0 }
    }
}

impl Text {
    pub(crate) fn new(name: &str) -> Option<Self> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > NAME || !name.bytes().all(good) {
            return None;
        }
        let mut text = Self { length: u8::try_from(name.len()).ok()?, ..Self::default() };
        put(&mut text.bytes, 0, name.as_bytes());
        Some(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// One overlay's entry. One that is not alive is there for its number, which is not given out again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct OverlayEntry {
    pub(crate) id: u32,
    pub(crate) alive: bool,
    pub(crate) base: [u8; 16],
    pub(crate) pages: u32,
    pub(crate) quota: u32,
    pub(crate) name: Text,
}

impl OverlayEntry {
    pub(crate) fn write(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        put_u32(bytes, 0, self.id);
        put_u32(bytes, 4, u32::from(self.alive));
        if self.alive {
            put(bytes, 8, &self.base);
            put_u32(bytes, 24, self.pages);
            put_u32(bytes, 28, self.quota);
            // 32: the parent, for snapshots; 36: flags. Both 0 in this version.
            put_u32(bytes, 40, u32::from(self.name.length));
            put(bytes, 44, &self.name.bytes);
        }
    }

    /// None where the row was never used.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Self>, Bad> {
        let id = u32_at(bytes, 0);
        let alive = match u32_at(bytes, 4) {
            0 if id == 0 => return Ok(None),
            0 => return Ok(Some(Self { id, ..Self::default() })),
            1 => true,
            _ => return Err(Bad::Content),
        };
        let length = u32_at(bytes, 40);
        let name: [u8; NAME] = array_at(bytes, 44);
        let name = name.get(..length as usize).and_then(|name| core::str::from_utf8(name).ok());
        let name = name.and_then(Text::new).ok_or(Bad::Content)?;
        if u32_at(bytes, 32) != 0 || u32_at(bytes, 36) != 0 {
            return Err(Bad::Content);
        }
        let (base, pages, quota) = (array_at(bytes, 8), u32_at(bytes, 24), u32_at(bytes, 28));
        Ok(Some(Self { id, alive, base, pages, quota, name }))
    }
}
