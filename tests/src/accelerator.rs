//! Whether KVM can be used. A `/dev/kvm` that opens is no proof: where the host is itself a guest without nested
//! virtualisation in hardware, Xen stops in the middle of its boot. So the first boot is the probe.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::{paths, stage};

/// Whether KVM is worth a try: the processor can, the device opens, and no boot has failed before on this kernel.
pub(crate) fn kvm_may_work() -> bool {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let can = information
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm");
    let opens = || fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    can && opens() && verdict().is_ok_and(|file| !file.exists())
}

/// Remembers that a boot with KVM failed.
pub(crate) fn kvm_does_not_work(error: &anyhow::Error) -> Result<()> {
    stage::say("KVM does not run Xen here; going on without it");
    paths::write_atomically(&verdict()?, format!("{error:#}\n").as_bytes())
}

/// Where a failure is written down; another kernel of the host gets another chance.
fn verdict() -> Result<PathBuf> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(paths::testbed()?.join(format!("kvm-failed-{}", release.trim().replace('/', "-"))))
}
