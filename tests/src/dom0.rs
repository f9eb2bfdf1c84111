//! A booted machine: Xen with a Linux dom0, in QEMU.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::builder::{BOOT, Builder};
use crate::channel::{Lost, Output, Session, Stream};
use crate::console::Console;
use crate::image::Image;
use crate::qemu::{Forward, Qemu};

/// The limit of a command that names none.
const COMMAND: Duration = Duration::from_secs(120);

/// A booted machine. Commands may be run from several threads. Dropping it kills QEMU.
pub struct Dom0 {
    sessions: Mutex<VecDeque<Session>>,
    returned: Condvar,
    qemu: Mutex<Qemu>,
    pub(crate) console: Console,
    terminal: Option<UnixStream>,
    pub(crate) forwards: Vec<Forward>,
    pub(crate) images: Vec<Image>,
}

impl Dom0 {
    /// A machine of 2 GiB with two processors, a dom0 of 512 MiB and oxenstored, for a start.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The machine that QEMU runs, once dom0 says that it is ready.
    pub(crate) fn when_up(
        qemu: Qemu,
        console: Console,
        sessions: VecDeque<Session>,
        terminal: Option<UnixStream>,
        forwards: Vec<Forward>,
        images: Vec<Image>,
        deadline: Instant,
    ) -> Result<Self> {
        let up = console.wait_for(deadline, |line| {
            line.contains("m1-testbed: stage ready") || line.contains("m1-testbed: FAILED")
        });
        let mut dom0 = Dom0 {
            sessions: Mutex::new(sessions),
            returned: Condvar::new(),
            qemu: Mutex::new(qemu),
            console,
            terminal,
            forwards,
            images,
        };
        if let Err(error) = dom0.finish_boot(up, deadline) {
            bail!("dom0 does not come up: {error:#}\n{}", dom0.serial_tail(80));
        }
        Ok(dom0)
    }

    fn finish_boot(&mut self, up: bool, deadline: Instant) -> Result<()> {
        if let Some(reason) = self.console.failure() {
            bail!(reason);
        }
        let qemu = self.qemu.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !up {
            ensure!(!qemu.has_ended(), "QEMU ended. {}", qemu.complaint());
            bail!("it is not ready after {} s", BOOT.as_secs());
        }
        qemu.booted();
        let sessions = self.sessions.get_mut().unwrap_or_else(PoisonError::into_inner);
        sessions.iter_mut().try_for_each(|session| session.wait_ready(deadline))
    }

    /// Runs a shell script in dom0, for at most two minutes. Any exit code is an answer; an error means that there
    /// was none.
    pub fn run(&self, script: &str) -> Result<Output> {
        self.run_with(script, &[], COMMAND)
    }

    /// Runs a shell script that has to succeed, and gives its standard output.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(
            output.code == 0,
            "in dom0, `{script}` ended with {}:\n{}{}",
            output.code,
            output.stdout_text(),
            output.stderr_text()
        );
        Ok(output.stdout_text())
    }

    /// Runs a shell script with this standard input and time limit.
    pub fn run_with(&self, script: &str, input: &[u8], limit: Duration) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = self.stream(script, input, limit, &mut |stream, bytes| match stream {
            Stream::Out => stdout.extend_from_slice(bytes),
            Stream::Err => stderr.extend_from_slice(bytes),
        })?;
        Ok(Output { code, stdout, stderr })
    }

    /// Runs a shell script and hands its output to `sink` as it comes; gives the exit code.
    pub fn stream(
        &self,
        script: &str,
        input: &[u8],
        limit: Duration,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<i32> {
        let mut session = self.checkout(limit)?;
        match session.run(script, input, limit, sink) {
            Ok(code) => {
                self.give_back(session);
                Ok(code)
            }
            Err(Lost::TimedOut) => {
                self.give_back(session);
                bail!("in dom0, `{script}` did not end within {} s", limit.as_secs())
            }
            Err(Lost::Channel(error)) => Err(error.context(format!("in dom0, `{script}` got lost"))),
        }
    }

    fn checkout(&self, limit: Duration) -> Result<Session> {
        let ended = self.qemu.lock().unwrap_or_else(PoisonError::into_inner).has_ended();
        ensure!(!ended, "the machine has ended");
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.returned.wait_timeout_while(sessions, limit, |sessions| sessions.is_empty());
        let mut sessions = waited.unwrap_or_else(PoisonError::into_inner).0;
        sessions.pop_front().context("all of dom0's agents are busy or lost")
    }

    fn give_back(&self, session: Session) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push_back(session);
        self.returned.notify_one();
    }

    /// Writes a file in dom0, with its directories.
    pub fn put(&self, guest: &str, mode: u32, content: &[u8]) -> Result<()> {
        let path = quote(guest);
        let script = format!("mkdir -p \"$(dirname {path})\" && cat >{path} && chmod {mode:o} {path}");
        let output = self.run_with(&script, content, COMMAND)?;
        ensure!(output.code == 0, "cannot write {guest} in dom0: {}", output.stderr_text());
        Ok(())
    }

    /// Reads a file of dom0.
    pub fn get(&self, guest: &str) -> Result<Vec<u8>> {
        let output = self.run(&format!("cat {}", quote(guest)))?;
        ensure!(output.code == 0, "cannot read {guest} in dom0: {}", output.stderr_text());
        Ok(output.stdout)
    }

    /// The terminal that [`Builder::terminal`] asked for: a stream with a shell at its other end.
    pub fn take_terminal(&mut self) -> Option<UnixStream> {
        self.terminal.take()
    }
}

/// A word for dom0's shell, whatever it holds.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
