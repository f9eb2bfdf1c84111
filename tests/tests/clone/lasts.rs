//! A snapshot that is to last is there after M1 was killed, and its clones have the right bytes on pages that nobody has mapped since.
//! One that is not on the disk goes from the first M1 to the second in a file.

use crate::bed::{Bed, LIMIT, SAME, WARM, line};

#[test]
fn clones_of_a_durable_or_an_exported_snapshot_go_on_in_the_next_m1() {
    let bed = Bed::get();
    let first = bed.m1_with_store(96);
    let source = bed.python("lasting", "", WARM);
    source.wait_log("warm", LIMIT).expect("it is warm");
    println!("{}", bed.does("freeze lasting kept --persist"));
    // One that is only in memory goes with M1, or in a file.
    bed.does("freeze lasting fleeting");
    let begin = std::time::Instant::now();
    let exported = bed.json("export fleeting /tmp/fleeting");
    println!("{exported} {:?}", begin.elapsed());
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
    // Under two names, in a frozen part that has pages of others already; damaged on the way under none.
    let begin = std::time::Instant::now();
    let carried = bed.json("import /tmp/fleeting carried");
    println!("{carried} {:?}", begin.elapsed());
    let again = bed.json("import /tmp/fleeting base@twice --persist");
    println!("{again} {:?}", begin.elapsed());
    assert_eq!(again["pages"], again["known_pages"], "equal pages are there once");
    bed.sh("printf x | dd of=/tmp/fleeting bs=1 seek=5000000 conv=notrunc").expect("it is there");
    let damaged = bed.m1ctl("import /tmp/fleeting damaged");
    assert_eq!(damaged.code, 1, "{}", damaged.stderr_text());
    let mut ready = bed.ready();
    ready.sort_unstable();
    assert_eq!(ready, ["carried", "kept", "twice"]);

    let clones = [("again-1", "kept"), ("again-2", "carried"), ("again-3", "twice")]
        .map(|(name, snapshot)| bed.clone(name, snapshot, ""));
    for clone in &clones {
        bed.go(clone);
        let log = bed.ended(clone);
        for word in SAME {
            assert_eq!(line(&log, word), line(&told, word), "{}", second.log().unwrap_or_default());
        }
        clone.wait_end(LIMIT).expect("the domain is gone");
    }
    for name in ["kept", "carried", "twice"] {
        bed.does(&format!("rm base@{name}"));
    }
    let metrics = second.metrics().expect("/metrics");
    for bugs in ["m1_engine_bugs", "m1_store_bugs"] {
        assert_eq!(metrics.get(bugs), 0.0, "{bugs}: {}", second.log().unwrap_or_default());
    }
    second.destroy().expect("it ends");
}
