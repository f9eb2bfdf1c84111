//! Xenstore: its wire format, a client, and the handshake of frontends and backends. No I/O of its own, no heap.
//!
//! Who uses it: the drivers of M1 (which never wait for xenstored while clients are served) and the client kernels (which may).
//!
//! - [`wire`]: headers and message kinds of `xen/include/public/io/xs_wire.h`.
//! - [`Client`] queues requests, [`Receiver`] puts replies and watch events together: bytes out, bytes in.
//! - [`Connection`]: both over the two byte rings of the xenstore page.
//! - [`Blocking`]: one request at a time with a wait that the caller bounds; for boot and for simple clients.
//! - [`XenbusState`] and [`handshake`]: what a frontend or a backend does next, as pure machines.
//! - `fake` (feature): a xenstored in memory, with permissions, quotas, transactions and watches.
//!
//! What it promises: whatever bytes arrive, no panic and no unbounded work. Xenstored is trusted to tell the truth (dom0 runs
//! it), other domains' values in it are not: they come as bytes, and the reader judges them.
#![cfg_attr(not(any(test, feature = "fake")), no_std)]

mod blocking;
mod client;
mod connection;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod handshake;
mod path;
mod permission;
mod receiver;
mod state;
pub mod wire;

pub use blocking::{Blocking, CallError, Pause};
pub use client::{Client, MAX_OUTSTANDING, RequestId, SendError, Transaction};
pub use connection::{Connection, Fault, Incoming};
pub use error::Refusal;
pub use path::{PATH_MAX, PathBuf, TooLong, number, path};
pub use permission::{Permission, only_domain_writes};
pub use receiver::{Malformed, Message, Receiver, Reply, WatchEvent};
pub use state::XenbusState;

#[cfg(test)]
mod tests;
