//! Clients that say anything: nobody else notices, and they see nothing but their own volumes.

use proptest::prelude::*;

use super::model::{Run, Step, VOLUMES, shape, step};
use super::world::{Mapping, World, whose};
use crate::{ClientFault, VolumeId};

#[derive(Clone, Debug)]
enum Deed {
    /// What honest clients and the world do meanwhile.
    Honest(Step),
    /// Words that may be a request.
    Words { operation: u32, page: u64, reference: u32, count: u32, noise: [u32; 4] },
    /// Maps whatever reference, whether or not it was ever told of it.
    Grab { reference: u32 },
    /// Lets go of something, perhaps.
    Drop { which: u16 },
    /// Leaves without letting go, and comes back as the same domain.
    Reattach { volumes: u8 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let operation = prop_oneof![20 => 0u32..9, 1 => any::<u32>()];
    let page = prop_oneof![10 => 0u64..700, 1 => any::<u64>()];
    // Most of all the beginnings of runs.
    let reference =
        prop_oneof![10 => (0u32..45).prop_map(|run| 100 + 16 * run), 5 => 90u32..820, 1 => any::<u32>()];
    let count = prop_oneof![
        10 => prop_oneof![Just(1u32), Just(4), Just(16), Just(32), Just(512)],
        1 => any::<u32>()
    ];
    prop_oneof![
        6 => step().prop_map(Deed::Honest),
        10 => (operation, page, reference, count, any::<[u32; 4]>()).prop_map(
            |(operation, page, reference, count, noise)| Deed::Words { operation, page, reference, count, noise }
        ),
        8 => (90u32..820).prop_map(|reference| Deed::Grab { reference }),
        2 => any::<u16>().prop_map(|which| Deed::Drop { which }),
        1 => any::<u8>().prop_map(|volumes| Deed::Reattach { volumes }),
    ]
}

/// The hostile client is the world's first peer; its rings carry whatever words.
fn hostile_volumes(bits: u8) -> Vec<(VolumeId, u64)> {
    (0u16..)
        .zip(VOLUMES)
        .filter(|(i, _)| bits >> i & 1 == 1)
        .map(|(i, (pages, ..))| (VolumeId(i), pages))
        .collect()
}

fn grab(world: &mut World, reference: u32) {
    let client = world.peers[0].client;
    if let Some(frame) = world.table.map(client, reference) {
        let seen = world.frames[frame.0 as usize];
        let (_, page) = whose(seen).expect("garbage was lent");
        world.peers[0].grabbed.push(Mapping { page, reference, frame, seen });
    }
}

/// Comes back as the same domain, with what it maps. Rings that it cannot have are refused.
fn reattach(world: &mut World, volumes: u8) {
    let client = world.peers[0].client;
    for ring in std::mem::take(&mut world.peers[0].rings) {
        world.engine.detach(ring.id, &mut world.table);
        world.peers[0].grabbed.extend(ring.maps);
    }
    for (volume, _) in hostile_volumes(volumes) {
        if let Ok(id) = world.engine.attach(client, volume) {
            world.peers[0].volumes.insert(volume.0);
            world.peers[0].rings.push(super::world::silent(id, volume));
            let _ = world.send_words(id, &hello());
        }
    }
}

fn hello() -> [u32; 32] {
    mm_proto::Request { id: 0, body: mm_proto::RequestBody::Hello { version: 1, window: 512 } }.encode()
}

proptest! {
    #![proptest_config(super::config(250))]

    #[test]
    fn a_client_that_says_anything_sees_only_its_volumes_and_disturbs_nobody(
        shape in shape(),
        volumes in any::<u8>(),
        deeds in proptest::collection::vec(deed(), 1..300),
    ) {
        let mut run = Run::new(shape);
        run.world.connect(&[], 512);
        reattach(&mut run.world, volumes | 1);
        run.step(Step::Connect { volumes: 1, window: 9 });
        let mut faults = 0;
        for deed in deeds {
            match deed {
                // The first peer stays where it is.
                Deed::Honest(Step::Disconnect { .. }) => {}
                Deed::Honest(step) => run.step(step),
                Deed::Words { operation, page, reference, count, noise } => {
                    let Some(ring) = run.world.peers[0].rings.first() else { continue };
                    let mut words = [noise[0]; 32];
                    words[1] = operation;
                    words[2] = crate::store::low(page);
                    words[3] = crate::store::low(page >> 32);
                    words[4] = reference;
                    words[5] = count;
                    words[6..10].copy_from_slice(&noise);
                    let id = ring.id;
                    // It is blamed, and closed, or answered.
                    match run.world.send_words(id, &words) {
                        Ok(()) => {}
                        Err(fault) => {
                            prop_assert_ne!(fault, ClientFault::NoRing);
                            faults += 1;
                            if noise[1] % 4 == 0 {
                                reattach(&mut run.world, volumes | 1);
                            }
                        }
                    }
                }
                Deed::Grab { reference } => grab(&mut run.world, reference),
                Deed::Drop { which } => {
                    let grabbed = &mut run.world.peers[0].grabbed;
                    if !grabbed.is_empty() {
                        let map = grabbed.swap_remove(usize::from(which) % grabbed.len());
                        run.world.table.unmap(map.reference);
                    }
                }
                Deed::Reattach { volumes } => reattach(&mut run.world, volumes),
            }
            run.world.verify();
            run.world.check();
        }
        prop_assert_eq!(run.world.engine.counters().client_faults, faults);
        let client = run.world.peers[0].client;
        prop_assert_eq!(u64::from(run.world.engine.client(client).unwrap().faults), faults);
        run.world.end();
    }
}
