//! The longest that a demonstration may take.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// From the boot of the machine on: a story takes less than five minutes on two processors that have nothing else to do.
const LIMIT: Duration = Duration::from_secs(900);

/// Ends the process when it takes too long, whatever it waits for; the machine ends with it. Until it is dropped.
pub(super) struct Limit {
    _over: mpsc::Sender<()>,
}

impl Limit {
    pub(super) fn start() -> Self {
        let (over, wait) = mpsc::channel();
        thread::spawn(move || {
            if wait.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!(
                    "error: the demonstration takes longer than {} s: is the host busy?",
                    LIMIT.as_secs()
                );
                std::process::exit(124);
            }
        });
        Self { _over: over }
    }
}
