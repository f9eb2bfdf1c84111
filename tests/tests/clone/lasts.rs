//! A snapshot that is to last is there after M1 was killed, and its clones have the right bytes on pages that nobody has mapped since.

use crate::bed::{Bed, LIMIT, SAME, WARM, line};

#[test]
fn clones_of_a_durable_snapshot_go_on_after_m1_was_killed_and_started_again() {
    let bed = Bed::get();
    let first = bed.m1_with_store(96);
    let source = bed.python("lasting", "", WARM);
    source.wait_log("warm", LIMIT).expect("it is warm");
    println!("{}", bed.does("freeze lasting kept --persist"));
    // One that is only in memory goes with M1.
    bed.does("freeze lasting fleeting");
    bed.go(&source);
    let told = bed.ended(&source);
    source.wait_end(LIMIT).expect("the domain is gone");
    first.destroy().expect("it is killed");

    let second = bed.m1_with_store(96);
    let deadline = std::time::Instant::now() + LIMIT;
    while bed.ready() != ["kept"] {
        let late = std::time::Instant::now() > deadline;
        assert!(!late, "{}\n{}", bed.does("snapshots"), second.log().unwrap_or_default());
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    println!("{}", bed.does("snapshots"));
    let clones = ["again-1", "again-2"].map(|name| bed.clone(name, "kept", ""));
    for clone in &clones {
        bed.go(clone);
        let log = bed.ended(clone);
        for word in SAME {
            assert_eq!(line(&log, word), line(&told, word), "{}", second.log().unwrap_or_default());
        }
        clone.wait_end(LIMIT).expect("the domain is gone");
    }
    bed.does("rm base@kept");
    let metrics = second.metrics().expect("/metrics");
    for bugs in ["m1_engine_bugs", "m1_store_bugs"] {
        assert_eq!(metrics.get(bugs), 0.0, "{bugs}: {}", second.log().unwrap_or_default());
    }
    second.destroy().expect("it ends");
}
