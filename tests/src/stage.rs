//! What a person sees while he waits: one line for each stage, with the time since the start.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

static START: OnceLock<Instant> = OnceLock::new();

/// Time since the first stage of this process.
pub fn elapsed() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Says on standard error what is being done now.
pub fn say(what: impl AsRef<str>) {
    eprintln!("[{:5.1} s] {}", elapsed().as_secs_f64(), what.as_ref());
}

/// A bar of `total` bytes for a download; invisible where standard error is no terminal.
pub(crate) fn bytes_bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("          {bar:32} {bytes}/{total_bytes} {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style)
}

/// Bytes as megabytes, for people.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}
