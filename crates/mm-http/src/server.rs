//! The HTTP server: a table of connections, and one turn over it.
//!
//! Every place has a socket, and every socket without a client listens. Some more than [`crate::CONNECTIONS`] are there
//! so that the next client finds one; when fewer listen, those who have least to lose give up their place.

use core::fmt::{self, Write};

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::{Duration, Instant};

use crate::config::AllowList;
use crate::connection::{Connection, Eviction, Phase};
use crate::request::Page;
use crate::snapshot::{NoSnapshot, SnapshotId, Snapshots};
use crate::stats::HttpStats;
use crate::text::SliceWriter;

/// What is served.
pub trait Pages {
    /// Whether `/ready` answers 200 rather than 503.
    fn ready(&mut self) -> bool;

    /// Writes a page whole, as it is at this moment; [`Page::Health`] is never asked for. `/ready` is one short text
    /// of at most 512 bytes. An error makes the answer 500.
    fn render(&mut self, page: Page, http: &HttpStats, out: &mut dyn Write) -> fmt::Result;
}

/// How patient the server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// From SYN to the end of the handshake.
    pub opening: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// From the first byte of a request to the last of its body; and for a first request to begin.
    pub request: Duration,
    /// From the end of a request to the last byte of its response handed to TCP, and from there to its
    /// acknowledgement.
    pub response: Duration,
    /// From the acknowledgement of all to the client's FIN.
    pub linger: Duration,
    /// For room for a page; then 503.
    pub wait: Duration,
    /// A page rendered so recently is sent to others too. This bounds the work that requests can make.
    pub share: Duration,
    /// The same, where there is no room to render it again.
    pub share_when_full: Duration,
    /// After so long a snapshot's readers are reset if others need the room.
    pub hold: Duration,
    /// After so long a slow client loses its place if others need it.
    pub evict: Duration,
    /// The same for a client that takes nothing of its response.
    pub stall: Duration,
    /// Bytes of content that are read and thrown away.
    pub body: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            opening: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            request: Duration::from_secs(10),
            response: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            wait: Duration::from_secs(5),
            share: Duration::from_millis(10),
            share_when_full: Duration::from_secs(1),
            hold: Duration::from_secs(2),
            evict: Duration::from_secs(1),
            stall: Duration::from_secs(5),
            body: 64 * 1024,
        }
    }
}

/// The length of a page that was rendered only to be counted, for HEAD.
type Measured = Option<(Page, Instant, usize)>;

/// What all connections share in one turn.
pub(crate) struct Turn<'t, 'a> {
    pub(crate) now: Instant,
    pub(crate) wall_clock: Option<u64>,
    pub(crate) limits: &'t Limits,
    pub(crate) stats: &'t mut HttpStats,
    pub(crate) snapshots: &'t mut Snapshots<'a>,
    pub(crate) pages: &'t mut dyn Pages,
    measured: &'t mut [Measured; Page::ALL.len()],
    /// Few sockets listen: connections are not kept.
    pub(crate) short: bool,
    /// A snapshot's readers were asked to leave.
    pub(crate) revoked: bool,
    /// There is more to do at once.
    pub(crate) again: bool,
}

impl Turn<'_, '_> {
    /// A snapshot of a page: one of this moment that is there, a new one, or the last one where there is no room.
    pub(crate) fn snapshot(&mut self, page: Page) -> Result<SnapshotId, NoSnapshot> {
        if let Some(id) = self.snapshots.share(page, self.now, self.limits.share) {
            return Ok(id);
        }
        let stats = *self.stats;
        let rendered = self.snapshots.render(page, self.now, |out| {
            self.stats.renders += 1;
            self.pages.render(page, &stats, out)
        });
        match rendered {
            Err(NoSnapshot::NoRoom(_)) => {
                self.snapshots.share(page, self.now, self.limits.share_when_full).map_or(rendered, Ok)
            }
            _ => rendered,
        }
    }

    /// The length of a page.
    pub(crate) fn measure(&mut self, page: Page) -> Result<usize, fmt::Error> {
        for (measured, at, length) in self.measured.iter().flatten() {
            if *measured == page && *at + self.limits.share >= self.now {
                return Ok(*length);
            }
        }
        let stats = *self.stats;
        self.stats.renders += 1;
        let mut count = SliceWriter::new(&mut []);
        self.pages.render(page, &stats, &mut count)?;
        let place = self.measured.iter().position(|old| old.is_none_or(|(old, ..)| old == page));
        if let Some(place) = place.and_then(|place| self.measured.get_mut(place)) {
            *place = Some((page, self.now, count.total()));
        }
        Ok(count.total())
    }
}

/// The server.
pub struct Server<'a> {
    connections: &'a mut [Connection],
    snapshots: Snapshots<'a>,
    measured: [Measured; Page::ALL.len()],
    stats: HttpStats,
    limits: Limits,
    allow: AllowList,
    port: u16,
    /// Sockets that should listen.
    reserve: usize,
}

impl<'a> Server<'a> {
    /// A server of as many connections as there are places, less `reserve`, which holds its pages in `snapshots`.
    pub fn new(
        connections: &'a mut [Connection],
        snapshots: &'a mut [u8],
        reserve: usize,
        port: u16,
        allow: AllowList,
        limits: Limits,
    ) -> Self {
        connections.fill(Connection::EMPTY);
        let (measured, stats) = ([None; _], HttpStats::default());
        Self {
            connections,
            snapshots: Snapshots::new(snapshots),
            measured,
            stats,
            limits,
            allow,
            port,
            reserve,
        }
    }

    /// Takes a socket into service; false where every place has one. The socket is the server's from now on.
    #[must_use]
    pub fn attach(&mut self, handle: SocketHandle, sockets: &mut SocketSet<'_>) -> bool {
        let Some(place) = self.connections.iter_mut().find(|connection| connection.handle.is_none()) else {
            return false;
        };
        place.handle = Some(handle);
        let socket = sockets.get_mut::<Socket<'_>>(handle);
        // Each response is written at once: waiting for more of it only delays its end.
        socket.set_nagle_enabled(false);
        listen(socket, self.port);
        true
    }

    /// Counters.
    pub fn stats(&self) -> &HttpStats {
        &self.stats
    }

    /// Looks at new clients. To be called after each frame that came in, before anything is sent: so a client that is
    /// not allowed never gets a handshake, and a repeated SYN no second connection.
    pub fn accept(&mut self, now: Instant, sockets: &mut SocketSet<'_>) {
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let Some(handle) = connection.handle.filter(|_| matches!(connection.phase, Phase::Listening))
            else {
                continue;
            };
            let socket = sockets.get_mut::<Socket<'_>>(handle);
            let Some(remote) = socket.remote_endpoint() else {
                continue;
            };
            connection.open(remote, now, now + self.limits.opening);
            if !self.allow.allows(remote.addr) {
                self.stats.refused += 1;
                socket.abort();
                connection.phase = Phase::Aborted;
            } else if self.has_older(index, sockets) {
                // Two sockets with one client would answer each other's segments with resets. A second SYN of one
                // client is a repeated one; of a client that has forgotten its connection, it will be repeated.
                self.connections[index].phase = Phase::Listening;
                listen(sockets.get_mut(handle), self.port);
            }
        }
    }

    /// Whether another connection has the same client as the one at `index`.
    fn has_older(&mut self, index: usize, sockets: &mut SocketSet<'_>) -> bool {
        let remote = self.connections[index].remote;
        let older = (self.connections.iter_mut().enumerate()).find(|(other, connection)| {
            *other != index && connection.is_open() && connection.remote == remote
        });
        let Some((_, older)) = older else {
            return false;
        };
        let socket = older.handle.map(|handle| sockets.get_mut::<Socket<'_>>(handle));
        match socket {
            Some(socket) if socket.state() == State::TimeWait => {
                older.phase = Phase::Listening;
                listen(socket, self.port);
                false
            }
            _ => true,
        }
    }

    /// Lets sockets that were reset listen again. To be called after each time that frames were sent, when the resets
    /// are out. Returns whether a connection came to its end meanwhile (smoltcp ends `TIME-WAIT` where it sends), so that
    /// there is a turn to do.
    #[must_use]
    pub fn rearm(&mut self, sockets: &mut SocketSet<'_>) -> bool {
        let mut ended = false;
        for connection in self.connections.iter_mut() {
            let Some(handle) = connection.handle else {
                continue;
            };
            let socket = sockets.get_mut::<Socket<'_>>(handle);
            if matches!(connection.phase, Phase::Aborted) {
                connection.phase = Phase::Listening;
                listen(socket, self.port);
            }
            ended |= connection.is_open() && socket.state() == State::Closed;
        }
        ended
    }

    /// One turn: does all that can be done now, and returns when to come again at the latest (a time that has passed
    /// means: after what is queued was sent). `wall_clock` is in seconds since 1970, `None` while it is not known.
    pub fn poll(
        &mut self,
        now: Instant,
        wall_clock: Option<u64>,
        sockets: &mut SocketSet<'_>,
        pages: &mut dyn Pages,
    ) -> Option<Instant> {
        self.accept(now, sockets);
        let over = |connection: &&Connection| {
            connection.handle.is_some_and(|handle| connection.is_over(sockets.get(handle)))
        };
        let short = self.connections.iter().filter(over).count() < self.reserve;
        let mut turn = Turn {
            now,
            wall_clock,
            limits: &self.limits,
            stats: &mut self.stats,
            snapshots: &mut self.snapshots,
            pages,
            measured: &mut self.measured,
            short,
            revoked: false,
            again: false,
        };
        for _ in 0..2 {
            (turn.again, turn.revoked) = (false, false);
            for connection in self.connections.iter_mut() {
                if let Some(handle) = connection.handle {
                    connection.advance(sockets.get_mut(handle), &mut turn);
                }
            }
            if !turn.again {
                break;
            }
        }
        let short = make_room(self.connections, self.reserve, sockets, &mut turn);
        let mut next = turn.again.then_some(now);
        if short {
            next = earliest(next, Some(now + self.limits.evict));
        }
        self.stats.open = 0;
        for connection in self.connections.iter() {
            if let Some(handle) = connection.handle {
                self.stats.open += u64::from(connection.is_open());
                next = earliest(next, connection.deadline(sockets.get(handle)));
            }
        }
        next
    }
}

/// Takes places from those who have least to lose until `reserve` sockets listen, or will in a moment. Returns whether
/// there are still too few.
fn make_room(
    connections: &mut [Connection],
    reserve: usize,
    sockets: &mut SocketSet<'_>,
    turn: &mut Turn<'_, '_>,
) -> bool {
    let (mut free, mut ending) = (0, 0);
    for connection in connections.iter() {
        if let Some(socket) = connection.handle.map(|handle| sockets.get(handle)) {
            free += usize::from(!connection.is_open());
            ending += usize::from(connection.is_ending(socket, turn));
        }
    }
    while free + ending < reserve || free < reserve / 2 {
        // So few listen that those who are about to close are not waited for.
        let urgent = free < reserve / 2;
        let victim = connections.iter_mut().filter_map(|connection| {
            let socket = sockets.get::<Socket<'_>>(connection.handle?);
            Some((connection.eviction(socket, turn, urgent)?, connection))
        });
        // Of equals, the one that has been so for longest.
        let victim =
            victim.max_by_key(|(eviction, connection)| (*eviction, -connection.since.total_micros()));
        let Some((eviction, connection)) = victim else {
            return true;
        };
        if let Some(handle) = connection.handle {
            let socket = sockets.get_mut(handle);
            match eviction {
                Eviction::Over => connection.phase = Phase::Aborted,
                Eviction::Idle if !urgent => {
                    turn.stats.evicted += 1;
                    connection.close(socket, turn);
                    ending += 1;
                    continue;
                }
                Eviction::Lingering => {
                    ending -= usize::from(connection.is_ending(socket, turn));
                    connection.abort(socket, turn);
                }
                Eviction::Idle | Eviction::Stalled | Eviction::Slow => {
                    turn.stats.evicted += 1;
                    connection.abort(socket, turn);
                }
            }
        }
        free += 1;
    }
    false
}

/// Makes a socket listen, whatever it did before, and without a word to whom it did it with.
fn listen(socket: &mut Socket<'_>, port: u16) {
    socket.abort();
    let result = socket.listen(port);
    debug_assert!(result.is_ok(), "a closed socket can listen on a port that is not 0");
}

/// The earlier of two times.
pub(crate) fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}
