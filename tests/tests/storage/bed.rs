//! The machine that stock guests share: Debian's system as volumes, and what boots it from outside.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use m1_tests::m1::{M1, disk, m1};
use m1_tests::system::{self, System};
use m1_tests::xl_config::XlConfig;
use m1_tests::{Dom0, Guest, Shared, full, image};

/// Where M1s of these scenarios are.
pub(crate) const ADDRESSES: [[u8; 4]; 2] = [[10, 0, 2, 50], [10, 0, 2, 51]];

/// A boot takes half a minute on an emulated processor, and some run at once.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// One scenario at a time: together they have two processors.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for its turn.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine. Its `/dev/vda` is the system as ext4, `/dev/vdb` as EROFS, `/dev/vdc` an empty ext4, `/dev/vdd` has `0000000` in every line;
/// `/dev/vde` and the small `/dev/vdf` are for stores.
pub(crate) static MACHINE: Shared = Shared::new(|| {
    let System { ext4, erofs, unpacked, initramfs, grub, empty, .. } = system::build(JOBS)?;
    Ok(Dom0::builder()
        .hvm()
        .memory(full::or(3072, 5120))
        .forward(ADDRESSES[1], 80)
        .image(&image::build("mm-kernel")?)
        .disk_read_only(ext4)
        .disk_read_only(erofs)
        .disk_read_only(empty)
        .disk_read_only(lines()?)
        .disk(blank("store", STORE)?)
        .disk(blank("small", SMALL)?)
        .file(grub, "/srv/linux/grub-x86_64-xen.bin")
        // What Debian's own file unpacks to; doing it for every domain would take most of the time.
        .file(unpacked, "/srv/linux/vmlinuz")
        .content("/srv/linux/initrd.img", 0o644, initramfs))
});

/// What guests of the system can be told to do.
const JOBS: &[(&str, &str)] = &[
    ("write", include_str!("jobs/write")),
    ("verify", include_str!("jobs/verify")),
    ("load", include_str!("jobs/load")),
    ("stay", include_str!("jobs/stay")),
    ("numbers", include_str!("jobs/numbers")),
    ("found", include_str!("jobs/found")),
    ("neighbour", include_str!("jobs/neighbour")),
    ("fill", include_str!("jobs/fill")),
    ("attach", include_str!("jobs/attach")),
];

/// Bytes of the disk of lines, and of those for stores.
const LINES: usize = 64 << 20;
const STORE: u64 = 256 << 20;
const SMALL: u64 = 16 << 20;

fn lines() -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("lines.img");
    if std::fs::metadata(&path).map(|found| found.len()).ok() != Some(LINES as u64) {
        std::fs::write(&path, "0000000\n".repeat(LINES / 8))?;
    }
    Ok(path)
}

/// A disk for a store.
pub(crate) fn blank(name: &str, bytes: u64) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.img", std::process::id()));
    std::fs::File::create(&path)?.set_len(bytes)?;
    Ok(path)
}

/// An M1 with the system and the lines, and a store on this disk.
pub(crate) fn keeping<'a>(dom0: &'a Dom0, name: &str, store: &str) -> M1<'a> {
    let options = "volume=debian:xvda,group=linux volume=lines:xvdb,group=linux store_disk=xvdc";
    let config = m1(&["/dev/vda", "/dev/vdd", &format!("rw:{store}")], options);
    dom0.start_m1(name, ADDRESSES[0], config).expect("M1 starts")
}

/// A stock guest as `xl-config/NAME` has it, that uses this M1; `words` end what its kernel is told.
pub(crate) fn stock<'a>(dom0: &'a Dom0, name: &str, example: &str, m1: &str, words: &str) -> Guest<'a> {
    dom0.create(name, &configured(example, m1, words).to_string()).expect("the guest starts")
}

/// A stock PV guest whose root nobody writes, with a second disk that it can write, and a job.
pub(crate) fn worker<'a>(dom0: &'a Dom0, name: &str, m1: &M1<'_>, target: &str, job: &str) -> Guest<'a> {
    let disks = [
        disk("xvda", m1.name(), "debian"),
        disk("xvdb", m1.name(), target).replace("access=r,", "access=rw,"),
    ];
    let config = configured("linux-pv.cfg", m1.name(), "")
        .with_list("disk", disks)
        .with_text("extra", format_args!("root=/dev/xvda ro console=hvc0 job={job}"));
    dom0.create(name, &config.to_string()).expect("the guest starts")
}

/// The configuration for that.
pub(crate) fn configured(name: &str, m1: &str, words: &str) -> XlConfig {
    XlConfig::of(name)
        .expect("an example")
        .backed_by(m1)
        .saying(words)
        // Where a machine is emulated, Xen does not trust its clock and takes every look at it upon itself. QEMU 7.2 now and then
        // loses a PVH guest on the way back from one (a triple fault).
        .with_text("tsc_mode", "native")
        .with_text("on_reboot", "destroy")
}

/// Waits until a guest has ended and gives its console, in which all these lines have to be.
pub(crate) fn ended(guest: &Guest<'_>, m1: &M1<'_>, wanted: &[&str]) -> String {
    let ended = guest.wait_end(LIMIT);
    let log = guest.log().expect("a console");
    let m1_log = || m1.log().unwrap_or_default();
    ended.unwrap_or_else(|error| panic!("{error:#}\n{log}\n{}", m1_log()));
    for line in wanted {
        let said = log.lines().any(|said| said.trim_end() == *line);
        assert!(said, "{}: no {line:?} in\n{log}\n{}", guest.name(), m1_log());
    }
    log
}

/// M1 has found no mistake of its own, and closed no device for what it did.
pub(crate) fn assert_no_bugs(m1: &M1<'_>) {
    let metrics = m1.metrics().expect("/metrics");
    for name in ["m1_store_bugs", "m1_engine_bugs", "m1_store_failed", "m1_devices_closed_total"] {
        assert_eq!(metrics.get(name), 0.0, "{name}\n{}", m1.log().unwrap_or_default());
    }
}
