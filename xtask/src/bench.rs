//! `cargo xtask bench`: the budget table, measured.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use m1_tests::bench::{self, Report, Row};
use m1_tests::stage;
use mm_engine::TableSizes;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Writes everything there, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long each pair of clients and pages is measured
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1)]
    engine_seconds: f64,
    /// How long an idle M1 is watched
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    idle_seconds: u64,
    /// How often each maker's disks have their turn, and clones of either kind
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=8))]
    turns: u32,
    /// Leaves out the boots of guests, which take longest of what is measured about storage
    #[arg(long)]
    no_boots: bool,
    /// Only these parts
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// The same
    #[arg(value_enum, value_name = "PART", conflicts_with = "only")]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The engine on the host, and what its tables cost
    Engine,
    /// Sizes of the images
    Images,
    /// Boot, memory and idleness on Xen
    Domains,
    /// Faults on Xen, in instructions
    Faults,
    /// Memory of one more clone on Xen, and time to its first output
    Clones,
    /// Disks of stock guests on Xen, beside xen-blkback and dm-snapshot
    Storage,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let wanted = |part| {
        let parts = if arguments.parts.is_empty() { &arguments.only } else { &arguments.parts };
        parts.is_empty() || parts.contains(&part)
    };
    let mut report = Report { about: about(), ..Report::default() };
    let mut rates = Vec::new();
    if wanted(Part::Images) {
        stage::say("building the images");
        report.sections.push(("Images, stripped".into(), section(bench::images())));
    }
    if wanted(Part::Engine) {
        report.sections.push(("Metadata".into(), metadata()));
        stage::say("the engine on this host");
        let rows = section(bench::host(arguments.engine_seconds).map(|(rows, found)| {
            rates = found;
            rows
        }));
        report.sections.push(("Engine on this host".into(), rows));
    }
    if wanted(Part::Domains) {
        stage::say("domains on Xen");
        report.sections.push(("Domains on Xen".into(), section(bench::domains(arguments.idle_seconds))));
    }
    if wanted(Part::Faults) {
        stage::say("faults on Xen, instructions counted");
        let rows = section(bench::faults());
        report.sections.push(("Faults on Xen, from user mode to user mode, in instructions".into(), rows));
    }
    if wanted(Part::Clones) {
        stage::say("clones on Xen");
        let title = "Clones on Xen: with what earlier ones touched mapped ahead, and without (as floor)";
        report.sections.push((title.into(), section(bench::clones(arguments.turns))));
    }
    if wanted(Part::Storage) {
        stage::say("disks of stock guests on Xen");
        let title = "Storage on Xen: M1's disks beside xen-blkback's and dm-snapshot's (as floor)";
        report.sections.push((title.into(), section(bench::storage(arguments.turns, !arguments.no_boots))));
    }
    println!("{report}");
    if let Some(path) = &arguments.json {
        let sections =
            report.sections.iter().map(|(title, rows)| serde_json::json!({"title": title, "rows": rows}));
        let about: serde_json::Map<_, _> =
            report.about.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let json = serde_json::json!({
            "about": about,
            "sections": sections.collect::<Vec<_>>(),
            "engine": rates,
        });
        fs::write(path, format!("{json:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows of a part; one that says why if there are none.
fn section(rows: Result<Vec<Row>>) -> Vec<Row> {
    rows.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        let why = error.to_string().lines().next().unwrap_or_default().to_owned();
        vec![Row::not_measured("all of it", "", why)]
    })
}

/// What the engine's tables cost: a gigabyte of pages, as many references, 256 clients.
fn metadata() -> Vec<Row> {
    let sizes = TableSizes::new(1 << 18, 1 << 18, 256, 256, 512);
    vec![
        Row::value("M1's tables for each page of the store", sizes.bytes_per_frame(), "bytes").budget(40.0),
        // The grant entry itself is 8 of Xen's; docs/BENCH.md has the sum with Xen's own tracking.
        Row::value("M1's tables for each reference", sizes.bytes_per_reference(), "bytes")
            .budget(8.0)
            .note("Xen itself keeps 40 (grantor) and 16 (mapper) more"),
    ]
}

/// The machine and the day.
fn about() -> Vec<(String, String)> {
    let said = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&done.stdout).lines().next()?.trim().to_owned();
        (done.status.success() && !text.is_empty()).then_some(text)
    };
    let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let found = [
        ("date", said("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        ("commit", said("git", &["rev-parse", "--short", "HEAD"])),
        ("host's processor", processor),
        ("host's processors", std::thread::available_parallelism().ok().map(|count| count.to_string())),
        ("QEMU", said("qemu-system-x86_64", &["--version"])),
    ];
    found.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
