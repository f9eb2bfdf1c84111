//! The nodes: one xenstore request at a time, in the order of [`Stage`]; nothing waits.

use core::fmt::Write;

use xenstore::{Client, Message, Refusal, RequestId, SendError, Transaction, number, only_domain_writes};

use super::VERSION;
use super::reply::{Answer, Done};
use super::window::Window;

/// Where dom0 writes; below M1's home, which belongs to dom0.
const REQUEST: &str = "m1ctl/request";
/// Where M1 writes; below `data`, which belongs to M1.
const VERSION_NODE: &str = "data/m1ctl/version";
const WINDOW_NODE: &str = "data/m1ctl/window";
const REPLY: &str = "data/m1ctl/reply";
const TOKEN: &str = "control";

/// Bytes of the longest request.
const REQUEST_MAX: usize = 512;
/// Bytes of the longest reply.
const REPLY_MAX: usize = 512;

/// Something to do.
pub(super) struct Request {
    /// Chosen by who asks.
    pub(super) id: u64,
    /// Whether nobody but dom0 can have written it.
    pub(super) trusted: bool,
    line: heapless::String<REQUEST_MAX>,
}

impl Request {
    /// `ID VERB ARGS…` with blanks between; `None` without an ID.
    fn parse(value: &[u8], trusted: bool) -> Option<Self> {
        let text = core::str::from_utf8(value).ok()?.trim();
        let (id, line) = text.split_once(' ').unwrap_or((text, ""));
        // Cut is what no verb takes: it is refused as it stands.
        let line = heapless::String::try_from(line).unwrap_or_default();
        Some(Self { id: number(id.as_bytes())?, trusted, line })
    }

    /// The verb and its arguments.
    pub(super) fn words(&self) -> core::str::SplitAsciiWhitespace<'_> {
        self.line.split_ascii_whitespace()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Version,
    Window,
    FirstReply,
    Watch,
    Idle,
    Permissions,
    Read { trusted: bool },
    Reply,
}

pub(super) struct Channel {
    stage: Stage,
    awaiting: Option<RequestId>,
    /// Xenstored refused a step of the beginning; tried again later.
    paused: bool,
    /// The request's node may have changed.
    dirty: bool,
    /// The request that was seen last.
    last: Option<u64>,
    request: Option<Request>,
    reply: heapless::String<REPLY_MAX>,
    to_write: bool,
}

impl Channel {
    pub(super) fn new() -> Self {
        Self {
            stage: Stage::Version,
            awaiting: None,
            paused: false,
            dirty: false,
            last: None,
            request: None,
            reply: heapless::String::new(),
            to_write: false,
        }
    }

    /// The request to carry out. It is answered with [`Self::reply`].
    pub(super) fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// Says what became of a request.
    pub(super) fn reply(&mut self, id: u64, answer: &Answer) {
        self.reply.clear();
        // A name in it may be too long: what is cut is the end of a sentence.
        let _ = match answer {
            Ok(running @ Done::Running { .. }) => write!(self.reply, "{id} running {running}"),
            Ok(Done::Nothing) => write!(self.reply, "{id} ok"),
            Ok(done) => write!(self.reply, "{id} ok {done}"),
            Err(refused) => write!(self.reply, "{id} error {refused}"),
        };
        self.to_write = true;
    }

    pub(super) fn recheck(&mut self) {
        self.paused = false;
    }

    pub(super) fn on_message(&mut self, message: &Message<'_>) -> bool {
        match message {
            Message::WatchesLost => {
                self.dirty = true;
                false
            }
            Message::Watch(event) => {
                let ours = event.token == TOKEN;
                self.dirty |= ours;
                ours
            }
            Message::Reply(reply) if Some(reply.id) == self.awaiting => {
                self.awaiting = None;
                self.on_reply(reply.outcome);
                true
            }
            Message::Reply(_) => false,
        }
    }

    /// Asks the next thing, if nothing is being asked.
    pub(super) fn advance(&mut self, client: &mut Client, window: &Window) {
        if self.awaiting.is_some() || self.paused {
            return;
        }
        if self.stage == Stage::Idle {
            // One request after the other: the answer to this one is there before the next one is looked at.
            if core::mem::take(&mut self.to_write) {
                self.stage = Stage::Reply;
            } else if self.request.is_none() && core::mem::take(&mut self.dirty) {
                self.stage = Stage::Permissions;
            }
        }
        match self.ask(client, window) {
            Ok(id) => self.awaiting = id,
            // Later, when others have had their replies.
            Err(SendError::Full) => {}
            Err(SendError::TooLong) => {
                log::error!("bug: control: {:?}: too long for xenstore", self.stage);
                self.stage = Stage::Idle;
            }
        }
    }

    fn ask(&self, client: &mut Client, window: &Window) -> Result<Option<RequestId>, SendError> {
        let none = Transaction::NONE;
        match self.stage {
            Stage::Version => {
                let mut version: heapless::String<12> = heapless::String::new();
                let _ = write!(version, "{VERSION}");
                client.write(none, VERSION_NODE, version.as_bytes())
            }
            Stage::Window => client.write(none, WINDOW_NODE, window.references().as_bytes()),
            // The node is there from the beginning, so that no quota is in an answer's way later.
            Stage::FirstReply => client.write(none, REPLY, b"0 ok"),
            Stage::Watch => client.watch(REQUEST, TOKEN),
            Stage::Idle => return Ok(None),
            Stage::Permissions => client.get_perms(none, REQUEST),
            Stage::Read { .. } => client.read(none, REQUEST),
            Stage::Reply => client.write(none, REPLY, self.reply.as_bytes()),
        }
        .map(Some)
    }

    fn on_reply(&mut self, outcome: Result<&[u8], Refusal>) {
        self.stage = match (self.stage, outcome) {
            (Stage::Version, Ok(_)) => Stage::Window,
            (Stage::Window, Ok(_)) => Stage::FirstReply,
            (Stage::FirstReply, Ok(_)) => Stage::Watch,
            (Stage::Watch, Ok(_) | Err(Refusal::Exists)) => Stage::Idle,
            // Whoever could write it at this moment can have written what is read next.
            (Stage::Permissions, Ok(entries)) => Stage::Read { trusted: only_domain_writes(entries, 0) },
            (Stage::Read { trusted }, Ok(value)) => {
                let request = Request::parse(value, trusted);
                self.request = request.filter(|request| self.last != Some(request.id));
                if let Some(request) = &self.request {
                    self.last = Some(request.id);
                }
                Stage::Idle
            }
            // Nobody has asked anything yet, or took it back.
            (Stage::Permissions | Stage::Read { .. }, Err(Refusal::NotFound | Refusal::Access)) => {
                Stage::Idle
            }
            (stage @ (Stage::Version | Stage::Window | Stage::FirstReply | Stage::Watch), Err(refusal)) => {
                log::warn!("control: {stage:?}: {refusal}; trying again");
                self.paused = true;
                stage
            }
            (stage, Err(refusal)) => {
                log::warn!("control: {stage:?}: {refusal}");
                Stage::Idle
            }
            (_, Ok(_)) => Stage::Idle,
        };
    }
}
