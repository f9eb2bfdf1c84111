//! xenstore from dom0: the daemon's socket, or the kernel's device where the daemon runs in another domain. One request at a time,
//! each with a time limit.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use xenstore::{Client, Message, Receiver, Refusal, RequestId, SendError, Transaction};

use crate::failure::{Failure, Result};

/// One answer of xenstored's.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where the daemons listen (Debian, and where /var/run is not /run), and the kernel's own ways.
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
const DEVICES: [&str; 2] = ["/dev/xen/xenbus", "/proc/xen/xenbus"];

enum Stream {
    Socket(UnixStream),
    Device(File),
}

impl Stream {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.read(bytes),
            Self::Device(device) => device.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Socket(socket) => socket.write_all(bytes),
            Self::Device(device) => device.write_all(bytes),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.as_fd(),
            Self::Device(device) => device.as_fd(),
        }
    }
}

/// A connection.
pub(crate) struct Store {
    stream: Stream,
    client: Client,
    receiver: Receiver,
    /// Tokens of watch events that came while something else was waited for.
    events: VecDeque<String>,
}

enum Heard {
    Reply(std::result::Result<Vec<u8>, Refusal>),
    Event,
}

impl Store {
    /// Finds xenstored.
    pub(crate) fn open() -> Result<Self> {
        if let Some(path) = std::env::var_os("XENSTORED_PATH") {
            return Self::socket(Path::new(&path));
        }
        let mut said = String::new();
        for path in SOCKETS {
            match Self::socket(Path::new(path)) {
                Ok(store) => return Ok(store),
                Err(error) => said = error.to_string(),
            }
        }
        for path in DEVICES {
            if let Ok(device) = File::options().read(true).write(true).open(path) {
                return Ok(Self::over(Stream::Device(device)));
            }
        }
        Err(Failure::Host(format!("no xenstore: is this dom0, and are you root? ({said})")))
    }

    /// The daemon's socket at `path`.
    pub(crate) fn socket(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path)
            .map_err(|error| Failure::Host(format!("{}: {error}", path.display())))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::over(Stream::Socket(socket)))
    }

    fn over(stream: Stream) -> Self {
        Self { stream, client: Client::new(), receiver: Receiver::new(), events: VecDeque::new() }
    }

    /// A node's value; nothing if it is not there.
    pub(crate) fn read(&mut self, path: &str) -> Result<Option<String>> {
        let id = self.client.read(Transaction::NONE, path).map_err(|error| not_sent(path, error))?;
        let value = self.found(path, id)?;
        Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
    }

    /// Names of a node's children; none if it is not there.
    pub(crate) fn list(&mut self, path: &str) -> Result<Vec<String>> {
        let id = self.client.directory(Transaction::NONE, path).map_err(|error| not_sent(path, error))?;
        let names = self.found(path, id)?.unwrap_or_default();
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Sets a node's value.
    pub(crate) fn write(&mut self, path: &str, value: &str) -> Result<()> {
        let id = self
            .client
            .write(Transaction::NONE, path, value.as_bytes())
            .map_err(|error| not_sent(path, error))?;
        self.reply(path, id)?.map(drop).map_err(|refusal| Failure::Host(format!("{path}: {refusal}")))
    }

    /// Asks for events about `path`; one comes at once.
    pub(crate) fn watch(&mut self, path: &str, token: &str) -> Result<()> {
        let id = self.client.watch(path, token).map_err(|error| not_sent(path, error))?;
        match self.reply(path, id)? {
            Ok(_) | Err(Refusal::Exists) => Ok(()),
            Err(refusal) => Err(Failure::Host(format!("watching {path}: {refusal}"))),
        }
    }

    /// Waits for an event with this token; `false` where `until` comes first.
    pub(crate) fn wait(&mut self, token: &str, until: Instant) -> Result<bool> {
        loop {
            if let Some(at) = self.events.iter().position(|event| event == token) {
                self.events.remove(at);
                return Ok(true);
            }
            if self.hear(until)?.is_none() {
                return Ok(false);
            }
        }
    }

    fn found(&mut self, path: &str, id: RequestId) -> Result<Option<Vec<u8>>> {
        match self.reply(path, id)? {
            Ok(value) => Ok(Some(value)),
            Err(Refusal::NotFound) => Ok(None),
            Err(refusal) => Err(Failure::Host(format!("{path}: {refusal}"))),
        }
    }

    /// The reply to the only request that is outstanding.
    fn reply(&mut self, path: &str, _id: RequestId) -> Result<std::result::Result<Vec<u8>, Refusal>> {
        let until = Instant::now() + PATIENCE;
        let waiting = self.client.outgoing().to_vec();
        self.stream.write_all(&waiting).map_err(|error| Failure::Host(format!("xenstored: {error}")))?;
        self.client.advance(waiting.len());
        loop {
            match self.hear(until)? {
                Some(Heard::Reply(outcome)) => return Ok(outcome),
                Some(Heard::Event) => {}
                None => return Err(Failure::Host(format!("{path}: xenstored does not answer"))),
            }
        }
    }

    /// The next message, if one comes in time.
    fn hear(&mut self, until: Instant) -> Result<Option<Heard>> {
        let nonsense = |_| Failure::Host("xenstored sends nonsense".to_owned());
        loop {
            // A full place means a whole message: it is taken and its place is free again.
            let place = self.receiver.space().map_err(nonsense)?;
            if !place.is_empty() {
                if !readable(self.stream.fd(), until)? {
                    return Ok(None);
                }
                match self.stream.read(place) {
                    Ok(0) => return Err(Failure::Host("xenstored closed the connection".to_owned())),
                    Ok(count) => self.receiver.advance(count),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(Failure::Host(format!("xenstored: {error}"))),
                }
            }
            let heard = match self.receiver.take(&mut self.client).map_err(nonsense)? {
                Some(Message::Watch(event)) => {
                    self.events.push_back(event.token.to_owned());
                    Some(Heard::Event)
                }
                Some(Message::Reply(reply)) => Some(Heard::Reply(reply.outcome.map(<[u8]>::to_vec))),
                Some(Message::WatchesLost) | None => None,
            };
            let whole = self.receiver.space().map_err(nonsense)?.is_empty();
            if heard.is_some() || whole {
                self.receiver.clear();
            }
            if heard.is_some() {
                return Ok(heard);
            }
        }
    }
}

fn not_sent(path: &str, error: SendError) -> Failure {
    Failure::Host(format!("{path}: {error}"))
}

/// Whether something can be read before `until`.
fn readable(fd: BorrowedFd<'_>, until: Instant) -> Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::Host(format!("poll: {error}"))),
        }
    }
}
