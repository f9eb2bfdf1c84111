//! Where this tool keeps what outlives it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// As long as the host is up: locks, domains to reap.
const RUN: &str = "/run/m1ctl";
/// For good: configurations that snapshots are cloned with.
const STATE: &str = "/var/lib/m1ctl";

/// A directory below `/run`, made if need be.
pub(crate) fn run(name: &str) -> Result<PathBuf> {
    directory(RUN, name)
}

/// A directory below `/var/lib`, made if need be.
pub(crate) fn state(name: &str) -> Result<PathBuf> {
    directory(STATE, name)
}

fn directory(root: &str, name: &str) -> Result<PathBuf> {
    let path = top().join(root.trim_start_matches('/')).join(name);
    fs::create_dir_all(&path).map_err(|error| failed(&path, &error))?;
    Ok(path)
}

#[cfg(not(test))]
fn top() -> PathBuf {
    PathBuf::from("/")
}

/// Tests have a root of their own.
#[cfg(test)]
fn top() -> PathBuf {
    crate::tests::root()
}

/// Reads a text.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| failed(path, &error))
}

/// Writes a whole file or none of it.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&partial)?;
        file.write_all(content)?;
        fs::rename(&partial, path)
    };
    write().map_err(|error| failed(path, &error))
}

/// What went wrong with which file.
pub(crate) fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Host(format!("{}: {error}", path.display()))
}
