//! From `xl unpause` until the guest's first program runs: one guest, and ten at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{guest, phy, writable};
use crate::bench::{Row, Samples};
use crate::m1::M1;
use crate::{Dom0, quote, stage};

/// Guests that boot at once.
const COUNTS: [u32; 2] = [1, 10];
/// Ten guests on two emulated processors.
const LIMIT: Duration = Duration::from_secs(900);
/// Sectors of a guest's part of the disk for snapshots.
const PART: u32 = 65536;
/// Where these parts begin.
const FIRST: u32 = 1_048_576;

/// Boots guests from M1 and from dm-snapshot, by turns, of which ten guests have fewer. The root is writable, and what is written is kept.
pub(super) fn boots(dom0: &Dom0, m1: &M1<'_>, turns: u32) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in COUNTS {
        // Ten take long.
        let turns = if count == 1 { turns } else { turns.div_ceil(3) };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for turn in 0..turns {
            stage::say(format!("{count} guests boot from each maker's disks, {} of {turns}", turn + 1));
            let from_m1 = || {
                boot(dom0, count, "m1", |guest| {
                    Ok(writable("xvda", m1, &format!("debian+b{count}-{turn}-{guest}")))
                })
            };
            let from_linux = || boot(dom0, count, "linux", |guest| snapshot(dom0, guest));
            if turn % 2 == 0 {
                ours.push(from_m1()?);
                theirs.push(from_linux()?);
            } else {
                theirs.push(from_linux()?);
                ours.push(from_m1()?);
            }
        }
        let samples = |times| Samples::of(times).context("no boot");
        let what = if count == 1 {
            "boot of one guest".to_owned()
        } else {
            format!("boot of {count} guests at once")
        };
        rows.push(Row::samples(what, samples(ours)?, "s").against(samples(theirs)?).budget(1.0));
    }
    Ok(rows)
}

/// A fresh snapshot of the system for this guest.
fn snapshot(dom0: &Dom0, guest: u32) -> Result<String> {
    dom0.sh(&format!(
        "export DM_DISABLE_UDEV=1
         dmsetup remove boot{guest} 2>/dev/null; dmsetup remove part{guest} 2>/dev/null
         dmsetup create part{guest} --table '0 {PART} linear /dev/vdd {}' &&
         dd if=/dev/zero of=/dev/mapper/part{guest} bs=4k count=1 conv=fsync 2>/dev/null &&
         dmsetup create boot{guest} --table \"0 $(blockdev --getsz /dev/vda) snapshot /dev/vda /dev/mapper/part{guest} P 8\"",
        FIRST + guest * PART
    ))?;
    Ok(phy("xvda", "rw", &format!("/dev/mapper/boot{guest}")))
}

/// Creates guests, lets them go at once, and waits until all have come to their first program; seconds by dom0's clock.
fn boot(dom0: &Dom0, count: u32, maker: &str, disk: impl Fn(u32) -> Result<String>) -> Result<f64> {
    let mut names = Vec::new();
    for number in 0..count {
        let name = format!("boot-{maker}-{number}");
        let config = guest("nothing", "rw", 128, &[disk(number)?])?;
        dom0.put(&format!("/run/{name}.cfg"), 0o644, format!("name = \"{name}\"\n{config}\n").as_bytes())?;
        names.push(quote(&name));
    }
    let script = format!(
        "now() {{ cut -d' ' -f1 /proc/uptime; }}
        log=/var/log/xen/console/guest; all='{}'
        for name in $all; do rm -f $log-$name.log; xl create -p /run/$name.cfg >&2 || exit 1; done
        now
        for name in $all; do xl unpause $name; done
        for name in $all; do until grep -q 'init: Debian' $log-$name.log 2>/dev/null; do usleep 50000; done; done
        now
        for name in $all; do while xl domid $name >/dev/null 2>&1; do usleep 100000; done; done",
        names.iter().map(|name| name.trim_matches('\'')).collect::<Vec<_>>().join(" ")
    );
    let output = dom0.run_with(&script, &[], LIMIT)?;
    ensure!(output.code == 0, "guests do not boot: {}", output.stderr_text());
    let text = output.stdout_text();
    let times: Vec<f64> = text
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("no times: {text}"))?;
    let [start, end] = times[..] else { anyhow::bail!("no times: {text}") };
    Ok(end - start)
}
