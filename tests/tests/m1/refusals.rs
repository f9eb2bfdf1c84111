//! What M1 refuses, and says about it.

use std::time::{Duration, Instant};

use m1_tests::http;
use m1_tests::m1::{client, m1};
use m1_tests::raw_disk::PAGE;

use crate::bed::{Bed, OTHER_PAGES, address};
use crate::leaving::RESOURCES;

#[test]
fn a_wrong_volume_makes_xl_create_fail_and_m1_says_why() {
    let bed = Bed::get();
    let m1 = bed.m1("");
    let before = m1.metrics().expect("/metrics");
    let start = Instant::now();
    let config = client("mm-unikernel", m1.name(), "nowhere", "");
    let output = bed.xl_create("lost", &config.to_string()).expect("xl runs");
    assert_ne!(output.code, 0, "{}", output.stdout_text());
    let took = start.elapsed();
    assert!((5..30).contains(&took.as_secs()), "xl took {took:?}: {}", output.stderr_text());

    let log = m1.log().expect("M1's console");
    let line = log.lines().find(|line| line.contains("nowhere")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("target=nowhere") && line.contains("no volume has this name"), "{line}");
    let status = m1.status().expect("/status.json");
    let refusals = status["refusals"].as_array().expect("refusals");
    assert_eq!(refusals.len(), 1, "{status}");
    assert_eq!(refusals[0]["target"], "nowhere");
    assert_eq!(refusals[0]["reason"], "no volume has this name");

    // Nothing is left: not in xenstore, and not in M1.
    let backend = format!("/local/domain/{}/backend/vbd", m1.domid());
    let left = bed.run(&format!("xenstore-list {backend}")).expect("it ran").stdout_text();
    assert_eq!(
        left.trim(),
        "",
        "{}",
        bed.run(&format!("xenstore-ls {backend}")).expect("it ran").stdout_text()
    );
    let after = m1.metrics().expect("/metrics");
    assert_eq!(before.differences(&after, &RESOURCES), "");
    assert_eq!(after.get("m1_devices_refused_total"), 1.0);
    assert_eq!(after.get("m1_devices_attached_total"), 0.0);
    bed.finish(m1);
}

#[test]
fn wrong_options_and_a_missing_disk_are_named_and_the_rest_is_served() {
    let bed = Bed::get();
    let options = "volume=base:xvda volume=gone:xvdc volume=other:xvdb colour=red window=3 clients=many http_port=0 nonsense";
    let m1 = bed.start(m1(&["/dev/vda", "/dev/vdb"], options));
    let (log, status) = (m1.log().expect("M1's console"), m1.status().expect("/status.json"));
    let problems: Vec<&str> =
        status["problems"].as_array().expect("problems").iter().filter_map(|p| p.as_str()).collect();
    for word in ["colour=red", "window=3", "clients=many", "http_port=0", "nonsense"] {
        let said: Vec<&str> = log.lines().filter(|line| line.contains(word)).collect();
        // The line with which M1 repeats its options is none.
        let said: Vec<&&str> = said.iter().filter(|line| line.contains("option '")).collect();
        assert_eq!(said.len(), 1, "{word} in:\n{log}");
        assert_eq!(
            problems.iter().filter(|problem| problem.contains(word)).count(),
            1,
            "{word}: {problems:?}"
        );
    }
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert_eq!(log.lines().filter(|line| line.contains("volume gone")).count(), 1, "{log}");

    let state = |name: &str| {
        let volumes = status["volumes"].as_array().expect("volumes");
        volumes.iter().find(|volume| volume["name"] == name).expect("the volume")["state"].clone()
    };
    assert_eq!((state("base"), state("other")), ("serving".into(), "serving".into()));
    assert!(state("gone").as_str().is_some_and(|state| state.contains("no such disk")), "{status}");
    assert_eq!(m1.get("/ready").expect("an answer").status, 200);
    assert_eq!(m1.metrics().expect("/metrics").get("m1_config_problems"), 5.0);
    bed.finish(m1);
}

#[test]
fn an_m1_without_any_volume_says_so_and_is_not_ready() {
    let bed = Bed::get();
    let m1 = bed.start(m1(&[], "volume=base:xvda"));
    let answer = m1.get("/ready").expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.head);
    assert!(answer.body.contains("/status.json"), "{}", answer.body);
    assert_eq!(m1.get("/healthz").expect("an answer").status, 200);
    assert_eq!(m1.metrics().expect("/metrics").get("m1_ready"), 0.0);
    bed.finish(m1);
}

#[test]
fn two_m1s_serve_side_by_side_and_only_whom_they_are_told_to() {
    let bed = Bed::get();
    let first = bed.m1("");
    // The host's requests come from slirp's gateway.
    let options = "volume=other:xvda,group=others http_allow=192.168.0.0/16,10.0.2.2";
    let second = bed.start(m1(&["/dev/vdb"], options));
    let closed = address();
    let options = "volume=other:xvda http_allow=192.168.0.0/16,10.0.2.3";
    bed.create("m3", &{
        let [a, b, c, d] = closed;
        m1(&["/dev/vdb"], &format!("{options} ip={a}.{b}.{c}.{d}/24")).to_string()
    })
    .and_then(|guest| guest.wait_log("network: address", Duration::from_secs(20)))
    .expect("M1 starts");

    let (one, two) = (first.metrics().expect("/metrics"), second.metrics().expect("/metrics"));
    assert_eq!((one.samples("m1_volume_bytes").count(), two.samples("m1_volume_bytes").count()), (1, 1));
    let bytes = two.with("m1_volume_bytes", &[("volume", "other"), ("group", "others")]);
    assert_eq!(bytes, Some((OTHER_PAGES * PAGE) as f64));
    // What one is asked, the other does not count.
    let asked = |metrics: &m1_tests::metrics::Metrics| metrics.sum("m1_http_responses_total");
    for _ in 0..5 {
        first.get("/healthz").expect("an answer");
    }
    let (later, still) = (first.metrics().expect("/metrics"), second.metrics().expect("/metrics"));
    assert!(asked(&later) >= asked(&one) + 5.0, "{} {}", asked(&later), asked(&one));
    assert!(asked(&still) <= asked(&two) + 1.0, "{} {}", asked(&still), asked(&two));

    let port = bed.forwarded(closed, 80).expect("a port");
    let request = b"GET /healthz HTTP/1.1\r\nHost: m1\r\nConnection: close\r\n\r\n";
    let answer = http::exchange(port, request);
    assert!(answer.as_ref().map_or(true, String::is_empty), "not allowed, and answered: {answer:?}");

    bed.finish(first);
    assert_eq!(second.get("/ready").expect("an answer").status, 200, "one without the other");
    bed.finish(second);
    bed.sh("xl destroy m3").expect("xl destroy");
}
