//! A stock Linux guest: Debian's own kernel with busybox, to compare with and to test the testbed by.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::cpio::Archive;
use crate::{initramfs, modules, paths};

/// The frontends, and what reads a base volume.
const MODULES: [&str; 3] = ["xen-netfront", "xen-blkfront", "erofs"];

/// The two files that an xl configuration names.
#[derive(Clone, Debug)]
pub struct LinuxGuest {
    /// For `kernel=`.
    pub kernel: PathBuf,
    /// For `ramdisk=`: the content of the file.
    pub initramfs: Vec<u8>,
}

/// A guest that mounts proc, sys and dev, loads its frontends, runs `script` in busybox's shell as its first program
/// (its output goes to the console), and powers off after it.
pub fn linux_guest(script: &str) -> Result<LinuxGuest> {
    let set = initramfs::unpacked()?;
    let (package, directory) = set.package("linux-image-6")?;
    let version = package.name.trim_start_matches("linux-image-").to_owned();
    let mut archive = Archive::default();
    for empty in ["dev", "proc", "sys", "tmp", "root", "mnt", "etc", "usr/bin", "sbin", "usr/sbin"] {
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
    archive.file("etc/script", 0o644, script.as_bytes());
    archive.file("etc/udhcpc", 0o755, include_bytes!("../dom0/udhcpc"));
    let load: String = MODULES.iter().map(|name| format!("modprobe {name}\n")).collect();
    let init = format!(
        "#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin:/sbin:/bin\n/bin/busybox mount -t proc proc /proc\n\
         /bin/busybox --install -s\nmount -t sysfs sysfs /sys\nmount -t devtmpfs devtmpfs /dev\n{load}\
         sh /etc/script\npoweroff -f\n"
    );
    archive.file("init", 0o755, init.as_bytes());
    let kernel = directory.join("boot").join(format!("vmlinuz-{version}"));
    Ok(LinuxGuest { kernel, initramfs: archive.finish() })
}

impl LinuxGuest {
    /// Writes the initramfs below `target/testbed`, for a caller that wants a file; equal content, equal path.
    pub fn initramfs_file(&self, name: &str) -> Result<PathBuf> {
        let path = paths::testbed()?.join(format!("{name}.cpio"));
        if fs::read(&path).ok().as_ref() != Some(&self.initramfs) {
            paths::write_atomically(&path, &self.initramfs)?;
        }
        Ok(path)
    }
}
