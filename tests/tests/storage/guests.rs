//! Debian's own kernel reads and writes a disk that is M1's.

use std::time::Duration;

use m1_tests::m1::{disk, m1};
use m1_tests::raw_disk::RawDisk;
use m1_tests::{Dom0, Guest, LinuxGuest, Shared, image, linux_guest};
use sha2::{Digest, Sha256};

/// What takes seconds, on a busy host.
const LIMIT: Duration = Duration::from_secs(180);
const ADDRESS: [u8; 4] = [10, 0, 2, 50];
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

static DOM0: Shared = Shared::new(|| {
    let LinuxGuest { kernel, initramfs } = linux_guest(SCRIPT)?;
    Ok(Dom0::builder()
        .image(&image::build("mm-kernel")?)
        .disk_read_only(noise().path())
        .file(kernel, "/srv/linux")
        .content("/srv/linux.cpio", 0o644, initramfs))
});

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stock<'a>(dom0: &'a Dom0, name: &str, backend: &str, target: &str) -> Guest<'a> {
    let disk = disk("xvda", backend, target).replace("access=r,", "access=w,");
    let config = format!(
        "type = \"pv\"\nkernel = \"/srv/linux\"\nramdisk = \"/srv/linux.cpio\"\nmemory = 160\n\
         extra = \"console=hvc0\"\ndisk = ['{disk}']\n"
    );
    dom0.create(name, &config).expect("the guest starts")
}

#[test]
fn stock_guests_read_the_base_and_write_over_it_and_see_nothing_of_each_other() {
    let dom0 = DOM0.get();
    let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", 96);
    let m1 = dom0.start_m1("m1", ADDRESS, config).expect("M1 starts");
    let guests = ["one", "two"].map(|name| stock(&dom0, name, m1.name(), "base"));
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
        eprintln!("{log}");
    }
    m1.destroy().expect("it ends");
}
