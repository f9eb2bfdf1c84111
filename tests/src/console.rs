//! The machine's serial line: Xen's log and dom0's kernel log, kept whole, with the lines picked out that dom0's
//! first program writes for the harness.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::stage;

/// Begins a line that is meant for the harness.
const MARK: &str = "m1-testbed: ";
/// Kept of the log: beyond this the oldest half goes. A guest that floods the log costs no more.
const KEEP: usize = 8 << 20;

#[derive(Default)]
struct State {
    log: Vec<u8>,
    line: Vec<u8>,
    failure: Option<String>,
    ended: bool,
    /// Bytes dropped from the beginning of the log.
    dropped: usize,
}

/// The serial line; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Console {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Console {
    /// Reads `from` to its end in a thread of its own.
    pub(crate) fn follow(&self, mut from: impl Read + Send + 'static, show_stages: bool, show_all: bool) {
        let console = self.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if show_all {
                    eprint!("{}", String::from_utf8_lossy(&buffer[..length]));
                }
                console.take(&buffer[..length], show_stages);
            }
            console.lock().ended = true;
            console.shared.1.notify_all();
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: &[u8], show_stages: bool) {
        let mut state = self.lock();
        if state.log.len() + bytes.len() > KEEP {
            state.log.drain(..KEEP / 2);
            state.dropped += KEEP / 2;
        }
        state.log.extend_from_slice(bytes);
        for &byte in bytes {
            if byte != b'\n' {
                state.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut state.line);
            let line = String::from_utf8_lossy(&line);
            let Some((_, told)) = line.trim_end().split_once(MARK) else { continue };
            if let Some(reason) = told.strip_prefix("FAILED ") {
                state.failure = Some(reason.to_owned());
            } else if let (true, Some(what)) = (show_stages, told.strip_prefix("stage ")) {
                stage::say(format!("dom0: {what}"));
            }
        }
        drop(state);
        self.shared.1.notify_all();
    }

    /// What has been written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().log).replace('\r', "")
    }

    /// What dom0's first program complained about.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Waits until some line matches; false when the deadline passes or the machine is gone first.
    pub(crate) fn wait_for(&self, deadline: Instant, matches: impl Fn(&str) -> bool) -> bool {
        let mut state = self.lock();
        let mut looked_at = 0; // bytes since the beginning of time, up to the end of a line
        loop {
            let from = usize::max(looked_at, state.dropped) - state.dropped;
            if let Some(length) = state.log[from..].iter().rposition(|byte| *byte == b'\n') {
                if String::from_utf8_lossy(&state.log[from..from + length]).lines().any(&matches) {
                    return true;
                }
                looked_at = state.dropped + from + length + 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return false;
            }
            state = self.shared.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
