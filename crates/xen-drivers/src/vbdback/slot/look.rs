//! What is read of a device, one node after the other.

use super::{
    Backend, Client, DomId, Info, Key, Observed, Pending, Refusal, RequestId, SendError, Slot, Text,
    Transaction, Unusable, XenbusState, path,
};
use crate::vbdback::ring_keys::Next;

/// Nodes in the order in which they are read; the first five only while nothing is held for the device, the last only of a
/// frontend that was offered a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    FrontendId,
    Frontend,
    Params,
    Mode,
    Discard,
    State,
    Online,
    FrontendState,
    Ring(Key),
}

impl Slot {
    pub(super) fn ask_look(&mut self, client: &mut Client) -> Result<RequestId, SendError> {
        let first = if self.machine.holds() { Field::State } else { Field::FrontendId };
        let field = self.look.unwrap_or(first);
        if self.look.is_none() {
            self.dirty = false;
        }
        self.look = Some(field);
        let Info { domain: DomId(domain), devid, .. } = self.info;
        let front = format_args!("/local/domain/{domain}/device/vbd/{devid}");
        let node = match field {
            Field::FrontendId => self.back("/frontend-id")?,
            Field::Frontend => self.back("/frontend")?,
            Field::Params => self.back("/params")?,
            Field::Mode => self.back("/mode")?,
            Field::Discard => self.back("/discard-enable")?,
            Field::State => self.back("/state")?,
            Field::Online => self.back("/online")?,
            Field::FrontendState => path(format_args!("{front}/state")).map_err(|_| SendError::TooLong)?,
            Field::Ring(key) => path(format_args!("{front}/{key}")).map_err(|_| SendError::TooLong)?,
        };
        client.read(Transaction::NONE, &node)
    }

    /// Takes one value in; what is read next.
    pub(super) fn read(&mut self, field: Field, outcome: Result<&[u8], Refusal>) -> Option<Field> {
        let missing = matches!(outcome, Err(Refusal::NotFound | Refusal::Access));
        if outcome.is_err() && !missing {
            // Xenstored is in trouble. The owner's timer looks again.
            return None;
        }
        let value = outcome.unwrap_or_default();
        match field {
            // Gone, or not complete yet: then an event follows that makes us learn of it again.
            Field::FrontendId | Field::Frontend | Field::Params | Field::Mode | Field::State if missing => {
                self.observe(Observed { present: false, online: false, frontend: None })
            }
            Field::FrontendId if xenstore::number(value) == Some(self.info.domain.0) => Some(Field::Frontend),
            Field::FrontendId => self.unusable(Unusable::NotTheClient),
            Field::Frontend => {
                let expected =
                    path(format_args!("/local/domain/{}/device/vbd/{}", self.info.domain.0, self.info.devid));
                let right = expected.is_ok_and(|expected| expected.as_bytes() == value);
                if right { Some(Field::Params) } else { self.unusable(Unusable::NotTheFrontend) }
            }
            Field::Params => match Text::new(value) {
                Some(params) => {
                    self.reconsider(params != self.info.params);
                    self.info.params = params;
                    Some(Field::Mode)
                }
                None => self.unusable(Unusable::Params),
            },
            Field::Mode => {
                let read_only = value != b"w";
                self.reconsider(read_only != self.info.read_only);
                self.info.read_only = read_only;
                Some(Field::Discard)
            }
            Field::Discard => {
                // blkif.h: 1 is the default.
                self.info.discard = value != b"0";
                Some(Field::State)
            }
            Field::State if self.machine.published() && value == b"1" => {
                // We wrote more than that: the toolstack has made the device anew, perhaps as something else.
                self.replaced = true;
                self.observe(Observed { present: false, online: false, frontend: None })
            }
            Field::State => Some(Field::Online),
            Field::Online => {
                self.online = value == b"1";
                Some(Field::FrontendState)
            }
            Field::FrontendState => {
                let frontend = (!missing).then(|| XenbusState::from_value(value));
                self.observe(Observed { present: true, online: self.online, frontend })
            }
            Field::Ring(key) => {
                let most = self.offer.block.map_or(0, |block| block.features.ring_order);
                match self.ring.read(key, (!missing).then_some(value), most) {
                    Next::Read(key) => return Some(Field::Ring(key)),
                    Next::Ready => self.event = Some(Pending::BlockRing),
                    Next::NoRing => self.without_ring(),
                    Next::Bad(bad) => self.bad_ring(bad),
                }
                None
            }
        }
    }

    /// The toolstack's nodes make no sense: never served, but removed when it asks for that.
    fn unusable(&mut self, why: Unusable) -> Option<Field> {
        if !self.machine.is_refused() {
            self.machine.refused();
            self.event = Some(Pending::Unusable(why));
        }
        Some(Field::State)
    }

    /// What was refused as something else is offered again.
    fn reconsider(&mut self, changed: bool) {
        if changed && self.machine.is_refused() {
            self.machine = Backend::new();
        }
    }
}
