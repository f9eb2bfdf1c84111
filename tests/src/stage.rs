//! What a person sees while he waits: one line for each stage, with the time since the start.

use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

static START: OnceLock<Instant> = OnceLock::new();
/// Bars live below the lines, on standard error; where that is no terminal there are none.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Time since the first stage of this process.
pub fn elapsed() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// Says on standard error what is being done now.
pub fn say(what: impl AsRef<str>) {
    let line = format!("[{:5.1} s] {}", elapsed().as_secs_f64(), what.as_ref());
    BARS.suspend(|| eprintln!("{line}"));
}

/// A numbered list of stages, with a bar for people who watch.
pub struct Stages {
    count: u64,
    bar: ProgressBar,
}

impl Stages {
    /// So many stages are to come.
    #[must_use]
    pub fn new(count: u64) -> Self {
        let style = ProgressStyle::with_template(
            "          {spinner} {bar:32} stage {pos} of {len}, {elapsed_precise}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = BARS.add(ProgressBar::new(count)).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { count, bar }
    }

    /// The next one begins.
    pub fn next(&self, what: &str) {
        self.bar.inc(1);
        say(format!("{}/{} {what}", self.bar.position(), self.count));
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar of `total` bytes for a download; invisible where standard error is no terminal.
pub(crate) fn bytes_bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("          {bar:32} {bytes}/{total_bytes} {bytes_per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    BARS.add(ProgressBar::new(total)).with_style(style)
}

/// Bytes as megabytes, for people.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}
