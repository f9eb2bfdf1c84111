//! Programs that make images, run out of their own packages.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::hosted::Hosted;
use super::merge::Root;
use crate::packages::{self, Follow};
use crate::paths;

/// A package's programs with the libraries that they need.
pub(crate) struct Tools {
    root: PathBuf,
    /// Package names and versions: another version may lay an image out in another way.
    pub(crate) version: String,
}

/// Unpacks a package and its libraries, if that was not done before.
pub(crate) fn of(package: &str) -> Result<Tools> {
    let unpacked = packages::unpack(&[package], Follow::Libraries)?;
    let version = unpacked.fingerprint();
    let _lock = paths::lock("volumes")?;
    let mut key = super::Key::new();
    key.add("tool", version.as_bytes());
    let tools = super::directory("tools")?;
    let finished = tools.join(key.finish().name);
    if !finished.is_dir() {
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&tools)?;
        let root = Root::create(partial.path(), true)?;
        for (package, tree) in unpacked.packages() {
            root.merge(tree, "", &["usr/share"]).with_context(|| format!("package {}", package.name))?;
        }
        fs::rename(partial.keep(), &finished)?;
    }
    Ok(Tools { root: finished, version })
}

impl Tools {
    /// A program of theirs, by its absolute path.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        Hosted::new(&self.root).command(program)
    }

    /// Where a file of theirs is on the host.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}
