//! What a stock guest writes and reads, where it is kept in memory.

use xen_sys::blkif::op;

use super::stock::{ERROR, OKAY, Part, whole};
use super::world::{HIDDEN, PAGES, World};

/// A volume, and a guest that writes over it in memory.
fn world(options: &str) -> (World, usize) {
    let mut world = World::new(&std::format!("volume=base:xvda clients=4 {options}"), 64);
    let stock = world.stock("base", "w");
    (world, stock)
}

/// Frames that hold what was written.
fn dirty(world: &mut World) -> u64 {
    let dirty = world.figures().pages.dirty;
    let held: u64 = world.m1.block.disks().filter_map(|disk| disk.memory_bytes()).sum();
    assert_eq!(held, dirty * 4096, "what is said of each disk is all there is");
    dirty
}

#[test]
fn what_is_written_is_over_the_base_and_goes_with_the_device() {
    let (mut world, stock) = world("");
    let other = world.stock("base", "w");
    assert!(world.shows_base(stock, 3, 0));
    assert_eq!(world.write_block(stock, 3, 9), OKAY);
    assert_eq!(world.read_block(stock, 3), 9);
    assert!(world.shows_base(other, 3, 0), "it is nobody else's");
    assert_eq!(dirty(&mut world), 1);
    world.destroy_stock(stock);
    assert_eq!(dirty(&mut world), 0);
}

#[test]
fn blocks_of_zeroes_take_no_memory() {
    let (mut world, stock) = world("");
    assert_eq!(world.write_block(stock, 3, 0), OKAY);
    assert_eq!((world.read_block(stock, 3), dirty(&mut world)), (0, 0), "over what the base has");
    assert_eq!(world.write_block(stock, 4, 1), OKAY);
    assert_eq!(world.write_block(stock, 4, 0), OKAY);
    assert_eq!(
        (world.read_block(stock, 4), dirty(&mut world)),
        (0, 0),
        "what was written before is given back"
    );
    // A part of such a block is written over zeroes, not over the base.
    world.stocks[stock].fill(0, 5);
    assert_eq!(world.ask(stock, op::WRITE, 3 * 8 + 2, &[Part(0, 2, 3)]), OKAY);
    assert_eq!(world.ask(stock, op::READ, 3 * 8, &[whole(1)]), OKAY);
    let words = [0, 255, 256, 511, 512, 1023].map(|index| world.stocks[stock].data[1].load(index));
    assert_eq!((words, dirty(&mut world)), ([0, 0, 5, 5, 0, 0], 1));
    // And when that part is zeroes again so is the block.
    world.stocks[stock].fill(0, 0);
    assert_eq!(world.ask(stock, op::WRITE, 3 * 8 + 2, &[Part(0, 2, 3)]), OKAY);
    assert_eq!((world.read_block(stock, 3), dirty(&mut world)), (0, 0));
}

#[test]
fn discarded_blocks_read_as_zeroes_and_give_their_memory_back() {
    let (mut world, stock) = world("");
    for block in 10..20 {
        assert_eq!(world.write_block(stock, block, 7), OKAY);
    }
    // From the middle of block 11 to the middle of 19: 12 to 18 as a whole.
    assert_eq!(world.discard(stock, 11 * 8 + 4, 8 * 8), OKAY);
    assert_eq!(dirty(&mut world), 3);
    let blocks: std::vec::Vec<u32> = (10..20).map(|block| world.read_block(stock, block)).collect();
    assert_eq!(blocks, [7, 7, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(world.write_block(stock, 13, 8), OKAY);
    assert_eq!(world.read_block(stock, 13), 8);
    // All of it, which takes few rows.
    assert_eq!(world.discard(stock, 0, PAGES * 8), OKAY);
    assert_eq!((world.read_block(stock, 0), world.read_block(stock, 13), dirty(&mut world)), (0, 0, 0));
    world.destroy_stock(stock);
    assert_eq!(world.m1.block.hidden_rows().0, 0);
    let next = world.stock("base", "w");
    assert!(world.shows_base(next, 13, 0), "the next one sees nothing of it");
}

#[test]
fn where_there_is_no_room_to_remember_zeroes_they_are_kept_as_they_are() {
    let mut world = World::new("volume=base:xvda clients=8", 64);
    let stocks: std::vec::Vec<usize> = (0..=HIDDEN).map(|_| world.stock("base", "w")).collect();
    for stock in &stocks {
        assert_eq!(world.write_block(*stock, 3, 0), OKAY);
        assert_eq!(world.write_block(*stock, 4, 1), OKAY);
    }
    let kept = 1 + stocks.len() as u64;
    let (used, all) = world.m1.block.hidden_rows();
    assert_eq!((used, dirty(&mut world)), (all, kept), "a row for each but the last");
    for stock in &stocks {
        assert_eq!(world.read_block(*stock, 3), 0);
        assert_eq!(world.discard(*stock, 4 * 8, 8), OKAY);
        assert_eq!(world.read_block(*stock, 4), 0);
    }
    assert_eq!(dirty(&mut world), 2);
}

#[test]
fn who_may_keep_no_more_in_memory_hears_of_it_and_nobody_else_does() {
    let (mut world, stock) = world("overlay_quota=8 memory_quota=1");
    world.m1.block.limit_memory(3);
    let other = world.stock("base", "w");
    for block in 0..3 {
        assert_eq!(world.write_block(stock, block, 7), OKAY);
    }
    assert_eq!(world.write_block(stock, 3, 7), ERROR);
    assert!(world.shows_base(stock, 3, 0), "as it was");
    assert_eq!(world.write_block(stock, 2, 8), OKAY, "what is there can be written over");
    assert_eq!(world.write_block(other, 3, 7), OKAY);
    assert_eq!(world.discard(stock, 0, 8), OKAY);
    assert_eq!(world.write_block(stock, 3, 7), OKAY, "there is room again");
    assert_eq!(dirty(&mut world), 4);
}

#[test]
fn with_all_memory_written_a_write_is_an_error_in_time_and_the_rest_goes_on() {
    let (mut world, stock) = world("");
    let other = world.stock("base", "w");
    let mut written = 0;
    while written < PAGES && world.write_block(stock, written, 7) == OKAY {
        written += 1;
    }
    assert!(written > 8 && written < PAGES, "{written}");
    assert!(world.shows_base(other, 60, 0));
    world.destroy_stock(stock);
    // The other moved up.
    let other = other - 1;
    assert_eq!(world.write_block(other, 1, 3), OKAY);
    assert_eq!(dirty(&mut world), 1);
}

#[test]
fn a_guest_with_many_requests_under_way_has_one_event_for_many_answers() {
    let (mut world, stock) = world("");
    assert_eq!(world.write_block(stock, 3, 9), OKAY);
    let (mut sent, mut answered) = (0, Vec::new());
    let before = world.m1.block.totals().events;
    while answered.len() < 600 {
        // A request takes the guest 5 µs. Where it has 24 it waits for an answer, and M1 for the time that it has set itself.
        if sent - answered.len() < 24 {
            world.submit(stock, u64::try_from(sent).expect("few"), op::READ, 3 * 8, &[whole(1)]);
            sent += 1;
            world.xen.advance(5_000);
        } else {
            let until = world.m1.block.held_until.expect("something is held");
            world.xen.advance(until.saturating_sub(world.m1.clock.now_ns()));
        }
        world.run();
        answered.extend(world.answers(stock));
    }
    let events = world.m1.block.totals().events - before;
    assert!(events < 120, "{events} events for 600 answers");
    answered.sort_unstable();
    assert!((0..).zip(&answered).all(|(number, answer)| *answer == (number, OKAY)), "each once");

    // What it flushes it waits for: that is shown as soon as it is seen, with what is held.
    assert!(world.answers(stock).is_empty());
    world.submit(stock, 1000, op::READ, 3 * 8, &[whole(1)]);
    world.run();
    assert!(world.answers(stock).is_empty() && world.m1.block.held_until.is_some(), "it is held");
    world.submit(stock, 1001, op::FLUSH_DISKCACHE, 0, &[]);
    let until = world.m1.block.held_until.expect("something is held");
    world.xen.advance(until - world.m1.clock.now_ns());
    world.run();
    assert_eq!(world.answers(stock), [(1000, OKAY), (1001, OKAY)]);
    assert_eq!(world.m1.block.held_until, None);

    // A guest that is reset while something is held for it has forgotten that, and so has M1.
    world.submit(stock, 1002, op::READ, 3 * 8, &[whole(1)]);
    world.run();
    world.reconnect(stock);
    world.pass(1_000_000_000);
    assert_eq!((world.read_block(stock, 3), world.m1.block.held_until), (9, None));
    assert_eq!(world.figures().bugs, 0);
}

#[test]
fn who_reads_in_sequence_waits_once_and_what_lies_over_the_base_has_nothing_read_ahead() {
    let (mut world, stock) = world("");
    let before = world.m1.block.totals().misses;
    for block in 0..40 {
        assert!(world.shows_base(stock, block, 0));
    }
    assert_eq!(world.m1.block.totals().misses - before, 1, "the others were on their way");

    // All of this is its own.
    let (mut world, stock) = self::world("");
    for block in 0..20 {
        assert_eq!(world.write_block(stock, block, 7), OKAY);
    }
    let read = world.m1.engine.counters().pages_read;
    for block in 0..20 {
        assert_eq!(world.read_block(stock, block), 7);
    }
    assert_eq!(world.m1.engine.counters().pages_read, read);
}
