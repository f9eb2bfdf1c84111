//! The host's toolstack: `xl`, run as a program with a time limit.

pub(crate) mod config;
pub(crate) mod disk;
mod list;
pub(crate) mod saved;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

pub(crate) use list::{Domain, Ended, domains};

/// `xl create` gives up itself on a device that does not come after ten seconds.
pub(crate) const CREATE: Duration = Duration::from_secs(120);
pub(crate) const OTHERS: Duration = Duration::from_secs(60);
/// A look at a program that should end.
const LOOK: Duration = Duration::from_millis(5);

/// Runs `xl` with these arguments; gives what it says on standard output.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: &[A], limit: Duration) -> Result<String> {
    let words: Vec<String> =
        arguments.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
    let what = format!("xl {}", words.join(" "));
    let mut child = Command::new(program())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::Host(format!("{what}: {error}")))?;
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Failure::TimedOut(format!("{what}: not done after {} s", limit.as_secs())));
        }
        std::thread::sleep(LOOK);
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    if status.success() {
        return Ok(out);
    }
    // The first complaint is the cause; the others follow from it.
    let complaint: Vec<&str> =
        err.lines().filter(|line| !line.starts_with("Parsing config")).take(3).collect();
    Err(Failure::Host(format!("{what}: {}", complaint.join("; "))))
}

#[cfg(not(test))]
fn program() -> std::path::PathBuf {
    "xl".into()
}

/// A test's own.
#[cfg(test)]
fn program() -> std::path::PathBuf {
    crate::tests::root().join("xl")
}

/// Reads all that comes, so that the program never waits for a reader.
fn collect(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is what there is.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
