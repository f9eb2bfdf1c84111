//! Life of a fault: from a client's touch to the right bytes in its address space.

use mm_client::PageError;

use super::world::{PAGES, World, XVDA};

#[test]
fn a_fault_reads_the_disk_once_and_the_second_client_shares_the_page() {
    let mut world = World::new("volume=base:xvda clients=4 window=16", 32);
    let first = world.client("base", 0);
    world.touch(first, 21);
    assert_eq!(world.disks[0].reads.iter().filter(|page| **page == 21).count(), 1);
    let reads = world.disks[0].reads.len();
    let second = world.client("base", 0);
    world.touch(second, 21);
    assert_eq!(world.disks[0].reads.len(), reads, "the page was in memory");
    let figures = world.figures();
    assert_eq!((figures.pages_shared, figures.pages_sharing, figures.pages.shared), (1, 1, 1));
    let same = world.clients[0].maps[&21].words();
    assert!(core::ptr::eq(same, world.clients[1].maps[&21].words()), "it is one page of memory");
}

#[test]
fn every_page_of_a_volume_is_right_for_every_client_in_a_store_that_holds_half_of_it() {
    let mut world = World::new("volume=base:xvda clients=4 window=8", u32::try_from(PAGES / 2).expect("few"));
    for _ in 0..2 {
        world.client("base", 0);
    }
    for page in 0..PAGES {
        for client in 0..2 {
            world.touch(client, (page * 5 + client as u64) % PAGES);
            if world.clients[client].maps.len() > 6 {
                let oldest = *world.clients[client].maps.keys().next().expect("seven");
                world.clients[client].drop_page(oldest);
            }
            world.clients[client].check();
        }
    }
    let figures = world.figures();
    assert_eq!(figures.pages.total(), PAGES / 2 + super::world::METADATA);
    assert!(world.m1.engine.counters().evictions > 0, "pages gave way");
}

#[test]
fn a_volume_that_is_only_copied_is_copied() {
    let mut world = World::new("volume=base:xvda,share=copy clients=4", 32);
    let client = world.client("base", 0);
    assert!(world.clients[client].info().copy_only);
    for page in [3, 4, 63] {
        world.touch(client, page);
    }
    assert_eq!(world.clients[client].copied, [3, 4, 63]);
    assert_eq!(world.figures().permitted, 0);
}

#[test]
fn two_volumes_do_not_mix() {
    let mut world = World::new("volume=base:xvda,group=g volume=data:xvdb,group=g clients=4", 32);
    let base = world.client("base", 0);
    let data = world.client("data", 1);
    for page in [0, 1, 40] {
        world.touch(base, page);
        world.touch(data, page);
    }
    assert_eq!(world.figures().pages_sharing, 0);
    let identities = [base, data].map(|client| world.clients[client].info().identity);
    assert_ne!(identities[0], identities[1]);
}

#[test]
fn a_bad_sector_is_its_own_page_and_no_other() {
    let mut world = World::new("volume=base:xvda clients=4", 32);
    world.disks[0].bad.insert(17);
    let client = world.client("base", 0);
    for page in [16, 17, 18] {
        world.touch(client, page);
    }
    assert_eq!(world.clients[client].failed, [(17, PageError::Read)]);
    assert_eq!(world.clients[client].maps.keys().copied().collect::<std::vec::Vec<_>>(), [16, 18]);
    // The disk has recovered, and so has the page.
    world.disks[0].bad.clear();
    world.touch(client, 17);
    assert!(world.clients[client].maps.contains_key(&17));
}

#[test]
fn a_short_quota_is_served_by_copies() {
    let mut world = World::new("volume=base:xvda clients=4 window=1 client_refs=16", 48);
    let client = world.client("base", 0);
    for page in 0..40 {
        world.touch(client, page);
    }
    let this = &world.clients[client];
    assert_eq!((this.maps.len(), this.copied.len()), (16, 24));
    assert_eq!(world.m1.engine.counters().copies, 24);
}

#[test]
fn the_heartbeat_goes_on_and_a_slow_disk_is_not_a_dead_m1() {
    let mut world = World::new("volume=base:xvda clients=4", 32);
    let client = world.client("base", 0);
    let before = world.clients[client].info().heartbeat;
    world.disks[0].stalled = true;
    world.clients[client].touch(9);
    world.pass(3_000_000_000);
    let this = &mut world.clients[client];
    assert!(this.info().heartbeat > before);
    let (now, heartbeat) = (this.domain.clock().now_ns(), this.info().heartbeat);
    assert_eq!(this.mm.judge(now, heartbeat), mm_client::Judgement::Slow);
    world.disks[0].stalled = false;
    world.touch(client, 9);
}

#[test]
fn a_client_that_never_stops_asking_keeps_xenstore_and_time_from_nobody() {
    let mut world = World::new("volume=base:xvda clients=4 window=1", 40);
    let busy = world.client("base", 0);
    let (m1, xvdb) = (world.domain.id(), XVDA + 16);
    let newcomer = world.xen.domain(64, 2);
    world.store.introduce(newcomer.id().0, newcomer.pages(1).first().expect("one"));
    world.store.add_vbd(m1.0, newcomer.id().0, xvdb, "base", "r");
    let mut turns = 0;
    // Two seconds, in which its ring is never empty.
    while world.backend(newcomer.id(), xvdb, "state").as_deref() != Some("2") {
        let page = turns % PAGES;
        world.clients[busy].drop_page((page + 1) % PAGES);
        world.clients[busy].touch(page);
        let _ = world.clients[busy].pump();
        let _ = world.m1.turn();
        let _ = world.store.run();
        world.serve_disks();
        world.xen.advance(1_000_000);
        turns += 1;
        assert!(turns < 2000, "the newcomer waits for ever");
    }
    world.run();
    world.clients[busy].check();
}
