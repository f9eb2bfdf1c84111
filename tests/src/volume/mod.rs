//! Base volumes: an EROFS (or ext4) image of Debian packages, directories and single files, made the same way every time.
//!
//! `cargo xtask volume build` and the demo's tests use it. Packages are unpacked into one root as Debian's merged-usr
//! system has it, and what maintainer scripts would have set up and programs need is set up without running any of
//! them (`settle.rs`). Nothing is installed, and no privilege is needed.
//!
//! An image depends on its inputs only: its UUID is a digest of them, its times are `SOURCE_DATE_EPOCH` or zero, and
//! all belongs to root. Roots and images are kept in the testbed's cache under that digest.

mod data;
mod dpkg;
mod ext4;
mod hosted;
mod merge;
mod mkfs;
mod settle;
#[cfg(test)]
mod tests;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

pub use data::{check_data, e2fsprogs_command, make_data};
pub(crate) use hosted::finish;
pub use hosted::{Finished, Hosted};
pub use mkfs::Summary;

use crate::apt::output;
use crate::packages::{self, Follow, sha256_of};
use crate::{paths, stage};
use merge::Root;

/// Changes when the same inputs are to give another root or image.
const FORMAT: u32 = 1;
/// Images in the cache: more than one run of all tests makes, so that none goes while it is waiting to be used.
const IMAGES_KEPT: usize = 24;

/// The packages of the demo's base volume: a shell and interpreters, and the programs of [`crate::programs`].
#[must_use]
pub fn demo_packages() -> &'static [&'static str] {
    &[
        "busybox-static",
        "bc",
        "coreutils",
        "gawk",
        "grep",
        "gzip",
        "jq",
        "libpython3-stdlib",
        "lua5.4",
        "openssl",
        "perl-base",
        "python3-minimal",
        "sed",
        "sqlite3",
        "xz-utils",
    ]
}

/// What goes into a volume. Later parts may not change what earlier ones brought, except for single files.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    packages: Vec<String>,
    debs: Vec<PathBuf>,
    directories: Vec<PathBuf>,
    files: Vec<(PathBuf, String)>,
    contents: Vec<(String, Vec<u8>)>,
    size: Option<u64>,
    database: bool,
}

/// A volume's image.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image: whole pages, not compressed.
    pub image: PathBuf,
    /// What is in it.
    pub summary: Summary,
}

impl Volume {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds Debian packages with all that they depend on.
    #[must_use]
    pub fn packages<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.packages.extend(names.into_iter().map(|name| name.as_ref().to_owned()));
        self
    }

    /// Adds what a person named: a directory's content if it has a `/` in it, a package file if it ends in `.deb`,
    /// else a Debian package.
    ///
    /// # Errors
    /// Where it is none of these.
    pub fn source(mut self, named: &str) -> Result<Self> {
        let path = Path::new(named);
        if named.ends_with(".deb") {
            ensure!(path.is_file(), "there is no package file {named}");
            self.debs.push(path.to_owned());
        } else if named.contains('/') || named == "." {
            ensure!(path.is_dir(), "there is no directory {named}");
            self.directories.push(path.to_owned());
        } else {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
            let first = named.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
            ensure!(first && named.chars().all(good), "{named:?} is no name of a package");
            self.packages.push(named.to_owned());
        }
        Ok(self)
    }

    /// Adds a file or a directory of the host as `guest`, an absolute path.
    #[must_use]
    pub fn file(mut self, host: impl Into<PathBuf>, guest: &str) -> Self {
        self.files.push((host.into(), guest.to_owned()));
        self
    }

    /// Adds a file with this content.
    #[must_use]
    pub fn content(mut self, guest: &str, content: impl Into<Vec<u8>>) -> Self {
        self.contents.push((guest.to_owned(), content.into()));
        self
    }

    /// Makes the image this long, in bytes, with zeros behind the filesystem.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Records the packages as installed, so that dpkg in the guest can go on from there.
    #[must_use]
    pub fn database(mut self) -> Self {
        self.database = true;
        self
    }

    /// The packages' root on the host, as it is in the volume but without directories and files that were added.
    /// Programs in it can be run through [`Hosted`]. It is shared: read it only.
    ///
    /// # Errors
    /// Where packages cannot be had or don't go together.
    pub fn root(&self) -> Result<PathBuf> {
        let _lock = paths::lock("volumes")?;
        Ok(self.root_and_key()?.0)
    }

    /// Makes the image, in the cache.
    ///
    /// # Errors
    /// Where an input is missing, packages don't go together, or the image does not come out as it should.
    pub fn build(&self) -> Result<Built> {
        let tools = tools::of("erofs-utils")?;
        let _lock = paths::lock("volumes")?;
        let mut key = Key::new();
        key.add("mkfs", tools.version.as_bytes());
        let (base, digest) = self.key(key)?;
        let images = directory("images")?;
        let image = images.join(format!("{}.erofs", digest.name));
        if let Ok(summary) = Summary::of(&image) {
            fs::File::open(&image)?.set_modified(SystemTime::now())?;
            return Ok(Built { image, summary });
        }
        let staging = self.staging(&images, base.as_deref())?;
        let partial = staging.path().join("image");
        mkfs::make(&tools, &staging.path().join("root"), &partial, digest.uuid, self.size)?;
        let summary = Summary::of(&partial).context("the image that was made")?;
        fs::rename(&partial, &image)?;
        forget_old(&images)?;
        Ok(Built { image, summary })
    }

    /// Makes an image with ext4 on it, of the size that was asked for, in the cache.
    ///
    /// # Errors
    /// As [`Self::build`], and where no size was given.
    pub fn build_ext4(&self) -> Result<PathBuf> {
        let size = self.size.context("an ext4 volume needs a size")?;
        let tools = tools::of("e2fsprogs")?;
        let _lock = paths::lock("volumes")?;
        let mut key = Key::new();
        key.add("ext4", tools.version.as_bytes());
        let (base, digest) = self.key(key)?;
        let images = directory("images")?;
        let image = images.join(format!("{}.ext4", digest.name));
        if let Ok(file) = fs::File::open(&image) {
            file.set_modified(SystemTime::now())?;
            return Ok(image);
        }
        let staging = self.staging(&images, base.as_deref())?;
        let partial = staging.path().join("image");
        ext4::make(&tools, &staging.path().join("root"), &partial, digest.uuid, size)?;
        fs::rename(&partial, &image)?;
        forget_old(&images)?;
        Ok(image)
    }

    /// The packages' root, if there are any, and the digest of all inputs. The caller holds the lock.
    fn key(&self, mut key: Key) -> Result<(Option<PathBuf>, Digested)> {
        key.add("epoch", mkfs::epoch()?.to_string().as_bytes());
        key.add("size", format!("{:?}", self.size).as_bytes());
        let base = if self.has_packages() { Some(self.root_and_key()?) } else { None };
        if let Some((_, base)) = &base {
            key.add("root", base.as_bytes());
        }
        for directory in &self.directories {
            key.add_tree("", directory)?;
        }
        for (host, guest) in &self.files {
            key.add_tree(guest, host)?;
        }
        for (guest, content) in &self.contents {
            key.add(guest, content);
        }
        Ok((base.map(|(root, _)| root), key.finish()))
    }

    fn has_packages(&self) -> bool {
        !(self.packages.is_empty() && self.debs.is_empty())
    }

    /// A directory with all that goes into the image below `root`.
    fn staging(&self, images: &Path, base: Option<&Path>) -> Result<tempfile::TempDir> {
        let staging = tempfile::Builder::new().prefix(".staging-").tempdir_in(images)?;
        let root = Root::create(&staging.path().join("root"), self.has_packages())?;
        if let Some(base) = base {
            root.merge(base, "", &[])?;
        }
        for directory in &self.directories {
            root.merge(directory, "", &[])?;
        }
        for (host, guest) in &self.files {
            root.put(host, guest)?;
        }
        for (guest, content) in &self.contents {
            root.write(guest, content)?;
        }
        Ok(staging)
    }

    /// The packages' root and its digest's name. The caller holds the lock.
    fn root_and_key(&self) -> Result<(PathBuf, String)> {
        let mut wanted = self.packages.clone();
        let mut local = Vec::new();
        for deb in &self.debs {
            let sum = sha256_of(deb).with_context(|| format!("cannot read {}", deb.display()))?;
            wanted.extend(needs_of(deb)?);
            local.push((deb, sum));
        }
        wanted.sort();
        wanted.dedup();
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let unpacked =
            if names.is_empty() { None } else { Some(packages::unpack(&names, Follow::Everything)?) };
        let mut key = Key::new();
        for (package, _) in unpacked.iter().flat_map(|unpacked| unpacked.packages()) {
            key.add(&package.name, package.sha256.as_bytes());
        }
        for (_, sum) in &local {
            key.add("deb", sum.as_bytes());
        }
        if self.database {
            key.add("database", &[]);
        }
        let digest = key.finish();
        let roots = directory("roots")?;
        let finished = roots.join(&digest.name);
        if finished.is_dir() {
            return Ok((finished, digest.name));
        }
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&roots)?;
        let root = Root::create(partial.path(), true)?;
        if self.database {
            dpkg::create(&root)?;
        }
        let mut archives = Vec::new();
        for (package, tree) in unpacked.iter().flat_map(|unpacked| unpacked.packages()) {
            root.merge(tree, "", settle::LEFT_OUT).with_context(|| format!("package {}", package.name))?;
            let archive = paths::testbed()?.join("debs").join(package.file_name());
            if self.database {
                dpkg::record(&root, &archive, tree)?;
            }
            archives.push(archive);
        }
        for (deb, _) in local {
            let tree = tempfile::tempdir_in(&roots)?;
            output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(tree.path()))?;
            root.merge(tree.path(), "", settle::LEFT_OUT).with_context(|| deb.display().to_string())?;
            if self.database {
                dpkg::record(&root, deb, tree.path())?;
            }
            archives.push(deb.clone());
        }
        stage::say(format!("setting up a root of {} packages", archives.len()));
        settle::settle(&root, &archives)?;
        fs::rename(partial.keep(), &finished)?;
        Ok((finished, digest.name))
    }
}

/// A command for mkfs.erofs as these volumes are made with, for images of another kind: add options, the image and the
/// directory.
///
/// # Errors
/// Where its package cannot be had.
pub fn mkfs_erofs() -> Result<Command> {
    mkfs::command(&tools::of("erofs-utils")?, &[])
}

/// The first alternatives of what a package file depends on.
fn needs_of(deb: &Path) -> Result<Vec<String>> {
    let fields = output(Command::new("dpkg-deb").arg("-f").arg(deb).args(["Pre-Depends", "Depends"]))?;
    let lists = fields.lines().filter_map(|line| line.split_once(": ")).map(|(_, list)| list);
    let first =
        |need: &str| Some(need.split('|').next()?.split_whitespace().next()?.split(':').next()?.to_owned());
    Ok(lists.flat_map(|list| list.split(',')).filter_map(first).collect())
}

/// Removes the images that were not asked for in the longest time: fresh inputs make a new one every time. Who has one
/// open keeps it.
fn forget_old(images: &Path) -> Result<()> {
    let mut known: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(images)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "erofs" || extension == "ext4") {
            known.push((path.metadata()?.modified()?, path));
        }
    }
    known.sort();
    let too_many = known.len().saturating_sub(IMAGES_KEPT);
    for (_, path) in &known[..too_many] {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn directory(name: &str) -> Result<PathBuf> {
    let directory = paths::testbed()?.join("volumes").join(name);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// A digest of inputs while it is being made.
struct Key(Sha256);

/// A digest of inputs: as a file's name, and as a UUID (version 8, of RFC 9562: made up by its maker).
struct Digested {
    name: String,
    uuid: [u8; 16],
}

impl Key {
    fn new() -> Self {
        let mut key = Self(Sha256::new());
        key.add("format", &FORMAT.to_le_bytes());
        key
    }

    /// Lengths go in first, so that no two lists of inputs look the same.
    fn add(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Names, modes and contents of a file or of all below a directory, in order.
    fn add_tree(&mut self, name: &str, path: &Path) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::MetadataExt;
        let kind = path.symlink_metadata().with_context(|| format!("cannot find {}", path.display()))?;
        self.add(name, &kind.mode().to_le_bytes());
        if kind.is_symlink() {
            self.add("link", fs::read_link(path)?.as_os_str().as_bytes());
        } else if kind.is_file() {
            self.add("file", sha256_of(path)?.as_bytes());
        } else if kind.is_dir() {
            for entry in merge::sorted(path)? {
                let entry_name =
                    entry.to_str().with_context(|| format!("a strange name in {}", path.display()))?;
                self.add_tree(entry_name, &path.join(entry_name))?;
            }
            self.add("end", &[]);
        } else {
            bail!("{} is neither a file nor a directory nor a link", path.display());
        }
        Ok(())
    }

    fn finish(self) -> Digested {
        let digest = self.0.finalize();
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&digest[..16]);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Digested { name: digest[..12].iter().map(|byte| format!("{byte:02x}")).collect(), uuid }
    }
}
