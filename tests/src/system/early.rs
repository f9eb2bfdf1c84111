//! A stock guest's initramfs: busybox, the modules that a root needs, and a script that mounts it.

use std::path::PathBuf;

use anyhow::Result;

use crate::cpio::Archive;
use crate::{initramfs, modules};

/// The block frontend, and the filesystems of roots. ext4 asks for its checksum by a name that only a full system resolves.
const MODULES: [&str; 5] = ["xen-blkfront", "crc32c_generic", "ext4", "erofs", "overlay"];

/// Debian's kernel as its package has it, and an initramfs that goes with it.
///
/// # Errors
/// Where the kernel's package cannot be had.
pub fn early() -> Result<(PathBuf, Vec<u8>)> {
    let set = initramfs::unpacked()?;
    let (package, directory) = set.package("linux-image-6")?;
    let version = package.name.trim_start_matches("linux-image-").to_owned();
    let mut archive = Archive::default();
    for empty in ["dev", "proc", "sys", "root", "lower", "upper", "tmp", "etc", "usr/bin", "sbin", "usr/sbin"]
    {
        archive.directory(empty);
    }
    initramfs::copy(&mut archive, "bin/busybox", &set.require("/bin/busybox")?)?;
    archive.symlink("bin/sh", "busybox");
    let root = format!("lib/modules/{version}");
    let found = modules::closure(&directory.join(&root), &MODULES)?;
    for (path, host) in &found.files {
        initramfs::copy(&mut archive, &format!("{root}/{path}"), host)?;
    }
    archive.file(&format!("{root}/modules.dep"), 0o644, found.dep.as_bytes());
    archive.file("etc/modules", 0o644, MODULES.join("\n").as_bytes());
    archive.file("init", 0o755, include_bytes!("../../system/early"));
    let kernel = directory.join("boot").join(format!("vmlinuz-{version}"));
    Ok((kernel, archive.finish()))
}
