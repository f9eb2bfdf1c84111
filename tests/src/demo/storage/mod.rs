//! The story of storage: stock guests boot from one base through M1, each writes its own, M1 is killed while they write and another
//! opens its store, and what was flushed is there.
//!
//! `cargo demo --story storage` shows it. Nothing of M1's is inside the guests: they are Debian's kernel and packages.

mod fsck;
mod guests;
mod report;
mod screen;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

pub use report::{GuestReport, StorageReport};

use self::guests::{Booted, boot};
use super::Check;
use crate::image::Image;
use crate::m1::{M1, m1};
use crate::stage::Stages;
use crate::system::{self, System};
use crate::{Dom0, paths};

/// Number of stages, those before [`StorageStory::run`] included.
pub const STAGES: u64 = 9;
/// Guests at most: the machine has memory for so many.
pub const GUESTS_MAX: u32 = 12;

/// Where the M1s are, one after the other.
const ADDRESSES: [[u8; 4]; 2] = [[10, 0, 2, 50], [10, 0, 2, 51]];
/// Bytes of the store's disk.
const STORE: u64 = 512 << 20;
/// How much of the base all guests may need in M1, in tenths of what the first one did.
const MORE_TENTHS: u64 = 11;

/// What the machine boots with.
pub struct StorageStory {
    system: System,
    store: PathBuf,
    _directory: tempfile::TempDir,
    guests: u32,
}

impl StorageStory {
    /// Makes the base, a small Debian system, and a blank disk for the store; builds `m1-fsck`.
    ///
    /// # Errors
    /// Where a package cannot be had.
    pub fn prepare(guests: u32) -> Result<Self> {
        fsck::build()?;
        let system = system::build(&[("diary", include_str!("diary"))])?;
        let directory = tempfile::Builder::new().prefix("demo-").tempdir_in(paths::testbed()?)?;
        let store = directory.path().join("store.img");
        std::fs::File::create(&store)?.set_len(STORE)?;
        Ok(Self { system, store, _directory: directory, guests })
    }

    /// Boots the machine.
    ///
    /// # Errors
    /// Where it does not boot; with the logs.
    pub fn boot(&self, m1: &Image) -> Result<Dom0> {
        Dom0::builder()
            .memory(1536 + 192 * self.guests)
            .image(m1)
            .disk_read_only(&self.system.ext4)
            .disk(&self.store)
            .file(&self.system.unpacked, "/srv/linux/vmlinuz")
            .content("/srv/linux/initrd.img", 0o644, self.system.initramfs.clone())
            .forward(ADDRESSES[1], 80)
            .boot()
    }

    /// Tells the story on the machine. The last M1 goes on running.
    ///
    /// # Errors
    /// Where something that has to be there for the rest does not come; what merely is not as it should be is a check.
    pub fn run(&self, dom0: &Dom0, stages: &Stages, started: Instant) -> Result<StorageReport> {
        let mut checks = Checks(Vec::new());
        let names: Vec<String> = (1..=self.guests).map(|number| format!("guest{number}")).collect();

        stages.next("M1 starts; the first stock guest boots from the base");
        let first = self.m1(dom0, "m1", ADDRESSES[0])?;
        let mut running = vec![boot(dom0, &first, &names[0])?];
        running[0].wait("job: flushed ", &first)?;
        let alone = Held::of(&first)?;
        stages.next("the others boot from the same base; each writes its own and flushes it");
        for name in &names[1..] {
            running.push(boot(dom0, &first, name)?);
        }
        let flushed =
            running.iter().map(|guest| guest.wait("job: flushed ", &first)).collect::<Result<Vec<_>>>()?;
        let all = Held::of(&first)?;
        let metrics = first.metrics()?;
        let mut guests = Vec::new();
        for guest in &running {
            guests.push(guest.report(&metrics)?);
        }

        stages.next("M1 is killed while all of them write; they go down with it");
        first.destroy()?;
        running.into_iter().try_for_each(Booted::destroy)?;
        let (clean, said) = fsck::check(&self.store)?;
        checks.add("the store that the dead M1 left is sound (m1-fsck check)", clean, said);

        stages.next("another M1 opens the store; all guests boot again");
        let second = self.m1(dom0, "m1-next", ADDRESSES[1])?;
        let again = names.iter().map(|name| boot(dom0, &second, name)).collect::<Result<Vec<_>>>()?;
        stages.next("each looks for what it had flushed, and at its whole filesystem");
        for ((guest, report), wrote) in again.into_iter().zip(&mut guests).zip(&flushed) {
            report.flushed.clone_from(wrote);
            guest.finish(report, &second)?;
        }
        self.judge(&guests, (alone, all), &mut checks);
        let recovery = second.metrics()?;
        let bugs = recovery.get("m1_store_bugs") + recovery.get("m1_engine_bugs");
        checks.add("M1 found no mistake of its own", bugs == 0.0, format!("{bugs}"));
        Ok(StorageReport {
            guests,
            base_bytes: std::fs::metadata(&self.system.ext4)?.len(),
            held_for_one: alone.base,
            held_for_all: all.base,
            cache: all.cache,
            recovery_seconds: recovery.get("m1_store_recovery_seconds"),
            checks: checks.0,
            seconds: started.elapsed().as_secs_f64(),
            url: format!("http://127.0.0.1:{}", second.port()),
        })
    }

    fn m1<'a>(&self, dom0: &'a Dom0, name: &str, address: [u8; 4]) -> Result<M1<'a>> {
        let options = "volume=debian:xvda store_disk=xvdb";
        dom0.start_m1(name, address, m1(&["/dev/vda", "rw:/dev/vdb"], options))
    }

    fn judge(&self, guests: &[GuestReport], (alone, all): (Held, Held), checks: &mut Checks) {
        let count = guests.len();
        let system = guests.iter().filter(|guest| guest.system.starts_with("Debian 12")).count();
        checks.add(
            "all boot Debian's own kernel and system from one base",
            system == count,
            format!("{system} of {count}"),
        );
        checks.add(
            "what one guest has read of the base is there for all",
            all.base * 10 <= alone.base * MORE_TENTHS,
            format!("{} KiB for one, {} KiB for {count}", alone.base / 1024, all.base / 1024),
        );
        let read: u64 = guests.iter().map(|guest| guest.read).sum();
        checks.add(
            "M1 holds less than they would each",
            all.base < read || count == 1,
            format!("{} KiB once, {} KiB were handed out", all.base / 1024, read / 1024),
        );
        let mut own: Vec<&str> = guests.iter().map(|guest| &*guest.flushed).collect();
        own.sort_unstable();
        own.dedup();
        checks.add(
            "each wrote its own",
            own.len() == count,
            format!("{} different files of 3 MiB", own.len()),
        );
        let there = guests
            .iter()
            .filter(|guest| guest.found == guest.flushed && guest.noted == guest.flushed)
            .count();
        checks.add(
            "what was flushed is there after M1's death",
            there == count,
            format!("{there} of {count}"),
        );
        let names = guests.iter().filter(|guest| guest.names == guest.name).count();
        checks.add("nobody finds another's", names == count, format!("{names} of {count}"));
        let clean = guests.iter().filter(|guest| guest.clean).count();
        checks.add("the filesystems are clean (e2fsck -f)", clean == count, format!("{clean} of {count}"));
    }
}

/// What M1 holds, in bytes.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// Of the base: what it has read of it, and nothing has been evicted.
    base: u64,
    /// Its whole cache, with blocks of the overlays.
    cache: u64,
}

impl Held {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of bytes")]
    fn of(m1: &M1<'_>) -> Result<Self> {
        let metrics = m1.metrics()?;
        let state =
            |name| metrics.with("m1_memory_bytes", &[("state", name)]).context("no such state of memory");
        let cache = (state("clean")? + state("shared")?) as u64;
        let base = (metrics.get("m1_block_read_pages_total") * 4096.0) as u64;
        Ok(Self { base, cache })
    }
}

/// What has to hold.
struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, what: &str, good: bool, detail: impl Into<String>) {
        self.0.push(Check { what: what.to_owned(), good, detail: detail.into() });
    }
}
