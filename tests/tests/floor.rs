//! The unsafe floor on real Xen: `floor-test` tries out hypercalls, grants, mappings and traps in a domain of its own, and holds
//! Xen to the record of result codes that the fake Xen is held to on the host (`xen::conformance`).

use std::time::Duration;

use m1_tests::{Dom0, image};

/// What takes seconds, on a busy host.
const LIMIT: Duration = Duration::from_secs(120);
/// Tests at least: an image that tries nothing has not passed.
const LEAST: usize = 25;

#[test]
fn the_floor_holds_on_real_xen_and_the_fake_says_what_xen_says() {
    let image = image::build("floor-test").expect("an image");
    let dom0 = Dom0::builder().image(&image).boot().expect("Xen and dom0 boot");
    let config = "kernel = \"/srv/m1/floor-test\"\nmemory = 32\n";
    let guest = dom0.create("floor", config).expect("the domain starts");
    guest.wait_end(LIMIT).expect("it ends");
    let log = guest.log().expect("a console");
    let passed: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("ok ")).collect();
    assert!(log.contains("floor-test done, 0 failed"), "{log}\n{}", dom0.diagnostics());
    assert!(passed.len() >= LEAST && passed.contains(&"conformance"), "{log}");
}
