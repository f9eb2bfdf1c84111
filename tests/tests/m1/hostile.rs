//! Domains that lie.

use m1_tests::m1::{M1, disk};
use m1_tests::unikernel::wait_rounds;

use crate::bed::{BASE_PAGES, Bed, CLIENT, digest_of};
use crate::leaving::{RESOURCES, wait_all_back};

/// Breaches of the ring's rules (`hostile=` of the unikernel), and the counter that shows each.
const WAYS: [(u32, &str); 5] = [
    (1, "m1_ring_faults_total"),
    (2, "m1_protocol_faults_total"),
    (3, "m1_protocol_faults_total"),
    (4, "m1_protocol_faults_total"),
    (5, "m1_devices_closed_total"),
];

/// What a liar prints that got what `got` says by guessing.
fn line(got: &str) -> String {
    let (references, ports) = got.split_once("; ").expect("two parts");
    format!("guessed 4096 references: {references}; guessed 512 ports: {ports}")
}

#[test]
fn a_client_that_lies_loses_its_device_and_nobody_else_notices() {
    let bed = Bed::get();
    let m1 = bed.m1("");
    let empty = m1.metrics().expect("/metrics");
    // Somebody whose references there are to be guessed.
    let honest = bed.unikernel(&m1, "hold=1");
    honest.wait_log("holding", CLIENT).expect("it stays");
    let before = m1.metrics().expect("/metrics");
    for (number, (how, counter)) in (1..).zip(WAYS) {
        let (counted, liar) = (m1.metrics().expect("/metrics").get(counter), bed.name("liar"));
        let config = bed.unikernel_config(&m1, &format!("hostile={how}"));
        let liar = bed.create(&liar, &config.to_string()).expect("the liar starts");
        let log = liar.wait_log(&format!("to hostile={how}"), CLIENT).expect("M1 closes the device");
        // Its own ring can be mapped both ways, its info page can be read, and the port is its own already.
        assert!(log.contains(&line("readable=2 writable=1; bound=0")), "{log}");
        assert!(log.contains("M1 says Ok(Ending)") || log.contains("M1 says Ok(Gone)"), "{log}");
        liar.wait_end(CLIENT).expect("it ends");
        let after = m1
            .wait_metrics(CLIENT, &RESOURCES, |now| before.differences(now, &RESOURCES).is_empty())
            .expect("what it had comes back");
        assert_eq!(after.get("m1_devices_closed_total"), f64::from(number), "hostile={how}");
        assert!(after.get(counter) >= counted + 1.0, "hostile={how}: {counter}");
    }
    // The honest one has all that it had, and others get the same.
    assert_mapped(&m1, &bed, honest.domid());
    let next = bed.unikernel(&m1, "");
    assert_eq!(wait_rounds(&next, 1, CLIENT).expect("a digest")[0].digest, digest_of(0..BASE_PAGES));
    next.wait_end(CLIENT).expect("it ends");
    honest.destroy().expect("xl destroy");
    wait_all_back(&m1, &empty);
    bed.finish(m1);
}

fn assert_mapped(m1: &M1<'_>, bed: &Bed, client: u16) {
    let grants = bed.grants().expect("xl debug-keys g");
    assert_eq!(m1.pages_mapped(&grants, client).expect("Xen's count").len(), BASE_PAGES);
}

#[test]
fn a_domain_that_dom0_did_not_introduce_gets_nothing() {
    let bed = Bed::get();
    let m1 = bed.m1("");
    let empty = m1.metrics().expect("/metrics");
    let honest = bed.unikernel(&m1, "hold=1");
    honest.wait_log("holding", CLIENT).expect("it stays");
    let before = m1.metrics().expect("/metrics");
    // Its disk is dom0's; it has the frontend name M1 instead.
    let config = bed
        .unikernel_config(&m1, &format!("forge={}", m1.domid()))
        .with_list("disk", ["format=raw,vdev=xvda,access=r,target=/dev/vdb"]);
    let stranger = bed.create(&bed.name("stranger"), &config.to_string()).expect("the stranger starts");
    let log = stranger.wait_log("mm-unikernel: ", CLIENT).expect("it says something");
    assert!(log.contains(&line("readable=0 writable=0; bound=0")), "{log}");
    stranger.wait_end(CLIENT).expect("it ends");

    let after = m1
        .wait_metrics(CLIENT, &["m1_devices_forged_total"], |now| now.get("m1_devices_forged_total") > 0.0)
        .expect("M1 counts what it sees of it");
    assert_eq!(before.get("m1_devices_forged_total"), 0.0, "an honest client is no stranger");
    assert_eq!(before.differences(&after, &RESOURCES), "");
    let events = [
        "m1_devices_attached_total",
        "m1_devices_refused_total",
        "m1_requests_total",
        "m1_faults_served_total",
    ];
    assert_eq!(before.differences(&after, &events), "");
    assert_mapped(&m1, &bed, honest.domid());

    // What it forged is in nobody's way: dom0 gives it a device of M1's by the same number.
    let config = bed.unikernel_config(&m1, "pages=10").with_list("disk", [disk("xvda", m1.name(), "base")]);
    let next = bed.create(&bed.name("client"), &config.to_string()).expect("the client starts");
    assert_eq!(wait_rounds(&next, 1, CLIENT).expect("a digest")[0].digest, digest_of(0..10));
    next.wait_end(CLIENT).expect("it ends");
    honest.destroy().expect("xl destroy");
    wait_all_back(&m1, &empty);
    bed.finish(m1);
}
