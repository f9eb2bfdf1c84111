//! blkfront against a backend that lies.

use proptest::prelude::*;

use super::blk::{Disk, gone};
use super::dom0::frames;
use crate::blkfront::{Completion, Health, MAX_PAGES, MIN_POOL, RECLAIM_NS};

#[test]
fn lies_end_the_connection_and_the_next_one_works() {
    type Lie = fn(&mut Disk, u64);
    let lies: [(&str, Lie); 7] = [
        ("another's id", |disk, id| disk.respond(id + 1, 0, 0)),
        ("an earlier request's id", |disk, id| disk.respond(id ^ 0x100, 0, 0)),
        ("an impossible slot", |disk, _| disk.respond(200, 0, 0)),
        ("a huge id", |disk, id| disk.respond(id | 1 << 63, 0, 0)),
        ("an answer to a part that is over", |disk, id| {
            disk.read(0, &frames(MAX_PAGES), 9).expect("room");
            let part = disk.asked()[0].id;
            disk.respond(part, 0, 0);
            assert_eq!(disk.completions(), []);
            disk.respond(part, 0, 0);
            assert_eq!(disk.driver.outstanding(), 2);
            assert_ne!(part, id);
        }),
        ("another operation", |disk, id| disk.respond(id, 1, 0)),
        ("too many answers", |disk, _| disk.ring_page.words.store(2, 2)),
    ];
    for (what, lie) in lies {
        let mut disk = Disk::connected(256);
        disk.read(0, &frames(1), 7).expect("room");
        let id = disk.asked()[0].id;
        lie(&mut disk, id);
        assert_eq!(disk.completions().first(), Some(&gone(7, false)), "{what}");
        assert_eq!(disk.driver.outstanding(), 0, "{what}");
        assert_eq!(disk.driver.faults(), 1, "{what}");
        disk.run();
        assert_eq!(disk.machine.front_state(), "6", "{what}");
        // blkback sees that, and lets go.
        disk.machine.unpin_all();
        disk.machine.set_back("state", "6");
        disk.run();
        assert_eq!(disk.driver.health(), Health::Connecting, "{what}");
        disk.connect();
        disk.read(0, &frames(1), 8).expect("room");
        let asked = disk.asked();
        disk.answer(&asked[0]);
        assert_eq!(disk.completions().len(), 1, "{what}");
    }
}

#[test]
fn an_answer_given_twice_is_a_lie() {
    let mut disk = Disk::connected(64);
    disk.read(0, &frames(1), 1).expect("room");
    disk.read(8, &frames(1), 2).expect("room");
    let asked = disk.asked();
    disk.answer(&asked[0]);
    disk.respond(asked[0].id, 0, 0);
    let done = disk.completions();
    assert_eq!(done.len(), 2);
    assert_eq!(done[1], gone(2, false));
    assert_eq!(disk.driver.faults(), 1);
}

#[test]
fn a_lie_in_the_middle_of_a_look_at_xenstore_closes_all_the_same() {
    for steps in [&[2][..], &[2, 0], &[2, 0, 1]] {
        let mut disk = Disk::connected(64);
        disk.driver.recheck();
        for step in steps {
            disk.step(*step);
        }
        disk.ring_page.words.store(2, 2);
        assert_eq!(disk.completions(), []);
        assert_eq!(disk.driver.faults(), 1);
        disk.run();
        assert_eq!(disk.machine.front_state(), "6", "after {steps:?}");
    }
}

#[derive(Clone, Debug)]
enum Act {
    Read(u64, usize),
    Scribble(usize, u32),
    Answer,
    Pin,
    State(u8),
    Unpin,
    Later,
    Rest,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0_u64..270, 1_usize..=MAX_PAGES).prop_map(|(sector, pages)| Act::Read(sector, pages)),
        4 => (0_usize..60, prop_oneof![0_u32..40, any::<u32>()]).prop_map(|(word, value)| Act::Scribble(word, value)),
        4 => Just(Act::Answer),
        1 => Just(Act::Pin),
        1 => (0_u8..9).prop_map(Act::State),
        2 => Just(Act::Unpin),
        2 => Just(Act::Later),
        3 => Just(Act::Rest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a backend writes into ring and xenstore: no panic, every request ends exactly once, and a page is never
    /// handed back while its grant stands.
    #[test]
    fn every_request_ends_once(
        pool in prop_oneof![Just(0_usize), Just(MIN_POOL), Just(60)],
        acts in prop::collection::vec((act(), prop::collection::vec(0_u8..3, 0..9)), 1..60),
    ) {
        let mut disk = Disk::with_pool(256, pool);
        disk.machine.set_back("feature-persistent", "1");
        disk.machine.set_back("feature-max-indirect-segments", if pool == 60 { "256" } else { "0" });
        disk.connect();
        let pages = frames(MAX_PAGES);
        let mut open = std::collections::BTreeSet::new();
        let mut token = 0;
        let check = |disk: &mut Disk, open: &mut std::collections::BTreeSet<u64>| {
            let mut count = 0;
            while let Some(Completion { token, .. }) = disk.driver.next_completion() {
                assert!(open.remove(&token), "{token} ended twice");
                count += 1;
                assert!(count <= 64, "bounded");
            }
        };
        for (act, steps) in acts {
            match act {
                Act::Read(sector, count) => {
                    token += 1;
                    if disk.read(sector, &pages[..count], token).is_ok() {
                        open.insert(token);
                    }
                }
                Act::Scribble(word, value) => disk.ring_page.words.store(word, value),
                Act::Answer => {
                    // Answers what is asked as far as the ring still makes sense to it.
                    let done = disk.ring_page.words.load(0);
                    disk.ring_page.words.store(2, done);
                }
                Act::Pin => {
                    for reference in disk.machine.lent() {
                        disk.machine.pin(reference);
                    }
                }
                Act::State(state) => disk.machine.set_back("state", &state.to_string()),
                Act::Unpin => disk.machine.unpin_all(),
                Act::Later => disk.machine.now += RECLAIM_NS / 2,
                Act::Rest => disk.run(),
            }
            for which in steps {
                disk.step(which);
            }
            check(&mut disk, &mut open);
            prop_assert_eq!(disk.driver.outstanding(), open.len());
        }
        disk.machine.set_back("state", "6");
        disk.run();
        check(&mut disk, &mut open);
        disk.machine.now += 2 * RECLAIM_NS;
        disk.run();
        disk.machine.now += 2 * RECLAIM_NS;
        disk.run();
        check(&mut disk, &mut open);
        prop_assert!(open.is_empty(), "{:?} in {:?}", open, disk.driver.health());
    }
}
