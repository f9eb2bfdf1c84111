//! The main job: clients that share pages.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use m1_tests::demo::{self, Deb, Workload};
use m1_tests::image;
use m1_tests::stage::Stages;

use super::Limit;

/// What only this story can be told.
#[derive(clap::Args)]
#[group(id = "memory")]
pub(super) struct Only {
    /// The clients run a program of this Debian package: name it with its arguments behind `--`. In the volume there are
    /// /srv/demo/data.bin and /srv/demo/lines, with fresh random content.
    #[arg(long, value_name = "PACKAGE", requires = "program")]
    deb: Option<String>,
    /// Makes this run the one that the README and docs/demo.json show, if all that it checks holds
    #[arg(long, conflicts_with_all = ["clients", "deb", "story"])]
    picture: bool,
    /// The program of --deb with its arguments
    #[arg(last = true, requires = "deb", value_name = "PROGRAM")]
    program: Vec<String>,
}

pub(super) fn run(all: &super::Arguments) -> Result<ExitCode> {
    let arguments = &all.memory;
    let stages = Stages::new(demo::STAGES);
    stages.next("Debian packages: Xen, its tools and a dom0, unpacked under target/");
    demo::packages()?;
    stages.next("M1's image and those of its clients");
    let images = ["mm-kernel", "mm-guest", "mm-unikernel"]
        .map(image::build)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let deb = arguments.deb.clone().zip(arguments.program.split_first());
    let deb = deb.map(|(package, (program, rest))| Deb {
        package,
        program: program.clone(),
        arguments: rest.to_vec(),
    });
    stages.next("a volume of Debian packages and fresh random files; the same programs on this host");
    let workload = Workload::prepare(all.clients, deb.as_ref())?;

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
    if arguments.picture && report.good() {
        demo::picture::replace(&report)?;
    }
    super::show(all, &report, report.good())
}
