//! What one more clone takes: memory by Xen's own count, with its floor and by use, and time until its program's first words, with what earlier
//! clones touched mapped ahead and without.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Row, Samples};
use crate::demo::clone::server::Server;
use crate::m1::{disk, m1};
use crate::mm_guest;
use crate::volume::Volume;
use crate::xl_config::XlConfig;
use crate::{Dom0, grants, image, stage};

const LIMIT: Duration = Duration::from_secs(120);
const ADDRESS: [u8; 4] = [10, 0, 2, 100];
const PROGRAM: &str = "/srv/server.py";
/// A client's `memory=` in MiB, a ceiling, and that of the domain that never runs.
const CEILING: u32 = 64;
const EMPTY: u32 = 8;
/// How long the first clone's program goes on before it is taken for known what a clone touches.
const LEARN: Duration = Duration::from_secs(3);

/// Boots a machine, and measures; clones of either kind have so many turns.
///
/// # Errors
/// Where something that has to be there does not come.
pub fn clones(turns: u32) -> Result<Vec<Row>> {
    let packages = Volume::new().packages(["python3-minimal", "libpython3-stdlib"]);
    let volume = packages.content(PROGRAM, include_str!("../demo/clone/server.py")).build()?;
    let dom0 = Dom0::builder()
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-guest")?)
        .disk_read_only(&volume.image)
        .memory(2048)
        .xen_arguments(grants::CONRING)
        .forward(ADDRESS, 80)
        .m1ctl()?
        .boot()?;
    measure(&dom0, turns).inspect_err(|_| eprintln!("{}", dom0.diagnostics()))
}

/// What one clone took.
struct Clone {
    bytes: f64,
    /// Nanoseconds since its kernel began: thawed, first output.
    thawed: f64,
    output: f64,
    /// Pages by use.
    uses: Vec<(String, f64)>,
}

fn measure(dom0: &Dom0, turns: u32) -> Result<Vec<Row>> {
    let _m1 = dom0.start_m1("m1", ADDRESS, m1(&["/dev/vda"], "volume=base:xvda").with("memory", 96))?;
    let floor = empty(dom0)?;

    stage::say("a program warms up and is frozen");
    let before = dom0.settled_xen_memory(LIMIT)?;
    let config = mm_guest::client("m1", "base", "", "/usr/bin/python3", &["-B", PROGRAM])?;
    let source = Server::new(dom0, dom0.create("warm", &config.with("memory", CEILING).to_string())?);
    source.wait("warm ")?;
    source.ask("first")?;
    let cold = pages(dom0.settled_xen_memory(LIMIT)?.taken_since(&before));
    dom0.sh("m1ctl freeze warm morning >&2")?;

    stage::say("clones, by turns with and without mapping ahead");
    let first = clone(dom0, "first", false, LEARN)?;
    let (mut ahead, mut alone) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        for with in [turn % 2 == 0, turn % 2 != 0] {
            let name = format!("clone-{turn}-{}", if with { "ahead" } else { "alone" });
            let made = clone(dom0, &name, with, Duration::ZERO)?;
            if with { ahead.push(made) } else { alone.push(made) }
        }
    }
    let samples = |clones: &[Clone], number: fn(&Clone) -> f64| {
        Samples::of(clones.iter().map(number).collect()).context("no clone")
    };
    let row = |what: &str, number: fn(&Clone) -> f64, unit| -> Result<Row> {
        Ok(Row::samples(what, samples(&ahead, number)?, unit).against(samples(&alone, number)?))
    };
    let mut rows = vec![
        Row::value("a domain that never ran, but for its own pages", floor, "KiB of Xen's"),
        Row::value("the program, started cold, after one answer", cold, "KiB of Xen's"),
        Row::value("the first clone, after one answer", first.bytes, "KiB of Xen's"),
        row("one more clone, after one answer", |clone| clone.bytes, "KiB of Xen's")?,
        row("until the program goes on", |clone| clone.thawed / 1e6, "ms")?,
        row("from there on to its first output", |clone| (clone.output - clone.thawed) / 1e6, "ms")?,
        row("together", |clone| clone.output / 1e6, "ms")?,
    ];
    if let Some(last) = ahead.last() {
        let uses = last
            .uses
            .iter()
            .map(|(name, pages)| Row::value(format!("  its pages: {name}"), pages * 4.0, "KiB"));
        rows.extend(uses);
    }
    Ok(rows)
}

/// KiB of so many pages.
fn pages(pages: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a machine of some gigabytes")]
    let kib = (pages * 4) as f64;
    kib
}

/// KiB that Xen takes for a domain beside the memory that it was given.
fn empty(dom0: &Dom0) -> Result<f64> {
    let before = dom0.settled_xen_memory(LIMIT)?;
    let none: [String; 0] = [];
    let config =
        crate::m1::client("mm-guest", "m1", "base", "").with_list("disk", none).with("memory", EMPTY);
    create_paused(dom0, "empty", &config)?;
    let taken = dom0.settled_xen_memory(LIMIT)?.taken_since(&before);
    dom0.sh("xl destroy empty")?;
    Ok(pages(taken - i64::from(EMPTY) * 256))
}

fn create_paused(dom0: &Dom0, name: &str, config: &XlConfig) -> Result<()> {
    let path = format!("/run/{name}.cfg");
    dom0.put(&path, 0o644, format!("name = \"{name}\"\n{config}\n").as_bytes())?;
    dom0.sh(&format!("xl create -p {path} >&2")).map(drop)
}

/// Makes a clone that has been asked something before it runs, so that nothing but itself is waited for, and takes it away again.
fn clone(dom0: &Dom0, name: &str, ahead: bool, stays: Duration) -> Result<Clone> {
    let before = dom0.settled_xen_memory(LIMIT)?;
    let config = crate::m1::client("mm-guest", "m1", "base", &format!("ahead={}", u8::from(ahead)))
        .with_list("disk", [disk("xvda", "m1", "base@morning")])
        .with("memory", CEILING);
    create_paused(dom0, name, &config)?;
    let script = format!(
        "domid=$(xl domid {name}); tty=/local/domain/$domid/console/tty; \
         until xenstore-exists $tty; do usleep 20000; done; echo second > $(xenstore-read $tty); xl unpause {name}"
    );
    dom0.sh(&script)?;
    let server = Server::named(dom0, name)?;
    server.wait("answer second ")?;
    let node = format!("/local/domain/{}/data/first-output", server.domid());
    let told = dom0.sh(&format!("until xenstore-read {node} 2>/dev/null; do usleep 20000; done"))?;
    let after = dom0.settled_xen_memory(LIMIT)?;
    std::thread::sleep(stays);
    if !stays.is_zero() {
        server.ask("third")?;
    }
    server.send("memory")?;
    let uses = server.wait("memory ")?;
    server.destroy()?;
    let number = |key: &str| -> Result<f64> {
        let word = told.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        word.with_context(|| format!("no {key} in {told:?}"))?.parse().with_context(|| told.clone())
    };
    let words: Vec<&str> = uses.split_whitespace().skip(1).collect();
    let uses = words.chunks(2).filter_map(|pair| Some((pair[0].to_owned(), pair.get(1)?.parse().ok()?)));
    Ok(Clone {
        bytes: pages(after.taken_since(&before)),
        thawed: number("thawed")?,
        output: number("output")?,
        uses: uses.collect(),
    })
}
