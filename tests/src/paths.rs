//! Where things are on the host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::stage;

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The testbed's cache, `target/testbed` in the workspace, made if missing. It stays there even when
/// `CARGO_TARGET_DIR` points elsewhere, so that everybody shares one download.
pub fn testbed() -> Result<PathBuf> {
    let directory = workspace().join("target/testbed");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// Held by a process while it changes a part of the cache; given back when dropped, or when the process dies.
#[must_use]
pub struct CacheLock {
    _file: File,
}

/// Waits for the lock on `name` in the cache. Holders work for a bounded time (downloads have time-outs of
/// their own), and a dead holder's lock is free.
pub fn lock(name: &str) -> Result<CacheLock> {
    let path = testbed()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        stage::say(format!("waiting for another run that is at work on the {name} cache"));
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(CacheLock { _file: file })
}

/// Writes a file whole or not at all: readers in other processes see the old or the new content.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent)
        .with_context(|| format!("cannot write in {}", parent.display()))?;
    std::io::Write::write_all(&mut file, content)?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
