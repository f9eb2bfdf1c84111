//! Debian's system boots from M1 and writes over what all share, in every way that people start guests.

use std::time::Duration;

use m1_tests::m1::m1;

use crate::bed::{ADDRESSES, MACHINE, stock};

/// A boot takes half a minute on an emulated processor, and some run at once.
const LIMIT: Duration = Duration::from_secs(300);

/// An example of `xl-config/`, what the guest does, and what its console has to say besides.
const GUESTS: [(&str, &str, &[&str]); 2] = [
    (
        "linux-pv.cfg",
        "write",
        &["job: the file is as it was written", "job: the package is there", "init: e2fsck ended with 0"],
    ),
    (
        "linux-pvh.cfg",
        "write",
        &["job: the file is as it was written", "job: the package is there", "init: e2fsck ended with 0"],
    ),
];

#[test]
fn the_same_system_boots_as_pv_and_pvh_and_each_guest_keeps_what_it_writes() {
    let dom0 = MACHINE.get();
    let config = m1(&["/dev/vda", "/dev/vdb"], "volume=debian:xvda volume=debian-erofs:xvdb");
    let m1 = dom0.start_m1("boots-m1", ADDRESSES[0], config).expect("M1 starts");
    let guests = GUESTS.map(|(example, job, said)| {
        let name = format!("boots-{}", example.trim_end_matches(".cfg"));
        (stock(&dom0, &name, example, m1.name(), job), job, said)
    });
    for (guest, job, said) in guests {
        let ended = guest.wait_end(LIMIT);
        let log = guest.log().expect("a console");
        let m1_log = || m1.log().unwrap_or_default();
        ended.unwrap_or_else(|error| panic!("{error:#}\n{log}\n{}", m1_log()));
        let ended = format!("init: job {job} ended with 0");
        for line in said.iter().chain(&[&*ended, "init: done"]) {
            assert!(
                log.lines().any(|said| said.trim_end() == *line),
                "{}: no {line:?} in\n{log}\n{}",
                guest.name(),
                m1_log()
            );
        }
        assert!(!log.contains("I/O error"), "{log}");
    }
    m1.destroy().expect("it ends");
}
