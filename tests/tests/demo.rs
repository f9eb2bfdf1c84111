//! `cargo demo` as its users run it: everything that it checks holds, and the main job's screen is what the README shows.

use std::time::Instant;

use m1_tests::demo::storage::{self, StorageStory};
use m1_tests::demo::{self, Workload, picture};
use m1_tests::stage::Stages;
use m1_tests::{full, image};

/// Clients, as many as `cargo demo` has by itself.
const CLIENTS: u32 = 3;

#[test]
fn the_demonstration_holds_what_it_shows_and_the_readme_shows_it() {
    let images = ["mm-kernel", "mm-guest", "mm-unikernel"].map(|name| image::build(name).expect("an image"));
    let workload = Workload::prepare(CLIENTS, None).expect("a volume, and what Linux makes of it");
    let started = Instant::now();
    let dom0 = demo::boot(&workload, &images).expect("Xen and dom0 boot");
    let stages = Stages::new(demo::STAGES);
    let report = match demo::run(&dom0, &workload, &images, &stages, started) {
        Ok(report) => report,
        Err(error) => panic!("{error:#}\n{}", dom0.diagnostics()),
    };
    eprintln!("{report}");
    assert!(report.good(), "not all holds (seed {})\n{}", report.seed, dom0.diagnostics());
    let readme = picture::in_readme().expect("the README's picture");
    assert_eq!(
        picture::form(&picture::screen(&report)),
        picture::form(&readme),
        "the README shows another screen: `cargo demo --picture` makes it anew"
    );
}

/// What it is made of is in `tests/tests/storage`, so it is told in the full form only.
#[test]
fn the_story_of_storage_holds_what_it_shows() {
    if !full::wanted() {
        return;
    }
    let image = image::build("mm-kernel").expect("an image");
    let story = StorageStory::prepare(CLIENTS).expect("a base");
    let started = Instant::now();
    let dom0 = story.boot(&image).expect("Xen and dom0 boot");
    let report = match story.run(&dom0, &Stages::new(storage::STAGES), started) {
        Ok(report) => report,
        Err(error) => panic!("{error:#}\n{}", dom0.diagnostics()),
    };
    eprintln!("{report}");
    assert!(report.good(), "not all holds\n{}", dom0.diagnostics());
}
