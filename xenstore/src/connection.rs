//! A client on the xenstore page of its domain.

use xen_ring::{ByteConsumer, ByteProducer, ByteRing, PageWords, RingFault};

use crate::receiver::Raw;
use crate::{Client, Malformed, Message, PathBuf, Receiver, Reply, WatchEvent};

/// Looks at the ring for one call of [`Connection::poll`]. The longest message needs five; what else comes unasked is dropped.
const RECEIVE_STEPS: usize = 256;

/// Watch events that can wait for the end of a blocking call.
const WAITING_EVENTS: usize = 16;

/// The connection is of no use any more. It takes xenstored itself to cause that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An impossible index.
    Ring(RingFault),
    /// An impossible message.
    Message(Malformed),
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ring(fault) => write!(f, "the xenstore ring is broken: {fault:?}"),
            Self::Message(malformed) => write!(f, "xenstored sent nonsense: {malformed:?}"),
        }
    }
}

impl core::error::Error for Fault {}

impl From<RingFault> for Fault {
    fn from(fault: RingFault) -> Self {
        Self::Ring(fault)
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Message(malformed)
    }
}

/// A message, and the client to ask further with while it is looked at.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// What arrived.
    pub message: Message<'a>,
    /// For requests that follow from it.
    pub client: &'a mut Client,
}

/// A watch event kept while a blocking call waited for its reply.
#[derive(Debug)]
pub(crate) struct KeptEvent {
    pub(crate) path: PathBuf,
    pub(crate) token: heapless::String<32>,
}

/// Requests and messages over the rings in a xenstore page.
#[derive(Debug)]
pub struct Connection {
    /// For requests; they leave with [`Connection::flush`].
    pub client: Client,
    receiver: Receiver,
    /// The message in `receiver` has been given out.
    seen: bool,
    out: ByteProducer,
    input: ByteConsumer,
    notify: bool,
    pub(crate) kept: heapless::Deque<KeptEvent, WAITING_EVENTS>,
    pub(crate) lost: bool,
    /// The kept event that was given out last.
    current: Option<KeptEvent>,
}

/// What [`Connection::receive`] found.
pub(crate) enum Received {
    Nothing,
    Reply(crate::RequestId),
    Watch,
}

impl Connection {
    /// Goes on where the indices in `page` stand: somebody before us may have used it.
    #[must_use]
    pub fn new(page: &'static PageWords) -> Self {
        Self {
            client: Client::new(),
            receiver: Receiver::new(),
            seen: false,
            out: ByteRing::XENSTORE_REQUEST.producer(page),
            input: ByteRing::XENSTORE_REPLY.consumer(page),
            notify: false,
            kept: heapless::Deque::new(),
            lost: false,
            current: None,
        }
    }

    /// Moves queued requests into the ring, as many as fit now.
    ///
    /// # Errors
    /// [`Fault`]: the connection is over.
    pub fn flush(&mut self) -> Result<(), Fault> {
        let count = self.out.write(self.client.outgoing())?;
        self.client.advance(count);
        self.notify |= count > 0;
        Ok(())
    }

    /// Whether xenstored is to be sent an event now; asks once.
    #[must_use = "xenstored sleeps until it is notified"]
    pub fn take_notify(&mut self) -> bool {
        core::mem::take(&mut self.notify)
    }

    /// The next message, if a whole one is here. Replies to requests that nobody made are dropped.
    ///
    /// # Errors
    /// [`Fault`]: the connection is over.
    pub fn poll(&mut self) -> Result<Option<Incoming<'_>>, Fault> {
        if core::mem::take(&mut self.lost) {
            self.kept.clear();
            return Ok(Some(Incoming { message: Message::WatchesLost, client: &mut self.client }));
        }
        if let Some(event) = self.kept.pop_front() {
            let event = self.current.insert(event);
            let message = Message::Watch(WatchEvent { path: &event.path, token: &event.token });
            return Ok(Some(Incoming { message, client: &mut self.client }));
        }
        let found = self.receive()?;
        if matches!(found, Received::Nothing) {
            return Ok(None);
        }
        let message = match (found, self.receiver.message()?) {
            (Received::Watch, Some(Raw::Watch(event))) => Message::Watch(event),
            (Received::Reply(id), Some(Raw::Reply { outcome, .. })) => Message::Reply(Reply { id, outcome }),
            _ => return Ok(None),
        };
        Ok(Some(Incoming { message, client: &mut self.client }))
    }

    /// Whether [`Self::poll`] may have something: for a loop that stops polling before it says `None`, and then sleeps.
    #[must_use]
    pub fn look_again(&self) -> bool {
        self.lost || !self.kept.is_empty() || self.input.available().is_ok_and(|count| count > 0)
    }

    /// Takes bytes until a message is whole that somebody wants, in a bounded number of steps.
    pub(crate) fn receive(&mut self) -> Result<Received, Fault> {
        if core::mem::take(&mut self.seen) {
            self.receiver.clear();
        }
        for _ in 0..RECEIVE_STEPS {
            let space = self.receiver.space()?;
            let lacking = !space.is_empty();
            let count = self.input.read(space)?;
            self.receiver.advance(count);
            self.notify |= count > 0;
            if self.receiver.whole()? {
                let found = match self.receiver.message()? {
                    Some(Raw::Watch(_)) => Received::Watch,
                    Some(Raw::Reply { id, .. }) => match self.client.settle(id) {
                        Some(id) => Received::Reply(id),
                        None => Received::Nothing,
                    },
                    None => Received::Nothing,
                };
                if !matches!(found, Received::Nothing) {
                    self.seen = true;
                    return Ok(found);
                }
                self.receiver.clear();
            } else if lacking && count == 0 {
                break;
            }
        }
        Ok(Received::Nothing)
    }

    /// The payload of the reply that [`Self::receive`] found last.
    pub(crate) fn outcome(&self) -> Result<Result<&[u8], crate::Refusal>, Fault> {
        match self.receiver.message()? {
            Some(Raw::Reply { outcome, .. }) => Ok(outcome),
            _ => Ok(Ok(&[])),
        }
    }

    /// Keeps the watch event that [`Self::receive`] found last for later.
    pub(crate) fn keep_event(&mut self) -> Result<(), Fault> {
        if let Some(Raw::Watch(event)) = self.receiver.message()? {
            let kept = PathBuf::try_from(event.path)
                .ok()
                .zip(heapless::String::try_from(event.token).ok())
                .map(|(path, token)| KeptEvent { path, token });
            self.lost |= kept.is_none_or(|kept| self.kept.push_back(kept).is_err());
        }
        Ok(())
    }
}
