//! M1 is killed while a guest writes, flushes and reads: what was flushed is there when the next M1 opens the store.

use std::collections::BTreeMap;

use crate::bed::{LIMIT, MACHINE, assert_no_bugs, ended, keeping, turn, worker};

/// Places for numbers, and blocks of each.
const PLACES: u32 = 16;
const BLOCKS: u32 = 8;
/// More than once round.
const FLUSHED: u32 = 24;

#[test]
fn what_was_flushed_is_there_after_m1_was_killed_under_fio() {
    let _turn = turn();
    let dom0 = MACHINE.get();
    let first = keeping(&dom0, "m1-killed", "/dev/vde");
    let writer = worker(&dom0, "numbers", &first, "lines+numbers", "numbers");
    writer.wait_log(&format!("flushed {FLUSHED}"), LIMIT).unwrap_or_else(|error| {
        panic!("{error:#}\n{}", first.log().unwrap_or_default());
    });
    eprintln!("{FLUSHED} numbers are flushed under load: M1 is killed");
    first.destroy().expect("it is killed");
    let name = writer.name().to_owned();
    writer.destroy().expect("it goes");
    // All that it said has come by now.
    let said = dom0.guest_log(&name).expect("a console");
    let flushed = last_flushed(&said);
    assert!(said.contains("job: fio's blocks are flushed"), "{said}");

    eprintln!("{flushed} were in the end: another M1 reads them");
    let second = keeping(&dom0, "m1-next", "/dev/vde");
    let reader = worker(&dom0, "found", &second, "lines+numbers", "found");
    let log = ended(&reader, &second, &["job: fio's blocks are there", "init: job found ended with 0"]);
    let found = blocks(&log);
    assert_eq!(found.len(), (PLACES * BLOCKS) as usize, "{log}");
    for (block, number) in found {
        let place = block / BLOCKS;
        // The number that was flushed last at this place; one more may have been on its way there.
        let newest = (1..=flushed).rev().find(|number| number % PLACES == place).unwrap_or(0);
        let next = if newest == 0 { place } else { newest + PLACES };
        assert!(
            number == newest || (number == next && next == flushed + 1),
            "block {block} has {number}: {newest} was flushed, up to {flushed} in all\n{log}\n{}",
            second.log().unwrap_or_default()
        );
    }
    let recovered = second.log().expect("a log");
    assert!(recovered.contains("records replayed"), "{recovered}");
    assert_no_bugs(&second);
    second.destroy().expect("it ends");
}

/// The largest number whose flush the guest has said to be done.
fn last_flushed(log: &str) -> u32 {
    let numbers = log.lines().filter_map(|line| line.trim_end().strip_prefix("flushed ")?.parse().ok());
    numbers.max().expect("a number")
}

/// The number that fills each block.
fn blocks(log: &str) -> BTreeMap<u32, u32> {
    let mut found = BTreeMap::new();
    for line in log.lines().filter_map(|line| line.trim_end().strip_prefix("block ")) {
        let words: Vec<u32> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
        let [block, first, last, others] = words[..] else { panic!("{line:?}") };
        assert_eq!((first, others), (last, 0), "block {block} is torn: {line}");
        found.insert(block, first);
    }
    found
}
