//! Power cuts: what was not flushed may have reached the disk or not, block by block, the last ones in part.

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

use super::disk::Event;
use super::model::{Call, Model, Node, Pair, Tree, calls, named, tree};
use super::*;
use crate::BLOCK;
use crate::commit::{COMMIT, MAGIC};

/// The disk after a cut before event `cut`: what was flushed, and of the rest what `dice` say.
fn image_at(base: &[u8], history: &[Event], cut: usize, mut dice: u64, keep_order: bool) -> Vec<u8> {
    let mut image = base.to_vec();
    let flushed = history[..cut].iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
    for (at, event) in history[..cut].iter().enumerate() {
        let Event::Write(block, bytes) = event else { continue };
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = *block as usize * BLOCK;
        // Whole sectors only, of writes that no flush has followed.
        let sectors = match dice >> 60 {
            _ if at < flushed || keep_order => 0..8,
            0..=5 => 0..8,
            6..=11 => 0..0,
            12 => 0..1,
            13 => 1..8,
            _ => 0..(dice >> 40 & 7) as usize,
        };
        let range = sectors.start * 512..sectors.end * 512;
        image[place + range.start..place + range.end].copy_from_slice(&bytes[range]);
    }
    image
}

/// Whether the tree is that of `then`; content of files may be of any of `later` already, and zero where one of those ends in
/// the block: data goes where it belongs before the transaction does, so does the rest of a block that a shorter file leaves.
fn is_state(found: &Tree, then: &Model, later: &[Model]) -> bool {
    let then = named(then);
    // Files move: any later file may be this one.
    let nodes = later.iter().flat_map(|model| model.nodes.values());
    let later: Vec<_> =
        nodes.filter_map(|node| if let Node::File(bytes) = node { Some(bytes) } else { None }).collect();
    let may_be = |at: usize, byte: u8| {
        later.iter().any(|new| match new.get(at) {
            Some(expected) => *expected == byte,
            None => byte == 0 && at < new.len().next_multiple_of(BLOCK),
        })
    };
    let same = |(path, (node, links)): (&Vec<u8>, &(Node, u16))| {
        let Some((expected, count)) = then.get(path) else { return false };
        if links != count {
            return false;
        }
        let (Node::File(bytes), Node::File(old)) = (node, expected) else { return node == expected };
        bytes.len() == old.len()
            && bytes.iter().enumerate().all(|(at, byte)| *byte == old[at] || may_be(at, *byte))
    };
    found.len() == then.len() && found.iter().all(same)
}

fn run(list: &[Call], cuts: &[(usize, u64)], tools_too: bool, honest: bool) -> Result<(), String> {
    let base = tools::make(16, &[]);
    let mut pair = Pair::new(base.clone());
    // The mount itself wrote, and flushed.
    let base = pair.disk.image.clone();
    // Every state that there was; which of them were made durable, each with how much of the history was written by then.
    let mut states = vec![pair.model.clone()];
    let mut synced = vec![(0, 0)];
    for call in list.iter().chain([&Call::Sync]) {
        let transaction = pair.fs.log.sequence;
        pair.make(call);
        assert!(matches!(call, Call::Sync) || pair.fs.log.sequence == transaction, "{call:?} commits");
        if matches!(call, Call::Sync) {
            synced.push((pair.disk.history.as_ref().map_or(0, Vec::len), states.len()));
        }
        states.push(pair.model.clone());
    }
    let mut history = pair.disk.history.take().unwrap();
    if !honest {
        for at in 1..history.len() {
            let commits = matches!(&history[at], Event::Write(_, bytes)
                if crate::be32(&bytes[..], 0) == MAGIC && crate::be32(&bytes[..], 4) == COMMIT);
            if commits && matches!(history[at - 1], Event::Flush) {
                history[at - 1] = Event::Nothing;
            }
        }
    }
    for (cut, dice) in cuts {
        let cut = cut % (history.len() + 1);
        let image = image_at(&base, &history, cut, *dice, false);
        if tools_too {
            tools::check_preen(&image);
        }
        let mut disk = Disk::new(image);
        let mut fs = Fs::mount(&mut disk, LIMITS).map_err(|error| format!("{cut}: {error}"))?;
        fs.free_orphans(&mut disk).map_err(|error| format!("{cut}: {error:?}"))?;
        let found = tree(&mut fs, &mut disk).map_err(|error| format!("{cut}: {error:?}"))?;
        let done = synced.iter().rposition(|(at, _)| *at <= cut).unwrap_or(0);
        let last = synced[done].1;
        let next = synced.get(done + 1).map_or(last, |(_, next)| *next);
        let between = &states[last..=next];
        if ![last, next].iter().any(|state| is_state(&found, &states[*state], between)) {
            return Err(format!("at {cut} of {} neither the last state nor the next", history.len()));
        }
        fs.unmount(&mut disk).map_err(|error| format!("{error:?}"))?;
        if tools_too {
            tools::check_clean(&disk.image);
        }
    }
    Ok(())
}

/// Calls that commit only when they are told to.
fn small_calls() -> impl Strategy<Value = Vec<Call>> {
    let call = calls(120_000, 3000).prop_filter("a mount flushes", |call| !matches!(call, Call::Remount));
    proptest::collection::vec(prop_oneof![5 => call, 1 => Just(Call::Sync)], 10..60)
}

#[test]
fn after_a_cut_the_disk_holds_the_last_synced_state_or_the_next_one() {
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() });
    let cuts = proptest::collection::vec((any::<usize>(), any::<u64>()), 60);
    runner
        .run(&(small_calls(), cuts), |(list, cuts)| {
            run(&list, &cuts, false, true).map_err(TestCaseError::fail)
        })
        .unwrap();
}

/// The rest of a block goes to the disk as zeroes before the file is shorter there: once taken for another file's bytes.
#[test]
fn a_cut_while_a_file_is_made_shorter_leaves_zeroes_at_most() {
    let list = [Call::Create(0, 0), Call::Write(0, 1899, 2879, 0), Call::Sync, Call::Truncate(2, 4777)];
    let cuts: Vec<_> = (0..2000).map(|at| (at, (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    run(&list, &cuts, false, true).unwrap();
}

#[test]
fn e2fsck_has_nothing_to_ask_after_a_cut() {
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 3, failure_persistence: None, ..ProptestConfig::default() });
    let cuts = proptest::collection::vec((any::<usize>(), any::<u64>()), 10);
    runner
        .run(&(small_calls(), cuts), |(list, cuts)| {
            run(&list, &cuts, true, true).map_err(TestCaseError::fail)
        })
        .unwrap();
}

/// The test of the test: without the flush between copies and commit block the same histories are found to break.
#[test]
fn a_commit_without_the_flush_before_it_would_be_noticed() {
    let config = ProptestConfig {
        cases: 20,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let cuts = proptest::collection::vec((any::<usize>(), any::<u64>()), 60);
    let outcome = runner.run(&(small_calls(), cuts), |(list, cuts)| {
        run(&list, &cuts, false, false).map_err(TestCaseError::fail)
    });
    assert!(matches!(outcome, Err(TestError::Fail(..))), "{outcome:?}");
}
