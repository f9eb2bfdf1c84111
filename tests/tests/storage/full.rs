//! A store without room: who wants more hears of it, and nobody else.

use m1_tests::full;

use crate::bed::{LIMIT, MACHINE, assert_no_bugs, ended, keeping, turn, worker};

#[test]
fn a_full_store_is_a_write_error_for_who_fills_it_and_no_loss_for_another() {
    // A full store is filled on the host every time.
    if !full::wanted() {
        return;
    }
    let _turn = turn();
    let dom0 = MACHINE.get();
    let m1 = keeping(&dom0, "m1-full", "/dev/vdf");
    let neighbour = worker(&dom0, "neighbour", &m1, "lines+neighbour", "neighbour");
    neighbour.wait_log("job: written", LIMIT).expect("it writes");
    let fills = worker(&dom0, "fills", &m1, "lines+fills", "fill");
    let log = ended(&fills, &m1, &["job: a write failed", "job: all can be read", "init: done"]);
    assert!(log.contains("I/O error, dev xvdb"), "{log}");
    let node = format!("/local/domain/{}/console/tty", neighbour.domid());
    dom0.sh(&format!("tty=$(xenstore-read {node}) && echo go on >\"$tty\"")).expect("a console");
    let log = ended(
        &neighbour,
        &m1,
        &["job: it is there", "job: it can be written over", "init: job neighbour ended with 0"],
    );
    assert!(!log.contains("I/O error"), "{log}");
    assert_no_bugs(&m1);
    m1.destroy().expect("it ends");
}
