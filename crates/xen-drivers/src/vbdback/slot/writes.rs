//! What is to be written for a device, in its order.

use super::{Client, Pending, Refusal, RequestId, SendError, Slot, Transaction, Unusable, XenbusState, path};
use crate::Text;
use crate::vbdback::{REMOVE_AFTER_NS, SETTLE_NS};

/// Things that can wait to be written: what is published before each of two states, the states, an error and a removal.
const WRITES: usize = 8;

/// A node, or several that belong together: then the place of the next one in its list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Write {
    /// [`Offer::transport`](super::Offer::transport).
    Transport(u8),
    /// [`Offer::properties`](super::Offer::properties).
    Properties(u8),
    /// [`Writes::error`].
    Error,
    State(XenbusState),
    Remove,
}

/// The queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writes {
    queue: [Option<Write>; WRITES],
    /// What `error` is to say.
    error: Text<64>,
    /// When the first may go, at the earliest.
    pub(super) hold_until: u64,
}

impl Writes {
    pub(super) const NONE: Self = Self { queue: [None; WRITES], error: Text::EMPTY, hold_until: 0 };

    pub(super) fn is_empty(&self) -> bool {
        self.queue[0].is_none()
    }

    /// Puts something at the end. `asked`: the first may be on its way.
    pub(super) fn push(&mut self, write: Write, asked: bool) {
        // A state replaces one that was not written yet: nobody needs to see it.
        if let (Write::State(_), Some(last)) = (&write, self.queue.iter_mut().flatten().last())
            && !asked
            && matches!(last, Write::State(_))
        {
            *last = write;
            return;
        }
        let place = self.queue.iter_mut().find(|place| place.is_none());
        debug_assert!(place.is_some(), "there is a place for each step of the handshake");
        if let Some(place) = place {
            *place = Some(write);
        }
    }

    /// Puts why the device is not served at the end; as much of it as fits.
    pub(super) fn push_error(&mut self, reason: &str) {
        self.error = Text::cut(reason);
        self.push(Write::Error, false);
    }

    fn pop(&mut self) {
        self.queue[0] = None;
        self.queue.rotate_left(1);
    }

    fn clear(&mut self) {
        self.queue = [None; WRITES];
    }
}

impl Slot {
    pub(super) fn ask_write(&self, client: &mut Client) -> Result<RequestId, SendError> {
        let none = Transaction::NONE;
        let mut number = |node| match node {
            Some((key, value)) => {
                let key = path(format_args!("/{key}")).map_err(|_| SendError::TooLong)?;
                let value: heapless::String<20> = decimal(value);
                client.write(none, &self.back(&key)?, value.as_bytes())
            }
            // Not met: a list is left at its end.
            None => Err(SendError::TooLong),
        };
        match self.writes.queue[0] {
            Some(Write::Transport(index)) => number(self.offer.transport(index)),
            Some(Write::Properties(index)) => number(self.offer.properties(index)),
            Some(Write::Error) => {
                client.write(none, &self.back("/error")?, self.writes.error.as_str().as_bytes())
            }
            Some(Write::State(state)) => client.write(none, &self.back("/state")?, state.value().as_bytes()),
            Some(Write::Remove) => client.rm(none, &self.back("")?),
            None => Err(SendError::TooLong),
        }
    }

    /// The first of the queue was written, or not.
    pub(super) fn written(&mut self, refusal: Option<Refusal>, now_ns: u64) {
        let Some(write) = self.writes.queue[0] else { return };
        let rest = match write {
            _ if refusal.is_some() => None,
            Write::Transport(index) => self.offer.transport(index + 1).map(|_| Write::Transport(index + 1)),
            Write::Properties(index) => {
                self.offer.properties(index + 1).map(|_| Write::Properties(index + 1))
            }
            _ => None,
        };
        match rest {
            Some(rest) => self.writes.queue[0] = Some(rest),
            None => self.writes.pop(),
        }
        match (write, refusal) {
            (Write::State(XenbusState::InitWait), None) => {
                self.writes.hold_until = now_ns.saturating_add(SETTLE_NS);
            }
            (Write::State(XenbusState::Closed), None) => {
                self.writes.hold_until = now_ns.saturating_add(REMOVE_AFTER_NS);
            }
            (Write::Remove, _) => self.dirty = true,
            (_, None) => {}
            // The directory went away under us: the next look sees that.
            (_, Some(Refusal::NotFound | Refusal::Access)) => self.dirty = true,
            (_, Some(refusal)) => {
                self.writes.clear();
                self.dirty = true;
                self.event = self.event.or(Some(Pending::Unusable(Unusable::Xenstore(refusal))));
            }
        }
    }
}

fn decimal(value: u64) -> heapless::String<20> {
    let mut text = heapless::String::new();
    // The largest number has 20 digits.
    let _ = core::fmt::Write::write_fmt(&mut text, format_args!("{value}"));
    text
}
