//! The machine, its M1, and running the tool.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use m1_tests::m1::{M1, client, m1};
use m1_tests::raw_disk::RawDisk;
use m1_tests::{Dom0, Guest, Output, Shared, Watched, image};
use serde_json::Value;

/// Pages of the volume.
pub(crate) const PAGES: usize = 512;
const ADDRESS: [u8; 4] = [10, 0, 2, 100];
/// The tool's own limits are shorter.
const TOOL: Duration = Duration::from_secs(300);
pub(crate) const CLIENT: Duration = Duration::from_secs(90);

static MACHINE: Shared = Shared::new(|| {
    Dom0::builder()
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-unikernel")?)
        .disk_read_only(base().path())
        .forward(ADDRESS, 80)
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
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Bed { dom0: MACHINE.get(), _turn: turn }
    }

    /// An M1 called `m1`, as the tool expects, that serves `base`.
    pub(crate) fn m1(&self) -> M1<'_> {
        let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", 64);
        self.start_m1("m1", ADDRESS, config).expect("M1 starts")
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

fn base() -> &'static RawDisk {
    static DISK: OnceLock<RawDisk> = OnceLock::new();
    DISK.get_or_init(|| RawDisk::new(env!("CARGO_TARGET_TMPDIR"), PAGES, 1).expect("a file for a disk"))
}
