//! Writes Prometheus text, format 0.0.4.
//!
//! A [`Family`] borrows the [`Exposition`], so its samples stand together behind their `HELP` and `TYPE` by
//! construction. What types cannot hold (each family once, names of the right form, no timestamp) is checked in debug
//! builds, which all tests are.

use core::fmt::{self, Display, Write};

use crate::text::Escaped;

/// Kind of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows; its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A sample's value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value {
    /// A count.
    Unsigned(u64),
    /// A difference.
    Signed(i64),
    /// Nanoseconds, shown as seconds and exact.
    Nanoseconds(u64),
    /// Anything else.
    Float(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Unsigned(u64::from(value))
    }
}

impl From<u16> for Value {
    fn from(value: u16) -> Self {
        Self::Unsigned(u64::from(value))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Unsigned(u64::from(value))
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Unsigned(u64::try_from(value).unwrap_or(u64::MAX))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Nanoseconds(value) => seconds(value, f),
            Self::Float(value) if value.is_nan() => f.write_str("NaN"),
            Self::Float(value) if value.is_infinite() => {
                f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" })
            }
            Self::Float(value) => value.fmt(f),
        }
    }
}

/// Nanoseconds as decimal seconds without trailing zeros.
fn seconds(nanoseconds: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (whole, mut fraction) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    if fraction == 0 {
        return whole.fmt(f);
    }
    let mut digits = 9;
    while fraction % 10 == 0 {
        fraction /= 10;
        digits -= 1;
    }
    write!(f, "{whole}.{fraction:0digits$}")
}

/// Names and values of labels.
pub type Labels<'l> = [(&'l str, &'l dyn Display)];

/// One body of `/metrics`.
pub struct Exposition<'w> {
    out: &'w mut dyn Write,
    #[cfg(debug_assertions)]
    seen: Seen,
}

impl<'w> Exposition<'w> {
    /// An empty one.
    pub fn new(out: &'w mut dyn Write) -> Self {
        Self {
            out,
            #[cfg(debug_assertions)]
            seen: Seen { hashes: [0; SEEN_MAX], len: 0 },
        }
    }

    /// Begins a family: writes `HELP` and `TYPE`.
    pub fn family<'e>(&'e mut self, name: &'e str, help: &str, kind: Kind) -> Result<Family<'e>, fmt::Error> {
        debug_assert!(is_name(name, true), "metric name {name:?}");
        debug_assert_eq!(
            kind == Kind::Counter,
            name.ends_with("_total"),
            "{name}: only counters end in _total"
        );
        #[cfg(debug_assertions)]
        self.seen.insert(name);
        writeln!(self.out, "# HELP {name} {}", Escaped(&help, escape_help))?;
        writeln!(self.out, "# TYPE {name} {}", kind.name())?;
        Ok(Family { out: &mut *self.out, name, kind })
    }

    /// A family of one counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Into<Value>) -> fmt::Result {
        self.family(name, help, Kind::Counter)?.sample(&[], value)
    }

    /// A family of one gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Into<Value>) -> fmt::Result {
        self.family(name, help, Kind::Gauge)?.sample(&[], value)
    }
}

/// The samples of one metric.
pub struct Family<'e> {
    out: &'e mut dyn Write,
    name: &'e str,
    kind: Kind,
}

impl Family<'_> {
    /// One sample of a counter or a gauge. No two samples of a family may have the same labels.
    pub fn sample(&mut self, labels: &Labels<'_>, value: impl Into<Value>) -> fmt::Result {
        debug_assert_ne!(
            self.kind,
            Kind::Histogram,
            "{}: samples of a histogram come by histogram()",
            self.name
        );
        self.line("", labels, None, value.into())
    }

    /// One histogram of durations. `bounds` are the buckets' upper bounds in nanoseconds, ascending; `counts` has the
    /// observations of each bucket alone and, as its last, those above all bounds; `sum` is their sum in nanoseconds.
    pub fn histogram(
        &mut self,
        labels: &Labels<'_>,
        bounds: &[u64],
        counts: &[u64],
        sum: u64,
    ) -> fmt::Result {
        debug_assert_eq!(self.kind, Kind::Histogram, "{}: not a histogram", self.name);
        debug_assert_eq!(
            counts.len(),
            bounds.len() + 1,
            "{}: one count for each bucket, and one above",
            self.name
        );
        debug_assert!(bounds.is_sorted_by(|low, high| low < high), "{}: bounds ascend", self.name);
        let mut below = 0;
        for (&bound, &count) in bounds.iter().zip(counts) {
            below += count;
            self.line("_bucket", labels, Some(&Value::Nanoseconds(bound)), Value::Unsigned(below))?;
        }
        let count = counts.iter().sum::<u64>();
        self.line("_bucket", labels, Some(&"+Inf"), Value::Unsigned(count))?;
        self.line("_sum", labels, None, Value::Nanoseconds(sum))?;
        self.line("_count", labels, None, Value::Unsigned(count))
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &Labels<'_>,
        le: Option<&dyn Display>,
        value: Value,
    ) -> fmt::Result {
        write!(self.out, "{}{suffix}", self.name)?;
        let bucket = le.map(|le| ("le", le));
        let mut before = "{";
        for (name, label) in labels.iter().copied().chain(bucket) {
            debug_assert!(is_name(name, false), "label name {name:?}");
            write!(self.out, "{before}{name}=\"{}\"", Escaped(label, escape_label))?;
            before = ",";
        }
        if before == "," {
            self.out.write_char('}')?;
        }
        writeln!(self.out, " {value}")
    }
}

fn is_name(name: &str, colon: bool) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colon && byte == b':');
    name.bytes().all(good) && !name.bytes().next().is_none_or(|first| first.is_ascii_digit())
}

fn escape_help(c: char, out: &mut dyn Write) -> Option<fmt::Result> {
    match c {
        '\\' => Some(out.write_str("\\\\")),
        '\n' => Some(out.write_str("\\n")),
        _ => None,
    }
}

fn escape_label(c: char, out: &mut dyn Write) -> Option<fmt::Result> {
    if c == '"' { Some(out.write_str("\\\"")) } else { escape_help(c, out) }
}

/// Families that debug builds tell apart.
#[cfg(debug_assertions)]
const SEEN_MAX: usize = 256;

/// Hashes of the names of families that were begun.
#[cfg(debug_assertions)]
struct Seen {
    hashes: [u64; SEEN_MAX],
    len: usize,
}

#[cfg(debug_assertions)]
impl Seen {
    fn insert(&mut self, name: &str) {
        // FNV-1a, 64 bits.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert!(!self.hashes[..self.len].contains(&hash), "family {name} appears twice");
        if let Some(place) = self.hashes.get_mut(self.len) {
            *place = hash;
            self.len += 1;
        }
    }
}
