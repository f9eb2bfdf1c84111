//! Connects the user's terminal with dom0's.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::dom0::Dom0;

/// Ctrl-], as in telnet and `xl console`.
const LEAVE: u8 = 0x1d;
/// How often the terminal's size and the shell's end are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Commands that came through a pipe may run this long after its end.
const LINGER: Duration = Duration::from_secs(600);

/// Puts the terminal back as it was.
struct Raw {
    before: Termios,
}

impl Raw {
    /// Passes every key on, Ctrl-C included; nothing to do where standard input is no terminal.
    fn enter() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Raw { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// A prompt in dom0 on the user's terminal, until its shell ends or Ctrl-] is typed. The machine has to be built with
/// [`crate::Builder::terminal`].
pub fn attach(dom0: &mut Dom0) -> Result<()> {
    let mut line = dom0.take_terminal().context("the machine has no terminal")?;
    let raw = Raw::enter()?;
    let stdin = std::io::stdin();
    let (mut typed, mut size) = (true, None);
    let mut ends = None::<Instant>;
    let mut buffer = [0; 4096];
    loop {
        if let Ok(now) = tcgetwinsize(&stdin)
            && raw.is_some()
            && size != Some((now.ws_row, now.ws_col))
        {
            size = Some((now.ws_row, now.ws_col));
            dom0.sh(&format!("stty -F /dev/hvc1 rows {} cols {}", now.ws_row, now.ws_col))?;
        }
        let (from_line, from_user) = wait(&line, typed.then_some(&stdin))?;
        if from_line {
            match line.read(&mut buffer) {
                Ok(length @ 1..) => {
                    let mut stdout = std::io::stdout();
                    stdout.write_all(&buffer[..length]).and_then(|()| stdout.flush())?;
                }
                _ => return Ok(()),
            }
        } else if dom0.wait_serial("m1-testbed: terminal closed", Duration::ZERO)
            || ends.is_some_and(|end| Instant::now() > end)
        {
            return Ok(());
        }
        if from_user {
            let length = rustix::io::read(&stdin, &mut buffer)?;
            if length == 0 {
                // The end of a file: as Ctrl-D at the prompt.
                typed = false;
                line.write_all(&[4])?;
                ends = Some(Instant::now() + LINGER);
            } else if raw.is_some() && buffer[..length].contains(&LEAVE) {
                return Ok(());
            } else {
                line.write_all(&buffer[..length])?;
            }
        }
    }
}

/// Waits for bytes from dom0 and from the user, a short while.
fn wait(line: &UnixStream, user: Option<&std::io::Stdin>) -> Result<(bool, bool)> {
    let mut ends = vec![PollFd::from_borrowed_fd(line.as_fd(), PollFlags::IN)];
    ends.extend(user.map(|user| PollFd::from_borrowed_fd(user.as_fd(), PollFlags::IN)));
    match poll(&mut ends, Some(&Timespec::try_from(LOOK)?)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = |at: usize| ends.get(at).is_some_and(|end| !end.revents().is_empty());
    Ok((ready(0), ready(1)))
}
