//! What programs need and maintainer scripts would have made. No script is run: they are written for a root's shell.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::merge::Root;
use crate::apt::output;

/// What no program reads: a volume is read page by page, but it is also copied about.
pub(crate) const LEFT_OUT: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/doc-base",
];

/// Directories of every system, with their modes.
const DIRECTORIES: [(&str, u32); 10] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var/tmp", 0o1777),
    ("home", 0o755),
];

/// Completes a root in which the packages of `archives` were unpacked.
pub(crate) fn settle(root: &Root, archives: &[PathBuf]) -> Result<()> {
    for (name, mode) in DIRECTORIES {
        let path = root.directory(Path::new(name))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    let mut alternatives = Vec::new();
    for archive in archives {
        alternatives.extend(installed_alternatives(&script(archive)));
    }
    link_alternatives(root, alternatives)?;
    // dash's script diverts /bin/sh; without dash or bash the static busybox does.
    let shells = ["dash", "bash", "busybox"];
    if !root.exists("/usr/bin/sh")
        && let Some(shell) = shells.iter().find(|shell| root.exists(&format!("/usr/bin/{shell}")))
    {
        root.link("/usr/bin/sh", shell)?;
    }
    for (name, content) in [
        (
            "passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
        ),
        ("group", "root:x:0:\nnogroup:x:65534:\n"),
        ("hosts", "127.0.0.1 localhost\n"),
        ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ] {
        let path = format!("/etc/{name}");
        if !root.exists(&path) {
            root.write(&path, content.as_bytes())?;
        }
    }
    library_cache(root)
}

/// The script that runs after a package was unpacked; empty where it has none.
fn script(archive: &Path) -> String {
    output(Command::new("dpkg-deb").arg("-I").arg(archive).arg("postinst")).unwrap_or_default()
}

/// One program of several that can stand behind a common name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Alternative {
    priority: i64,
    /// The name in `/etc/alternatives`.
    name: String,
    /// The common name's path.
    link: String,
    /// The program's path.
    program: String,
}

/// The alternatives that a script installs, as far as it names them outright (`update-alternatives(1)`).
pub(crate) fn installed_alternatives(script: &str) -> Vec<Alternative> {
    let joined = script.replace("\\\n", " ");
    let mut found = Vec::new();
    for line in joined.lines().filter(|line| line.contains("update-alternatives")) {
        let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
        let mut priority = None;
        for (at, option) in words.iter().enumerate() {
            let path = |index: usize| words.get(at + index).filter(|word| word.starts_with('/')).copied();
            let name = words.get(at + 2).filter(|word| !word.contains(['$', '/'])).copied();
            if *option == "--install" {
                priority = words.get(at + 4).and_then(|word| word.parse().ok());
            } else if *option != "--slave" {
                continue;
            }
            if let (Some(priority), Some(link), Some(name), Some(program)) =
                (priority, path(1), name, path(3))
            {
                let owned = str::to_owned;
                found.push(Alternative {
                    priority,
                    name: owned(name),
                    link: owned(link),
                    program: owned(program),
                });
            }
        }
    }
    found
}

fn link_alternatives(root: &Root, mut alternatives: Vec<Alternative>) -> Result<()> {
    alternatives.retain(|one| root.exists(&one.program));
    // The highest priority first; equal ones by name, so that the order of packages does not matter.
    alternatives.sort_by(|a, b| b.cmp(a));
    for one in alternatives {
        let chosen = format!("/etc/alternatives/{}", one.name);
        if !root.exists(&one.link) && !root.exists(&chosen) {
            root.link(&chosen, &one.program)?;
            root.link(&one.link, &chosen)?;
        }
    }
    Ok(())
}

/// Where libraries are, so that the dynamic linker need not search. Without `ldconfig` it searches.
fn library_cache(root: &Root) -> Result<()> {
    let own = root.resolve(Path::new("/usr/sbin/ldconfig"))?;
    let Some(ldconfig) = [own.as_path(), Path::new("/sbin/ldconfig")].into_iter().find(|path| path.exists())
    else {
        return Ok(());
    };
    if !root.exists("/etc/ld.so.conf") {
        root.write("/etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n")?;
    }
    root.directory(Path::new("/etc/ld.so.conf.d"))?;
    // Debian's ldconfig is static, and with -r it works without privilege. Its auxiliary cache has inode numbers of the
    // host in it.
    output(Command::new(ldconfig).args(["-X", "-r"]).arg(root.path()))?;
    let auxiliary = root.resolve(Path::new("/var/cache/ldconfig"))?;
    if auxiliary.is_dir() {
        fs::remove_dir_all(auxiliary)?;
    }
    Ok(())
}
