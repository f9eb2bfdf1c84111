//! Images with ext4 on them, for guests that write to their root: mke2fs, run out of its own package, without privilege.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::hosted::finish;
use super::merge::sorted;
use super::mkfs::{epoch, uuid_text};
use super::tools::Tools;
use crate::stage;

const LIMIT: Duration = Duration::from_secs(300);
/// Bytes of a block: whole pages, so that M1 sees a file's page as one block.
const BLOCK: u64 = 4096;

/// Makes an image of `size` bytes with all below `tree` in it, which belongs to root whoever it belongs to here.
pub(crate) fn make(tools: &Tools, tree: &Path, image: &Path, uuid: [u8; 16], size: u64) -> Result<()> {
    stage::say("making the volume");
    ensure!(size.is_multiple_of(BLOCK), "{size} bytes are no whole pages");
    File::create(image)?.set_len(size)?;
    let uuid = uuid_text(uuid);
    let mut command = tools.command("/usr/sbin/mke2fs")?;
    command.env("MKE2FS_CONFIG", tools.file("/etc/mke2fs.conf"));
    stamp(&mut command)?;
    command.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-U", &uuid, "-E"]);
    // What a guest's kernel would otherwise do after its first mount is traffic that no test asked for.
    command.arg(format!("hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"));
    command.arg("-d").arg(tree).arg(image).arg((size / BLOCK).to_string());
    run(command, "mke2fs")?;

    let script = tempfile::NamedTempFile::new()?;
    let mut orders = String::new();
    settle_inodes(tree, "", epoch()?.max(1), &mut orders)?;
    fs::write(script.path(), orders)?;
    let mut command = tools.command("/usr/sbin/debugfs")?;
    stamp(&mut command)?;
    command.arg("-w").arg("-f").arg(script.path()).arg(image);
    run(command, "debugfs")?;

    let mut command = tools.command("/usr/sbin/e2fsck")?;
    command.args(["-f", "-n"]).arg(image);
    run(command, "e2fsck")
}

/// Times in the image are as in all volumes; its tools take zero for none.
fn stamp(command: &mut Command) -> Result<()> {
    command.env("E2FSPROGS_FAKE_TIME", epoch()?.max(1).to_string());
    Ok(())
}

fn run(command: Command, name: &str) -> Result<()> {
    let done = finish(command, LIMIT)?;
    if done.code != Some(0) {
        let said = [done.stdout, done.stderr].concat();
        bail!("{name} failed: {}", String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

/// Orders for debugfs(8): all below `tree`, which is at `guest` in the image, gets user and group 0 and this time.
fn settle_inodes(tree: &Path, guest: &str, time: u64, orders: &mut String) -> Result<()> {
    for name in sorted(tree)? {
        let text = name.to_str().filter(|text| !text.contains(['"', '\n']));
        let path = format!("{guest}/{}", text.with_context(|| format!("a strange name below {guest}/"))?);
        for field in ["uid", "gid"] {
            writeln!(orders, "set_inode_field \"{path}\" {field} 0")?;
        }
        // mke2fs takes these from the directory, and there they are of when it was filled.
        for field in ["atime", "ctime", "mtime"] {
            writeln!(orders, "set_inode_field \"{path}\" {field} @{time}")?;
        }
        let below = tree.join(&name);
        if below.symlink_metadata()?.is_dir() {
            settle_inodes(&below, &path, time, orders)?;
        }
    }
    Ok(())
}
