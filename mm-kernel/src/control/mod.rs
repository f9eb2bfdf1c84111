//! The control channel: what dom0 tells M1 to do, and how M1 answers. docs/CONTROL.md is the contract.
//!
//! dom0 writes a request into a node that only dom0 can write ([`channel`]), M1 looks its verb up in a table ([`verbs`]) and answers in a
//! node of its own, a long answer in pages that it has granted to dom0 ([`window`]). One request at a time, one xenstore message at a
//! time, and nothing here waits: what takes long goes on in the serve loop and is asked after.

mod channel;
mod does;
mod exchange;
mod frozen;
mod reply;
mod says;
#[cfg(test)]
mod tests;
mod verbs;
mod window;

use xenstore::{Client, Message};

use crate::m1::M1;
use channel::Channel;
pub(crate) use window::{TEXT_BYTES, TEXT_BYTES_PER_CLIENT, WINDOW_PAGES, Window};

/// The number of the contract, in `data/m1ctl/version`.
pub(crate) const VERSION: u32 = 1;

/// Both ends of it.
pub struct Control {
    channel: Channel,
    window: Window,
    counters: Counters,
}

/// What happened on it, for `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Requests that were answered.
    pub answered: u64,
    /// Of those, how many with an error.
    pub failed: u64,
    /// Requests in a node that others than dom0 could write.
    pub refused: u64,
}

impl Control {
    /// Nothing said yet; the window is granted.
    pub(crate) fn new(window: Window) -> Self {
        Self { channel: Channel::new(), window, counters: Counters::default() }
    }

    /// What happened so far.
    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a message if it is ours.
    pub(crate) fn on_message(&mut self, message: &Message<'_>) -> bool {
        self.channel.on_message(message)
    }

    /// Asks xenstored the next thing.
    pub(crate) fn advance(&mut self, client: &mut Client) {
        self.channel.advance(client, &self.window);
    }

    /// Tries again what xenstored refused.
    pub(crate) fn recheck(&mut self) {
        self.channel.recheck();
    }
}

impl M1 {
    /// Carries out the request that has come, if one has.
    pub(crate) fn control_turn(&mut self) {
        let Some(request) = self.control.channel.take_request() else { return };
        let answer = if request.trusted {
            verbs::perform(self, request.words())
        } else {
            self.control.counters.refused += 1;
            Err(reply::Refused::NotDom0)
        };
        let counters = &mut self.control.counters;
        counters.answered += 1;
        counters.failed += u64::from(answer.is_err());
        self.control.channel.reply(request.id, &answer);
        // It goes out with what xenstore is told next.
        self.look = true;
    }
}
