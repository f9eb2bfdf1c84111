//! The heart of M1: which pages are in memory, who may map them, and what to do about a request. Pure decisions.
//!
//! The engine performs nothing. [`Engine::handle`] takes a request that was copied from a ring, and gives [`Effects`]:
//! replies, block reads and copies, which the caller performs in order and reports back ([`Engine::read_done`],
//! [`Engine::copy_done`]); [`Engine::advance`] then lets go on whoever waited. Only the grant table, which is plain memory, is
//! asked and written at once, through [`Grants`]. There is no clock, no heap and no panic in here: time is an argument,
//! tables are slices of the caller's, and whatever a client says ends in an answer or a [`ClientFault`].
//!
//! What it promises, whatever clients do:
//! - A client can map only frames that hold pages of the volumes that it was attached to, and a frame is never written
//!   to (or given to another page) while an entry permits it.
//! - A reference that stood for one page stands for no other page before its client has released or acknowledged it, or is gone,
//!   and nothing maps it.
//! - Every page of M1's memory is in exactly one class of [`PageStates`], at any moment.
//! - The work of a call is bounded by constants and the largest window, not by the number of clients or pages. Only where room is
//!   made for a snapshot, which the caller has ordered, it grows with the pages that were announced.
//!
//! Cost: 24 bytes and a hash bucket of 4 to 8 for each page of the store and 18 to 20 for each page that can be frozen, 2.5 to 3 for each grant reference (see [`TableSizes`]).
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

mod answer;
mod buckets;
mod cache;
mod durable;
mod effect;
mod engine;
mod figures;
mod forget;
mod freeze;
mod frozen;
mod idle;
mod ids;
mod import;
mod lend;
mod lenders;
mod queue;
mod reads;
mod retire;
mod revoke;
mod rings;
mod scan;
mod serve;
mod sizes;
mod snapshots;
mod stats;
mod store;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod thaw;
mod turns;
mod volumes;
mod windows;

pub use cache::{FillError, Forgot, Wanted};
pub use durable::NextPage;
pub use effect::{Capture, Contents, Copied, Copy, EFFECTS, Effect, Effects, Grants, InUse, READ_RUN, Read};
pub use engine::{Engine, Limits, Refusal};
pub use freeze::FreezeRefused;
pub use frozen::FrozenEntry;
pub use ids::{ClientId, FrameId, Reference, RequestId, RingId, SnapshotId, VolumeId};
pub use import::{EndRefused, ImportRefused};
pub use reads::ReadFailed;
pub use rings::{ClientEntry, ClientState, RequestEntry, RingEntry};
pub use serve::{Bug, ClientFault};
pub use sizes::{TableSizes, Tables};
pub use snapshots::{
    DeleteRefused, FreezeFailure, OrderRefused, Progress, SNAPSHOTS, SnapshotEntry, SnapshotFigures,
    SnapshotState,
};
pub use stats::{
    ClientFigures, ClientReport, Counters, FaultKind, FaultResult, Faults, Figures, Histogram, PageStates,
    Refusals, Refused,
};
pub use store::{Class, FrameEntry};
pub use volumes::{COPY_RANGES, GroupId, Sharing, VOLUMES};
pub use windows::WindowEntry;
