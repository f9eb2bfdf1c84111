//! The control channel: scripts run in dom0 over a pair of virtio-serial ports. The other end is `dom0/agent`,
//! where the form of requests and answers is written down.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What a command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Output {
    /// The exit code; 128 + signal if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Where a piece of output belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// How much longer than the command's own limit the host waits for the agent to say that it is over.
const GRACE: Duration = Duration::from_secs(15);

/// One agent in dom0. It runs one script at a time.
pub(crate) struct Session {
    io: UnixStream,
    err: UnixStream,
}

/// Why a run gave no exit code.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The command was killed when its time was over; the session is good for more.
    TimedOut,
    /// The agent does not answer, or the machine is gone.
    Channel(anyhow::Error),
}

impl Session {
    pub(crate) fn new(io: UnixStream, err: UnixStream) -> Self {
        Session { io, err }
    }

    /// Waits until the agent runs.
    pub(crate) fn wait_ready(&mut self, deadline: Instant) -> Result<()> {
        let mut seen = Vec::new();
        while !seen.ends_with(b"READY\n") {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "dom0's agent does not answer");
            self.io.set_read_timeout(Some(left))?;
            let mut byte = [0];
            ensure!(self.io.read(&mut byte).context("dom0's agent")? == 1, "the machine is gone");
            seen.push(byte[0]);
            ensure!(seen.len() < 4096, "dom0's agent says something else");
        }
        self.io.set_read_timeout(None)?;
        Ok(())
    }

    /// Runs a script; its output goes to `sink` as it comes.
    pub(crate) fn run(
        &mut self,
        script: &str,
        input: &[u8],
        limit: Duration,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<i32, Lost> {
        let deadline = Instant::now() + limit + GRACE;
        match self.exchange(script, input, limit, deadline, sink) {
            Ok((_, how)) if how == "timeout" => Err(Lost::TimedOut),
            Ok((code, _)) => Ok(code),
            Err(error) => Err(Lost::Channel(error)),
        }
    }

    fn exchange(
        &mut self,
        script: &str,
        input: &[u8],
        limit: Duration,
        deadline: Instant,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<(i32, String)> {
        let token = random_word()?;
        let seconds = limit.as_secs().max(1);
        self.io.set_write_timeout(Some(limit + GRACE))?;
        let script = format!("{script}\n");
        let head = format!("RUN {token} {seconds} {} {}\n", script.len(), input.len());
        self.io.write_all(&[head.as_bytes(), script.as_bytes()].concat())?;
        self.io.write_all(input)?;

        let mut out = Scanner::new(format!("\n{token} "));
        let mut err = Scanner::new(format!("\n{token}\n"));
        let mut tail = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            if out.found && err.found && tail.ends_with(b"\n") {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "dom0's agent does not answer any more");
            let (io_ready, err_ready) = self.wait(left)?;
            if io_ready {
                let length = self.io.read(&mut buffer)?;
                ensure!(length > 0, "the machine ended");
                if out.found {
                    tail.extend_from_slice(&buffer[..length]);
                } else if let Some(rest) = out.take(&buffer[..length], &mut |bytes| sink(Stream::Out, bytes))
                {
                    tail = rest;
                }
            }
            if err_ready {
                let length = self.err.read(&mut buffer)?;
                ensure!(length > 0, "the machine ended");
                err.take(&buffer[..length], &mut |bytes| sink(Stream::Err, bytes));
            }
        }
        let tail = String::from_utf8_lossy(&tail);
        let mut words = tail.split_whitespace();
        match (words.next().and_then(|code| code.parse().ok()), words.next()) {
            (Some(code), Some(how)) => Ok((code, how.to_owned())),
            _ => bail!("dom0's agent ends with {tail:?}"),
        }
    }

    /// Waits for bytes on either port.
    fn wait(&self, left: Duration) -> Result<(bool, bool)> {
        let mut ports = [PollFd::new(&self.io, PollFlags::IN), PollFd::new(&self.err, PollFlags::IN)];
        let timeout = Timespec::try_from(left)?;
        match poll(&mut ports, Some(&timeout)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok((false, false)),
            Err(error) => return Err(error.into()),
        }
        let ready = |port: &PollFd<'_>| !port.revents().is_empty();
        Ok((ready(&ports[0]), ready(&ports[1])))
    }
}

fn random_word() -> Result<String> {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Passes bytes on until the marker comes. Only what may be the marker's beginning is held back, so output is shown
/// as soon as it is there.
struct Scanner {
    marker: Vec<u8>,
    held: Vec<u8>,
    found: bool,
}

impl Scanner {
    fn new(marker: String) -> Self {
        Scanner { marker: marker.into_bytes(), held: Vec::new(), found: false }
    }

    /// Gives what follows the marker, in the call that completes it.
    fn take(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Option<Vec<u8>> {
        self.held.extend_from_slice(bytes);
        let length = self.marker.len();
        if let Some(at) = self.held.windows(length).position(|window| window == self.marker) {
            self.found = true;
            let rest = self.held.split_off(at + length);
            self.held.truncate(at);
            sink(&std::mem::take(&mut self.held));
            return Some(rest);
        }
        let keep = (0..length.min(self.held.len() + 1))
            .rev()
            .find(|&keep| self.held.ends_with(&self.marker[..keep]))
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        let ready = std::mem::replace(&mut self.held, rest);
        if !ready.is_empty() {
            sink(&ready);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of every size: the marker must be found whatever the cuts.
    #[test]
    fn the_marker_is_found_across_reads() {
        let text = b"one\n\ntok two\ntok\n\ntoken 0 ended\n";
        for size in 1..text.len() {
            let mut scanner = Scanner::new("\ntoken ".into());
            let (mut out, mut rest) = (Vec::new(), Vec::new());
            for piece in text.chunks(size) {
                if scanner.found {
                    rest.extend_from_slice(piece);
                } else if let Some(tail) = scanner.take(piece, &mut |bytes| out.extend_from_slice(bytes)) {
                    rest = tail;
                }
            }
            assert_eq!(out, b"one\n\ntok two\ntok\n");
            assert_eq!(rest, b"0 ended\n");
        }
    }

    #[test]
    fn a_line_is_passed_on_before_the_next_one_comes() {
        let mut scanner = Scanner::new("\ntoken ".into());
        let mut out = Vec::new();
        assert_eq!(scanner.take(b"progress", &mut |bytes| out.extend_from_slice(bytes)), None);
        assert_eq!(out, b"progress");
    }
}
