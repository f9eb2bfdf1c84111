//! What the service counts about itself.

use core::fmt;

use crate::prometheus::{Exposition, Kind};
use crate::response::Status;

/// Which patience ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timeout {
    /// The handshake did not come to its end.
    Opening,
    /// No next request on a connection that was kept.
    Idle,
    /// A request began and did not end.
    Request,
    /// A response was not read in time.
    Response,
    /// The client did not close its side.
    Linger,
}

impl Timeout {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Opening, Self::Idle, Self::Request, Self::Response, Self::Linger];

    /// Its label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Idle => "idle",
            Self::Request => "request",
            Self::Response => "response",
            Self::Linger => "linger",
        }
    }

    fn index(self) -> usize {
        Self::ALL.iter().position(|&timeout| timeout == self).unwrap_or(0)
    }
}

/// Counters since boot; all of them only grow, `open` aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HttpStats {
    responses: [u64; Status::ALL.len()],
    timeouts: [u64; Timeout::ALL.len()],
    /// Connections now, from the handshake to the last acknowledgement.
    pub open: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that were refused because of their address.
    pub refused: u64,
    /// Connections that lost their place to others: silent, slow, or waiting for nothing.
    pub evicted: u64,
    /// Connections that the client reset.
    pub reset: u64,
    /// Bytes of responses handed to TCP.
    pub sent_bytes: u64,
    /// Pages rendered.
    pub renders: u64,
}

impl HttpStats {
    /// Responses with this status.
    pub fn responses(&self, status: Status) -> u64 {
        self.responses[status.index()]
    }

    /// Time-outs of this kind.
    pub fn timeouts(&self, timeout: Timeout) -> u64 {
        self.timeouts[timeout.index()]
    }

    pub(crate) fn count_response(&mut self, status: Status) {
        self.responses[status.index()] += 1;
    }

    pub(crate) fn count_timeout(&mut self, timeout: Timeout) {
        self.timeouts[timeout.index()] += 1;
    }

    /// Writes the families `m1_http_*` for `/metrics`.
    pub fn write_metrics(&self, out: &mut Exposition<'_>) -> fmt::Result {
        let mut family =
            out.family("m1_http_responses_total", "HTTP responses by status code.", Kind::Counter)?;
        for status in Status::ALL {
            family.sample(&[("code", &status.code())], self.responses(status))?;
        }
        let mut family = out.family(
            "m1_http_timeouts_total",
            "HTTP connections by the time-out that ended them.",
            Kind::Counter,
        )?;
        for timeout in Timeout::ALL {
            family.sample(&[("kind", &timeout.label())], self.timeouts(timeout))?;
        }
        out.gauge("m1_http_connections", "HTTP connections that are open.", self.open)?;
        let counters = [
            ("m1_http_accepted_total", "HTTP connections accepted.", self.accepted),
            ("m1_http_refused_total", "HTTP connections refused because of their address.", self.refused),
            ("m1_http_evicted_total", "Slow or idle HTTP connections closed to make room.", self.evicted),
            ("m1_http_reset_total", "HTTP connections reset by the client.", self.reset),
            ("m1_http_sent_bytes_total", "Bytes of HTTP responses.", self.sent_bytes),
            ("m1_http_renders_total", "Pages rendered.", self.renders),
        ];
        counters.into_iter().try_for_each(|(name, help, value)| out.counter(name, help, value))
    }
}
