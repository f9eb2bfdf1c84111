//! Debian packages, unpacked under `target/testbed` and never installed.
//!
//! Downloads are kept by name and version and their checksums are looked at again before each unpacking.
//! What a set of names stands for is resolved once and remembered, so a second run asks nobody.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

pub use crate::apt::Follow;
use crate::apt::{Apt, Package, output};
use crate::{paths, stage};

/// Changes when what is written in the cache changes its form.
const FORMAT: u32 = 2;

/// A set of packages, each unpacked in a directory of its own.
#[derive(Clone, Debug)]
pub struct Unpacked {
    packages: Vec<(Package, PathBuf)>,
}

/// Resolves, downloads and unpacks `wanted`, as far as that was not done before.
pub fn unpack(wanted: &[&str], follow: Follow) -> Result<Unpacked> {
    let cache = paths::testbed()?;
    let _lock = paths::lock("packages")?;
    let debs = cache.join("debs");
    let unpacked = cache.join("unpacked");
    for directory in [&debs, &unpacked, &cache.join("sets")] {
        fs::create_dir_all(directory)?;
    }
    let packages = resolve_once(&cache, wanted, follow)?;
    let missing: Vec<Package> = packages
        .iter()
        .filter(|package| !unpacked.join(directory_name(package)).is_dir())
        .filter(|package| !is_sound(&debs, package))
        .cloned()
        .collect();
    if !missing.is_empty() {
        let apt = Apt::open(&cache.join("apt"))?;
        apt.update()?;
        apt.download(&missing, &debs)?;
    }
    let packed = packages.iter().filter(|package| !unpacked.join(directory_name(package)).is_dir()).count();
    if packed > 0 {
        stage::say(format!("unpacking {packed} packages"));
    }
    let mut result = Vec::with_capacity(packages.len());
    for package in packages {
        let directory = unpacked.join(directory_name(&package));
        if !directory.is_dir() {
            ensure!(is_sound(&debs, &package), "{} is not what Debian signed", package.file_name());
            unpack_one(&debs.join(package.file_name()), &directory)?;
        }
        result.push((package, directory));
    }
    Ok(Unpacked { packages: result })
}

/// What `wanted` stands for: from the cache, or from Debian's lists.
fn resolve_once(cache: &Path, wanted: &[&str], follow: Follow) -> Result<Vec<Package>> {
    let mut names = wanted.to_vec();
    names.sort_unstable();
    let question = format!("{FORMAT} {follow:?} {}", names.join(" "));
    let remembered = cache.join("sets").join(format!("{}.json", &hex(&Sha256::digest(question))[..16]));
    if let Ok(text) = fs::read(&remembered)
        && let Ok(packages) = serde_json::from_slice(&text)
    {
        return Ok(packages);
    }
    let apt = Apt::open(&cache.join("apt"))?;
    apt.update()?;
    let packages = apt.resolve(&names, follow)?;
    ensure!(!packages.is_empty(), "Debian has none of {}", names.join(", "));
    paths::write_atomically(&remembered, &serde_json::to_vec_pretty(&packages)?)?;
    Ok(packages)
}

fn directory_name(package: &Package) -> String {
    package.file_name().trim_end_matches(".deb").to_owned()
}

fn is_sound(debs: &Path, package: &Package) -> bool {
    sha256_of(&debs.join(package.file_name())).is_ok_and(|sum| sum == package.sha256)
}

/// SHA-256 of a file, in lower-case hex.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
    }
    Ok(hex(&hasher.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks beside the target and renames, so that a half-unpacked package is never taken for a whole one.
fn unpack_one(deb: &Path, directory: &Path) -> Result<()> {
    let parent = directory.parent().context("a cache directory has a parent")?;
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(parent)?;
    output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(partial.path()))?;
    fs::rename(partial.keep(), directory)?;
    Ok(())
}

impl Unpacked {
    /// The packages, each with the directory that holds its files.
    pub fn packages(&self) -> impl Iterator<Item = (&Package, &Path)> {
        self.packages.iter().map(|(package, directory)| (package, directory.as_path()))
    }

    /// The host path of a file that one of the packages brings, given as an absolute path inside of it. Debian 12
    /// has `/lib` and the like merged into `/usr`, while packages still name both.
    pub fn find(&self, path: &str) -> Option<PathBuf> {
        let relative = path.trim_start_matches('/');
        let other = match relative.strip_prefix("usr/") {
            Some(rest) => rest.to_owned(),
            None => format!("usr/{relative}"),
        };
        self.packages
            .iter()
            .flat_map(|(_, directory)| [directory.join(relative), directory.join(&other)])
            .find(|candidate| candidate.symlink_metadata().is_ok())
    }

    /// Like [`find`](Self::find), for a file that has to be there.
    pub fn require(&self, path: &str) -> Result<PathBuf> {
        self.find(path).with_context(|| format!("no package of the testbed brings {path}"))
    }

    /// The directory of the one package whose name begins with `prefix`.
    pub fn package(&self, prefix: &str) -> Result<(&Package, &Path)> {
        let mut found = self.packages().filter(|(package, _)| package.name.starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => bail!("no package {prefix}* was unpacked"),
            (Some(_), Some(_)) => bail!("more than one package {prefix}* was unpacked"),
        }
    }

    /// Names and versions, one a line: what a thing built from this set depends on.
    pub fn fingerprint(&self) -> String {
        self.packages.iter().map(|(package, _)| format!("{}={}\n", package.name, package.version)).collect()
    }
}
