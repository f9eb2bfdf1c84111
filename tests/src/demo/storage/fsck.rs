//! `m1-fsck`, which looks at a store while no M1 has it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::paths;

/// Builds it, so that nobody waits for that later.
pub(super) fn build() -> Result<()> {
    let (good, said) = run(&["--help".as_ref()])?;
    ensure!(good, "m1-fsck cannot be built: {said}");
    Ok(())
}

/// `m1-fsck check`: whether it found no errors, and the last thing that it said of the disk.
pub(super) fn check(store: &Path) -> Result<(bool, String)> {
    let (good, said) = run(&["check".as_ref(), store])?;
    let last = said.lines().last().unwrap_or_default();
    Ok((good, last.rsplit_once(": ").map_or(last, |(_, verdict)| verdict).to_owned()))
}

fn run(arguments: &[&Path]) -> Result<(bool, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo)
        .current_dir(paths::workspace())
        .args(["run", "--quiet", "--release", "--package", "m1-fsck", "--"])
        .args(arguments)
        .output()
        .context("cannot run cargo")?;
    let said = [done.stdout, done.stderr].concat();
    Ok((done.status.success(), String::from_utf8_lossy(&said).trim().to_owned()))
}
