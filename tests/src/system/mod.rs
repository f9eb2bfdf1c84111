//! A small Debian system for stock guests: volumes whose root has a shell, coreutils, dpkg with its database, and a kernel in
//! `/boot` with all that PV GRUB needs to start it. Nothing of M1's is inside.
//!
//! A guest runs one of the scripts that the volumes were made with (`job=NAME` on its kernel's command line), says on its
//! console how that ended, and powers off.

mod early;
mod tools;

use std::path::PathBuf;

use anyhow::Result;

use crate::packages::{self, Follow};
use crate::volume::Volume;
use crate::{initramfs, paths};

pub use early::early;

/// What it is made of, with everything that these depend on.
const PACKAGES: [&str; 13] = [
    "base-files",
    "busybox-static",
    "coreutils",
    "dash",
    "diffutils",
    "dpkg",
    "e2fsprogs",
    "grep",
    "libc-bin",
    "mount",
    "sed",
    "tar",
    "util-linux",
];
/// A package that is not installed, but lies there to be: `/srv/debs/hello.deb`.
const SPARE: &str = "hello";
/// Bytes of the root's filesystem.
const SIZE: u64 = 256 << 20;
/// Bytes of the empty one.
const EMPTY: u64 = 64 << 20;
/// Where GRUB is in its package.
const GRUB_IMAGE: &str = "/usr/lib/grub-xen/grub-x86_64-xen.bin";

/// The system's volumes, and what boots them from outside.
#[derive(Clone, Debug)]
pub struct System {
    /// The root as ext4, of 256 MiB.
    pub ext4: PathBuf,
    /// The same root as EROFS, without room to write.
    pub erofs: PathBuf,
    /// Debian's kernel as its package has it.
    pub kernel: PathBuf,
    /// The same kernel without its compression: whoever creates a domain need not unpack it.
    pub unpacked: PathBuf,
    /// What the kernel starts first, to mount the root.
    pub initramfs: Vec<u8>,
    /// PV GRUB: what boots the kernel that lies in the volume.
    pub grub: PathBuf,
    /// A volume with an empty ext4 on it, of 64 MiB.
    pub empty: PathBuf,
}

/// How GRUB starts the kernel that lies in the volume. Who is started so can be told nothing, so the job is always this one.
const GRUB: &str = "set timeout=0\nmenuentry Debian {\n\
    \tlinux /boot/vmlinuz root=/dev/xvda rw console=hvc0 job=write\n\
    \tinitrd /boot/initrd.img\n}\n";

/// Builds the volumes with these jobs, each a name and a script for dash; kept in the testbed's cache.
///
/// # Errors
/// Where a package cannot be had, or as [`Volume::build`].
pub fn build(jobs: &[(&str, &str)]) -> Result<System> {
    let (kernel, initramfs) = early()?;
    let mut volume = Volume::new()
        .packages(PACKAGES)
        .database()
        .file(paths::workspace().join("tests/system/init"), "/sbin/init")
        .file(&kernel, "/boot/vmlinuz")
        .file(spare()?, "/srv/debs/hello.deb")
        .content("/boot/initrd.img", initramfs.clone())
        .content("/boot/grub/grub.cfg", GRUB);
    for (host, path) in tools::fio()? {
        volume = volume.file(host, &path);
    }
    for (name, script) in jobs {
        volume = volume.content(&format!("/srv/jobs/{name}"), *script);
    }
    let unpacked = initramfs::base()?.linux;
    let erofs = volume.build()?.image;
    Ok(System {
        ext4: volume.size(SIZE).build_ext4()?,
        erofs,
        kernel,
        unpacked,
        initramfs,
        grub: packages::unpack(&["grub-xen-host"], Follow::Libraries)?.require(GRUB_IMAGE)?,
        empty: Volume::new().size(EMPTY).build_ext4()?,
    })
}

/// The package file that lies there.
fn spare() -> Result<PathBuf> {
    let set = packages::unpack(&[SPARE], Follow::Libraries)?;
    let (package, _) = set.package(SPARE)?;
    Ok(paths::testbed()?.join("debs").join(package.file_name()))
}
