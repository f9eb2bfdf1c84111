//! What a stock guest writes and reads, where it is kept on the store's disk.

use mm_store::DeleteRefused;
use xen_sys::blkif::op;

use super::stock::{ERROR, OKAY, whole};
use super::world::World;

const WRITE: u8 = 1;
const FLUSH: u8 = 3;

fn world(options: &str) -> World {
    World::new(&std::format!("volume=base:xvda store_disk=xvdb clients=4 {options}"), 64)
}

impl World {
    /// What the store's disk was asked since this was called last, reads apart: which data blocks were written, and flushes.
    fn asked(&mut self) -> std::vec::Vec<u8> {
        let disk = self.store_disk.as_mut().expect("a store");
        core::mem::take(&mut disk.asked).into_iter().map(|(code, _)| code).filter(|code| *code != 0).collect()
    }

    /// Nothing of the store's disk is in memory any more.
    pub(crate) fn forget_store_cache(&mut self) {
        let volume = self.m1.overlays.as_ref().expect("a store").volume;
        self.m1.engine.forget_range(volume, 0..u64::from(u32::MAX));
    }

    fn delete(&mut self, name: &str) -> Result<(), DeleteRefused> {
        self.m1.overlays.as_mut().expect("a store").delete(name)
    }

    /// Blocks of the store by use: free, live.
    fn space(&self) -> (u32, u32) {
        let figures = self.m1.overlays.as_ref().expect("a store").store.figures();
        assert_eq!(figures.bugs, 0);
        (figures.free, figures.live)
    }
}

#[test]
fn what_is_written_to_an_overlay_is_there_for_the_next_device() {
    let mut world = world("");
    let stock = world.stock("base+mine", "w");
    assert_eq!(world.write_block(stock, 3, 9), OKAY);
    assert_eq!(world.ask(stock, op::FLUSH_DISKCACHE, 0, &[]), OKAY);
    world.destroy_stock(stock);
    let stock = world.stock("base+mine", "w");
    assert_eq!(world.read_block(stock, 3), 9);
    assert!(world.shows_base(stock, 4, 0));
}

#[test]
fn a_barrier_is_behind_all_that_came_before_it_and_before_all_that_comes_after() {
    let mut world = world("");
    let stock = world.stock("base+mine", "w");
    assert_eq!(
        world.backend(world.stocks[stock].domain.id(), super::world::XVDA, "feature-barrier").as_deref(),
        Some("1")
    );
    world.run();
    world.asked();
    for page in 0..4 {
        world.stocks[stock].fill(page, 10 + u32::try_from(page).expect("small"));
    }
    // Nothing is written to the disk for now.
    world.store_disk.as_mut().expect("a store").stalled = true;
    world.submit(stock, 1, op::WRITE, 0, &[whole(0)]);
    world.submit(stock, 2, op::WRITE_BARRIER, 8, &[whole(1)]);
    world.submit(stock, 3, op::WRITE, 16, &[whole(2)]);
    world.submit(stock, 4, op::READ, 0, &[whole(3)]);
    world.run();
    assert_eq!(world.answers(stock), []);
    world.store_disk.as_mut().expect("a store").stalled = false;
    world.run();
    let answers: std::vec::Vec<u64> = world
        .answers(stock)
        .into_iter()
        .map(|(id, status)| {
            assert_eq!(status, OKAY);
            id
        })
        .collect();
    assert_eq!(answers[..2], [1, 2]);
    assert_eq!(answers.len(), 4);
    assert_eq!(world.stocks[stock].data[3].load(0), 10);
    // Data, its journal block, flush; the barrier's data, its journal block, flush; then what came after, and its journal block
    // because a flush is likely to follow.
    assert_eq!(world.asked(), [WRITE, WRITE, FLUSH, WRITE, WRITE, FLUSH, WRITE, WRITE]);
    assert_eq!(
        (0..3).map(|block| world.read_block(stock, block)).collect::<std::vec::Vec<_>>(),
        [10, 11, 12]
    );
}

#[test]
fn a_barrier_without_data_is_a_flush_behind_what_came_before() {
    let mut world = world("");
    let stock = world.stock("base+mine", "w");
    world.run();
    world.asked();
    world.stocks[stock].fill(0, 5);
    world.submit(stock, 1, op::WRITE, 0, &[whole(0)]);
    world.submit(stock, 2, op::WRITE_BARRIER, 0, &[]);
    world.submit(stock, 3, op::WRITE_BARRIER, 0, &[]);
    world.run();
    assert_eq!(world.answers(stock), [(1, OKAY), (2, OKAY), (3, OKAY)]);
    assert_eq!(world.asked(), [WRITE, WRITE, FLUSH], "the second finds everything durable");
}

#[test]
fn a_ring_full_of_barriers_is_answered_in_order_and_holds_up_nobody_else() {
    let mut world = world("");
    let (stock, other) = (world.stock("base+mine", "w"), world.stock("base", "w"));
    world.stocks[stock].fill(0, 5);
    for id in 0..32 {
        world.submit(stock, id, op::WRITE_BARRIER, 8 * id, &[whole(0)]);
    }
    world.submit(other, 99, op::READ, 0, &[whole(0)]);
    world.run();
    let expected: std::vec::Vec<(u64, i16)> = (0..32).map(|id| (id, OKAY)).collect();
    assert_eq!(world.answers(stock), expected);
    assert_eq!(world.answers(other), [(99, OKAY)]);
    // One whose client goes in the middle takes nothing with it.
    world.store_disk.as_mut().expect("a store").stalled = true;
    world.submit(stock, 1, op::WRITE, 0, &[whole(0)]);
    world.submit(stock, 2, op::WRITE_BARRIER, 8, &[whole(0)]);
    world.run();
    world.destroy_stock(stock);
    world.store_disk.as_mut().expect("a store").stalled = false;
    world.run();
    let stock = world.stock("base+mine", "w");
    assert_eq!(world.write_block(stock, 9, 4), OKAY);
    assert_eq!(world.ask(stock, op::WRITE_BARRIER, 8, &[whole(0)]), OKAY);
}

#[test]
fn barriers_of_what_is_only_in_memory_are_in_order_too() {
    let mut world = World::new("volume=base:xvda clients=4", 64);
    let stock = world.stock("base", "w");
    world.stocks[stock].fill(0, 5);
    world.submit(stock, 1, op::READ, 8, &[whole(1)]);
    world.submit(stock, 2, op::WRITE_BARRIER, 8, &[whole(0)]);
    world.submit(stock, 3, op::READ, 8, &[whole(2)]);
    world.run();
    assert_eq!(world.answers(stock), [(1, OKAY), (2, OKAY), (3, OKAY)]);
    assert_eq!(world.stocks[stock].data[1].load(0), super::disk::word(0, 1, 0));
    assert_eq!(world.stocks[stock].data[2].load(0), 5);
    // One that cannot be written has none.
    let reader = world.stock("base", "r");
    assert_eq!(
        world.backend(world.stocks[reader].domain.id(), super::world::XVDA, "feature-barrier").as_deref(),
        Some("0")
    );
    assert_eq!(world.ask(reader, op::WRITE_BARRIER, 0, &[]), -2);
}

#[test]
fn an_overlay_at_its_quota_takes_no_more_and_others_do() {
    let mut world = world("overlay_quota=1");
    let (stock, other) = (world.stock("base+mine", "w"), world.stock("base+other", "w"));
    // A quota of 1 MiB is more than the volume has.
    let overlays = world.m1.overlays.as_mut().expect("a store");
    assert!(overlays.store.overlays().all(|overlay| overlay.quota == Some(256)));
    overlays.quota = Some(3);
    let small = world.stock("base+small", "w");
    for block in 0..3 {
        assert_eq!(world.write_block(small, block, 7), OKAY);
    }
    assert_eq!(world.write_block(small, 3, 7), ERROR);
    assert!(world.shows_base(small, 3, 0));
    assert_eq!(world.write_block(small, 2, 8), OKAY);
    for stock in [stock, other] {
        assert_eq!(world.write_block(stock, 3, 7), OKAY);
    }
    // Zeroes give room back.
    assert_eq!(world.write_block(small, 0, 0), OKAY);
    assert_eq!(world.write_block(small, 3, 7), OKAY);
}

#[test]
fn an_overlay_is_deleted_from_outside_when_no_device_has_it() {
    let mut world = world("");
    let empty = world.space();
    let stock = world.stock("base+mine", "w");
    for block in 0..5 {
        assert_eq!(world.write_block(stock, block, 7), OKAY);
    }
    assert_eq!(world.delete("mine"), Err(DeleteRefused::InUse));
    assert_eq!(world.delete("yours"), Err(DeleteRefused::Unknown));
    world.destroy_stock(stock);
    assert_eq!(world.space().1, 5);
    assert_eq!(world.delete("mine"), Ok(()));
    assert_eq!(world.delete("mine"), Err(DeleteRefused::Unknown));
    world.run();
    assert_eq!(world.space(), empty, "its space is back");
    let stock = world.stock("base+mine", "w");
    assert!(world.shows_base(stock, 3, 0), "one of the same name begins empty");
}

#[test]
fn who_waits_for_room_has_it_when_another_goes_in_the_middle() {
    let mut world = world("");
    let (first, second) = (world.stock("base+one", "w"), world.stock("base+two", "w"));
    world.stocks[first].fill(0, 5);
    // One takes all room there is for requests, which the store's disk does not answer.
    world.store_disk.as_mut().expect("a store").stalled = true;
    for id in 0..32 {
        world.submit(first, id, op::WRITE, 8 * id, &[whole(0)]);
    }
    world.run();
    world.submit(second, 99, op::READ, 0, &[whole(0)]);
    world.run();
    assert_eq!(world.answers(second), [], "it waits on its ring");
    let domain = world.stocks.remove(first).domain;
    world.xen.destroy(domain.id());
    world.remove_device(domain.id(), true);
    assert_eq!(world.answers(second - 1), [(99, OKAY)]);
}
