//! The machine, its volume, and the program that is frozen.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use m1_tests::m1::{M1, disk, m1};
use m1_tests::mm_guest::{self, Log};
use m1_tests::volume::{Built, Volume, make_data};
use m1_tests::{Dom0, Guest, Output, Shared, Watched, full, grants, image};
use serde_json::Value;

const ADDRESS: [u8; 4] = [10, 0, 2, 50];
/// A program, on an emulated processor that it shares with others.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

static MACHINE: Shared = Shared::new(|| {
    // Fifty clones are more devices and more lent pages of one domain than the defaults allow (`m1ctl doctor --clients 50`).
    let frames = full::or("", " gnttab_max_frames=512");
    let builder = Dom0::builder();
    let builder = match full::wanted() {
        true => builder.content("/etc/xen/oxenstored.conf", 0o644, OXENSTORED),
        false => builder,
    };
    builder
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-guest")?)
        .disk_read_only(&volume().image)
        .disk(blank()?)
        .disk_read_only(empty_data()?)
        .memory(3072)
        .xen_arguments(format!("{}{frames}", grants::CONRING))
        .forward(ADDRESS, 80)
        .m1ctl()
});

/// Debian's, with room for more nodes of one domain than 1000.
const OXENSTORED: &str = "\
pid-file = /var/run/xen/xenstored.pid
test-eagain = false
merge-activate = true
conflict-burst-limit = 5.0
conflict-max-history-seconds = 0.05
conflict-rate-limit-is-aggregate = true
perms-activate = true
perms-watch-activate = true
quota-activate = true
quota-maxentity = 4000
quota-maxsize = 2048
quota-maxwatch = 100
quota-transaction = 10
quota-maxrequests = 1024
quota-path-max = 1024
quota-maxoutstanding = 1024
quota-maxwatchevents = 1024
persistent = false
xenstored-kva = /proc/xen/xsd_kva
xenstored-port = /proc/xen/xsd_port
";

/// A disk for a store.
fn blank() -> anyhow::Result<std::path::PathBuf> {
    let disk = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR"))?;
    disk.as_file().set_len(128 << 20)?;
    // QEMU opens it later; it is removed with the directory of tests.
    Ok(disk.keep()?.1)
}

/// A disk for `/data` with nothing on it.
fn empty_data() -> anyhow::Result<std::path::PathBuf> {
    let disk = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR"))?.keep()?.1;
    make_data(&disk, 32 << 20)?;
    Ok(disk)
}

fn volume() -> &'static Built {
    static VOLUME: OnceLock<Built> = OnceLock::new();
    VOLUME.get_or_init(|| {
        let packages = Volume::new().packages(["python3-minimal", "libpython3-stdlib"]);
        let volume = packages.content("/srv/warm.py", PROGRAM).content("/srv/large.py", LARGE);
        let volume = volume.content(crate::data::RECORDS, crate::data::PROGRAM);
        let volume = volume.file(crate::avx::program(), crate::avx::PROGRAM);
        volume.build().expect("a volume")
    })
}

/// One scenario at a time: they count what M1 has.
static TURN: Mutex<()> = Mutex::new(());

/// The machine, for one scenario alone.
pub(crate) struct Bed {
    dom0: Watched,
    _turn: MutexGuard<'static, ()>,
}

/// Imports, builds a table, says so, works for some seconds with a pause now and then, and waits for a word before it tells its result.
const PROGRAM: &str = r#"
import hashlib, json, os, sys, time
table = {i: hashlib.sha256(str(i).encode()).hexdigest() for i in range(4000)}
log = open("/tmp/log", "w+")
print("warm", flush=True)
h = hashlib.sha256()
for i in range(400):
    h.update(table[i * 7 % 4000].encode())
    table[i] = h.hexdigest()
    log.write(table[i])
    if i % 20 == 19:
        time.sleep(0.1)
sys.stdin.readline()
log.seek(0)
print("result", h.hexdigest(), hashlib.sha256(log.read().encode()).hexdigest()[:16])
print("json", hashlib.sha256(json.dumps(table).encode()).hexdigest())
print("random", os.urandom(12).hex())
print("generation", open("/proc/m1/generation").read().strip(), flush=True)
"#;

/// Holds more than the smallest M1 can take, and goes on writing to it.
const LARGE: &str = r#"
import time
data = [bytearray(str(i).encode() * 1000) for i in range(6000)]
print("warm", flush=True)
for round in range(200):
    for part in data[::50]:
        part[round] = 65
    time.sleep(0.05)
print("result", sum(part.count(65) for part in data), flush=True)
"#;

/// Where they are.
pub(crate) const WARM: &str = "/srv/warm.py";
pub(crate) const BIG: &str = "/srv/large.py";

/// Lines of the first that are the same wherever it goes on, and those that are another in every domain.
pub(crate) const SAME: [&str; 2] = ["result ", "json "];
pub(crate) const OWN: [&str; 2] = ["random ", "generation "];

impl Bed {
    pub(crate) fn get() -> Bed {
        let (turn, failed) = match TURN.lock() {
            Ok(turn) => (turn, false),
            Err(poisoned) => (poisoned.into_inner(), true),
        };
        TURN.clear_poison();
        let bed = Bed { dom0: MACHINE.get(), _turn: turn };
        if failed {
            // What a scenario that failed left behind is in nobody's way.
            let _ = bed.run("for d in $(xl list | awk '$2 ~ /^[1-9]/ { print $2 }'); do xl destroy $d; done");
        }
        bed
    }

    /// Snapshots that clones can be made of.
    pub(crate) fn ready(&self) -> Vec<String> {
        let all = self.json("snapshots");
        let list = all["snapshots"].as_array().expect("a list");
        let ready = list.iter().filter(|snapshot| snapshot["state"] == "ready");
        ready.map(|snapshot| snapshot["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// An M1 called `m1` with so many MiB that serves `base`.
    pub(crate) fn m1(&self, memory: u32) -> M1<'_> {
        let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", memory);
        self.start_m1("m1", ADDRESS, config).expect("M1 starts")
    }

    /// The same with a store.
    pub(crate) fn m1_with_store(&self, memory: u32) -> M1<'_> {
        let options = "volume=base:xvda store_disk=xvdb";
        let config = m1(&["/dev/vda", "rw:/dev/vdb"], options).with("memory", memory);
        self.start_m1("m1", ADDRESS, config).expect("M1 starts")
    }

    /// The same with a store and a volume for `/data`.
    pub(crate) fn m1_with_data(&self, memory: u32) -> M1<'_> {
        let options = "volume=base:xvda,group=g volume=data:xvdc,group=g store_disk=xvdb";
        let config = m1(&["/dev/vda", "rw:/dev/vdb", "/dev/vdc"], options).with("memory", memory);
        self.start_m1("m1", ADDRESS, config).expect("M1 starts")
    }

    /// A client that runs a Python program of the volume.
    pub(crate) fn python(&self, name: &str, options: &str, program: &str) -> Guest<'_> {
        let arguments = ["-B", program];
        let config = mm_guest::client("m1", "base", options, "/usr/bin/python3", &arguments);
        self.create(name, &config.expect("a command line").to_string()).expect("the client starts")
    }

    /// A clone of a snapshot.
    pub(crate) fn clone(&self, name: &str, snapshot: &str, options: &str) -> Guest<'_> {
        let config = m1_tests::m1::client("mm-guest", "m1", "base", options)
            .with_list("disk", [disk("xvda", "m1", &format!("base@{snapshot}"))]);
        self.create(name, &config.to_string()).expect("the clone starts")
    }

    /// Lets the program of [`WARM`] tell its result.
    pub(crate) fn go(&self, guest: &Guest<'_>) {
        let tty = format!("/local/domain/{}/console/tty", guest.domid());
        self.sh(&format!("echo go > $(xenstore-read {tty})")).expect("a word");
    }

    /// What the program of a client has said, once it has ended.
    pub(crate) fn ended(&self, guest: &Guest<'_>) -> Log {
        mm_guest::wait_end(self, guest, LIMIT)
            .unwrap_or_else(|error| panic!("{}: {error:#}\n{}", guest.name(), self.diagnostics()))
    }

    /// The content of a disk of M1's that nobody has now, as dom0's Linux reads it.
    pub(crate) fn image_of(&self, target: &str) -> tempfile::NamedTempFile {
        let attach = format!("format=raw,vdev=xvdz,access=rw,backend=m1,target={target}");
        let script = format!(
            "{{ modprobe xen-blkfront && xl block-attach 0 '{attach}' && until test -b /dev/xvdz; do usleep 100000; done; }} >&2 && \
             gzip -1 -c /dev/xvdz && xl block-detach 0 xvdz >&2; while test -b /dev/xvdz; do usleep 100000; done"
        );
        let output = self.run_with(&script, &[], LIMIT).expect("dom0 reads it");
        assert!(!output.stdout.is_empty(), "{}", output.stderr_text());
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
        let mut gunzip = Command::new("gunzip")
            .stdin(Stdio::piped())
            .stdout(file.reopen().expect("a file"))
            .spawn()
            .expect("gunzip runs");
        gunzip.stdin.take().expect("a pipe").write_all(&output.stdout).expect("gunzip reads");
        assert!(gunzip.wait().expect("gunzip ends").success());
        file
    }

    /// Runs `m1ctl` with these arguments.
    pub(crate) fn m1ctl(&self, arguments: &str) -> Output {
        self.run_with(&format!("m1ctl {arguments}"), &[], LIMIT).expect("it ends")
    }

    /// The same where it has to succeed.
    pub(crate) fn does(&self, arguments: &str) -> String {
        let output = self.m1ctl(arguments);
        let (out, err) = (output.stdout_text(), output.stderr_text());
        assert_eq!(output.code, 0, "m1ctl {arguments}: {out}{err}\n{}", self.diagnostics());
        out
    }

    /// The same where it gives JSON.
    pub(crate) fn json(&self, arguments: &str) -> Value {
        let out = self.does(&format!("--json {arguments}"));
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("m1ctl {arguments}: {error}: {out}"))
    }
}

/// A line of what a program said.
pub(crate) fn line<'l>(log: &'l Log, word: &str) -> &'l str {
    let found = log.output.lines().find(|line| line.starts_with(word));
    found.unwrap_or_else(|| panic!("no {word:?} in\n{}\n{}", log.output, log.kernel.join("\n")))
}

impl std::ops::Deref for Bed {
    type Target = Dom0;

    fn deref(&self) -> &Dom0 {
        &self.dom0
    }
}
