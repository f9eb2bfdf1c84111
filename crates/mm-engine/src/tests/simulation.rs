//! Thousands of clients on one M1 that is too small for them, played from one seed: what becomes of it is a table.

use std::fmt::Write;

use super::world::{Shape, World};
use crate::*;

/// A small generator (xorshift64*): the same numbers on every machine, for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.roll(count.max(1) as u64)).unwrap()
    }
}

/// Volumes: length in pages, group.
const IMAGES: [(u64, u16); 4] = [(3000, 1), (1000, 1), (2000, 2), (500, 3)];

/// One moment of a client's life: it reads on in a file, uses what everybody uses, or lets go of something.
fn act(world: &mut World, peer: usize, dice: &mut Dice) {
    let rings = world.peers[peer].rings.len();
    let ring = dice.pick(rings);
    let pages = IMAGES[usize::from(world.peers[peer].rings[ring].volume.0)].0;
    match dice.roll(10) {
        0..=3 => {
            let first = dice.roll(pages / 64) * 64;
            for page in first..(first + 8 + dice.roll(40)).min(pages) {
                if !world.maps(peer, ring, page) {
                    world.touch(peer, ring, page);
                    world.settle_reads();
                    while world.deliver(peer, ring) {}
                }
            }
        }
        4..=7 => {
            // A few pages are the favourites of all.
            let page = dice.roll(pages).min(dice.roll(pages)).min(dice.roll(pages));
            if !world.maps(peer, ring, page) {
                world.touch(peer, ring, page);
            }
        }
        8 => {
            for _ in 0..dice.roll(60) {
                world.unmap(peer, ring, dice.pick(1000));
            }
        }
        _ => {
            world.peers[peer].rings[ring].mm.give_back(u32::try_from(dice.roll(4)).unwrap());
            world.pump(peer, ring);
        }
    }
}

fn row(world: &mut World, table: &mut String, round: u32) {
    world.engine.scan_all(&world.table);
    world.check();
    world.verify();
    let (figures, counters) = (world.engine.figures(), *world.engine.counters());
    let pages = figures.pages;
    assert_eq!(pages.total(), u64::from(world.shape.frames) + world.shape.limits.metadata_pages);
    // What M1 counts in its own table is what clients map.
    let mapped: usize = world.peers.iter().flat_map(|peer| &peer.rings).map(|ring| ring.maps.len()).sum();
    let counted: u64 = world.engine.clients().map(|(_, client)| u64::from(client.mapped)).sum();
    assert_eq!(counted, mapped as u64);
    writeln!(
        table,
        "{round:>5} {:>7} | {:>5} {:>5} {:>6} {:>5} | {:>7} {:>6} | {:>7} {:>7} {:>6} {:>6} {:>6} {:>6}",
        figures.clients,
        pages.free,
        pages.clean,
        pages.shared,
        pages.stale_pinned,
        figures.pages_sharing,
        figures.references_free,
        counters.faults.served(),
        counters.windows,
        counters.copies,
        counters.pages_read,
        counters.evictions,
        counters.revocations,
    )
    .unwrap();
}

#[test]
fn thousands_of_clients_share_one_small_m1() {
    let mut shape =
        Shape { frames: 4000, references: 60_000, rings: 6000, clients: 4000, rows: 40, ..Shape::default() };
    shape.limits.reserve = 64;
    shape.limits.client_references = 600;
    shape.limits.client_pages = 300;
    let mut world = World::new(shape);
    let volumes: Vec<_> =
        IMAGES.iter().map(|(pages, group)| (world.volume(*pages, *group, Sharing::Map), *pages)).collect();
    let mut dice = Dice(20_041_104);
    let mut table = String::from(
        "round clients |  free clean shared stale | sharing  refs free |  served windows copies   read evicted revoked\n",
    );
    for round in 1..=300 {
        for _ in 0..15 {
            let choice = [&volumes[..1], &volumes[..2], &volumes[2..3], &volumes[3..]][dice.pick(4)];
            let window = 16 << dice.roll(6);
            world.connect(choice, window);
        }
        for _ in 0..40 {
            let peer = dice.pick(world.peers.len());
            act(&mut world, peer, &mut dice);
        }
        for _ in 0..10 {
            world.end_read(dice.pick(1000));
            world.end_copy(Copied::Done);
        }
        // A third of the clients looks at its ring.
        for peer in 0..world.peers.len() {
            if dice.roll(3) == 0 {
                for ring in 0..world.peers[peer].rings.len() {
                    while world.deliver(peer, ring) {}
                    world.obey(peer, ring);
                }
            }
        }
        // Some leave, and most of those die at once.
        for _ in 0..dice.roll(8) {
            let peer = dice.pick(world.peers.len());
            world.disconnect(peer);
        }
        while world.ghosts.len() > 20 {
            world.bury(dice.pick(1000));
        }
        world.engine.sweep(32, &mut world.table);
        world.advance();
        if round % 25 == 0 {
            row(&mut world, &mut table, round);
        }
    }
    assert!(world.engine.figures().clients > 2000);
    insta::assert_snapshot!(table);
    world.end();
}
