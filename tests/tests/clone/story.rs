//! A program is frozen in the middle, goes on unaware, and its clones come to the same result with identities of their own.

use std::collections::BTreeSet;

use m1_tests::full;
use m1_tests::mm_guest::{End, Log};

use crate::bed::{Bed, LIMIT, OWN, SAME, WARM, line};

/// Clones at once.
fn clones() -> usize {
    full::or(3, 50)
}

/// All have ended well and said the same, but for what is each one's own.
fn compare(logs: &[Log]) {
    for log in logs {
        assert_eq!(log.end, Some(End::Exited(0)), "{}\n{}", log.output, log.kernel.join("\n"));
    }
    for word in SAME {
        let said: BTreeSet<_> = logs.iter().map(|log| line(log, word)).collect();
        assert_eq!(said.len(), 1, "{said:?}");
    }
    for word in OWN {
        let said: BTreeSet<_> = logs.iter().map(|log| line(log, word)).collect();
        assert_eq!(said.len(), logs.len(), "{said:?}");
    }
}

#[test]
fn a_program_frozen_in_the_middle_and_its_clones_and_theirs_come_to_one_result_and_memory_adds_up() {
    let bed = Bed::get();
    let m1 = bed.m1(full::or(96, 192));
    let before = m1.metrics().expect("/metrics");
    let source = bed.python("source", "", WARM);
    source.wait_log("warm", LIMIT).expect("it is warm");
    println!("{}", bed.does("freeze source first"));
    let frozen = source.log().expect("a console");
    assert!(frozen.contains("mm-guest: frozen: pages="), "{frozen}");

    let mut guests: Vec<_> =
        (0..clones()).map(|number| bed.clone(&format!("clone-{number}"), "first", "")).collect();
    // Three deep: a clone of a clone of a clone.
    let mut deep = Vec::new();
    for (parent, snapshot) in [("clone-0", "second"), ("second-clone", "third")] {
        println!("{}", bed.does(&format!("freeze {parent} {snapshot}")));
        deep.push(bed.clone(&format!("{snapshot}-clone"), snapshot, ""));
    }
    println!("{}", bed.does("snapshots"));
    assert_eq!(bed.ready().len(), 3);
    // One that is needed does not go, and it is said by whom.
    let refused = bed.m1ctl("rm base@third");
    assert_eq!(refused.code, 1, "{}", refused.stdout_text());
    assert!(refused.stderr_text().contains("third-clone"), "{}", refused.stderr_text());

    guests.push(source);
    guests.extend(deep);
    guests.iter().for_each(|guest| bed.go(guest));
    let logs: Vec<_> = guests.iter().map(|guest| bed.ended(guest)).collect();
    compare(&logs);
    for guest in &guests {
        guest.wait_end(LIMIT).expect("the domain is gone");
    }
    // In an order in which the first is needed by others' pages.
    for snapshot in ["first", "third", "second"] {
        println!("{}", bed.does(&format!("rm base@{snapshot}")));
    }
    let after = m1.wait_metrics(LIMIT, &["m1_clients", "m1_memory_bytes", "m1_snapshots"], |metrics| {
        metrics.get("m1_clients") == 0.0
            && metrics.with("m1_memory_bytes", &[("state", "frozen")]) == Some(0.0)
    });
    let after = after.expect("everything is given back");
    for counter in ["m1_engine_bugs", "m1_protocol_faults_total"] {
        assert_eq!(after.get(counter), 0.0, "{counter}\n{}", m1.log().unwrap_or_default());
    }
    assert_eq!(after.sum("m1_memory_bytes"), before.sum("m1_memory_bytes"), "the classes sum to M1's memory");
    assert_eq!(after.get("m1_snapshots"), 0.0);
    m1.destroy().expect("it ends");
}
