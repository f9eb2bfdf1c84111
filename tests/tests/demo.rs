//! `cargo demo` as its users run it: everything that it checks holds, and its screen is what the README shows.

use std::time::Instant;

use m1_tests::demo::{self, Workload, picture};
use m1_tests::image;
use m1_tests::stage::Stages;

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
