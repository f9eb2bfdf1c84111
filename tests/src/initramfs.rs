//! dom0's userland: a base archive that is the same for every run (cached), and what one run adds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

use crate::cpio::Archive;
use crate::packages::{Follow, Unpacked};
use crate::{bzimage, elf, modules, packages, paths, stage};

/// The packages that the testbed is made of.
const PACKAGES: [&str; 9] = [
    "busybox-static",
    "dmsetup",
    "libgcc-s1",
    "linux-image-amd64",
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "xen-utils-common",
    "xenstore-utils",
    "libc6",
];

/// Programs of `xen-utils-4.17`, put in dom0's `/usr/sbin`.
const XEN_PROGRAMS: [&str; 16] = [
    "xl",
    "oxenstored",
    "xenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "libxl-save-helper",
    "xentop",
    "xenctx",
    "xen-diag",
    "lsevtchn",
    "xenperf",
    "xenpm",
    "xen-mfndump",
    "xenstore-control",
    "xen-cpuid",
];
/// Names of the one program of `xenstore-utils`.
const XENSTORE_NAMES: [&str; 8] = ["chmod", "exists", "list", "ls", "read", "rm", "watch", "write"];
/// Loaded at boot, in this order.
const MODULES: [&str; 11] = [
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xen-netback",
    "xen-blkback",
    "bridge",
    "e1000",
    "virtio_pci",
    "virtio_blk",
];
/// There for who asks with modprobe, but not loaded at boot.
const MORE_MODULES: [&str; 7] =
    ["virtio_console", "loop", "erofs", "ext4", "xen-blkfront", "dm-mod", "dm-snapshot"];

const INIT: &[u8] = include_bytes!("../dom0/init");
const AGENT: &[u8] = include_bytes!("../dom0/agent");
const VIF: &[u8] = include_bytes!("../dom0/vif-bridge");
const BLOCK: &[u8] = include_bytes!("../dom0/block");

/// What QEMU boots, apart from what a run adds.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) xen: PathBuf,
    pub(crate) linux: PathBuf,
    pub(crate) archive: PathBuf,
}

/// The packages of the testbed itself, unpacked.
pub(crate) fn unpacked() -> Result<Unpacked> {
    packages::unpack(&PACKAGES, Follow::Libraries)
}

/// Builds the base, or finds it in the cache.
pub(crate) fn base() -> Result<Base> {
    let set = unpacked()?;
    let (kernel, directory) = set.package("linux-image-6")?;
    let version = kernel.name.trim_start_matches("linux-image-").to_owned();
    let packed_kernel = directory.join("boot").join(format!("vmlinuz-{version}"));
    let cache = paths::testbed()?.join("dom0");
    fs::create_dir_all(&cache)?;

    let mut hasher = Sha256::new();
    for part in [set.fingerprint().as_bytes(), INIT, AGENT, VIF, BLOCK, include_bytes!("initramfs.rs")] {
        hasher.update(part);
    }
    let key: String = hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let cached = |name: &str| cache.join(format!("{name}-{key}"));
    let (xen, linux, archive) = (cached("xen"), cached("linux"), cached("base"));
    let _lock = paths::lock("dom0")?;
    if ![&xen, &linux, &archive].iter().all(|file| file.is_file()) {
        stage::say("building dom0's userland");
        forget_old(&cache)?;
        let mut image = Vec::new();
        let packed = fs::File::open(set.require("/boot/xen-4.17-amd64.gz")?)?;
        std::io::Read::read_to_end(&mut GzDecoder::new(packed), &mut image)?;
        paths::write_atomically(&xen, &image)?;
        let packed = fs::read(&packed_kernel)?;
        // Xen unpacks it itself where we cannot, only slowly.
        let kernel = bzimage::unpack(&packed).unwrap_or(packed);
        paths::write_atomically(&linux, &kernel)?;
        paths::write_atomically(&archive, &contents(&set, directory, &version)?)?;
    }
    Ok(Base { xen, linux, archive })
}

/// Removes what other inputs left in the cache, once it is so old that no run starts from it any more.
fn forget_old(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > Duration::from_secs(24 * 3600) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn contents(set: &Unpacked, kernel: &Path, version: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for merged in ["bin", "sbin", "lib", "lib64"] {
        archive.directory(&format!("usr/{merged}"));
        archive.symlink(merged, &format!("usr/{merged}"));
    }
    for empty in ["dev", "proc", "run", "sys", "tmp", "root", "var/log", "etc"] {
        archive.directory(empty);
    }
    let mut programs = Vec::new();
    let mut add = |archive: &mut Archive, path: &str, host: &Path| -> Result<()> {
        copy(archive, path, host)?;
        programs.push(host.to_path_buf());
        Ok(())
    };
    add(&mut archive, "usr/bin/busybox", &set.require("/bin/busybox")?)?;
    archive.symlink("usr/bin/sh", "busybox");
    for name in XEN_PROGRAMS {
        // libxl looks for its helpers where the package puts them.
        let path = format!("usr/lib/xen-4.17/bin/{name}");
        add(&mut archive, &path, &set.require(&path)?)?;
        archive.symlink(&format!("usr/sbin/{name}"), &format!("/{path}"));
    }
    // dm-snapshot is what M1's overlays are compared with.
    add(&mut archive, "usr/sbin/dmsetup", &set.require("/sbin/dmsetup")?)?;
    add(&mut archive, "usr/bin/xenstore", &set.require("/usr/bin/xenstore")?)?;
    for name in XENSTORE_NAMES {
        archive.symlink(&format!("usr/bin/xenstore-{name}"), "xenstore");
    }
    for (path, host) in elf::libraries(set, &programs)? {
        copy(&mut archive, &path, &host)?;
    }
    // glibc opens it by name when a thread is cancelled, which xl does.
    let (path, host) = elf::locate(set, "libgcc_s.so.1").context("no package brings libgcc_s.so.1")?;
    copy(&mut archive, &path, &host)?;

    for name in ["xl.conf", "oxenstored.conf"] {
        let path = format!("etc/xen/{name}");
        copy(&mut archive, &path, &set.require(&path)?)?;
    }
    archive.file("etc/xen/scripts/vif-bridge", 0o755, VIF);
    archive.file("etc/xen/scripts/block", 0o755, BLOCK);
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, b"root:x:0:\n");
    archive.file("etc/profile", 0o644, b"cd; PS1='dom0# '\n");
    archive.file("etc/hostname", 0o644, b"dom0\n");
    archive.file("init", 0o755, INIT);
    archive.file("usr/lib/m1-testbed/agent", 0o755, AGENT);

    let wanted: Vec<&str> = MODULES.iter().chain(&MORE_MODULES).copied().collect();
    let root = format!("lib/modules/{version}");
    let found = modules::closure(&kernel.join(&root), &wanted)?;
    for (path, host) in &found.files {
        copy(&mut archive, &format!("usr/{root}/{path}"), host)?;
    }
    archive.file(&format!("usr/{root}/modules.dep"), 0o644, found.dep.as_bytes());
    archive.file(
        "etc/m1-testbed/modules",
        0o644,
        [&MODULES[..], &["virtio_console"]].concat().join("\n").as_bytes(),
    );
    Ok(archive.finish())
}

/// Puts a file of the host into the archive, with its permission bits.
pub(crate) fn copy(archive: &mut Archive, path: &str, host: &Path) -> Result<()> {
    let content = fs::read(host).with_context(|| format!("cannot read {}", host.display()))?;
    let mode = fs::metadata(host)?.permissions().mode();
    archive.file(path, mode, &content);
    Ok(())
}
