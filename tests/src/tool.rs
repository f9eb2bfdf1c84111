//! Builds `m1ctl`, a static program: it runs in any dom0, whatever libraries that has.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::{image, paths};

/// Static programs need a target that is named, or build scripts would become static as well.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds it; gives its path. Takes a second when nothing has changed.
pub fn m1ctl() -> Result<PathBuf> {
    let directory = paths::workspace().join("target/tool");
    fs::create_dir_all(&directory)?;
    let _lock = paths::lock("tool")?;
    let flags = [vec!["-Ctarget-feature=+crt-static".to_owned()], image::remap()].concat();
    image::compile("m1ctl", &["--profile", "tool", "--target", TARGET], &flags, &directory)
}
