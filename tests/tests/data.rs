//! `/data` of client kernels, an overlay in M1's store: what programs flushed is there after they and M1 were destroyed, and stock
//! tools find the disk whole.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use m1_tests::m1::{M1, disk, m1};
use m1_tests::mm_guest::{self, End, Log};
use m1_tests::volume::{Volume, check_data, make_data};
use m1_tests::{Dom0, Guest, image, stage};

/// One program, on an emulated processor.
const LIMIT: Duration = Duration::from_secs(180);
const ADDRESS: [u8; 4] = [10, 0, 2, 50];

/// Writes record after record, each flushed before it is spoken of, without end.
const WRITER: &str = r#"
import os
os.mkdir("/data/log")
with open("/data/log/records", "ab", buffering=0) as records:
    number = 0
    while True:
        records.write(b"record %08d %s\n" % (number, b"x" * (number * 37 % 300)))
        os.fsync(records.fileno())
        number += 1
        print("flushed", number, flush=True)
        open("/data/log/unflushed", "ab").write(bytes(5000))
        os.rename("/data/log/unflushed", "/data/log/unflushed")
"#;

/// Reads what the other wrote, and adds one name.
const READER: &str = r#"
import os
with open("/data/log/records", "rb") as records:
    lines = records.read().split(b"\n")
for number, line in enumerate(lines[:-1]):
    assert line == b"record %08d %s" % (number, b"x" * (number * 37 % 300)), (number, line)
print("found", len(lines) - 1, os.stat("/data/log/records").st_nlink, sorted(os.listdir("/data")))
os.link("/data/log/records", "/data/kept")
os.symlink("log/records", "/data/link")
print(open("/proc/mounts").read().splitlines()[-1])
"#;

const SQL: [&str; 2] = [
    "CREATE TABLE t(n INTEGER, s TEXT); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n<500) \
     INSERT INTO t SELECT n, hex(n*n) FROM c; DELETE FROM t WHERE n%3=0; SELECT count(*), sum(n) FROM t;",
    "PRAGMA integrity_check; SELECT count(*), sum(n), max(length(s)) FROM t;",
];

/// A file of this length for a disk; QEMU opens it later.
fn blank(name: &str, bytes: u64) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::File::create(&path).and_then(|file| file.set_len(bytes)).expect("a file for a disk");
    path
}

struct Bed {
    dom0: Dom0,
}

impl Bed {
    fn m1(&self, name: &str) -> M1<'_> {
        let disks = ["/dev/vda", "/dev/vdb", "rw:/dev/vdc"];
        let options = "volume=base:xvda,group=g volume=data:xvdb,group=g store_disk=xvdc";
        self.dom0.start_m1(name, ADDRESS, m1(&disks, options).with("memory", 96)).expect("M1 starts")
    }

    fn start(&self, m1: &M1<'_>, name: &str, program: &str, arguments: &[&str]) -> Guest<'_> {
        let config = mm_guest::client(m1.name(), "base", "", program, arguments).expect("a command line");
        let data = disk("xvdb", m1.name(), "data+web1").replace("access=r,", "access=rw,");
        let config = config.with_list("disk", [disk("xvda", m1.name(), "base"), data]);
        stage::say(format!("starting {name}"));
        self.dom0.create(name, &config.to_string()).expect("a client")
    }

    fn run(&self, m1: &M1<'_>, name: &str, program: &str, arguments: &[&str]) -> Log {
        let guest = self.start(m1, name, program, arguments);
        let log = mm_guest::wait_end(&self.dom0, &guest, LIMIT);
        let log = log.unwrap_or_else(|error| panic!("{error:#}\n{}", m1.log().unwrap_or_default()));
        assert_eq!(
            log.end,
            Some(End::Exited(0)),
            "{}\n{}",
            guest.log().unwrap(),
            m1.log().unwrap_or_default()
        );
        guest.wait_end(LIMIT).expect("the domain ends");
        log
    }
}

#[test]
fn what_a_program_flushed_to_data_is_there_after_it_and_m1_were_destroyed_and_e2fsck_has_nothing_to_say() {
    let mut volume = Volume::new().packages(["python3-minimal", "libpython3-stdlib", "sqlite3"]);
    for (name, text) in [("data-writer.py", WRITER), ("data-reader.py", READER)] {
        volume = volume.content(&format!("/srv/{name}"), text);
    }
    let volume = volume.build().expect("a volume");
    let data = blank("data-empty.img", 0);
    make_data(&data, 32 << 20).expect("an empty filesystem");
    let images = ["mm-kernel", "mm-guest"].map(|name| image::build(name).expect("an image"));
    let dom0 = Dom0::builder()
        .image(&images[0])
        .image(&images[1])
        .disk_read_only(&volume.image)
        .disk_read_only(&data)
        .disk(blank("data-store.img", 64 << 20))
        .boot();
    let bed = Bed { dom0: dom0.expect("Xen and dom0 boot") };

    let first = bed.m1("data-one");
    let writer = bed.start(&first, "data-writer", "/usr/bin/python3", &["/srv/data-writer.py"]);
    writer.wait_log("flushed 40", LIMIT).unwrap_or_else(|error| {
        panic!("{error:#}\n{}\n{}", writer.log().unwrap_or_default(), first.log().unwrap_or_default())
    });
    let flushed = writer.log().expect("its console").matches("flushed ").count();
    writer.destroy().expect("it is destroyed");
    first.destroy().expect("M1 is destroyed");

    let second = bed.m1("data-two");
    let log = bed.run(&second, "data-reader", "/usr/bin/python3", &["/srv/data-reader.py"]);
    let found: usize =
        log.output.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    assert!(found >= flushed && flushed >= 40, "{flushed} flushed, {}", log.output);
    assert!(log.output.contains("1 ['log', 'lost+found']"), "{}", log.output);
    assert!(log.output.contains("/dev/xvdb /data ext3 rw,noatime 0 0"), "{}", log.output);
    let sqlite = |name, sql| bed.run(&second, name, "/usr/bin/sqlite3", &["-batch", "/data/db", sql]).output;
    assert_eq!(sqlite("data-sqlite", SQL[0]).trim(), "334|83667");
    assert_eq!(sqlite("data-sqlite-again", SQL[1]).trim(), "ok\n334|83667|12");

    // dom0's Linux reads the same disk through its own blkfront, as a stock guest would.
    let attach = format!("format=raw,vdev=xvdz,access=rw,backend={},target=data+web1", second.name());
    let script = format!(
        "modprobe xen-blkfront && modprobe ext4 && xl block-attach 0 '{attach}' && \
         until test -b /dev/xvdz; do usleep 100000; done && gzip -1 -c /dev/xvdz"
    );
    let output = bed.dom0.run_with(&script, &[], LIMIT).expect("dom0 reads it");
    assert_eq!(output.code, 0, "{}", output.stderr_text());
    let image = blank("data-overlay.img", 0);
    let mut gunzip = Command::new("gunzip")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(&image).expect("a file"))
        .spawn()
        .expect("gunzip runs");
    gunzip.stdin.take().expect("a pipe").write_all(&output.stdout).expect("gunzip reads");
    assert!(gunzip.wait().expect("gunzip ends").success());
    check_data(&image).expect("e2fsck has nothing to say");
}
