//! What a request is answered with.

use core::fmt;

use super::VERSION;

/// What a verb gives.
pub(super) type Answer = Result<Done, Refused>;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Done {
    /// All there is to say.
    Nothing,
    /// A text of so many bytes, whose beginning is in the window.
    Bytes(usize),
    /// Who we are.
    Version,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Bytes(count) => write!(f, "{count}"),
            Self::Version => write!(f, "{VERSION} {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Why nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// Others than dom0 can write the request.
    NotDom0,
    /// The request is not `ID VERB ARGS…`.
    Empty,
    /// No such verb.
    Verb,
    /// The arguments are not the verb's.
    Usage(&'static str),
    /// No client has this number.
    NoDomain,
    /// The answer is longer than M1 has room for.
    TooLong,
    /// There is no store.
    NoStore,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDom0 => f.write_str("others than domain 0 can write m1ctl/request"),
            Self::Empty => f.write_str("a request is ID VERB ARGUMENTS"),
            Self::Verb => f.write_str("no such verb: this M1 may be older than its tool"),
            Self::Usage(usage) => write!(f, "usage: {usage}"),
            Self::NoDomain => f.write_str("M1 serves no device of this domain"),
            Self::TooLong => f.write_str("the answer is longer than M1 has room for"),
            Self::NoStore => f.write_str("M1 has no store: store_disk= names its disk"),
        }
    }
}
