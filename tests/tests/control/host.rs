//! What the tool does with this host: its bounds, a test of everything, a pool of domains, and the one process that reaps them.

use std::time::{Duration, Instant};

use m1_tests::m1::{client, m1};

use crate::bed::Bed;

#[test]
fn the_selftest_finds_that_m1_works_and_leaves_nothing_behind() {
    let bed = Bed::get();
    let before = bed.sh("xl list | tail -n +2 | wc -l; losetup -a | wc -l; ls /run/m1ctl 2>/dev/null | grep -c selftest || true");
    let output = bed.m1ctl("selftest");
    println!("{}{}", output.stdout_text(), output.stderr_text());
    assert_eq!(output.code, 0);
    let told = bed.json("selftest --disk /dev/vda");
    assert_eq!(told["good"], true, "{told}");
    let after = bed.sh("xl list | tail -n +2 | wc -l; losetup -a | wc -l; ls /run/m1ctl 2>/dev/null | grep -c selftest || true");
    assert_eq!(before.expect("it ran"), after.expect("it ran"));

    // Ctrl-C in the middle leaves nothing either.
    let script = "m1ctl selftest & child=$!; while ! xl list | grep -q selftest; do usleep 100000; done; kill -INT $child; wait $child";
    let output = bed.run(script).expect("it ends");
    assert_eq!(output.code, 4, "{}{}", output.stdout_text(), output.stderr_text());
    assert_eq!(bed.sh("xl list | grep -c selftest || true").expect("it ran").trim(), "0");
    assert_eq!(bed.m1ctl("selftest --images /nowhere").code, 5);
}

#[test]
fn the_doctor_says_what_stops_a_fleet() {
    let bed = Bed::get();
    let m1 = bed.m1();
    println!("{}", bed.m1ctl("doctor").stdout_text());
    let few = bed.json("doctor --clients 10 --mapped 10");
    assert_eq!(few["enough"], true, "{few}");
    let output = bed.m1ctl("--json doctor --clients 100 --mapped 100");
    assert_eq!(output.code, 1, "{}", output.stderr_text());
    let many: serde_json::Value = serde_json::from_str(&output.stdout_text()).expect("JSON");
    let check = |what: &str| {
        let checks = many["checks"].as_array().expect("a list");
        checks.iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("{what}: {many}")).clone()
    };
    assert_eq!(check("Xen")["verdict"], "good");
    // 64 frames at Xen's defaults, and 1000 nodes at oxenstored's.
    let grants = check("grant table");
    assert_eq!(grants["verdict"], "short");
    assert!(
        grants["advice"].as_str().is_some_and(|advice| advice.contains("gnttab_max_frames=5005")),
        "{grants}"
    );
    assert_eq!(check("xenstore nodes")["clients"], 34);
    // M1's configuration says 4095.
    assert_eq!(check("event channels")["verdict"], "good");
    let screens = bed.m1ctl("top --count 2 --every 0.2").stdout_text();
    assert_eq!(screens.matches("m1: 0 clients").count(), 2, "{screens}");
    m1.destroy().expect("xl destroy");
}

#[test]
fn domains_of_a_pool_wait_and_one_process_reaps_them_all() {
    let bed = Bed::get();
    let m1 = bed.m1();
    let config =
        client("mm-guest", "m1", "base", "init=/bin/busybox -- true").with("memory", 16).with("vif", "[]");
    bed.put("/run/base.cfg", 0o644, format!("name = \"x\"\n{config}").as_bytes()).expect("written");
    let before = bed.sh("xl info free_memory; ps | grep -c '[x]l create' || true").expect("it ran");
    let made = bed.json("pool start --size 3 --config /run/base.cfg");
    assert_eq!(made["members"], serde_json::json!(["pool-1", "pool-2", "pool-3"]));
    let status = bed.json("pool status");
    let states: Vec<_> =
        status["members"].as_array().expect("a list").iter().map(|m| m["state"].clone()).collect();
    assert_eq!(states, ["waiting"; 3], "{status}");
    println!("{}", bed.sh("xl list -v; ps | grep -E '[m]1ctl|[x]l '; ls -R /run/m1ctl").expect("it ran"));
    // Two of them: the number of reapers does not depend on the number of domains.
    assert_eq!(bed.sh("ps | grep -c '[m]1ctl reap'").expect("it ran").trim(), "1");
    assert_eq!(
        bed.sh("ps | grep -c '[x]l create' || true").expect("it ran").trim(),
        before.lines().nth(1).unwrap_or("0").trim()
    );

    // It may be gone before xl has heard that it goes.
    let _ = bed.run("xl shutdown pool-2").expect("it ran");
    gone(&bed, "pool-2");
    assert_eq!(bed.json("pool status")["members"].as_array().map(Vec::len), Some(2));
    assert_eq!(bed.json("pool stop")["ended"], serde_json::json!(["pool-1", "pool-3"]));
    assert_eq!(bed.json("pool status")["members"].as_array().map(Vec::len), Some(0));
    // Nothing to reap, and nobody who does.
    let script = "while ps | grep -q '[m]1ctl reap'; do usleep 100000; done";
    let ended = bed.run_with(script, &[], Duration::from_secs(60));
    assert!(ended.is_ok(), "the reaper ends when nothing is left");
    m1.destroy().expect("xl destroy");
}

/// Waits until a domain is gone: its reaper hears of its end from xenstore.
fn gone(bed: &Bed, name: &str) {
    let begin = Instant::now();
    while bed.run(&format!("xl domid {name}")).expect("it ran").code == 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{name} is not reaped: {}",
            bed.sh("xl list").unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The M1 of these scenarios is the usual one; only here is it one without a network card.
#[test]
fn an_m1_without_a_network_card_is_controlled_all_the_same() {
    let bed = Bed::get();
    let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", 32).with("vif", "[]");
    let guest = bed.create("lonely", &config.to_string()).expect("it starts");
    let begin = Instant::now();
    while bed.m1ctl("--m1 lonely ping").code != 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", guest.log().unwrap_or_default());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(bed.json("--m1 lonely volumes")["volumes"][0]["name"], "base");
    guest.destroy().expect("xl destroy");
}
