//! Whoever dies in the middle, and whoever asks for what there is no room for, costs nobody else anything.

use crate::bed::{BIG, Bed, LIMIT, SAME, WARM, line};

#[test]
fn a_source_that_is_killed_a_clone_that_is_killed_and_no_room_change_nothing_for_others() {
    let bed = Bed::get();
    let m1 = bed.m1(40);
    // No room: refused, the program goes on, and nothing is kept.
    let large = bed.python("large", "", BIG);
    large.wait_log("warm", LIMIT).expect("it is warm");
    let refused = bed.m1ctl("freeze large toolarge");
    assert_eq!(refused.code, 1, "{}{}", refused.stdout_text(), refused.stderr_text());
    println!("{}", refused.stderr_text());
    assert_eq!(bed.ready(), Vec::<String>::new());
    // Killed while it is frozen, or just before, or just after: there is a whole snapshot or none.
    let doomed = bed.python("doomed", "", WARM);
    doomed.wait_log("warm", LIMIT).expect("it is warm");
    let script = format!(
        "m1ctl freeze doomed half > /tmp/half 2>&1 & usleep 40000; xl destroy {}; wait; cat /tmp/half",
        doomed.domid()
    );
    println!("{}", bed.sh(&script).expect("it ends"));
    for whole in bed.ready() {
        bed.does(&format!("rm base@{whole}"));
    }

    let source = bed.python("warm", "", WARM);
    source.wait_log("warm", LIMIT).expect("it is warm");
    bed.does("freeze warm good");
    // One that is killed while it begins, beside one that is not.
    let killed = bed.clone("killed", "good", "");
    let fine = bed.clone("fine", "good", "");
    killed.destroy().expect("xl destroy");
    bed.go(&source);
    bed.go(&fine);
    let (one, other) = (bed.ended(&source), bed.ended(&fine));
    for word in SAME {
        assert_eq!(line(&one, word), line(&other, word));
    }
    let large_log = bed.ended(&large);
    assert!(line(&large_log, "result ").len() > 7);
    for guest in [&source, &fine, &large] {
        guest.wait_end(LIMIT).expect("the domain is gone");
    }
    bed.does("rm base@good");
    let metrics = m1.wait_metrics(LIMIT, &["m1_clients", "m1_memory_bytes"], |metrics| {
        metrics.get("m1_clients") == 0.0
            && metrics.with("m1_memory_bytes", &[("state", "frozen")]) == Some(0.0)
    });
    let metrics = metrics.expect("everything is given back");
    assert_eq!(metrics.get("m1_engine_bugs"), 0.0, "{}", m1.log().unwrap_or_default());
    m1.destroy().expect("it ends");
}
