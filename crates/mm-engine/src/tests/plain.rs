//! What the tests of one behaviour at a time have in common.

use mm_proto::{Request, RequestBody, Response};

use super::world::{Shape, World};
use crate::*;

pub(super) const PAGES: u64 = 5000;

pub(super) fn world(shape: Shape) -> (World, VolumeId) {
    let mut world = World::new(shape);
    let volume = world.volume(PAGES, 1, Sharing::Map);
    (world, volume)
}

pub(super) fn roomy() -> Shape {
    Shape { frames: 2000, references: 4096, rows: 200, ..Shape::default() }
}

pub(super) fn limits(change: impl FnOnce(&mut Limits)) -> Shape {
    let mut shape = roomy();
    change(&mut shape.limits);
    shape
}

/// A client of the one volume.
pub(super) fn client(world: &mut World, volume: VolumeId) -> usize {
    let peer = world.connect(&[(volume, PAGES)], 512).unwrap();
    world.settle();
    peer
}

/// Touches pages one after the other, and lets everything happen.
pub(super) fn touch(world: &mut World, peer: usize, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        world.touch(peer, 0, page);
        world.settle();
        world.verify();
        world.check();
    }
}

/// Asks with bare hands, and gives the answer that is there then.
pub(super) fn raw(
    world: &mut World,
    ring: RingId,
    body: RequestBody,
) -> Result<Option<Response>, ClientFault> {
    world.send_words(ring, &Request { id: 9, body }.encode())?;
    world.settle_reads();
    let rings = world.peers.iter_mut().flat_map(|peer| &mut peer.rings);
    Ok(rings.into_iter().find(|other| other.id == ring).unwrap().inbox.pop_back())
}

/// A client without `mm-client`, greeted.
pub(super) fn bare(world: &mut World, volume: VolumeId, window: u32) -> (usize, RingId) {
    let peer = world.connect(&[], 1).unwrap();
    let id = world.engine.attach(world.peers[peer].client, volume).unwrap();
    world.peers[peer].volumes.insert(volume.0);
    world.peers[peer].rings.push(super::world::silent(id, volume));
    raw(world, id, RequestBody::Hello { version: 1, window }).unwrap().unwrap();
    (peer, id)
}

pub(super) fn served(world: &World) -> u64 {
    world.engine.counters().faults.served()
}
