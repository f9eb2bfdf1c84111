//! Debian's own kernel reads and writes a disk that is M1's.

use std::time::Duration;

use m1_tests::m1::{M1, disk, m1};
use m1_tests::raw_disk::RawDisk;
use m1_tests::{Dom0, Guest, LinuxGuest, Shared, image, linux_guest};
use sha2::{Digest, Sha256};

/// What takes seconds, on a busy host.
const LIMIT: Duration = Duration::from_secs(180);
const ADDRESS: [u8; 4] = [10, 0, 2, 50];
/// Of M1s with a store.
const KEEPING: [u8; 4] = [10, 0, 2, 51];
/// Pages of the base volume.
const PAGES: usize = 4096;
/// From this page on nothing is written.
const REST: usize = 2600;

fn noise() -> RawDisk {
    RawDisk::new(env!("CARGO_TARGET_TMPDIR"), PAGES, 11).expect("a file for a disk")
}

/// Reads all of its disk, writes to some of it in odd sizes, and reads all again after everything was forgotten.
const SCRIPT: &str = r#"
cat /sys/block/xvda/size
echo "base $(sha256sum < /dev/xvda)"
dd if=/dev/urandom of=/tmp/new bs=1024 count=3000 2>/dev/null
dd if=/tmp/new of=/dev/xvda bs=1k seek=77 conv=notrunc 2>/dev/null
dd if=/tmp/new of=/dev/xvda bs=512 seek=20001 count=3 conv=notrunc oflag=direct 2>/dev/null
dd if=/tmp/new of=/dev/xvda bs=64k seek=100 count=20 conv=notrunc oflag=direct 2>/dev/null
sync
echo 3 > /proc/sys/vm/drop_caches
dd if=/dev/xvda bs=1k skip=77 count=3000 2>/dev/null | cmp - /tmp/new && echo "first the same"
dd if=/dev/xvda bs=512 skip=20001 count=3 iflag=direct 2>/dev/null > /tmp/small
dd if=/tmp/new bs=512 count=3 2>/dev/null | cmp - /tmp/small && echo "second the same"
dd if=/dev/xvda bs=64k skip=100 count=20 iflag=direct 2>/dev/null > /tmp/large
dd if=/tmp/new bs=64k count=20 2>/dev/null | cmp - /tmp/large && echo "third the same"
echo "rest $(dd if=/dev/xvda bs=4k skip=2600 2>/dev/null | sha256sum)"
blkdiscard /dev/xvda 2>&1 && echo discarded
dmesg | grep -i -E 'xvda|blkfront'
"#;

/// Writes noise to a part of its disk and zeroes to another, and says what is there then.
const WRITER: &str = r#"
dd if=/dev/urandom of=/dev/xvda bs=64k seek=16 count=48 conv=notrunc,fsync 2>/dev/null
dd if=/dev/urandom of=/dev/xvda bs=512 seek=20001 count=3 conv=notrunc oflag=direct 2>/dev/null
dd if=/dev/zero of=/dev/xvda bs=4k seek=300 count=8 conv=notrunc,fsync oflag=direct 2>/dev/null
sync
echo 3 > /proc/sys/vm/drop_caches
echo "zero $(dd if=/dev/xvda bs=4k skip=300 count=8 2>/dev/null | sha256sum)"
echo "all $(sha256sum < /dev/xvda)"
"#;
/// Says what is there.
const READER: &str = r#"echo "all $(sha256sum < /dev/xvda)""#;

static DOM0: Shared = Shared::new(|| {
    let mut builder = Dom0::builder()
        .image(&image::build("mm-kernel")?)
        .disk_read_only(noise().path())
        .disk(blank()?)
        .forward(KEEPING, 80);
    for (name, script) in [("stock", SCRIPT), ("writer", WRITER), ("reader", READER)] {
        let LinuxGuest { kernel, initramfs } = linux_guest(script)?;
        builder = builder.file(kernel, "/srv/linux").content(format!("/srv/{name}.cpio"), 0o644, initramfs);
    }
    Ok(builder)
});

/// A disk for a store.
fn blank() -> anyhow::Result<std::path::PathBuf> {
    let disk = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    disk.as_file().set_len(64 << 20)?;
    // QEMU opens it later; it is removed with the directory of tests.
    let (_, path) = disk.keep()?;
    Ok(path)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A disk that can be written.
fn writable(vdev: &str, backend: &str, target: &str) -> String {
    disk(vdev, backend, target).replace("access=r,", "access=w,")
}

/// A guest that runs `/srv/SCRIPT.cpio`.
fn config(script: &str, disks: &str) -> String {
    format!(
        "type = \"pv\"\nkernel = \"/srv/linux\"\nramdisk = \"/srv/{script}.cpio\"\nmemory = 160\n\
         extra = \"console=hvc0\"\ndisk = ['{disks}']\n"
    )
}

fn stock<'a>(dom0: &'a Dom0, name: &str, backend: &str, target: &str, script: &str) -> Guest<'a> {
    dom0.create(name, &config(script, &writable("xvda", backend, target))).expect("the guest starts")
}

#[test]
fn stock_guests_read_the_base_and_write_over_it_and_see_nothing_of_each_other() {
    let _turn = crate::bed::turn();
    let dom0 = DOM0.get();
    let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", 96);
    let m1 = dom0.start_m1("m1", ADDRESS, config).expect("M1 starts");
    let guests = ["one", "two"].map(|name| stock(&dom0, name, m1.name(), "base", "stock"));
    let noise = noise();
    let base = noise.content();
    for guest in guests {
        let ended = guest.wait_end(LIMIT);
        let log = guest.log().expect("a console");
        ended.unwrap_or_else(|error| panic!("{error:#}\n{log}\n{}", m1.log().unwrap_or_default()));
        let said =
            |line: &str| assert!(log.lines().any(|said| said.trim_end() == line), "no {line:?} in\n{log}");
        said(&format!("{}", PAGES * 8));
        said(&format!("base {}  -", sha256(base)));
        said("first the same");
        said("second the same");
        said("third the same");
        said(&format!("rest {}  -", sha256(&base[REST * 4096..])));
        assert!(!log.contains("I/O error"), "{log}");
    }
    m1.destroy().expect("it ends");
}

/// What a guest says behind a word, once it has ended.
fn said(guest: &Guest<'_>, word: &str, m1: &M1<'_>) -> String {
    let ended = guest.wait_end(LIMIT);
    let log = guest.log().expect("a console");
    ended.unwrap_or_else(|error| panic!("{error:#}\n{log}\n{}", m1.log().unwrap_or_default()));
    assert!(!log.contains("I/O error"), "{log}\n{}", m1.log().unwrap_or_default());
    let line = log.lines().find_map(|line| line.strip_prefix(word));
    line.unwrap_or_else(|| panic!("no {word:?} in\n{log}")).trim().to_owned()
}

#[test]
fn an_overlay_is_there_again_after_m1_was_killed_and_is_nobody_elses() {
    let _turn = crate::bed::turn();
    let dom0 = DOM0.get();
    let start = |name| {
        let config = m1(&["/dev/vda", "rw:/dev/vdb"], "volume=base:xvda store_disk=xvdb").with("memory", 96);
        dom0.start_m1(name, KEEPING, config).expect("M1 starts")
    };
    let first = start("m1-keeps");
    let writer = stock(&dom0, "writer", first.name(), "base+mine", "writer");
    let other = stock(&dom0, "other", first.name(), "base+other", "reader");
    let written = said(&writer, "all ", &first);
    assert_eq!(said(&writer, "zero ", &first), format!("{}  -", sha256(&[0; 8 * 4096])));
    let base = format!("{}  -", sha256(noise().content()));
    assert_ne!(written, base);
    assert_eq!(said(&other, "all ", &first), base, "another overlay shows the base");
    let metrics = first.metrics().expect("/metrics");
    assert_eq!(metrics.get("m1_overlays"), 2.0);
    assert_eq!(
        metrics.with("m1_overlay_bytes", &[("overlay", "mine")]),
        Some(f64::from(48 * 16 + 1 - 8) * 4096.0)
    );
    assert_eq!((metrics.get("m1_store_bugs"), metrics.get("m1_engine_bugs")), (0.0, 0.0));
    // Two devices cannot have it, whosever they are.
    let twice = ["xvda", "xvdb"].map(|vdev| writable(vdev, first.name(), "base+mine")).join("', '");
    let refused = dom0.xl_create("twice", &config("reader", &twice)).expect("xl runs");
    assert_ne!(refused.code, 0, "{}", refused.stdout_text());
    let log = first.log().expect("a log");
    assert!(log.contains("target=base+mine is refused: another device has this overlay"), "{log}");
    first.destroy().expect("it is killed");

    let second = start("m1-again");
    let again = stock(&dom0, "again", second.name(), "base+mine", "reader");
    assert_eq!(said(&again, "all ", &second), written, "what was written is there");
    second.destroy().expect("it ends");
}
