//! What the state machine is told, and what it says.

use mm_proto::{CAPTURE_MAX, Status};

/// What the client chooses at the start.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Version to greet with ([`mm_proto::InfoPage::version`]).
    pub version: u32,
    /// Largest window in pages, a power of two from 1 to 512; M1 may agree to less.
    pub window: u32,
    /// Pages of the volume.
    pub pages: u64,
    /// The device is attached to a snapshot: there are pages from [`mm_proto::FROZEN_FIRST`] on.
    pub frozen: bool,
    /// Nanoseconds after which an answer is late.
    pub patience: u64,
}

/// Figures that the client shows through M1 as its own (see [`mm_proto::RequestBody::Report`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnFigures {
    /// W.
    pub written: u64,
    /// KAS.
    pub kernel: u64,
    /// R.
    pub mapped: u64,
    /// Faults served alone.
    pub local_faults: u64,
    /// Copy-on-write breaks.
    pub cow_breaks: u64,
    /// Pages mapped ahead after a thaw.
    pub ahead: u64,
    /// How many of those were touched.
    pub ahead_used: u64,
    /// Pages of private memory kept for bad times.
    pub reserve: u64,
    /// Pages that Xen did not give.
    pub populate_failed: u64,
}

/// Why a page cannot be asked for now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskError {
    /// The greeting was not answered yet.
    NotReady,
    /// Too many requests are outstanding: wait for a response.
    RingFull,
    /// No row is free for another window: send what [`crate::MapClient::next_request`] has, which gives back a window that is not
    /// mapped; where it has nothing everything is mapped, and [`crate::MapClient::copy`] is left.
    TableFull,
    /// The page was asked for already: wait for the response.
    Asked,
    /// The page is beyond the volume's end.
    OutOfRange,
}

/// What a response means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// M1 has answered the greeting: pages may be asked for.
    Ready {
        /// Largest window in pages.
        window: u32,
    },
    /// M1 does not speak the version.
    Unsupported,
    /// The page can be mapped now.
    Granted {
        /// The page that was asked for.
        page: u64,
    },
    /// The page cannot be lent: ask with [`crate::MapClient::copy`].
    CopyInstead {
        /// The page that was asked for.
        page: u64,
    },
    /// The page was copied.
    Copied {
        /// The page.
        page: u64,
        /// The client's reference that it was copied to.
        reference: u32,
    },
    /// The page is not to be had.
    Failed {
        /// The page.
        page: u64,
        /// Why.
        error: PageError,
    },
    /// M1 wants these pages back: unmap all that are mapped, then call [`crate::MapClient::revoked`].
    Revoke {
        /// First page.
        page: u64,
        /// Reference of the first page.
        reference: u32,
        /// Pages.
        count: u32,
    },
    /// M1 wants the program frozen: begin with [`mm_proto::RequestBody::Freeze`].
    FreezeOrdered,
    /// A step of a freeze was answered.
    FreezeAnswered {
        /// `Ok`, or why not.
        status: Status,
        /// After a `Capture`: which page of the frozen part each frame has become.
        pages: [u32; CAPTURE_MAX],
    },
    /// Nothing to do.
    Nothing,
}

/// Why a page is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageError {
    /// The disk: a bus error to the program.
    Read,
    /// Beyond the volume's end: a bus error too.
    OutOfRange,
    /// M1 could not write to the client's reference.
    BadReference,
    /// The volume is retired or M1 goes away.
    Gone,
}

/// What M1 should not have said. The ring is to be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerFault {
    /// An answer to nothing.
    UnknownId(u32),
    /// A status that is no answer to this request.
    WrongStatus(Status),
    /// A run that is no window, has not the page that was asked for, or overlaps another window.
    BadRun,
    /// A window for which no row was kept: not possible while M1 keeps its promises.
    NoRow,
}

/// What to do after a map has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// M1 had taken the page back: ask for it again.
    Ask,
    /// It failed before too, so that is not why (no maptrack entry, or M1 is going): ask for a copy.
    Copy,
}
