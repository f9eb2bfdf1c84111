//! One connection, from SYN to the last acknowledgement.
//!
//! ```text
//! Listening → Opening → Idle → Head → [Body] → [Waiting] → Sending → Idle …      (keep-alive)
//!                                                               └─→ Closing → Listening
//! ```
//! Every phase but the first has a deadline, and every way out of `Sending` gives its snapshot back.

mod answer;

use core::fmt::Write;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Instant;
use smoltcp::wire::IpEndpoint;

use crate::body::{BodyReader, Discarded};
use crate::head::{HeadParser, Progress};
use crate::request::{Body, Refusal, Request};
use crate::response::{CONTINUE, Status};
use crate::server::Turn;
use crate::snapshot::SnapshotId;
use crate::stats::Timeout;
use crate::text::Bytes;

/// Bytes of a response head, with the whole of a short response.
const OUT_MAX: usize = 1024;
/// Steps of one connection in one turn; more than the requests that a receive buffer of 2 KiB holds.
const STEPS_MAX: usize = 512;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// Its socket listens.
    Listening,
    /// A SYN came, the handshake goes on.
    Opening,
    /// Between requests.
    Idle,
    /// In a request's head.
    Head,
    /// In a request's body.
    Body(BodyReader),
    /// For room of so many bytes for a page; the time is when to try again.
    Waiting(usize, Option<Instant>),
    /// A response goes out.
    Sending,
    /// FIN is sent or queued, what still comes is thrown away.
    Closing {
        drained: u64,
        /// All that was sent is acknowledged.
        quiet: bool,
    },
    /// The socket is closed or to be reset; it listens again when the reset is out.
    Aborted,
}

/// One place of the service's table.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub(crate) handle: Option<SocketHandle>,
    pub(crate) phase: Phase,
    pub(crate) remote: Option<IpEndpoint>,
    /// When the phase began, or bytes last moved in it.
    pub(crate) since: Instant,
    deadline: Instant,
    head: HeadParser,
    request: Option<Request>,
    served: u64,
    out: Bytes<OUT_MAX>,
    out_sent: usize,
    snapshot: Option<SnapshotId>,
    snapshot_sent: usize,
    close: bool,
}

/// How ready a connection is to lose its place; later ones go first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Eviction {
    /// A response is not read.
    Stalled,
    /// A handshake, a first request or a request takes long.
    Slow,
    /// Kept for requests that may come.
    Idle,
    /// Everything is said; the other side does not close.
    Lingering,
    /// Closed on both sides.
    Over,
}

impl Connection {
    /// A place without a socket.
    pub const EMPTY: Self = Self {
        handle: None,
        phase: Phase::Listening,
        remote: None,
        since: Instant::ZERO,
        deadline: Instant::ZERO,
        head: HeadParser::NEW,
        request: None,
        served: 0,
        out: Bytes::EMPTY,
        out_sent: 0,
        snapshot: None,
        snapshot_sent: 0,
        close: false,
    };

    /// When something must be done about it at the latest.
    pub(crate) fn deadline(&self, socket: &Socket<'_>) -> Option<Instant> {
        match self.phase {
            Phase::Listening | Phase::Aborted => None,
            // smoltcp ends this state by its own timer.
            Phase::Closing { .. } if socket.state() == State::TimeWait => None,
            Phase::Waiting(_, Some(retry)) => Some(self.deadline.min(retry)),
            _ => Some(self.deadline),
        }
    }

    /// Whether it takes up a place.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Listening | Phase::Aborted)
    }

    /// Whether its place is free already, for whoever needs it.
    pub(crate) fn is_over(&self, socket: &Socket<'_>) -> bool {
        !self.is_open() || socket.state() == State::TimeWait
    }

    /// Whether it closes, and is likely to be over in a moment.
    pub(crate) fn is_ending(&self, socket: &Socket<'_>, turn: &Turn<'_, '_>) -> bool {
        let closing = matches!(self.phase, Phase::Closing { .. }) && socket.state() != State::TimeWait;
        closing && self.since + turn.limits.evict > turn.now
    }

    /// Begins with a client whose SYN has come.
    pub(crate) fn open(&mut self, remote: IpEndpoint, now: Instant, deadline: Instant) {
        let handle = self.handle;
        *self =
            Self { handle, remote: Some(remote), phase: Phase::Opening, since: now, deadline, ..Self::EMPTY };
    }

    /// Does what can be done now.
    pub(crate) fn advance(&mut self, socket: &mut Socket<'_>, turn: &mut Turn<'_, '_>) {
        if !self.is_open() {
            return;
        }
        if socket.state() == State::Closed {
            if !matches!(self.phase, Phase::Closing { .. }) {
                turn.stats.reset += 1;
            }
            return self.abort(socket, turn);
        }
        if self.deadline(socket).is_some() && turn.now >= self.deadline {
            self.time_out(socket, turn);
        }
        for _ in 0..STEPS_MAX {
            if !self.step(socket, turn) {
                return;
            }
        }
        turn.again = true;
    }

    /// One step; false where nothing more can be done now.
    fn step(&mut self, socket: &mut Socket<'_>, turn: &mut Turn<'_, '_>) -> bool {
        match self.phase {
            Phase::Listening | Phase::Aborted => false,
            Phase::Opening => match socket.state() {
                State::SynReceived => false,
                // A reset in the handshake takes the socket back to listening.
                State::Listen => {
                    self.phase = Phase::Listening;
                    false
                }
                _ => {
                    turn.stats.accepted += 1;
                    self.wait_for_request(turn);
                    true
                }
            },
            Phase::Idle | Phase::Head => self.read_head(socket, turn),
            Phase::Body(reader) => self.read_body(reader, socket, turn),
            Phase::Waiting(needed, _) => self.wait_for_room(needed, turn),
            Phase::Sending => self.send(socket, turn),
            Phase::Closing { drained, quiet } => self.drain(drained, quiet, socket, turn),
        }
    }

    fn wait_for_request(&mut self, turn: &Turn<'_, '_>) {
        let patience = if self.served == 0 { turn.limits.request } else { turn.limits.idle };
        (self.phase, self.since, self.deadline) = (Phase::Idle, turn.now, turn.now + patience);
        self.head = HeadParser::NEW;
    }

    fn read_head(&mut self, socket: &mut Socket<'_>, turn: &mut Turn<'_, '_>) -> bool {
        let (used, progress) = socket
            .recv(|bytes| {
                let fed = self.head.feed(bytes);
                (fed.0, fed)
            })
            .unwrap_or((0, Progress::More));
        if matches!(self.phase, Phase::Idle) && !self.head.is_blank() {
            (self.phase, self.since, self.deadline) = (Phase::Head, turn.now, turn.now + turn.limits.request);
        }
        match progress {
            Progress::More if used == 0 => {
                self.close_if_finished(socket, turn);
                return false;
            }
            Progress::More => {}
            Progress::Done(request) => self.received(request, socket, turn),
            Progress::Refused(refusal) => self.refuse(refusal, turn),
        }
        true
    }

    /// The client has sent FIN and nothing is left of what it sent: it gets no answer that it did not ask for.
    fn close_if_finished(&mut self, socket: &mut Socket<'_>, turn: &Turn<'_, '_>) {
        if socket.state() == State::CloseWait && !socket.can_recv() {
            self.close(socket, turn);
        }
    }

    /// A head is whole: what follows it is next.
    fn received(&mut self, mut request: Request, socket: &mut Socket<'_>, turn: &mut Turn<'_, '_>) {
        let welcome = request.verdict() == Status::Ok;
        match BodyReader::new(request.body, turn.limits.body) {
            _ if request.body == Body::None => self.respond(request, turn),
            // The final answer comes at once, and the client may or may not send the body after it.
            _ if request.expects_continue && !welcome => {
                request.keep_alive = false;
                self.respond(request, turn);
            }
            Err(refusal) if welcome => self.refuse(refusal, turn),
            Err(_) => {
                request.keep_alive = false;
                self.respond(request, turn);
            }
            Ok(reader) => {
                if request.expects_continue && socket.send_capacity() - socket.send_queue() >= CONTINUE.len()
                {
                    // Without room the client goes on by itself (RFC 9110 section 10.1.1).
                    let _queued = socket.send_slice(CONTINUE);
                }
                self.request = Some(request);
                self.phase = Phase::Body(reader);
            }
        }
    }

    fn read_body(
        &mut self,
        mut reader: BodyReader,
        socket: &mut Socket<'_>,
        turn: &mut Turn<'_, '_>,
    ) -> bool {
        let (used, discarded) = socket
            .recv(|bytes| {
                let fed = reader.feed(bytes);
                (fed.0, fed)
            })
            .unwrap_or((0, Discarded::More));
        self.phase = Phase::Body(reader);
        match (discarded, self.request) {
            (Discarded::More, _) if used == 0 => {
                self.close_if_finished(socket, turn);
                return false;
            }
            (Discarded::Whole, Some(request)) => self.respond(request, turn),
            (Discarded::Refused(refusal), _) => self.refuse(refusal, turn),
            (Discarded::More, _) | (Discarded::Whole, None) => {}
        }
        true
    }

    fn wait_for_room(&mut self, needed: usize, turn: &mut Turn<'_, '_>) -> bool {
        if let Some(request) = self.request.filter(|_| turn.snapshots.has_room(needed)) {
            self.respond(request, turn);
            return !matches!(self.phase, Phase::Waiting(..));
        }
        // One snapshot's room may be enough for all who wait.
        if turn.revoked {
            return false;
        }
        let retry = match turn.snapshots.revoke_oldest(turn.now, turn.limits.hold) {
            Ok(()) => {
                (turn.revoked, turn.again) = (true, true);
                None
            }
            Err(retry) => retry,
        };
        self.phase = Phase::Waiting(needed, retry);
        false
    }

    fn send(&mut self, socket: &mut Socket<'_>, turn: &mut Turn<'_, '_>) -> bool {
        if self.snapshot.is_some_and(|id| turn.snapshots.is_revoked(id)) {
            turn.stats.evicted += 1;
            self.abort(socket, turn);
            return false;
        }
        let head = &self.out.as_slice()[self.out_sent..];
        let sent = socket.send_slice(head).unwrap_or(0);
        self.out_sent += sent;
        self.moved(sent, turn);
        if self.out_sent < self.out.as_slice().len() {
            return false;
        }
        if let Some(id) = self.snapshot {
            let page = &turn.snapshots.bytes(id)[self.snapshot_sent..];
            let (sent, left) = (socket.send_slice(page).unwrap_or(0), page.len());
            self.snapshot_sent += sent;
            self.moved(sent, turn);
            if sent < left {
                return sent > 0;
            }
            self.snapshot = None;
            turn.snapshots.release(id);
        }
        self.served += 1;
        if self.close {
            self.close(socket, turn);
        } else {
            self.wait_for_request(turn);
        }
        true
    }

    fn moved(&mut self, bytes: usize, turn: &mut Turn<'_, '_>) {
        if bytes > 0 {
            self.since = turn.now;
            turn.stats.sent_bytes += u64::try_from(bytes).unwrap_or(0);
        }
    }

    /// Ends this side of the connection, and waits for the other side's end (RFC 9112 section 9.6): a reset now could
    /// destroy the response on its way.
    pub(crate) fn close(&mut self, socket: &mut Socket<'_>, turn: &Turn<'_, '_>) {
        socket.close();
        self.phase = Phase::Closing { drained: 0, quiet: false };
        (self.since, self.deadline) = (turn.now, turn.now + turn.limits.response);
    }

    fn drain(&mut self, drained: u64, quiet: bool, socket: &mut Socket<'_>, turn: &mut Turn<'_, '_>) -> bool {
        let taken = socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap_or(0);
        let drained = drained.saturating_add(u64::try_from(taken).unwrap_or(u64::MAX));
        if drained > turn.limits.body {
            self.abort(socket, turn);
            return false;
        }
        let now_quiet = matches!(socket.state(), State::FinWait2 | State::TimeWait);
        if now_quiet && !quiet {
            (self.since, self.deadline) = (turn.now, self.deadline.min(turn.now + turn.limits.linger));
        }
        self.phase = Phase::Closing { drained, quiet: now_quiet };
        taken > 0
    }

    fn time_out(&mut self, socket: &mut Socket<'_>, turn: &mut Turn<'_, '_>) {
        match self.phase {
            Phase::Listening | Phase::Aborted => {}
            Phase::Opening => {
                turn.stats.count_timeout(Timeout::Opening);
                self.abort(socket, turn);
            }
            Phase::Idle => {
                turn.stats.count_timeout(Timeout::Idle);
                self.close(socket, turn);
            }
            Phase::Head | Phase::Body(_) => {
                turn.stats.count_timeout(Timeout::Request);
                self.refuse(
                    Refusal { status: Status::RequestTimeout, why: "the request did not end in time" },
                    turn,
                );
            }
            Phase::Waiting(..) => {
                self.close = true;
                self.answer(Status::Unavailable, turn, |out| {
                    out.write_str("too many slow readers; try again\n")
                });
            }
            Phase::Sending => {
                turn.stats.count_timeout(Timeout::Response);
                self.abort(socket, turn);
            }
            Phase::Closing { quiet, .. } => {
                turn.stats.count_timeout(if quiet { Timeout::Linger } else { Timeout::Response });
                self.abort(socket, turn);
            }
        }
    }

    /// Resets the connection.
    pub(crate) fn abort(&mut self, socket: &mut Socket<'_>, turn: &mut Turn<'_, '_>) {
        if let Some(id) = self.snapshot.take() {
            turn.snapshots.release(id);
        }
        socket.abort();
        self.phase = Phase::Aborted;
    }

    /// Whether, and how soon, it may lose its place to somebody else. Where it is urgent, a client that was sent all,
    /// FIN included, is not waited for.
    pub(crate) fn eviction(
        &self,
        socket: &Socket<'_>,
        turn: &Turn<'_, '_>,
        urgent: bool,
    ) -> Option<Eviction> {
        let old = self.since + turn.limits.evict <= turn.now;
        let stalled = self.since + turn.limits.stall <= turn.now;
        match self.phase {
            Phase::Closing { .. } if socket.state() == State::TimeWait => Some(Eviction::Over),
            Phase::Closing { .. } if socket.send_queue() == 0 && (old || urgent) => Some(Eviction::Lingering),
            Phase::Idle if self.served > 0 && socket.send_queue() == 0 => Some(Eviction::Idle),
            Phase::Idle if self.served > 0 && stalled => Some(Eviction::Stalled),
            Phase::Idle if self.served == 0 && old => Some(Eviction::Slow),
            Phase::Opening | Phase::Head | Phase::Body(_) if old => Some(Eviction::Slow),
            Phase::Sending | Phase::Closing { .. } if stalled => Some(Eviction::Stalled),
            _ => None,
        }
    }
}
