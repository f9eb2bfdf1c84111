//! Disks for stock guests: M1's block service beside Linux's own xen-blkback in dom0, over the same base, in one boot of the machine.
//!
//! The guest is Debian's, with nothing of ours inside; both makers' disks are attached to it at once, and fio's jobs on them take turns. What
//! is written goes to an overlay on M1's store there, and to dm-snapshot in dom0 here, each on a disk of its own.

mod boots;
mod fio;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::fio::{Direction, Found};
use super::{Row, Samples};
use crate::m1::{M1, disk, m1};
use crate::raw_disk::RawDisk;
use crate::system::{self, System};
use crate::xl_config::XlConfig;
use crate::{Dom0, grants, image, paths, stage};

/// Pages of the base: noise, so that nothing on the way is zero.
const PAGES: usize = 32768;
/// The guest's boot, and each turn of all its work.
const BOOT: Duration = Duration::from_secs(120);
const TURN: Duration = Duration::from_secs(90);
/// Where M1 is.
const ADDRESS: [u8; 4] = [10, 0, 2, 100];
/// Bytes of the two disks that keep what is written.
const KEPT: u64 = 1 << 30;

/// A row: fio's name of it, what people read, and what is counted.
const ROWS: [(&str, &str, Count); 11] = [
    ("read-seq-cached", "read, 64 KiB in sequence, cached", Count::Bytes(Direction::Read)),
    ("read-rand-cached", "read, 4 KiB at random, 32 at once, cached", Count::Requests(Direction::Read)),
    ("read-one-cached", "read, 4 KiB at random, one at a time, cached", Count::Requests(Direction::Read)),
    ("read-seq-fresh", "read, 64 KiB in sequence, not cached", Count::Bytes(Direction::Read)),
    ("read-rand-fresh", "read, 4 KiB at random, 32 at once, not cached", Count::Requests(Direction::Read)),
    ("write-seq-first", "write, 64 KiB in sequence, blocks of the base", Count::Bytes(Direction::Write)),
    ("write-rand-first", "write, 4 KiB at random, blocks of the base", Count::Requests(Direction::Write)),
    ("write-rand-again", "write, 4 KiB at random, blocks written before", Count::Requests(Direction::Write)),
    ("flush", "write of 4 KiB and flush, one at a time", Count::Requests(Direction::Write)),
    ("memory-seq-first", "write that need not last, 64 KiB in sequence", Count::Bytes(Direction::Write)),
    ("memory-rand-first", "write that need not last, 4 KiB at random", Count::Requests(Direction::Write)),
];

/// What of a job is the number.
#[derive(Clone, Copy)]
enum Count {
    Bytes(Direction),
    Requests(Direction),
}

/// Boots a machine, and measures; each pair of disks has so many turns, at most 8. Boots of guests, which take
/// longest by far, only if they are wanted.
///
/// # Errors
/// Where something that has to be there does not come.
pub fn storage(turns: u32, boots: bool) -> Result<Vec<Row>> {
    let System { ext4, unpacked, initramfs, .. } =
        system::build(&[("measure", include_str!("measure")), ("nothing", "")])?;
    let base = RawDisk::new(paths::testbed()?, PAGES, 23)?;
    let directory = tempfile::tempdir_in(paths::testbed()?)?;
    let blank = |name: &str| -> Result<PathBuf> {
        let path = directory.path().join(name);
        std::fs::File::create(&path)?.set_len(KEPT)?;
        Ok(path)
    };
    let dom0 = Dom0::builder()
        .memory(4096)
        .image(&image::build("mm-kernel")?)
        .file(unpacked, "/srv/linux/vmlinuz")
        .content("/srv/linux/initrd.img", 0o644, initramfs)
        .disk_read_only(ext4)
        .disk_read_only(base.path())
        .disk(blank("store")?)
        .disk(blank("snapshot")?)
        .xen_arguments(grants::CONRING)
        .forward(ADDRESS, 80)
        .boot()?;
    measure(&dom0, turns, boots).inspect_err(|_| eprintln!("{}", dom0.diagnostics()))
}

fn measure(dom0: &Dom0, turns: u32, boots: bool) -> Result<Vec<Row>> {
    let options = "volume=debian:xvda,group=linux volume=base:xvdb,group=linux store_disk=xvdc";
    let config = m1(&["/dev/vda", "/dev/vdb", "rw:/dev/vdc"], options).with("memory", 512);
    let m1 = dom0.start_m1("m1", ADDRESS, config)?;
    dom0.sh(SNAPSHOTS)?;
    let found = disks(dom0, &m1, turns)?;
    let mut rows = ROWS.iter().map(|row| compare(row, &found)).collect::<Result<Vec<_>>>()?;
    if boots {
        rows.append(
            &mut boots::boots(dom0, &m1, turns)
                .unwrap_or_else(|why| vec![Row::not_measured("boots", "s", why)]),
        );
    }
    m1.destroy()?;
    Ok(rows)
}

/// The disk that keeps is divided: 256 MiB for a snapshot that lasts, 256 for one that does not, and the rest for guests that boot.
/// Without udev dmsetup has to be told to make the devices' nodes itself.
const SNAPSHOTS: &str = "modprobe dm-snapshot
    export DM_DISABLE_UDEV=1
    part() { dmsetup create \"$1\" --table \"0 $3 linear /dev/vdd $2\"; }
    snapshot() {
        size=$(blockdev --getsz \"$2\")
        dmsetup create \"$1\" --table \"0 $size snapshot $2 /dev/mapper/$3 $4 8\"
    }
    part keeps 0 524288 && part forgets 524288 524288 &&
    snapshot lasting /dev/vdb keeps P && snapshot passing /dev/vdb forgets N";

/// A disk of dom0's own backend.
fn phy(vdev: &str, access: &str, target: &str) -> String {
    format!("format=raw,vdev={vdev},access={access},target={target}")
}

/// A disk of M1's that can be written.
fn writable(vdev: &str, m1: &M1<'_>, target: &str) -> String {
    disk(vdev, m1.name(), target).replace("access=r,", "access=rw,")
}

/// A stock guest with these disks that runs a job; its root is the first.
fn guest(job: &str, mode: &str, memory: u32, disks: &[String]) -> Result<XlConfig> {
    Ok(XlConfig::parse(
        "type = \"pv\"\nkernel = \"/srv/linux/vmlinuz\"\nramdisk = \"/srv/linux/initrd.img\"\n\
         on_poweroff = \"destroy\"\non_crash = \"destroy\"\non_reboot = \"destroy\"\ntsc_mode = \"native\"\n",
    )?
    .with("memory", memory)
    .with_text("extra", format_args!("root=/dev/xvda {mode} console=hvc0 quiet job={job}"))
    .with_list("disk", disks))
}

/// Runs fio in one guest that has all disks.
fn disks(dom0: &Dom0, m1: &M1<'_>, turns: u32) -> Result<Found> {
    let disks = [
        phy("xvda", "r", "/dev/vda"),
        disk("xvdb", m1.name(), "base"),
        phy("xvdc", "r", "/dev/vdb"),
        writable("xvdd", m1, "base+measured"),
        phy("xvde", "rw", "/dev/mapper/lasting"),
        writable("xvdf", m1, "base"),
        phy("xvdg", "rw", "/dev/mapper/passing"),
    ];
    stage::say(format!("fio, {turns} turns"));
    let job = format!("measure turns={turns}");
    let guest = dom0.create("measured", &guest(&job, "ro", 256, &disks)?.to_string())?;
    let ended = guest.wait_end(BOOT + TURN * turns);
    let log = guest.log()?;
    ended.with_context(|| log.clone())?;
    ensure!(log.contains("init: job measure ended with 0"), "fio failed:\n{log}");
    let metrics = m1.metrics()?;
    ensure!(
        metrics.get("m1_store_bugs") + metrics.get("m1_engine_bugs") == 0.0,
        "M1 has found a bug of its own"
    );
    fio::parse(&log)
}

/// M1's against Linux's, with the aim of being as fast.
fn compare(&(name, what, count): &(&str, &str, Count), found: &Found) -> Result<Row> {
    let of = |maker: &str| -> Result<Samples> {
        let values = found.iter().filter(|job| job.is(name, maker)).map(|job| match count {
            Count::Bytes(direction) => job.kib_per_second(direction) / 1024.0,
            Count::Requests(direction) => job.requests_per_second(direction),
        });
        Samples::of(values.collect()).with_context(|| format!("fio says nothing of {name}:{maker}"))
    };
    let unit = match count {
        Count::Bytes(_) => "MiB/s",
        Count::Requests(_) => "/s",
    };
    Ok(Row::samples(what, of("m1")?, unit).against(of("linux")?).at_least(1.0))
}
