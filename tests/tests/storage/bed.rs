//! The machine that stock guests share: Debian's system as volumes, and what boots it from outside.

use std::sync::{Mutex, MutexGuard, PoisonError};

use m1_tests::system::{self, System};
use m1_tests::xl_config::XlConfig;
use m1_tests::{Dom0, Guest, Shared, image};

/// Where M1s of these scenarios are.
pub(crate) const ADDRESSES: [[u8; 4]; 2] = [[10, 0, 2, 50], [10, 0, 2, 51]];

/// One scenario at a time: together they have two processors.
static TURN: Mutex<()> = Mutex::new(());

/// Waits for its turn.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The machine. Its `/dev/vda` is the system as ext4, `/dev/vdb` as EROFS, `/dev/vdc` an empty ext4.
pub(crate) static MACHINE: Shared = Shared::new(|| {
    let System { ext4, erofs, unpacked, initramfs, grub, empty, .. } = system::build(JOBS)?;
    Ok(Dom0::builder()
        .hvm()
        .memory(3072)
        .forward(ADDRESSES[1], 80)
        .image(&image::build("mm-kernel")?)
        .disk_read_only(ext4)
        .disk_read_only(erofs)
        .disk_read_only(empty)
        .file(grub, "/srv/linux/grub-x86_64-xen.bin")
        // What Debian's own file unpacks to; doing it for every domain would take most of the time.
        .file(unpacked, "/srv/linux/vmlinuz")
        .content("/srv/linux/initrd.img", 0o644, initramfs))
});

/// What guests of the system can be told to do.
const JOBS: &[(&str, &str)] = &[("write", include_str!("jobs/write"))];

/// A stock guest as `xl-config/NAME` has it, that uses this M1; `words` end what its kernel is told.
pub(crate) fn stock<'a>(dom0: &'a Dom0, name: &str, example: &str, m1: &str, words: &str) -> Guest<'a> {
    let config = XlConfig::of(example)
        .expect("an example")
        .backed_by(m1)
        .saying(words)
        // Where a machine is emulated, Xen does not trust its clock and takes every look at it upon itself. QEMU 7.2 now and then
        // loses a PVH guest on the way back from one (a triple fault).
        .with_text("tsc_mode", "native")
        .with_text("on_reboot", "destroy");
    dom0.create(name, &config.to_string()).expect("the guest starts")
}
