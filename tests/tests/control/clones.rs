//! Freezing a program, clones of it, and what becomes of them: all of it through the tool.

use std::time::Duration;

use m1_tests::Guest;
use m1_tests::m1::client;

use crate::bed::{Bed, CLIENT};

/// Counts, and says so when it finds itself in another domain.
const PROGRAM: &str = "import time,itertools; seen=[]; \
    any((seen.append(g) or print('generation',g,n,flush=True)) if g not in seen else time.sleep(0.02) \
    for n in itertools.count(1) for g in [open('/proc/m1/generation').read().strip()])";

/// What a console says of generations: each with the count at which it began.
fn generations(log: &str) -> Vec<(String, u64)> {
    let lines = log.lines().filter_map(|line| line.split_once("generation "));
    lines
        .filter_map(|(_, rest)| {
            let (generation, count) = rest.trim().split_once(' ')?;
            Some((generation.to_owned(), count.parse().ok()?))
        })
        .collect()
}

#[test]
fn a_program_is_frozen_and_cloned_and_its_snapshot_removed() {
    let bed = Bed::get();
    let m1 = bed.m1_with_programs();
    let config = client("mm-guest", "m1", "programs", &format!("init=/usr/bin/python3 -- -c \"{PROGRAM}\""));
    let warm = bed.create("warm", &config.with("memory", 64).to_string()).expect("the client starts");
    wait_generation(&bed, "warm");

    let output = bed.m1ctl("freeze warm w@rm");
    assert_eq!(output.code, 1, "{}", output.stderr_text());
    let frozen = bed.json("freeze warm first");
    println!("{frozen}");
    assert_eq!((&frozen["volume"], &frozen["snapshot"]), (&"programs".into(), &"first".into()));
    assert!(frozen["captured_pages"].as_u64().is_some_and(|pages| pages > 100), "{frozen}");
    let output = bed.m1ctl("freeze warm first");
    assert_eq!(output.code, 1, "{}", output.stderr_text());
    assert!(output.stderr_text().contains("has a snapshot of this name"), "{}", output.stderr_text());
    println!("{}", bed.m1ctl("snapshots").stdout_text());
    println!("{}", bed.sh("cat /var/lib/m1ctl/configs/*.cfg").expect("it is kept"));

    // Two made now, by the configuration that was kept.
    let made = bed.json("clone first --count 2 --name copy-{}");
    println!("{made}");
    assert_eq!(made["snapshot"], "programs@first");
    let source = generations(&warm.log().expect("a log"));
    let mut all = source.clone();
    for clone in made["clones"].as_array().expect("a list") {
        assert_eq!(clone["from"], "created");
        for time in ["toolstack_ns", "boot_ns", "attach_ns", "total_ns"] {
            assert!(clone[time].as_u64().is_some_and(|time| time > 0), "{time}: {clone}");
        }
        let name = clone["name"].as_str().expect("a name");
        let log = wait_generation(&bed, name);
        let said = generations(&log);
        assert!(said[0].1 > source[0].1, "it goes on and does not begin again: {log}");
        all.extend(said);
    }
    let mut distinct: Vec<&String> = all.iter().map(|(generation, _)| generation).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "each domain has a generation of its own: {all:?}");

    // One that waited.
    let started = bed.m1ctl("pool start --size 1 --config /var/lib/m1ctl/configs/programs@first.cfg");
    assert_eq!(started.code, 0, "{}{}", started.stdout_text(), started.stderr_text());
    let pooled = bed.json("clone programs@first --name copy-3");
    println!("{pooled}");
    assert_eq!(pooled["clones"][0]["from"], "pool");
    assert_eq!(bed.json("pool status")["members"].as_array().map(Vec::len), Some(0));
    println!("{}", bed.m1ctl("clone first --name copy-4").stdout_text());
    println!("{}{}", bed.m1ctl("status").stdout_text(), bed.m1ctl("trace copy-1").stdout_text());

    // Removed when nobody needs it, and not before.
    let output = bed.m1ctl("rm first");
    assert_eq!(output.code, 1, "{}", output.stderr_text());
    assert!(output.stderr_text().contains("running domains need it"), "{}", output.stderr_text());
    for clone in ["copy-1", "copy-2", "copy-3", "copy-4"] {
        bed.sh(&format!("xl destroy {clone}")).expect("xl destroy");
    }
    let script = "until m1ctl rm first; do sleep 1; done";
    let removed = bed.run_with(script, &[], Duration::from_secs(60));
    assert!(removed.is_ok(), "{}", bed.m1ctl("snapshots").stdout_text());
    assert_eq!(bed.json("snapshots")["snapshots"].as_array().map(Vec::len), Some(0));
    assert_eq!(bed.m1ctl("clone first").code, 1);
    assert_eq!(generations(&warm.log().expect("a log")), source, "the source is unaware of all this");
    end(warm);
    m1.destroy().expect("xl destroy");
}

fn wait_generation(bed: &Bed, name: &str) -> String {
    let file = format!("/var/log/xen/console/guest-{name}.log");
    let script = format!(
        "until grep -q 'generation [0-9a-f-]* [0-9]' {file} 2>/dev/null; do usleep 100000; done; cat {file}"
    );
    let output = bed.run_with(&script, &[], CLIENT);
    output.unwrap_or_else(|_| panic!("{name}: {}", bed.guest_log(name).unwrap_or_default())).stdout_text()
}

fn end(guest: Guest<'_>) {
    guest.destroy().expect("xl destroy");
}
