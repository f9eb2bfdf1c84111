//! Empty disks for mm-guest's `/data`: ext3, as its kernel wants it. And e2fsprogs, for those who look at one.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::hosted::finish;
use super::tools::{self, Tools};

const LIMIT: Duration = Duration::from_secs(300);
/// Smallest that has room for a journal and something beside it.
const LEAST: u64 = 16 << 20;

fn e2fsprogs() -> Result<Tools> {
    tools::of("e2fsprogs")
}

/// A program of e2fsprogs, by its absolute path: `/usr/sbin/e2fsck`.
///
/// # Errors
/// The package can't be had.
pub fn e2fsprogs_command(program: &str) -> Result<Command> {
    let tools = e2fsprogs()?;
    let mut command = tools.command(program)?;
    command.env("MKE2FS_CONFIG", tools.file("/etc/mke2fs.conf"));
    Ok(command)
}

/// Makes an empty ext3 of `size` bytes, whole pages. What is in the file is lost.
///
/// # Errors
/// mke2fs refuses, or can't be had.
pub fn make_data(image: &Path, size: u64) -> Result<()> {
    ensure!(
        size.is_multiple_of(4096) && size >= LEAST,
        "{size}: at least 16M, and whole pages of 4096 bytes"
    );
    File::create(image)?.set_len(size)?;
    let mut command = e2fsprogs_command("/usr/sbin/mke2fs")?;
    // Nothing is kept for a superuser: the one program is that.
    command.args(["-q", "-F", "-t", "ext3", "-b", "4096", "-m", "0", "-L", "data"]);
    command.args(["-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"]).arg(image);
    let done = finish(command, LIMIT)?;
    if done.code != Some(0) {
        bail!("mke2fs failed: {}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).trim());
    }
    Ok(())
}

/// What `e2fsck -f -n` says of an image, unless it has nothing to say.
///
/// # Errors
/// That, or the package can't be had.
pub fn check_data(image: &Path) -> Result<()> {
    let mut command = e2fsprogs_command("/usr/sbin/e2fsck")?;
    command.args(["-f", "-n"]).arg(image);
    let done = finish(command, LIMIT)?;
    if done.code != Some(0) {
        bail!("e2fsck: {}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).trim());
    }
    Ok(())
}
