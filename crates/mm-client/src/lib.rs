//! The client side of the map protocol for one volume's ring, without I/O. Client kernels of any kind use it.
//!
//! A client kernel keeps one [`MapClient`] for each map ring. On a fault it asks [`MapClient::lookup`]; where the page is held
//! it maps the reference itself, with [`MapClient::neighbours`], and says so ([`MapClient::mapped`], [`MapClient::unmapped`]);
//! else it puts [`MapClient::ask`] (or [`MapClient::copy`]) on the ring. Every response goes to [`MapClient::on_response`], and
//! whenever it touches the ring it sends what [`MapClient::next_request`] has: the greeting, a posted `Listen`,
//! acknowledgements, batches of releases, reports.
//!
//! What it promises: it never has more requests outstanding than the ring has slots; it gives back a window only while no
//! page of it is mapped or asked for, so an answer never names a window that was given back; what M1 says is checked
//! ([`ServerFault`]) although M1 is trusted with contents; no call panics, waits or allocates.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

mod client;
mod health;
mod held;
mod outstanding;
#[cfg(test)]
mod tests;
mod words;

pub use client::MapClient;
pub use health::Judgement;
pub use held::{Lookup, Window};
pub use words::{AskError, Event, OwnFigures, PageError, Retry, ServerFault, Settings};
