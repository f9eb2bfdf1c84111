//! Stock guests that ask for as much as they can.

use std::time::Duration;

use m1_tests::full;

use crate::bed::{LIMIT, MACHINE, assert_no_bugs, ended, keeping, turn, worker};

#[test]
fn fio_verifies_what_it_wrote_flushed_and_discarded_and_a_filesystem_is_clean() {
    let _turn = turn();
    let dom0 = MACHINE.get();
    let m1 = keeping(&dom0, "m1-verify", "/dev/vde");
    // One keeps what it writes; of the other, which comes in the full form, nothing lasts.
    let targets = [("verify-kept", "lines+verified"), ("verify-passing", "lines")];
    let guests: Vec<_> = targets[..full::or(1, 2)]
        .iter()
        .map(|(name, target)| {
            worker(&dom0, name, &m1, target, &format!("verify size={}", full::or("3m", "6m")))
        })
        .collect();
    for guest in guests {
        let log = ended(
            &guest,
            &m1,
            &[
                "job: mixed writing is clean",
                "job: writing in odd sizes is clean",
                "job: discarding is clean",
                "job: writing what was discarded is clean",
                "job: mke2fs is clean",
                "job: fsck is clean",
                "job: the files are as they were written",
                "init: job verify ended with 0",
            ],
        );
        assert!(!log.contains("I/O error"), "{log}");
    }
    assert_no_bugs(&m1);
    let metrics = m1.metrics().expect("/metrics");
    assert_eq!(metrics.get("m1_block_errors_total"), 0.0);
    m1.destroy().expect("it ends");
}

#[test]
fn a_guest_that_is_destroyed_under_load_leaves_nothing_behind() {
    if !full::wanted() {
        return;
    }
    let _turn = turn();
    let dom0 = MACHINE.get();
    let m1 = keeping(&dom0, "m1-load", "/dev/vde");
    let before = m1.metrics().expect("/metrics");
    let guests = [
        worker(&dom0, "load-kept", &m1, "lines+loaded", "load"),
        worker(&dom0, "load-passing", &m1, "lines", "load"),
    ];
    let domids = guests.each_ref().map(|guest| guest.domid());
    for guest in guests {
        guest.wait_log("job: begins", LIMIT).expect("it works");
        let name = guest.name().to_owned();
        m1.wait_metrics(LIMIT, &["m1_client_block_requests_total"], |metrics| {
            let domid = guest.domid().to_string();
            let of = |operation| {
                let mut found = metrics.samples("m1_client_block_requests_total").filter(|sample| {
                    sample.labels.get("domid") == Some(&domid)
                        && sample.labels.get("operation").is_some_and(|found| found == operation)
                });
                found.any(|sample| sample.value > 100.0)
            };
            of("write") && of("read")
        })
        .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        guest.destroy().expect("xl destroy");
    }
    let after = m1
        .wait_metrics(
            Duration::from_secs(60),
            &["m1_devices", "m1_block_frontends", "m1_overlay_open"],
            |metrics| {
                ["m1_devices", "m1_block_frontends"].iter().all(|name| metrics.get(name) == before.get(name))
                    && metrics.sum("m1_overlay_open") == 0.0
            },
        )
        .expect("everything goes");
    let same = ["m1_event_channels", "m1_grant_entries_own"];
    assert_eq!(before.differences(&after, &same), "");
    let dirty = |metrics: &m1_tests::metrics::Metrics| metrics.with("m1_memory_bytes", &[("state", "dirty")]);
    assert_eq!(dirty(&after), dirty(&before), "what was in memory only is gone");
    for domid in domids {
        let there = dom0
            .run(&format!("xenstore-exists /local/domain/{}/backend/vbd/{domid}", m1.domid()))
            .expect("xenstore-exists");
        assert_ne!(there.code, 0, "M1 leaves its directory for {domid}");
    }
    assert_no_bugs(&m1);
    m1.destroy().expect("it ends");
}
