//! The machine, its M1, and running the tool.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use m1_tests::m1::{M1, client, m1};
use m1_tests::programs::{self, Prepared};
use m1_tests::raw_disk::RawDisk;
use m1_tests::{Dom0, Guest, Output, Shared, Watched, image};
use serde_json::Value;

/// Pages of the volume.
pub(crate) const PAGES: usize = 512;
/// The last parts of addresses: each M1 has one that no other had.
const ADDRESSES: std::ops::Range<u8> = 100..110;
/// The tool's own limits are shorter.
const TOOL: Duration = Duration::from_secs(300);
pub(crate) const CLIENT: Duration = Duration::from_secs(90);

static MACHINE: Shared = Shared::new(|| {
    let mut builder = Dom0::builder();
    for last in ADDRESSES {
        builder = builder.forward([10, 0, 2, last], 80);
    }
    builder
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-unikernel")?)
        .image(&image::build("mm-guest")?)
        .disk_read_only(base().path())
        .disk_read_only(&prepared().volume.image)
        .memory(3072)
        .m1ctl()
});

/// One scenario at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The machine, for one scenario alone.
pub(crate) struct Bed {
    dom0: Watched,
    _turn: MutexGuard<'static, ()>,
}

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
            let script =
                "for domain in $(xl list | awk '$2 ~ /^[1-9]/ { print $2 }'); do xl destroy $domain; done";
            let _ = bed.run(script);
        }
        bed
    }

    /// An M1 called `m1`, as the tool expects, that serves `base`.
    pub(crate) fn m1(&self) -> M1<'_> {
        let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", 64);
        self.start_m1("m1", address(), config).expect("M1 starts")
    }

    /// One that serves `programs` as well, in which `mm-guest` finds some.
    pub(crate) fn m1_with_programs(&self) -> M1<'_> {
        let config =
            m1(&["/dev/vda", "/dev/vdb"], "volume=base:xvda volume=programs:xvdb").with("memory", 192);
        self.start_m1("m1", address(), config).expect("M1 starts")
    }

    /// A client that reads pages and stays.
    pub(crate) fn unikernel(&self, name: &str, options: &str) -> Guest<'_> {
        let config = client("mm-unikernel", "m1", "base", options).with("memory", 16);
        self.create(name, &config.to_string()).expect("the client starts")
    }

    /// Runs `m1ctl` with these arguments.
    pub(crate) fn m1ctl(&self, arguments: &str) -> Output {
        self.run_with(&format!("m1ctl {arguments}"), &[], TOOL).expect("it ends")
    }

    /// The same where it has to succeed and gives JSON.
    pub(crate) fn json(&self, arguments: &str) -> Value {
        let output = self.m1ctl(&format!("--json {arguments}"));
        let (out, err) = (output.stdout_text(), output.stderr_text());
        assert_eq!(output.code, 0, "m1ctl {arguments}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("m1ctl {arguments}: {error}: {out}"))
    }
}

impl std::ops::Deref for Bed {
    type Target = Dom0;

    fn deref(&self) -> &Dom0 {
        &self.dom0
    }
}

fn address() -> [u8; 4] {
    static NEXT: AtomicU8 = AtomicU8::new(ADDRESSES.start);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(ADDRESSES.contains(&last), "more M1s than addresses");
    [10, 0, 2, last]
}

fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| programs::prepare(programs::fresh_seed().expect("a seed")).expect("a volume"))
}

fn base() -> &'static RawDisk {
    static DISK: OnceLock<RawDisk> = OnceLock::new();
    DISK.get_or_init(|| RawDisk::new(env!("CARGO_TARGET_TMPDIR"), PAGES, 1).expect("a file for a disk"))
}
