//! mkfs.erofs, run out of its own package, and a look at what it made.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use erofs::{Erofs, FileType, Inode, Nid, PAGE_SIZE, PageSource};

use super::hosted::finish;
use super::tools::Tools;
use crate::stage;

/// The time of everything in an image, in seconds since 1970.
pub(crate) fn epoch() -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("SOURCE_DATE_EPOCH={text} is no number")),
        Err(_) => Ok(0),
    }
}

/// Makes an image of all below `tree`, of whole pages, `size` bytes long if given.
pub(crate) fn make(
    tools: &Tools,
    tree: &Path,
    image: &Path,
    uuid: [u8; 16],
    size: Option<u64>,
) -> Result<()> {
    stage::say("making the volume");
    let mut command = command(
        tools,
        &[
            "-Enoinline_data",
            // The host's extended attributes are none of the guest's business.
            "-x-1",
            "--all-root",
            &format!("-T{}", epoch()?),
            &format!("-U{}", uuid_text(uuid)),
        ],
    )?;
    command.arg(image).arg(tree);
    let done = finish(command, Duration::from_secs(300))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.code == Some(0), "mkfs.erofs failed: {}", said.trim());
    let file = File::options().write(true).open(image).context("mkfs.erofs made no image")?;
    let length = file.metadata()?.len();
    let wanted = size.unwrap_or(length).next_multiple_of(PAGE_SIZE as u64);
    ensure!(length <= wanted, "the volume takes {length} bytes, more than the size asked for");
    file.set_len(wanted)?;
    Ok(())
}

/// A command that makes an image with options of the caller's; image and directory are to be added.
pub(crate) fn command(tools: &Tools, options: &[&str]) -> Result<Command> {
    let mut command = tools.command("/usr/bin/mkfs.erofs")?;
    command.arg("--quiet").args(options);
    Ok(command)
}

/// As RFC 9562 writes it.
pub(crate) fn uuid_text(uuid: [u8; 16]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    [&uuid[..4], &uuid[4..6], &uuid[6..8], &uuid[8..10], &uuid[10..]].map(hex).join("-")
}

/// What is in an image, as the reader that the guests use sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image in bytes: whole pages.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Pages of the volume that hold files' bytes and can be lent.
    pub pages: u64,
}

/// A file of the host as a volume.
pub(crate) struct FilePages(pub(crate) File);

impl PageSource for FilePages {
    type Error = io::Error;

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, page * PAGE_SIZE as u64 + offset as u64)
    }
}

impl Summary {
    /// Walks an image. All its files have to be in whole pages of the volume.
    pub(crate) fn of(image: &Path) -> Result<Self> {
        let file = File::open(image).with_context(|| format!("cannot open {}", image.display()))?;
        let bytes = file.metadata()?.len();
        ensure!(bytes % PAGE_SIZE as u64 == 0, "{} does not end with a page", image.display());
        let volume = Erofs::open(FilePages(file)).map_err(|error| anyhow!("{error}"))?;
        ensure!(volume.superblock().blocks * PAGE_SIZE as u64 <= bytes, "{} is cut off", image.display());
        let mut summary = Self { bytes, ..Self::default() };
        let mut directories = vec![volume.root()];
        // A directory has one name besides its own, so each comes once; a damaged image ends by the count.
        while let Some(nid) = directories.pop() {
            summary.directories += 1;
            ensure!(
                summary.directories <= volume.superblock().inodes,
                "the volume's directories go in circles"
            );
            for child in children(&volume, nid)? {
                match child.file_type() {
                    FileType::Directory => directories.push(child.nid),
                    FileType::Link => summary.links += 1,
                    FileType::Regular => {
                        summary.files += 1;
                        summary.pages += lendable(&volume, &child)?;
                    }
                    other => return Err(anyhow!("a {other:?} in the volume")),
                }
            }
        }
        Ok(summary)
    }
}

/// The inodes in a directory, without itself and the one above.
fn children(volume: &Erofs<FilePages>, nid: Nid) -> Result<Vec<Inode>> {
    let failed = |error: erofs::Error<io::Error>| anyhow!("{error}");
    let dir = volume.inode(nid).map_err(failed)?;
    let mut nids = Vec::new();
    let each = &mut |entry: erofs::Entry<'_>| {
        if !matches!(entry.name, b"." | b"..") {
            nids.push(entry.nid);
        }
        ControlFlow::Continue(())
    };
    volume.read_dir(&dir, 0, each).map_err(failed)?;
    nids.into_iter().map(|nid| volume.inode(nid).map_err(failed)).collect()
}

/// A file's pages, all of which have to follow one another in the volume.
fn lendable(volume: &Erofs<FilePages>, inode: &Inode) -> Result<u64> {
    if inode.size == 0 {
        return Ok(0);
    }
    let run = volume.extent_run(inode, 0).map_err(|error| anyhow!("{error}"))?;
    ensure!(run.is_some_and(|run| run.pages == inode.pages()), "a file is not in whole pages of its own");
    Ok(inode.pages())
}
