//! Many guests of one base: M1 has it once.

use std::time::Duration;

use m1_tests::full;

use crate::bed::{LIMIT, MACHINE, assert_no_bugs, configured, keeping, turn};

/// How much more the cache may have with all guests than with one.
const MORE: f64 = 1.1;
/// How much longer all may take for each of them: they boot at the same time, and share the processors.
const EACH: Duration = Duration::from_secs(90);

#[test]
fn many_guests_at_once_from_one_base_need_the_cache_of_one() {
    let _turn = turn();
    let dom0 = MACHINE.get();
    let m1 = keeping(&dom0, "m1-many", "/dev/vde");
    let boot = |count: usize| -> f64 {
        let limit = LIMIT + EACH * u32::try_from(count).expect("few guests");
        let guests: Vec<_> = (0..count)
            .map(|number| {
                let name = format!("many-{count}-{number}");
                let config = configured("linux-pv.cfg", m1.name(), "job=stay").with("memory", 128);
                dom0.create(&name, &config.to_string()).expect("the guest starts")
            })
            .collect();
        for guest in &guests {
            let log = guest.wait_log("job: stays", limit).unwrap_or_else(|error| {
                panic!("{error:#}\n{}", m1.log().unwrap_or_default());
            });
            assert!(!log.contains("I/O error"), "{log}");
        }
        let metrics = m1.metrics().expect("/metrics");
        assert_eq!(metrics.get("m1_block_frontends"), count as f64);
        let state = |state| metrics.with("m1_memory_bytes", &[("state", state)]).expect("a state");
        let cache = state("clean") + state("shared");
        let found = |name| metrics.with(name, &[("service", "block")]).expect("a service");
        eprintln!(
            "{count} guests: cache {:.1} MiB, written {:.1} MiB, hits {}, misses {}",
            cache / 1048576.0,
            state("dirty") / 1048576.0,
            found("m1_cache_hits_total"),
            found("m1_cache_misses_total"),
        );
        guests.into_iter().for_each(|guest| guest.destroy().expect("it goes"));
        cache
    };
    let one = boot(1);
    let all = boot(full::or(3, 20));
    assert!(all <= MORE * one, "the cache is {one} bytes for one and {all} for all");
    assert_no_bugs(&m1);
    m1.destroy().expect("it ends");
}
