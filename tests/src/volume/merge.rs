//! Trees put together under one root. Links in it are read as the guest will read them, so none leads out of it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// The directories that Debian 12 has merged into `/usr`, while packages still name both.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];
/// As in Linux.
const LINKS_MAX: u32 = 40;

/// A directory that will be a guest's root.
pub(crate) struct Root {
    path: PathBuf,
}

impl Root {
    /// Takes an existing or a new directory; with the links of a merged `/usr` where it is a system's root.
    pub(crate) fn create(path: &Path, system: bool) -> Result<Self> {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        let root = Self { path: path.to_owned() };
        if system {
            for name in MERGED {
                let target = format!("usr/{name}");
                root.directory(Path::new(&target))?;
                symlink(&target, path.join(name))?;
            }
        }
        Ok(root)
    }

    /// A root that is there already.
    pub(crate) fn existing(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a path of the guest is on the host, links followed; the last part of it need not exist.
    pub(crate) fn resolve(&self, guest: &Path) -> Result<PathBuf> {
        let mut here = PathBuf::new();
        let mut pending: Vec<OsString> = parts(guest);
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == ".." {
                here.pop();
                continue;
            }
            let next = here.join(&part);
            let Ok(target) = fs::read_link(self.path.join(&next)) else {
                here = next;
                continue;
            };
            links += 1;
            ensure!(links <= LINKS_MAX, "too many links in {}", guest.display());
            if target.is_absolute() {
                here = PathBuf::new();
            }
            pending.extend(parts(&target));
        }
        Ok(self.path.join(here))
    }

    /// Whether a path of the guest leads to something.
    pub(crate) fn exists(&self, guest: &str) -> bool {
        self.resolve(Path::new(guest)).is_ok_and(|path| path.symlink_metadata().is_ok())
    }

    /// Makes a directory and those above it where they are missing, readable for all whatever the caller's umask is.
    pub(crate) fn directory(&self, guest: &Path) -> Result<PathBuf> {
        let path = self.resolve(guest)?;
        let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
        for directory in missing.into_iter().rev() {
            fs::create_dir(directory)
                .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot make the directory {}", guest.display()))?;
        }
        ensure!(path.is_dir(), "{} is no directory", guest.display());
        Ok(path)
    }

    /// Adds all below `tree` at `guest`, except for what lies below the paths `left_out`. What is there already has to
    /// be the same. Files are linked where that works, so nobody may write to them.
    pub(crate) fn merge(&self, tree: &Path, guest: &str, left_out: &[&str]) -> Result<()> {
        for name in sorted(tree)? {
            let (from, below) = (tree.join(&name), Path::new(guest).join(&name));
            if left_out.iter().any(|path| below == Path::new(path)) {
                continue;
            }
            let kind = from.symlink_metadata()?;
            if kind.is_dir() {
                let new = !self.resolve(&below)?.exists();
                let to = self.directory(&below)?;
                if new {
                    fs::set_permissions(&to, kind.permissions())?;
                }
                let below = below.to_str().with_context(|| format!("a strange name: {}", below.display()))?;
                self.merge(&from, below, left_out)?;
            } else {
                let place = self.directory(Path::new(guest))?.join(&name);
                add(&from, &place).with_context(|| format!("cannot add {}", below.display()))?;
            }
        }
        Ok(())
    }

    /// Adds a file or directory of the host at a path of the guest; a file replaces one that is there.
    pub(crate) fn put(&self, host: &Path, guest: &str) -> Result<()> {
        let kind = fs::metadata(host).with_context(|| format!("cannot find {}", host.display()))?;
        if kind.is_dir() {
            self.directory(Path::new(guest))?;
            return self.merge(host, guest.trim_start_matches('/'), &[]);
        }
        let place = self.free(guest)?;
        fs::copy(host, &place).with_context(|| format!("cannot copy {}", host.display()))?;
        Ok(())
    }

    /// Adds a file with this content; it replaces one that is there.
    pub(crate) fn write(&self, guest: &str, content: &[u8]) -> Result<()> {
        let place = self.free(guest)?;
        fs::write(&place, content)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    /// Adds a symbolic link; it replaces one that is there.
    pub(crate) fn link(&self, guest: &str, target: &str) -> Result<()> {
        symlink(target, self.free(guest)?).with_context(|| format!("cannot link {guest}"))
    }

    /// A place for a file: its directory is made, what is there is removed (other names of it keep their content).
    fn free(&self, guest: &str) -> Result<PathBuf> {
        let guest = Path::new(guest);
        ensure!(guest.is_absolute(), "{} is no absolute path", guest.display());
        let (Some(above), Some(name)) = (guest.parent(), guest.file_name()) else {
            bail!("{} names no file", guest.display())
        };
        let place = self.directory(above)?.join(name);
        match place.symlink_metadata() {
            Ok(kind) if kind.is_dir() => bail!("{} is a directory", guest.display()),
            Ok(_) => fs::remove_file(&place)?,
            Err(_) => {}
        }
        Ok(place)
    }
}

/// A path's components, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let named = |part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    let mut parts: Vec<OsString> = path.components().filter_map(named).collect();
    parts.reverse();
    parts
}

/// The names in a directory, in order.
pub(crate) fn sorted(directory: &Path) -> Result<Vec<OsString>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Adds one file or link where there is none, or the same one.
fn add(from: &Path, to: &Path) -> Result<()> {
    let kind = from.symlink_metadata()?;
    let there = to.symlink_metadata().ok();
    if kind.is_symlink() {
        let target = fs::read_link(from)?;
        return match there {
            None => Ok(symlink(target, to)?),
            Some(_) if fs::read_link(to).is_ok_and(|other| other == target) => Ok(()),
            Some(_) => bail!("something else is there"),
        };
    }
    ensure!(kind.is_file(), "neither a file nor a directory nor a link");
    match there {
        None => fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).map_err(Into::into),
        Some(other) => {
            let same = other.is_file() && other.len() == kind.len() && fs::read(from)? == fs::read(to)?;
            ensure!(same, "another file is there");
            Ok(())
        }
    }
}
