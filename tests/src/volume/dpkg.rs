//! dpkg's database, so that a guest can go on with packages from what was unpacked without it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::merge::{Root, sorted};
use crate::apt::output;

/// Where dpkg keeps what it knows.
const ADMIN: &str = "/var/lib/dpkg";

/// An empty database.
pub(crate) fn create(root: &Root) -> Result<()> {
    for directory in ["info", "updates", "triggers"] {
        root.directory(&Path::new(ADMIN).join(directory))?;
    }
    root.write(&format!("{ADMIN}/info/format"), b"1\n")?;
    for empty in ["status", "available"] {
        root.write(&format!("{ADMIN}/{empty}"), b"")?;
    }
    Ok(())
}

/// Records a package as installed: what it says of itself, and its paths. Its maintainer scripts are not kept, as they were not run.
pub(crate) fn record(root: &Root, archive: &Path, tree: &Path) -> Result<()> {
    let fields = output(Command::new("dpkg-deb").arg("-f").arg(archive))?;
    let field = |name: &str| fields.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let package = field("Package").with_context(|| format!("{} has no name", archive.display()))?;
    let status = root.resolve(&Path::new(ADMIN).join("status"))?;
    let mut status = fs::OpenOptions::new().append(true).open(status)?;
    write!(status, "Status: install ok installed\n{}\n\n", fields.trim_end())?;

    let same = field("Multi-Arch") == Some("same");
    let architecture = field("Architecture").filter(|_| same).map(|name| format!(":{name}"));
    let mut paths = "/.\n".to_owned();
    list(tree, "", &mut paths)?;
    let file = format!("{ADMIN}/info/{package}{}.list", architecture.unwrap_or_default());
    root.write(&file, paths.as_bytes())
}

/// The path of everything below a directory, directories before what is in them.
fn list(tree: &Path, guest: &str, out: &mut String) -> Result<()> {
    for name in sorted(tree)? {
        let path = format!("{guest}/{}", name.to_string_lossy());
        out.push_str(&path);
        out.push('\n');
        let below = tree.join(&name);
        if below.symlink_metadata()?.is_dir() {
            list(&below, &path, out)?;
        }
    }
    Ok(())
}
