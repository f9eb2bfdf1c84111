//! Disks that come and go while a stock guest runs.

use crate::bed::{LIMIT, MACHINE, assert_no_bugs, ended, keeping, turn, worker};

#[test]
fn a_disk_is_attached_to_a_running_guest_detached_and_attached_again_with_what_was_written() {
    let _turn = turn();
    let dom0 = MACHINE.get();
    let m1 = keeping(&dom0, "m1-attach", "/dev/vde");
    let guest = worker(&dom0, "attach", &m1, "lines", "attach");
    guest.wait_log("job: waits", LIMIT).expect("it boots");
    let disk = format!("format=raw,vdev=xvdc,access=rw,backend={},target=lines+attached", m1.name());
    let attach = || dom0.sh(&format!("xl block-attach {} '{disk}'", guest.domid())).expect("xl block-attach");
    attach();
    guest.wait_log("job: written ", LIMIT).expect("it writes");
    dom0.sh(&format!("xl block-detach {} xvdc", guest.domid())).expect("xl block-detach");
    guest.wait_log("job: it has gone", LIMIT).expect("the disk goes");
    attach();
    let log = ended(&guest, &m1, &["init: job attach ended with 0"]);
    let sum = |word: &str| {
        let line = log.lines().find_map(|line| line.trim_end().strip_prefix(word));
        line.unwrap_or_else(|| panic!("no {word:?} in\n{log}")).to_owned()
    };
    assert_eq!(sum("job: found "), sum("job: written "), "{log}");
    assert!(!log.contains("I/O error"), "{log}");
    assert_no_bugs(&m1);
    m1.destroy().expect("it ends");
}
