//! The asking side: queues requests as bytes and knows which are not answered yet.

use crate::wire::{HEADER, Header, Kind, PAYLOAD_MAX};

/// Requests that can be unanswered at once. C xenstored stops listening to a domain that has 20 outstanding; M1's own
/// modules keep well below together.
pub const MAX_OUTSTANDING: usize = 32;

/// Bytes that can wait to be sent: any one message, or several of the usual size.
const OUT: usize = 2 * (HEADER + PAYLOAD_MAX);

/// Names a request; its reply carries the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(u32);

/// Which transaction a request belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Transaction(pub u32);

impl Transaction {
    /// None: the request takes effect on its own.
    pub const NONE: Self = Self(0);
}

/// A request was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// Too many are unanswered or unsent. Try again after a reply.
    Full,
    /// Longer than xenstored accepts. Ours to avoid.
    TooLong,
}

impl core::fmt::Display for SendError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Full => "too many xenstore requests are outstanding",
            Self::TooLong => "a xenstore request is longer than 4096 bytes",
        })
    }
}

impl core::error::Error for SendError {}

/// Requests on their way.
#[derive(Debug)]
pub struct Client {
    out: heapless::Vec<u8, OUT>,
    /// How much of `out` has been sent.
    sent: usize,
    next: u32,
    outstanding: heapless::Vec<RequestId, MAX_OUTSTANDING>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// Nothing asked yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { out: heapless::Vec::new(), sent: 0, next: 1, outstanding: heapless::Vec::new() }
    }

    /// Requests without a reply.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Queues a request whose payload is `parts`, one after the other. The named forms below know the shapes.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was queued.
    pub fn request(
        &mut self,
        kind: Kind,
        transaction: Transaction,
        parts: &[&[u8]],
    ) -> Result<RequestId, SendError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let wire_len = u32::try_from(len).ok().filter(|_| len <= PAYLOAD_MAX).ok_or(SendError::TooLong)?;
        if self.sent > 0 && self.out.len() + HEADER + len > OUT {
            self.drop_sent();
        }
        if self.outstanding.is_full() || self.out.len() + HEADER + len > OUT {
            return Err(SendError::Full);
        }
        let id = RequestId(self.next);
        self.next = self.next.wrapping_add(1);
        let header = Header { kind: kind as u32, id: id.0, transaction: transaction.0, len: wire_len };
        let room = "checked above";
        self.out.extend_from_slice(&header.encode()).expect(room);
        for part in parts {
            self.out.extend_from_slice(part).expect(room);
        }
        self.outstanding.push(id).expect(room);
        Ok(id)
    }

    /// Reads a node.
    ///
    /// # Errors
    /// See [`Self::request`], as for all below.
    pub fn read(&mut self, transaction: Transaction, path: &str) -> Result<RequestId, SendError> {
        self.request(Kind::Read, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Lists a node's children; the reply is their names, each with a NUL behind.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn directory(&mut self, transaction: Transaction, path: &str) -> Result<RequestId, SendError> {
        self.request(Kind::Directory, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Writes a node, and makes it if need be.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn write(
        &mut self,
        transaction: Transaction,
        path: &str,
        value: &[u8],
    ) -> Result<RequestId, SendError> {
        self.request(Kind::Write, transaction, &[path.as_bytes(), b"\0", value])
    }

    /// Makes an empty node if there is none.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn mkdir(&mut self, transaction: Transaction, path: &str) -> Result<RequestId, SendError> {
        self.request(Kind::Mkdir, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Removes a node and everything below.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn rm(&mut self, transaction: Transaction, path: &str) -> Result<RequestId, SendError> {
        self.request(Kind::Rm, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Asks for a node's permissions; the reply is what [`Self::set_perms`] takes, each entry with a NUL behind. [`Permission`](crate::Permission)
    /// reads one.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn get_perms(&mut self, transaction: Transaction, path: &str) -> Result<RequestId, SendError> {
        self.request(Kind::GetPerms, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Sets a node's permissions, e.g. `["n5", "r0"]`: the owner with everybody else's right, then single domains.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn set_perms(
        &mut self,
        transaction: Transaction,
        path: &str,
        perms: &[&str],
    ) -> Result<RequestId, SendError> {
        let mut parts: heapless::Vec<&[u8], 16> = heapless::Vec::new();
        for text in core::iter::once(&path).chain(perms) {
            parts.push(text.as_bytes()).map_err(|_| SendError::TooLong)?;
            parts.push(b"\0").map_err(|_| SendError::TooLong)?;
        }
        self.request(Kind::SetPerms, transaction, &parts)
    }

    /// Asks for an event whenever `path` or something below changes, and one at once.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn watch(&mut self, path: &str, token: &str) -> Result<RequestId, SendError> {
        self.request(Kind::Watch, Transaction::NONE, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"])
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<RequestId, SendError> {
        self.request(Kind::Unwatch, Transaction::NONE, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"])
    }

    /// Opens a transaction; the reply is its number.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn start_transaction(&mut self) -> Result<RequestId, SendError> {
        self.request(Kind::TransactionStart, Transaction::NONE, &[b"\0"])
    }

    /// Commits a transaction or drops it.
    ///
    /// # Errors
    /// See [`Self::request`].
    pub fn end_transaction(
        &mut self,
        transaction: Transaction,
        commit: bool,
    ) -> Result<RequestId, SendError> {
        self.request(Kind::TransactionEnd, transaction, &[if commit { b"T\0" } else { b"F\0" }])
    }

    /// What is to be sent next.
    #[must_use]
    pub fn outgoing(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// `count` bytes of [`Self::outgoing`] were sent.
    pub fn advance(&mut self, count: usize) {
        self.sent = (self.sent + count).min(self.out.len());
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
    }

    /// A reply to `id` came. `false`: nobody asked.
    pub(crate) fn settle(&mut self, id: u32) -> Option<RequestId> {
        let at = self.outstanding.iter().position(|other| other.0 == id)?;
        Some(self.outstanding.swap_remove(at))
    }

    fn drop_sent(&mut self) {
        self.out.copy_within(self.sent.., 0);
        self.out.truncate(self.out.len() - self.sent);
        self.sent = 0;
    }
}
