//! One request at a time, waiting for its reply: for boot, and for clients with nothing else to do.

use crate::connection::Received;
use crate::{
    Connection, Fault, Message, Refusal, RequestId, SendError, Transaction, WatchEvent, XenbusState, number,
};

/// What a blocking call needs from whoever runs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// Send xenstored an event, now; does not count against patience.
    Notify,
    /// Sleep until xenstored's event or a little longer. Answer `false` when the time for the whole call has run out.
    Sleep,
}

/// A blocking call failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallError {
    /// Xenstored said no.
    Refused(Refusal),
    /// No answer within the time that the caller gave.
    TimedOut,
    /// Not sent: too long, or asynchronous requests are still outstanding.
    NotSent(SendError),
    /// The reply is not what this request is answered with, or not a number where one belongs.
    Unexpected,
    /// The connection is over.
    Broken(Fault),
}

impl core::fmt::Display for CallError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::TimedOut => f.write_str("xenstored did not answer in time"),
            Self::NotSent(error) => error.fmt(f),
            Self::Unexpected => f.write_str("the value is not of the expected form"),
            Self::Broken(fault) => fault.fmt(f),
        }
    }
}

impl core::error::Error for CallError {}

impl From<Fault> for CallError {
    fn from(fault: Fault) -> Self {
        Self::Broken(fault)
    }
}

impl From<SendError> for CallError {
    fn from(error: SendError) -> Self {
        Self::NotSent(error)
    }
}

impl CallError {
    /// The node is not there, or not there yet (the toolstack may still be writing): worth another look.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(Refusal::NotFound | Refusal::Access))
    }
}

/// Blocking calls over a [`Connection`] on which nothing asynchronous is outstanding. Watch events that come meanwhile
/// are kept and come out of [`Connection::poll`] or [`Blocking::next_watch`] later.
pub struct Blocking<'a> {
    connection: &'a mut Connection,
    wait: &'a mut dyn FnMut(Pause) -> bool,
}

impl core::fmt::Debug for Blocking<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}

impl<'a> Blocking<'a> {
    /// `wait` decides how long a call may take.
    pub fn new(connection: &'a mut Connection, wait: &'a mut dyn FnMut(Pause) -> bool) -> Self {
        Self { connection, wait }
    }

    /// A node's value.
    ///
    /// # Errors
    /// See [`CallError`], as for all below.
    pub fn read(&mut self, transaction: Transaction, path: &str) -> Result<&[u8], CallError> {
        let id = self.connection.client.read(transaction, path)?;
        self.reply(id)
    }

    /// A node's value as a decimal number.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn read_number<T: core::str::FromStr>(&mut self, path: &str) -> Result<T, CallError> {
        number(self.read(Transaction::NONE, path)?).ok_or(CallError::Unexpected)
    }

    /// A node's value as text of at most `N` bytes.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn read_text<const N: usize>(&mut self, path: &str) -> Result<heapless::String<N>, CallError> {
        let value = self.read(Transaction::NONE, path)?;
        let text = core::str::from_utf8(value).map_err(|_| CallError::Unexpected)?;
        heapless::String::try_from(text).map_err(|_| CallError::Unexpected)
    }

    /// A `state` node; `None` if it is not there.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn read_state(&mut self, path: &str) -> Result<Option<XenbusState>, CallError> {
        match self.read(Transaction::NONE, path) {
            Ok(value) => Ok(Some(XenbusState::from_value(value))),
            Err(CallError::Refused(Refusal::NotFound)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Names of a node's children, each with a NUL behind.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn list(&mut self, transaction: Transaction, path: &str) -> Result<&[u8], CallError> {
        let id = self.connection.client.directory(transaction, path)?;
        self.reply(id)
    }

    /// Sets a node's value.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn write(&mut self, transaction: Transaction, path: &str, value: &[u8]) -> Result<(), CallError> {
        let id = self.connection.client.write(transaction, path, value)?;
        self.reply(id).map(drop)
    }

    /// Makes an empty node if there is none.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn mkdir(&mut self, transaction: Transaction, path: &str) -> Result<(), CallError> {
        let id = self.connection.client.mkdir(transaction, path)?;
        self.reply(id).map(drop)
    }

    /// Removes a node and everything below.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn rm(&mut self, transaction: Transaction, path: &str) -> Result<(), CallError> {
        let id = self.connection.client.rm(transaction, path)?;
        self.reply(id).map(drop)
    }

    /// Sets a node's permissions.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn set_perms(
        &mut self,
        transaction: Transaction,
        path: &str,
        perms: &[&str],
    ) -> Result<(), CallError> {
        let id = self.connection.client.set_perms(transaction, path, perms)?;
        self.reply(id).map(drop)
    }

    /// Asks for events about `path` and everything below. Asking twice is no error.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn watch(&mut self, path: &str, token: &str) -> Result<(), CallError> {
        let id = self.connection.client.watch(path, token)?;
        match self.reply(id) {
            Ok(_) | Err(CallError::Refused(Refusal::Exists)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends a watch. One that is not there is no error.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn unwatch(&mut self, path: &str, token: &str) -> Result<(), CallError> {
        let id = self.connection.client.unwatch(path, token)?;
        match self.reply(id) {
            Ok(_) | Err(CallError::Refused(Refusal::NotFound)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Does `body` in a transaction, again from its start while it meets others' changes, at most `tries` times.
    ///
    /// # Errors
    /// See [`CallError`]; [`Refusal::Again`] after the last try. Nothing was changed then.
    pub fn transaction<R>(
        &mut self,
        tries: u32,
        mut body: impl FnMut(&mut Self, Transaction) -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        for _ in 0..tries {
            let id = self.connection.client.start_transaction()?;
            let started = self.reply(id)?;
            let started = started.strip_suffix(b"\0").unwrap_or(started);
            let transaction = Transaction(number(started).ok_or(CallError::Unexpected)?);
            let done = body(self, transaction);
            let id = self.connection.client.end_transaction(transaction, done.is_ok())?;
            match (self.reply(id).map(drop), done) {
                (Ok(()), Ok(result)) => return Ok(result),
                (_, Err(error)) if error != CallError::Refused(Refusal::Again) => return Err(error),
                (Err(error), _) if error != CallError::Refused(Refusal::Again) => return Err(error),
                _ => {}
            }
        }
        Err(CallError::Refused(Refusal::Again))
    }

    /// Sleeps until a watch fires; hands what fired to `look`, or `None` if events were lost.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn next_watch<R>(&mut self, look: impl FnOnce(Option<WatchEvent<'_>>) -> R) -> Result<R, CallError> {
        loop {
            // Replies cannot come here: no request is outstanding between blocking calls.
            if self.connection.lost || !self.connection.kept.is_empty() {
                let event = match self.connection.poll()? {
                    Some(incoming) => match incoming.message {
                        Message::Watch(event) => Some(event),
                        _ => None,
                    },
                    None => None,
                };
                return Ok(look(event));
            }
            match self.connection.receive()? {
                Received::Watch => self.connection.keep_event()?,
                Received::Reply(_) => {}
                Received::Nothing => self.sleep()?,
            }
            self.notify();
        }
    }

    /// Waits until the `state` node at `path` satisfies `enough`; `None` stands for a node that is not there.
    ///
    /// # Errors
    /// See [`CallError`]; the time is the caller's of one call.
    pub fn wait_for_state(
        &mut self,
        path: &str,
        mut enough: impl FnMut(Option<XenbusState>) -> bool,
    ) -> Result<Option<XenbusState>, CallError> {
        const TOKEN: &str = "wait-for-state";
        self.watch(path, TOKEN)?;
        let outcome = loop {
            match self.read_state(path) {
                Ok(state) if enough(state) => break Ok(state),
                Ok(_) => {}
                Err(error) if error.is_missing() => {}
                Err(error) => break Err(error),
            }
            if let Err(error) = self.next_watch(|_| ()) {
                break Err(error);
            }
        };
        // After a time-out this may time out as well; the watch then stays, and its events are ignored.
        let _ = self.unwatch(path, TOKEN);
        outcome
    }

    /// Sends what is queued and waits for the reply to `id`.
    fn reply(&mut self, id: RequestId) -> Result<&[u8], CallError> {
        loop {
            self.connection.flush()?;
            self.notify();
            match self.connection.receive()? {
                Received::Reply(other) if other == id => break,
                // Answers to calls that timed out earlier.
                Received::Reply(_) => {}
                Received::Watch => self.connection.keep_event()?,
                Received::Nothing => self.sleep()?,
            }
        }
        self.notify();
        self.connection.outcome()?.map_err(CallError::Refused)
    }

    fn notify(&mut self) {
        if self.connection.take_notify() {
            (self.wait)(Pause::Notify);
        }
    }

    fn sleep(&mut self) -> Result<(), CallError> {
        self.notify();
        if (self.wait)(Pause::Sleep) { Ok(()) } else { Err(CallError::TimedOut) }
    }
}
