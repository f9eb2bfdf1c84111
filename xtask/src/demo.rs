//! `cargo demo`: the whole idea on real Xen, on one screen.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use m1_tests::demo::{self, Deb, Workload};
use m1_tests::image;
use m1_tests::stage::Stages;

/// From the boot of the machine on: it takes less than three minutes on two processors that have nothing else to do.
const LIMIT: Duration = Duration::from_secs(900);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// So many clients
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(demo::CLIENTS_MAX)))]
    clients: u32,
    /// The clients run a program of this Debian package: name it with its arguments behind `--`. In the volume there are
    /// /srv/demo/data.bin and /srv/demo/lines, with fresh random content.
    #[arg(long, value_name = "PACKAGE", requires = "program")]
    deb: Option<String>,
    /// Leaves everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Writes every number to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Makes this run the one that the README and docs/demo.json show, if all that it checks holds
    #[arg(long, conflicts_with_all = ["clients", "deb"])]
    picture: bool,
    /// The program of --deb with its arguments
    #[arg(last = true, requires = "deb", value_name = "PROGRAM")]
    program: Vec<String>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let stages = Stages::new(demo::STAGES);
    stages.next("Debian packages: Xen, its tools and a dom0, unpacked under target/");
    demo::packages()?;
    stages.next("M1's image and those of its clients");
    let images = ["mm-kernel", "mm-guest", "mm-unikernel"]
        .map(image::build)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let deb = arguments.deb.zip(arguments.program.split_first()).map(|(package, (program, rest))| Deb {
        package,
        program: program.clone(),
        arguments: rest.to_vec(),
    });
    stages.next("a volume of Debian packages and fresh random files; the same programs on this host");
    let workload = Workload::prepare(arguments.clients, deb.as_ref())?;

    let limit = Limit::start();
    let started = Instant::now();
    stages.next("Xen and dom0 boot");
    let dom0 = demo::boot(&workload, &images)?;
    let report = match demo::run(&dom0, &workload, &images, &stages, started) {
        Ok(report) => report,
        Err(error) => {
            drop(stages);
            eprintln!("{}", dom0.diagnostics());
            return Err(error);
        }
    };
    drop(stages);
    drop(limit);
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{report}");
    if arguments.picture && report.good() {
        demo::picture::replace(&report)?;
    }
    if arguments.keep {
        println!("  It answers now; `cargo demo` goes on until Ctrl-C.");
        loop {
            thread::park();
        }
    }
    println!("  With --keep it answers until Ctrl-C.");
    Ok(if report.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ends the process when it takes too long, whatever it waits for; the machine ends with it. Until it is dropped.
struct Limit {
    _over: mpsc::Sender<()>,
}

impl Limit {
    fn start() -> Self {
        let (over, wait) = mpsc::channel();
        thread::spawn(move || {
            if wait.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!(
                    "error: the demonstration takes longer than {} s: is the host busy?",
                    LIMIT.as_secs()
                );
                std::process::exit(124);
            }
        });
        Self { _over: over }
    }
}
