//! A client that lies on its ring: it is closed, alone, and nothing of it stays.

use super::world::{World, XVDA};

const OPTIONS: &str = "volume=base:xvda clients=4 window=16";

/// An xorshift generator (Marsaglia's, 32 bits).
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

#[test]
fn an_impossible_index_closes_the_device_and_no_other() {
    let mut world = World::new(OPTIONS, 40);
    let honest = world.client("base", 0);
    let liar = world.client("base", 0);
    world.touch(honest, 3);
    let lying = world.clients.remove(liar);
    lying.ring.words().store(0, 1000);
    xen::Hypervisor::evtchn_send(&lying.domain, lying.port).expect("bound");
    world.run();
    assert_eq!((world.m1.ring_faults, world.m1.closed), (1, 1));
    assert_eq!(world.backend(lying.domain.id(), XVDA, "state").as_deref(), Some("5"), "dom0 sees it");
    world.touch(honest, 20);
    assert_eq!(world.m1.engine.counters().client_faults, 1);
    // Whatever it writes now, nobody reads.
    lying.ring.words().store(0, 3);
    let requests = world.m1.engine.counters().requests;
    // Xen says nothing about a port whose other end is closed.
    let _ = xen::Hypervisor::evtchn_send(&lying.domain, lying.port);
    world.run();
    assert_eq!(world.m1.engine.counters().requests, requests);
}

#[test]
fn block_rings_with_impossible_indices_are_all_closed_and_an_honest_one_is_served() {
    let mut world = World::new(OPTIONS, 40);
    let (first, honest, last) =
        (world.stock("base", "w"), world.stock("base", "w"), world.stock("base", "w"));
    world.stocks[first].break_ring();
    world.submit(honest, 7, xen_sys::blkif::op::READ, 0, &[super::stock::whole(0)]);
    world.stocks[last].break_ring();
    world.run();
    assert_eq!((world.m1.ring_faults, world.m1.closed), (2, 2), "both in the same turn, and no third");
    assert_eq!(world.answers(honest), [(7, 0)]);
    let states = [first, honest, last].map(|stock| {
        let domain = world.stocks[stock].domain.id();
        world.backend(domain, XVDA, "state")
    });
    assert_eq!(states.each_ref().map(Option::as_deref), [Some("5"), Some("4"), Some("5")]);
}

#[test]
fn words_that_are_no_request_close_the_device() {
    let mut world = World::new(OPTIONS, 40);
    let client = world.client("base", 0);
    let lying = &mut world.clients[client];
    lying.front.push_request(&[77; 32]).expect("free");
    assert!(lying.front.publish());
    xen::Hypervisor::evtchn_send(&lying.domain, lying.port).expect("bound");
    world.clients.clear();
    world.run();
    assert_eq!((world.m1.ring_faults, world.m1.closed), (0, 1));
}

#[test]
fn whatever_is_written_on_a_ring_the_others_are_served_and_everything_comes_back() {
    let mut world = World::new(OPTIONS, 24);
    let honest = world.client("base", 0);
    let rest = world.rest();
    let mut closed = 0;
    for seed in 1..=60_u32 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9));
        let index = world.client("base", 0);
        world.touch(index, u64::from(seed) % 64);
        let lying = world.clients.remove(index);
        for _ in 0..12 {
            for _ in 0..random.next() % 24 {
                let word = if random.next().is_multiple_of(6) { 0 } else { 16 + random.next() % 512 };
                let small = random.next().is_multiple_of(2);
                let value = if small { random.next() % 20 } else { random.next() };
                lying.ring.words().store(word as usize, value);
            }
            // After it is closed nobody hears it.
            let _ = xen::Hypervisor::evtchn_send(&lying.domain, lying.port);
            world.run();
            world.touch(honest, u64::from(random.next()) % 64);
            lying.check();
            let page = *world.clients[honest].maps.keys().next().expect("touched just now");
            world.clients[honest].drop_page(page);
        }
        closed = world.m1.closed;
        let id = lying.domain.id();
        world.xen.destroy(id);
        world.remove_device(id, true);
        world.pass(3_000_000_000);
        let maps: std::vec::Vec<u64> = world.clients[honest].maps.keys().copied().collect();
        for page in maps {
            world.clients[honest].drop_page(page);
        }
        world.clients[honest].mm.give_back(40);
        world.run();
        assert_eq!(world.rest(), rest, "seed {seed}");
    }
    assert!(closed > 30, "most of them are found out: {closed}");
}

#[test]
fn what_is_lent_is_lent_read_only_and_to_one_domain() {
    use xen::{Access, GrantRef, GrantStatus};

    let mut world = World::new(OPTIONS, 40);
    let (client, other) = (world.client("base", 0), world.client("base", 0));
    world.touch(client, 5);
    let mm_client::Lookup::Have(reference) = world.clients[client].mm.lookup(5) else { panic!("it has it") };
    let m1 = world.domain.id();
    let published = world.published(world.clients[client].domain.id(), XVDA).expect("M1 accepted it");
    let refused = |who: usize, reference, access| {
        world.clients[who].domain.map(m1, reference, access).map(drop).expect_err("M1 lends too much")
    };
    for reference in [GrantRef(reference), published.info] {
        assert_eq!(refused(client, reference, Access::ReadWrite), GrantStatus::GENERAL_ERROR);
    }
    for reference in [GrantRef(reference), published.info, published.ring] {
        assert_eq!(refused(other, reference, Access::ReadOnly), GrantStatus::GENERAL_ERROR);
    }
    // Whatever else is in the table: a client maps nothing that was not lent to it.
    let own = [reference, published.info.0, published.ring.0];
    let held: std::vec::Vec<u32> = (0..3072)
        .filter(|reference| !own.contains(reference))
        .filter(|reference| {
            world.clients[client].domain.map(m1, GrantRef(*reference), Access::ReadOnly).is_ok()
        })
        .collect();
    let granted: std::vec::Vec<u32> = (0..64)
        .filter_map(|page| match world.clients[client].mm.lookup(page) {
            mm_client::Lookup::Have(reference) => Some(reference),
            mm_client::Lookup::Missing => None,
        })
        .collect();
    assert!(held.iter().all(|reference| granted.contains(reference)), "{held:?} of {granted:?}");
}
