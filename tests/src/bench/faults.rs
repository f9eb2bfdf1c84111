//! Faults on Xen, in instructions: what a client kernel takes, and what the trap and the hypercalls take alone.
//!
//! One processor, and time that follows the count of instructions: numbers repeat from run to run, and say nothing about
//! caches. A program on `mm-guest` (`faults.c`) and one on the image `fault-floor` read the time-stamp counter in user mode
//! before and behind the touch.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Row, Samples};
use crate::apt::output;
use crate::m1::{M1, m1};
use crate::mm_guest;
use crate::raw_disk::{PAGE, RawDisk};
use crate::volume::Volume;
use crate::xl_config::XlConfig;
use crate::{Dom0, Guest, image, paths};

/// Where the program and its file are in the volume.
pub(super) const PROGRAM: &str = "/bench/faults";
pub(super) const DATA: &str = "/bench/data";
/// Pages of the file.
pub(super) const PAGES: usize = 2048;
/// Pages that are asked for one by one, each so far behind the last that no read-ahead brings it.
const TRIPS: usize = 48;
const APART: usize = 40;
/// Pages read in a row.
const SEQUENTIAL: usize = 1024;
/// Pages of the floor's batch, and of the program's group.
const BATCH: f64 = 32.0;
/// One domain's whole work; the machine is slow when it counts.
const LIMIT: Duration = Duration::from_secs(240);
/// Where M1 is.
const ADDRESS: [u8; 4] = [10, 0, 2, 100];
/// In user mode Xen emulates the time-stamp counter where it does not trust it, and would be measured itself.
const TSC: (&str, &str) = ("tsc_mode", "native");

/// The budgets' ratio.
const BUDGET: f64 = 1.3;

/// Samples of one domain, by name.
type Measured = BTreeMap<String, Vec<f64>>;

/// Boots a machine that counts, and measures.
pub fn faults() -> Result<Vec<Row>> {
    let volume = volume()?;
    let dom0 = Dom0::builder()
        .counted()
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-guest")?)
        .image(&image::build("fault-floor")?)
        .disk_read_only(volume)
        .memory(1024)
        .forward(ADDRESS, 80)
        .boot()?;
    measure(&dom0).inspect_err(|_| eprintln!("{}", dom0.diagnostics()))
}

fn measure(dom0: &Dom0) -> Result<Vec<Row>> {
    let floor = floor(dom0)?;
    let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", 64).with_text(TSC.0, TSC.1);
    let m1 = dom0.start_m1("m1", ADDRESS, config)?;
    let (trips, apart, sequential) = (TRIPS.to_string(), APART.to_string(), SEQUENTIAL.to_string());
    // The first to come finds the pages on the disk, the second finds them in M1.
    let cold = program(dom0, &m1, "cold", "window=1", &["trips", &trips, &apart])?;
    let warm = program(dom0, &m1, "warm", "window=1", &["trips", &trips, &apart])?;
    let held = program(dom0, &m1, "held", "", &["held", &sequential])?;

    let get = |measured: &Measured, name: &str| {
        let values = measured.get(name).cloned().unwrap_or_default();
        Samples::of(values).with_context(|| format!("no sample of {name}"))
    };
    let floor = |name| get(&floor, name);
    let row = |what: &str, measured: Samples, floor: Samples| {
        Row::samples(what, measured, "instr").against(floor).budget(BUDGET)
    };
    let asked = floor("asked")?;
    let mapped = get(&held, "touch")?;
    Ok(vec![
        row("reference held, data", get(&held, "data")?, floor("data")?),
        row("reference held, text", get(&held, "text")?, floor("text")?),
        row(
            "reference held, sequential, per page",
            get(&held, "sequential")?.per(BATCH),
            floor("batch")?.per(BATCH),
        )
        .note("floor: a page of one fault that maps 32; the client maps 16 around a fault"),
        row("needs M1, page resident", get(&warm, "asked")?, asked)
            .note("floor: trap, event to another domain and back, map"),
        row("needs M1, page on disk", get(&cold, "asked")?, asked)
            .note("the same floor: the disk's and dom0's part is in the row, not in the floor"),
        row("copy-on-write break", get(&held, "break")?, floor("break")?)
            .note("floor: trap, 4 KiB copy, the multicall"),
        Row::samples("floor: event to another domain and back", floor("trip")?, "instr"),
        Row::samples("a touch of a page that is mapped", mapped, "instr"),
    ])
}

/// The two domains of `fault-floor`.
fn floor(dom0: &Dom0) -> Result<Measured> {
    let config = XlConfig::parse(
        "type = \"pv\"\nkernel = \"/srv/m1/fault-floor\"\nmemory = 8\non_poweroff = \"destroy\"\n\
         on_crash = \"destroy\"\ntsc_mode = \"native\"\n",
    )?;
    let lender = dom0.create("floor-lender", &config.to_string())?;
    let measuring = dom0.create("floor", &config.to_string())?;
    let home = |guest: &Guest<'_>| format!("/local/domain/{}/data", guest.domid());
    let (lends, measures) = (home(&lender), home(&measuring));
    dom0.sh(&format!("xenstore-write {lends}/role 'lend {}'", measuring.domid()))?;
    // Ends with the domain, too.
    let wait = format!(
        "until xenstore-read {lends}/port 2>/dev/null; do xl domname {} >/dev/null || exit 1; usleep 100000; done",
        lender.domid()
    );
    let port = dom0.run_with(&wait, &[], LIMIT)?;
    ensure!(port.code == 0, "the lender ended:\n{}", lender.log()?);
    let port = port.stdout_text();
    dom0.sh(&format!("xenstore-write {measures}/role 'measure {} {}'", lender.domid(), port.trim()))?;
    let log = measuring.wait_log("fault-floor: ended", LIMIT)?;
    ensure!(log.contains("fault-floor: ended: done"), "the floor was not measured:\n{log}");
    measuring.wait_end(LIMIT)?;
    lender.destroy()?;
    samples(&log)
}

/// Runs the measuring program on a client of its own.
fn program(dom0: &Dom0, m1: &M1<'_>, name: &str, options: &str, words: &[&str]) -> Result<Measured> {
    let arguments: Vec<&str> = [&[DATA], words].concat();
    let config = mm_guest::client(m1.name(), "base", options, PROGRAM, &arguments)?;
    let config = config.with("memory", 16).with_text(TSC.0, TSC.1);
    let guest = dom0.create(name, &config.to_string())?;
    let log = guest.wait_log("mm-guest: exited ", LIMIT)?;
    ensure!(log.contains("mm-guest: exited 0"), "{PROGRAM} {words:?} failed:\n{log}");
    guest.wait_end(LIMIT)?;
    samples(&log)
}

/// All lines `sample NAME TICKS` of a console.
fn samples(log: &str) -> Result<Measured> {
    let mut found = Measured::new();
    for line in log.lines() {
        let Some((_, rest)) = line.split_once("sample ") else { continue };
        let (name, ticks) = rest.trim().split_once(' ').with_context(|| format!("no sample: {line:?}"))?;
        let ticks: u32 = ticks.parse().with_context(|| format!("no sample: {line:?}"))?;
        found.entry(name.to_owned()).or_default().push(f64::from(ticks));
    }
    Ok(found)
}

/// A volume with the measuring program and its file, each page of which begins with a return instruction.
pub(super) fn volume() -> Result<PathBuf> {
    let mut data = RawDisk::new(paths::testbed()?, PAGES, 7)?.content().to_vec();
    data.iter_mut().step_by(PAGE).for_each(|byte| *byte = 0xc3);
    let built = Volume::new().file(compile()?, PROGRAM).content(DATA, data).size(16 << 20).build()?;
    Ok(built.image)
}

/// The host's C compiler, which Rust links with anyway, makes the program.
fn compile() -> Result<PathBuf> {
    let source = paths::workspace().join("tests/src/bench/faults.c");
    let program = paths::testbed()?.join("bench-faults");
    let partial = tempfile::tempdir_in(paths::testbed()?)?;
    let made = partial.path().join("faults");
    let flags =
        "-O2 -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector -fcf-protection=none";
    output(Command::new("cc").args(flags.split(' ')).arg("-o").arg(&made).arg(source))?;
    std::fs::rename(made, &program)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_collected_by_name() {
        let log = "[1.0] INFO x\nfault-floor: sample data 10\nsample data 12\r\nsample trip 7\ndone\n";
        let found = samples(log).unwrap();
        assert_eq!(found["data"], [10.0, 12.0]);
        assert_eq!(found["trip"], [7.0]);
        assert!(samples("sample data\n").is_err());
        assert!(samples("sample data x\n").is_err());
    }
}
