//! M1's endpoint for people and for Prometheus: HTTP/1.1 over smoltcp, and writers for what it serves.
//!
//! `mm-kernel` owns one [`NetService`] and gives it the network device, the time and a [`Pages`]; everything that is
//! served comes from there. The crate promises:
//! - **bounded**: no heap; tables and buffers are slices handed in once; a request head costs the same memory
//!   however long it is, and every connection has a deadline in every state;
//! - **nobody is held up**: a slow, silent or rude client loses its place as soon as others need it;
//! - **not torn**: a page is rendered at once, when it is asked for, and sent from that snapshot;
//! - **read-only**: no request changes anything, and only networks of the allow list get an answer.
//!
//! Read first: `request.rs` (what is asked), `server.rs` (the turn), `net.rs` (who calls it).
#![cfg_attr(not(test), no_std)]

mod body;
pub mod config;
mod connection;
mod date;
mod head;
pub mod html;
pub mod json;
mod net;
pub mod prometheus;
mod request;
mod response;
mod server;
mod snapshot;
mod stats;
mod text;

#[cfg(test)]
mod tests;

pub use config::{Addressing, AllowList, ConfigError};
pub use connection::Connection;
pub use head::{HeadParser, Progress, fuzz_request_heads};
pub use net::{NetConfig, NetError, NetMemory, NetService};
pub use request::{Body, Method, Page, Refusal, Request, Version};
pub use response::Status;
pub use server::{Limits, Pages, Server};
pub use stats::{HttpStats, Timeout};

/// Connections that are all served at once.
pub const CONNECTIONS: usize = 64;
/// Sockets beyond [`CONNECTIONS`], so that the next client finds one listening.
pub const RESERVE: usize = 16;
/// TCP sockets of the service, and length of [`NetMemory::connections`].
pub const SOCKETS: usize = CONNECTIONS + RESERVE;
/// Length of [`NetMemory::sockets`]: the TCP sockets and DHCP's.
pub const SOCKET_STORAGE: usize = SOCKETS + 1;
/// Usual length of [`NetMemory::receive`] in bytes: 2 KiB for each socket.
pub const RECEIVE_BYTES: usize = SOCKETS * 2048;
/// Usual length of [`NetMemory::transmit`] in bytes: 4 KiB for each socket.
pub const TRANSMIT_BYTES: usize = SOCKETS * 4096;
/// Usual length of [`NetMemory::snapshots`] in bytes: three times a `/metrics` of two hundred clients.
pub const SNAPSHOT_BYTES: usize = 768 * 1024;
