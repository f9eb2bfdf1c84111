//! The machine that all scenarios share, the volumes on its disks, and addresses for M1s.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use m1_tests::m1::{M1, client, m1};
use m1_tests::raw_disk::RawDisk;
use m1_tests::unikernel::digest;
use m1_tests::xl_config::XlConfig;
use m1_tests::{Dom0, Guest, Shared, Watched, grants, image};

/// Pages of the volume on `/dev/vda`, and on `/dev/vdb`.
pub(crate) const BASE_PAGES: usize = 2048;
pub(crate) const OTHER_PAGES: usize = 512;

/// What a client does takes seconds at most, but on a busy host.
pub(crate) const CLIENT: Duration = Duration::from_secs(90);

static MACHINE: Shared = Shared::new(|| {
    let mut builder = Dom0::builder()
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-unikernel")?)
        .disk_read_only(base().path())
        .disk_read_only(other().path())
        .memory(3072)
        .xen_arguments(grants::CONRING);
    for last in ADDRESSES {
        builder = builder.forward([10, 0, 2, last], 80);
    }
    Ok(builder)
});

/// The last parts of addresses for M1s. Slirp's DHCP gives out the ones before.
const ADDRESSES: std::ops::Range<u8> = 100..140;
static NEXT_ADDRESS: AtomicU8 = AtomicU8::new(ADDRESSES.start);

/// One scenario at a time: they count what Xen and dom0 have.
static TURN: Mutex<()> = Mutex::new(());

/// The machine, for one scenario alone.
pub(crate) struct Bed {
    // Shows its logs when a scenario fails, before the next one begins.
    dom0: Watched,
    _turn: MutexGuard<'static, ()>,
}

impl Bed {
    /// Waits for its turn.
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

    /// A name that no domain of this machine has had: its console's log has nothing of another's.
    pub(crate) fn name(&self, kind: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        format!("{kind}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// An M1 that serves `/dev/vda` as `base`, with these further options.
    pub(crate) fn m1(&self, options: &str) -> M1<'_> {
        self.start(m1(&["/dev/vda"], &format!("volume=base:xvda {options}")).with("memory", 64))
    }

    /// An M1 as configured, at an address of its own.
    pub(crate) fn start(&self, config: XlConfig) -> M1<'_> {
        self.start_m1(&self.name("m1"), address(), config).expect("M1 starts")
    }

    /// What a unikernel is started from: with the volume `base`, and these options.
    pub(crate) fn unikernel_config(&self, m1: &M1<'_>, options: &str) -> XlConfig {
        client("mm-unikernel", m1.name(), "base", options).with("memory", 16)
    }

    /// A unikernel, started.
    pub(crate) fn unikernel(&self, m1: &M1<'_>, options: &str) -> Guest<'_> {
        let config = self.unikernel_config(m1, options);
        self.create(&self.name("client"), &config.to_string()).expect("the client starts")
    }

    /// Ends an M1. The logs of what went well are not shown when something else fails.
    pub(crate) fn finish(&self, m1: M1<'_>) {
        let name = m1.name().to_owned();
        m1.destroy().expect("xl destroy");
        self.forget(&name);
    }

    /// Removes the console's log of domains whose names begin so.
    pub(crate) fn forget(&self, name: &str) {
        self.sh(&format!("rm -f /var/log/xen/console/guest-{name}*.log")).expect("rm");
    }
}

impl std::ops::Deref for Bed {
    type Target = Dom0;

    fn deref(&self) -> &Dom0 {
        &self.dom0
    }
}

/// An address that nobody else has, with a port of the host that leads to it.
pub(crate) fn address() -> [u8; 4] {
    let last = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed);
    assert!(ADDRESSES.contains(&last), "more M1s than addresses");
    [10, 0, 2, last]
}

/// `/dev/vda`.
pub(crate) fn base() -> &'static RawDisk {
    static DISK: OnceLock<RawDisk> = OnceLock::new();
    DISK.get_or_init(|| disk(BASE_PAGES, 1))
}

/// `/dev/vdb`.
pub(crate) fn other() -> &'static RawDisk {
    static DISK: OnceLock<RawDisk> = OnceLock::new();
    DISK.get_or_init(|| disk(OTHER_PAGES, 2))
}

fn disk(pages: usize, seed: u64) -> RawDisk {
    RawDisk::new(env!("CARGO_TARGET_TMPDIR"), pages, seed).expect("a file for a disk")
}

/// What a unikernel prints that has read these pages of `/dev/vda`.
pub(crate) fn digest_of(pages: impl IntoIterator<Item = usize>) -> u64 {
    let pages: Vec<usize> = pages.into_iter().collect();
    digest(base().pages(&pages))
}
