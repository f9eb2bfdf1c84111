//! The hearing side: puts messages together from whatever pieces their bytes come in.

use crate::wire::{HEADER, Header, Kind, PAYLOAD_MAX};
use crate::{Client, Refusal, RequestId};

/// What arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// The answer to a request.
    Reply(Reply<'a>),
    /// Something changed, perhaps.
    Watch(WatchEvent<'a>),
    /// Watch events came while a blocking call was waiting and did not fit: look at everything again.
    WatchesLost,
}

/// The answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    /// Which request.
    pub id: RequestId,
    /// Its payload, or why not.
    pub outcome: Result<&'a [u8], Refusal>,
}

/// A hint that `path` changed, or that the watch was just set. Events can be spurious: read before believing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchEvent<'a> {
    /// Relative if the watch was.
    pub path: &'a str,
    /// What the watch was set with.
    pub token: &'a str,
}

/// Bytes that no xenstored sends. The stream has lost its frame and cannot be used any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// The header that they came with.
    pub header: Header,
}

/// A message before anybody knows whether its request is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Raw<'a> {
    Reply { id: u32, outcome: Result<&'a [u8], Refusal> },
    Watch(WatchEvent<'a>),
}

/// Holds one message at a time.
#[derive(Debug)]
pub struct Receiver {
    bytes: [u8; HEADER + PAYLOAD_MAX],
    filled: usize,
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// At the start of a message.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; HEADER + PAYLOAD_MAX], filled: 0 }
    }

    /// Where the next bytes of the current message go: never more than it lacks. Empty when the message is whole.
    ///
    /// # Errors
    /// [`Malformed`]: the header's length is impossible.
    pub fn space(&mut self) -> Result<&mut [u8], Malformed> {
        let end = self.end()?;
        Ok(&mut self.bytes[self.filled..end])
    }

    /// `count` bytes were put into [`Self::space`].
    pub fn advance(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.bytes.len());
    }

    /// The message, once it is whole and if somebody wants it: an event, or the reply to a request of `client`'s. In any case
    /// [`Self::clear`] makes room for the next; until then this message stays.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn take(&self, client: &mut Client) -> Result<Option<Message<'_>>, Malformed> {
        if !self.whole()? {
            return Ok(None);
        }
        Ok(match self.message()? {
            Some(Raw::Watch(event)) => Some(Message::Watch(event)),
            Some(Raw::Reply { id, outcome }) => {
                client.settle(id).map(|id| Message::Reply(Reply { id, outcome }))
            }
            None => None,
        })
    }

    /// Whether a whole message is here.
    pub(crate) fn whole(&self) -> Result<bool, Malformed> {
        Ok(self.filled >= HEADER && self.filled == self.end()?)
    }

    /// Makes room for the next message.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// The message, once it is whole; `None` for one of a kind that nobody here asks for.
    pub(crate) fn message(&self) -> Result<Option<Raw<'_>>, Malformed> {
        let header = self.header();
        let payload = &self.bytes[HEADER..self.end()?];
        Ok(match Kind::from_wire(header.kind) {
            Some(Kind::WatchEvent) => {
                // Two strings, each with its NUL: xs_wire.h, XS_WATCH_PATH and XS_WATCH_TOKEN.
                let mut strings = payload.split(|b| *b == 0).map(core::str::from_utf8);
                match (strings.next(), strings.next()) {
                    (Some(Ok(path)), Some(Ok(token))) => Some(Raw::Watch(WatchEvent { path, token })),
                    _ => return Err(Malformed { header }),
                }
            }
            Some(Kind::Error) => {
                Some(Raw::Reply { id: header.id, outcome: Err(Refusal::from_wire(payload)) })
            }
            Some(_) => Some(Raw::Reply { id: header.id, outcome: Ok(payload) }),
            None => None,
        })
    }

    fn header(&self) -> Header {
        let mut bytes = [0; HEADER];
        bytes.copy_from_slice(&self.bytes[..HEADER]);
        Header::decode(&bytes)
    }

    fn end(&self) -> Result<usize, Malformed> {
        if self.filled < HEADER {
            return Ok(HEADER);
        }
        let header = self.header();
        let len = usize::try_from(header.len).ok().filter(|len| *len <= PAYLOAD_MAX);
        len.map(|len| HEADER + len).ok_or(Malformed { header })
    }
}
