//! Programs that the client kernel was not written for: each is run on fresh random input by the host's Linux, out
//! of the very files that the volume has, and what it prints is what a client has to print.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let prepared = m1_tests::programs::prepare(m1_tests::programs::fresh_seed()?)?;
//! for run in &prepared.runs {
//!     // Boot a client of prepared.volume.image with run.extra(), gather its output and status, then:
//!     let (stdout, code) = (run.stdout.clone(), run.code);
//!     run.check(&stdout, code)?;
//! }
//! # Ok(())
//! # }
//! ```

mod cases;
mod noise;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use cases::cases;
pub use noise::Noise;

use crate::volume::{self, Built, Finished, Hosted, Volume};

/// Each program has this long on the host.
const LIMIT: Duration = Duration::from_secs(60);

/// A file of a volume: its absolute path and its content.
pub type Input = (&'static str, Vec<u8>);

/// A program, and what it is run on.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// A short name; its inputs are in `/srv/NAME`.
    pub name: &'static str,
    /// Debian's packages that it needs.
    pub packages: &'static [&'static str],
    /// The program's path.
    pub program: &'static str,
    /// Its arguments, without blanks and quotes, so that they go through a configuration as they are.
    pub arguments: &'static [&'static str],
    /// Makes its inputs.
    pub inputs: fn(&mut Noise) -> Vec<Input>,
}

/// A case with what Linux made of it.
#[derive(Clone, Debug)]
pub struct Run {
    /// The case.
    pub case: Case,
    /// What the program wrote to standard output on Linux.
    pub stdout: Vec<u8>,
    /// Its exit status there.
    pub code: i32,
}

/// A volume with all programs and their inputs, and what is expected of each.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What the inputs were made from; the same seed makes the same volume.
    pub seed: u64,
    /// The volume.
    pub volume: Built,
    /// The cases.
    pub runs: Vec<Run>,
}

/// A seed that nobody saw before.
///
/// # Errors
/// Where the host has no randomness.
pub fn fresh_seed() -> Result<u64> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes).context("cannot read /dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Makes inputs from `seed`, runs every case on the host, and builds the volume.
///
/// # Errors
/// Where a package cannot be had or a program fails on the host.
pub fn prepare(seed: u64) -> Result<Prepared> {
    let mut volume = Volume::new().packages(volume::demo_packages());
    let root = volume.root()?;
    let files = tempfile::tempdir()?;
    let mut runs = Vec::new();
    for (index, case) in cases().iter().enumerate() {
        let mut noise = Noise::new(seed.wrapping_add(index as u64));
        for (path, content) in (case.inputs)(&mut noise) {
            let host = files.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(host.parent().context("an input has a directory")?)?;
            fs::write(&host, &content)?;
            volume = volume.content(path, content);
        }
        let done = expected(&root, files.path(), case.program, case.arguments)?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let code = done.code.with_context(|| format!("{} was ended by a signal: {said}", case.name))?;
        ensure!(!done.stdout.is_empty(), "{} printed nothing (seed {seed}): {said}", case.name);
        runs.push(Run { case: *case, stdout: done.stdout, code });
    }
    Ok(Prepared { seed, volume: volume.build()?, runs })
}

/// What Linux makes of a program of `root`. Arguments that are absolute paths are looked for below `files`, then
/// below `root`; both are taken out of the output again, as the guest does not see them.
///
/// # Errors
/// Where there is no such program or it takes longer than a minute.
pub fn expected<S: AsRef<str>>(
    root: &Path,
    files: &Path,
    program: &str,
    arguments: &[S],
) -> Result<Finished> {
    let mut command = Hosted::new(root).command(program)?;
    for argument in arguments.iter().map(AsRef::as_ref) {
        let below = |top: &Path| -> Option<PathBuf> {
            let path = top.join(argument.strip_prefix('/')?);
            path.symlink_metadata().is_ok().then_some(path)
        };
        match below(files).or_else(|| below(root)) {
            Some(path) => command.arg(path),
            None => command.arg(argument),
        };
    }
    command.current_dir(files);
    let mut done = volume::finish(command, LIMIT)?;
    for top in [files, root] {
        done.stdout = without(&done.stdout, top.as_os_str().as_encoded_bytes());
    }
    Ok(done)
}

/// `text` without any occurrence of `part`, which is not empty.
fn without(text: &[u8], part: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, later)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(part) {
            rest = behind;
        } else {
            kept.push(*first);
            rest = later;
        }
    }
    kept
}

impl Run {
    /// The part of a client's `extra=` that names the program and its arguments.
    #[must_use]
    pub fn extra(&self) -> String {
        format!("init={} -- {}", self.case.program, self.case.arguments.join(" "))
    }

    /// Compares what a client printed. Consoles put carriage returns before line feeds; these do not count.
    ///
    /// # Errors
    /// The first line that differs, or the exit status.
    pub fn check(&self, stdout: &[u8], code: i32) -> Result<()> {
        let got: Vec<u8> = stdout.iter().copied().filter(|byte| *byte != b'\r').collect();
        if got != self.stdout {
            let line = |text: &[u8], at: usize| {
                let line = text.split(|byte| *byte == b'\n').nth(at);
                line.map_or("nothing".to_owned(), |line| format!("{:?}", String::from_utf8_lossy(line)))
            };
            let lines = |text: &[u8]| text.split(|byte| *byte == b'\n').count();
            let last = lines(&got).max(lines(&self.stdout));
            let at = (0..last).find(|at| line(&got, *at) != line(&self.stdout, *at)).unwrap_or(0);
            let (wrong, right) = (line(&got, at), line(&self.stdout, at));
            bail!("{}: line {} is {wrong}, on Linux it is {right}", self.case.name, at + 1);
        }
        ensure!(code == self.code, "{}: exit status {code}, on Linux {}", self.case.name, self.code);
        Ok(())
    }
}
