//! Paths and numbers in values.

use core::fmt::Write;

/// Bytes of the longest path that this crate builds. (Xenstored's own bounds are 2048 relative, 3072 absolute.)
pub const PATH_MAX: usize = 160;

/// A path, built in place.
pub type PathBuf = heapless::String<PATH_MAX>;

/// A path came out longer than [`PATH_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong;

/// Builds a path: `path(format_args!("{frontend}/state"))`.
///
/// # Errors
/// [`TooLong`].
pub fn path(parts: core::fmt::Arguments<'_>) -> Result<PathBuf, TooLong> {
    let mut path = PathBuf::new();
    path.write_fmt(parts).map_err(|_| TooLong)?;
    Ok(path)
}

/// A decimal number as xenstore's users write them; `None` for anything else, signs and spaces among it.
#[must_use]
pub fn number<T: core::str::FromStr>(value: &[u8]) -> Option<T> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(value).ok()?.parse().ok()
}
