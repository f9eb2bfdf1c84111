//! Writes JSON (RFC 8259) as a stream: brackets and commas come from the nesting of closures.

use core::fmt::{self, Display, Write};

use crate::text::Escaped;

/// Writes one object to `out`.
///
/// ```
/// let mut text = String::new();
/// mm_http::json::object(&mut text, |status| {
///     status.string("name", &"m1")?;
///     status.array("clients", |clients| clients.object(|client| client.number("domid", 7u16)))
/// })?;
/// assert_eq!(text, r#"{"name":"m1","clients":[{"domid":7}]}"#);
/// # Ok::<(), core::fmt::Error>(())
/// ```
pub fn object(out: &mut dyn Write, fill: impl FnOnce(&mut Object<'_>) -> fmt::Result) -> fmt::Result {
    out.write_char('{')?;
    fill(&mut Object { out, first: true })?;
    out.write_char('}')
}

fn array(out: &mut dyn Write, fill: impl FnOnce(&mut Array<'_>) -> fmt::Result) -> fmt::Result {
    out.write_char('[')?;
    fill(&mut Array { out, first: true })?;
    out.write_char(']')
}

/// Whole numbers, which JSON writes as Rust does.
pub trait Number: Display {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for u64 {}
impl Number for usize {}
impl Number for i32 {}
impl Number for i64 {}

/// The members of an object. Keys must differ from each other.
pub struct Object<'w> {
    out: &'w mut dyn Write,
    first: bool,
}

impl Object<'_> {
    fn key(&mut self, key: &str) -> fmt::Result {
        let comma = if core::mem::take(&mut self.first) { "" } else { "," };
        write!(self.out, "{comma}\"{}\":", Escaped(&key, escape))
    }

    /// A string.
    pub fn string(&mut self, key: &str, value: &dyn Display) -> fmt::Result {
        self.key(key)?;
        write!(self.out, "\"{}\"", Escaped(value, escape))
    }

    /// A whole number.
    pub fn number(&mut self, key: &str, value: impl Number) -> fmt::Result {
        self.key(key)?;
        write!(self.out, "{value}")
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str, value: bool) -> fmt::Result {
        self.key(key)?;
        write!(self.out, "{value}")
    }

    /// `null`.
    pub fn null(&mut self, key: &str) -> fmt::Result {
        self.key(key)?;
        self.out.write_str("null")
    }

    /// An object.
    pub fn object(&mut self, key: &str, fill: impl FnOnce(&mut Object<'_>) -> fmt::Result) -> fmt::Result {
        self.key(key)?;
        object(self.out, fill)
    }

    /// An array.
    pub fn array(&mut self, key: &str, fill: impl FnOnce(&mut Array<'_>) -> fmt::Result) -> fmt::Result {
        self.key(key)?;
        array(self.out, fill)
    }
}

/// The elements of an array.
pub struct Array<'w> {
    out: &'w mut dyn Write,
    first: bool,
}

impl Array<'_> {
    fn comma(&mut self) -> fmt::Result {
        if core::mem::take(&mut self.first) { Ok(()) } else { self.out.write_char(',') }
    }

    /// A string.
    pub fn string(&mut self, value: &dyn Display) -> fmt::Result {
        self.comma()?;
        write!(self.out, "\"{}\"", Escaped(value, escape))
    }

    /// A whole number.
    pub fn number(&mut self, value: impl Number) -> fmt::Result {
        self.comma()?;
        write!(self.out, "{value}")
    }

    /// An object.
    pub fn object(&mut self, fill: impl FnOnce(&mut Object<'_>) -> fmt::Result) -> fmt::Result {
        self.comma()?;
        object(self.out, fill)
    }

    /// An array.
    pub fn array(&mut self, fill: impl FnOnce(&mut Array<'_>) -> fmt::Result) -> fmt::Result {
        self.comma()?;
        array(self.out, fill)
    }
}

fn escape(c: char, out: &mut dyn Write) -> Option<fmt::Result> {
    match c {
        '"' => Some(out.write_str("\\\"")),
        '\\' => Some(out.write_str("\\\\")),
        '\n' => Some(out.write_str("\\n")),
        '\0'..='\u{1f}' => Some(write!(out, "\\u{:04x}", u32::from(c))),
        _ => None,
    }
}
