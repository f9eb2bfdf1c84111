//! Programs that the host has to have. Everything else comes from packages that are unpacked, not installed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::stage;

/// Program → package that brings it on Debian 12.
const TOOLS: [(&str, &str); 9] = [
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("mkfs.erofs", "erofs-utils"),
    ("objdump", "binutils"),
    ("promtool", "prometheus"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("setpriv", "util-linux"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
];

/// Makes sure that these programs are there. Root gets missing ones installed, from the host's own Debian; anybody
/// else is told the command.
pub fn require(programs: &[&str]) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for program in programs.iter().filter(|program| !is_installed(program)) {
        let (_, package) = TOOLS
            .iter()
            .find(|(tool, _)| tool == program)
            .with_context(|| format!("{program} is not installed"))?;
        if !packages.contains(package) {
            packages.push(package);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !rustix::process::geteuid().is_root() {
        bail!("this host lacks programs that the testbed needs; install them with:\n    sudo {install}");
    }
    stage::say(format!("installing {} on this host", packages.join(", ")));
    let script = format!("apt-get update -qq && DEBIAN_FRONTEND=noninteractive {install}");
    let done = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output()?;
    ensure!(done.status.success(), "`{install}` failed:\n{}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

/// Whether a program is on the path. System programs are found also for a user whose path leaves them out.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| Path::new(&directory).join(program).is_file())
}
