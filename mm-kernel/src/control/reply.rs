//! What a request is answered with.

use core::fmt;

use mm_engine::FreezeFailure;
use mm_store::DeleteRefused;

use super::VERSION;
use crate::pages::Hex;
use crate::snapshots::{
    ExportRefused, FreezeRefused, Identity, ImportFailed, ImportRefused, RemoveRefused, reason,
};

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
    /// It goes on, and this is how far it is.
    Running {
        /// Pages that came.
        done: u64,
        /// Pages that were announced; 0 before they are.
        all: u64,
    },
    /// A snapshot is there.
    Frozen {
        /// Pages that were copied for it.
        captured: u64,
        /// Pages that it has from the snapshot before.
        kept: u64,
        /// How long the program stood still.
        standstill_ns: u64,
    },
    /// Pages of a snapshot are in the window.
    Pages {
        /// So many.
        count: usize,
        /// Where to go on; none where there are no more.
        next: Option<u64>,
    },
    /// An import has begun.
    Import(Identity),
    /// Pages in the window were taken, and their numbers are there.
    Taken(usize),
    /// A snapshot has come.
    Imported {
        /// Its pages.
        pages: u64,
        /// Those of them that were here already.
        known: u64,
    },
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => Ok(()),
            Self::Bytes(count) => write!(f, "{count}"),
            Self::Running { done, all } => write!(f, "{done} of {all}"),
            Self::Frozen { captured, kept, standstill_ns } => write!(f, "{captured} {kept} {standstill_ns}"),
            Self::Pages { count, next: Some(next) } => write!(f, "{count} {next}"),
            Self::Pages { count, next: None } => write!(f, "{count} end"),
            Self::Import(identity) => Hex(identity).fmt(f),
            Self::Taken(count) => write!(f, "{count}"),
            Self::Imported { pages, known } => write!(f, "{pages} {known}"),
            Self::Version => write!(f, "{VERSION} {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// Why nothing was done.
#[derive(Clone, PartialEq, Eq, Debug)]
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
    /// The snapshot is there, in memory only.
    NotStored,
    /// The overlay stays.
    Overlay(DeleteRefused),
    /// The domain is not frozen.
    Freeze(FreezeRefused),
    /// It was to be frozen, and nothing came of it.
    NotFrozen(FreezeFailure),
    /// Nobody ordered that.
    NoFreeze,
    /// The snapshot stays.
    Remove(RemoveRefused),
    /// The snapshot does not leave.
    Export(ExportRefused),
    /// None is to come.
    Import(ImportRefused),
    /// None comes.
    ImportFailed(ImportFailed),
    /// The window has one page: a table and a page are two.
    Window,
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
            Self::Overlay(DeleteRefused::Unknown) => f.write_str("no overlay has this name"),
            Self::Overlay(DeleteRefused::InUse) => f.write_str("a client has it"),
            Self::Overlay(DeleteRefused::Busy) => f.write_str("the store is not ready to be written yet"),
            Self::Overlay(DeleteRefused::ReadOnly) => {
                f.write_str("the store's disk has failed: it can only be read")
            }
            Self::Freeze(refused) => refused.fmt(f),
            Self::NotFrozen(why) => f.write_str(reason(*why)),
            Self::NoFreeze => f.write_str("no freeze of this domain under this name is under way"),
            Self::Remove(refused) => refused.fmt(f),
            Self::Export(refused) => refused.fmt(f),
            Self::Import(refused) => refused.fmt(f),
            Self::ImportFailed(failed) => failed.fmt(f),
            Self::Window => {
                f.write_str("M1 was short of references at its start: its window is too small for pages")
            }
            Self::NotStored => f.write_str(
                "the snapshot is in memory only: the store's disk did not take it, see M1's console",
            ),
            Self::NoStore => f.write_str("M1 has no store: store_disk= names its disk"),
        }
    }
}
