//! A warm program, and many that go on from it.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use m1_tests::demo::{self, clone};
use m1_tests::image;
use m1_tests::stage::Stages;

use super::Limit;

pub(super) fn run(all: &super::Arguments) -> Result<ExitCode> {
    ensure!(all.clients <= clone::CLONES_MAX, "--clients is at most {} in this story", clone::CLONES_MAX);
    let stages = Stages::new(clone::STAGES);
    stages.next("Debian packages: Xen, its tools and a dom0, unpacked under target/");
    demo::packages()?;
    stages.next("M1's image, its client's, and m1ctl");
    let images = ["mm-kernel", "mm-guest"].map(image::build).into_iter().collect::<Result<Vec<_>>>()?;
    let story = clone::CloneStory::prepare(all.clients)?;

    let limit = Limit::start();
    let started = Instant::now();
    stages.next("Xen and dom0 boot");
    let dom0 = story.boot(&images)?;
    let report = match story.run(&dom0, &stages, started) {
        Ok(report) => report,
        Err(error) => {
            drop(stages);
            eprintln!("{}", dom0.diagnostics());
            return Err(error);
        }
    };
    drop(stages);
    drop(limit);
    super::show(all, &report, report.good())
}
