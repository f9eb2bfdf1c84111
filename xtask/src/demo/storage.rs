//! Stock guests whose disks outlive M1.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use m1_tests::demo::{self, storage};
use m1_tests::image;
use m1_tests::stage::Stages;

use super::Limit;

pub(super) fn run(all: &super::Arguments) -> Result<ExitCode> {
    ensure!(all.clients <= storage::GUESTS_MAX, "--clients is at most {} in this story", storage::GUESTS_MAX);
    let stages = Stages::new(storage::STAGES);
    stages.next("Debian packages: Xen, its tools and a dom0, unpacked under target/");
    demo::packages()?;
    stages.next("M1's image");
    let image = image::build("mm-kernel")?;
    stages.next("m1-fsck, a small Debian system as the base, and a blank disk for M1's store");
    let story = storage::StorageStory::prepare(all.clients)?;

    let limit = Limit::start();
    let started = Instant::now();
    stages.next("Xen and dom0 boot");
    let dom0 = story.boot(&image)?;
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
