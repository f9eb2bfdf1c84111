//! Toolstack, clients and owner do what they like, in any order: nobody is offered who was not introduced, the conversation
//! keeps its grammar, and in the end nothing is left.

use std::collections::BTreeMap;

use proptest::prelude::*;
use xen::{GrantRef, Port};
use xenstore::fake::Flavour;

use super::stock::DISK;
use super::world::{M1, World, XVDA, map_offer};
use crate::vbdback::{BadRing, DeviceId, Event, Unusable};

#[derive(Clone, Copy, Debug)]
enum Act {
    Create(u16),
    Says(u16, u8),
    /// A frontend writes, or removes, one of the nodes that say where its ring is.
    Publish(u16, usize, bool),
    Detach(u16, bool),
    Cleanup(u16),
    Answer(bool),
    Abandon(u16),
    Wait,
    /// All comes to rest.
    Rest,
}

fn act() -> impl Strategy<Value = Act> {
    let client = 10_u16..14;
    prop_oneof![
        4 => client.clone().prop_map(Act::Create),
        8 => (client.clone(), 0_u8..9).prop_map(|(c, s)| Act::Says(c, s)),
        6 => (client.clone(), 0_usize..4, any::<bool>()).prop_map(|(c, k, w)| Act::Publish(c, k, w)),
        3 => (client.clone(), any::<bool>()).prop_map(|(c, f)| Act::Detach(c, f)),
        1 => client.clone().prop_map(Act::Cleanup),
        8 => prop::bool::weighted(0.8).prop_map(Act::Answer),
        1 => client.prop_map(Act::Abandon),
        4 => Just(Act::Wait),
        3 => Just(Act::Rest),
    ]
}

/// What the owner has been told of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Offered,
    Held,
    /// There is a ring to map.
    Ring,
    Connected,
    Closing,
    Idle,
}

#[derive(Default)]
struct Owner(BTreeMap<usize, (DeviceId, Told)>);

impl Owner {
    /// Checks that an event may come now.
    fn hear(&mut self, event: Event) {
        let told = |owner: &Self, device: DeviceId| owner.0.get(&device.index()).map(|(_, told)| *told);
        match event {
            Event::Offered { device, info } => {
                assert!((10..14).contains(&info.domain.0) && info.devid == XVDA);
                assert!(matches!(told(self, device), None | Some(Told::Idle)));
                self.0.insert(device.index(), (device, Told::Offered));
            }
            Event::Connected(device) => {
                assert_eq!(told(self, device), Some(Told::Held));
                self.0.insert(device.index(), (device, Told::Connected));
            }
            Event::BlockRing { device, ring, disk } => {
                assert_eq!(told(self, device), Some(Told::Held));
                assert_eq!((ring.references(), ring.port, disk), (&[GrantRef(8)][..], Port(4), DISK));
                self.0.insert(device.index(), (device, Told::Ring));
            }
            Event::Unusable { device, why: Unusable::Ring(bad), .. } => {
                assert_eq!(told(self, device), Some(Told::Held));
                assert_eq!(bad, BadRing::Port);
            }
            Event::Closing(device) => {
                assert!(matches!(told(self, device), Some(Told::Held | Told::Ring | Told::Connected)));
                self.0.insert(device.index(), (device, Told::Closing));
            }
            Event::Gone(device) => {
                assert!(
                    matches!(told(self, device), None | Some(Told::Idle)),
                    "nothing is held: {:?}",
                    told(self, device)
                );
                self.0.remove(&device.index());
            }
            other => panic!("{other:?}"),
        }
    }

    fn answer(&mut self, world: &mut World, accept: bool) {
        for (device, told) in self.0.values_mut() {
            match *told {
                Told::Offered if accept => {
                    // Every second device is a disk as well.
                    let disk = device.index().is_multiple_of(2).then_some(DISK);
                    world.backend.accept(*device, Some(map_offer(100)), disk);
                    *told = Told::Held;
                }
                Told::Ring => {
                    if accept {
                        world.backend.block_ready(*device);
                    } else {
                        world.backend.block_failed(*device, "no");
                    }
                    *told = Told::Held;
                }
                Told::Offered => {
                    world.backend.refuse(*device, "no");
                    *told = Told::Idle;
                }
                Told::Closing => {
                    world.backend.closed(*device);
                    *told = Told::Idle;
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #[test]
    fn any_order_ends_with_nothing_left(ocaml: bool, acts in prop::collection::vec((act(), prop::collection::vec(0_u8..4, 0..12)), 0..60)) {
        let mut world = World::new(if ocaml { Flavour::Ocaml } else { Flavour::C }, 8);
        let mut owner = Owner::default();
        for (act, steps) in acts {
            match act {
                Act::Create(client) => {
                    if world.state(client).is_none() {
                        world.create(client, "v");
                    }
                }
                Act::Says(client, state) => world.client_says(client, &state.to_string()),
                Act::Publish(client, key, write) => {
                    let (key, value) = [("ring-ref", "8"), ("event-channel", "4"), ("ring-ref", "8"), ("ring-page-order", "0")][key];
                    let front = format!("/local/domain/{client}/device/vbd/{XVDA}");
                    let node = format!("{front}/{key}");
                    if !write {
                        world.server.get_mut().remove(&node);
                    } else if world.server.get_mut().get(&front).is_some() {
                        world.server.get_mut().set(&node, value);
                    }
                }
                Act::Detach(client, force) => {
                    if world.state(client).is_some() {
                        world.server.get_mut().detach_vbd(M1, client, XVDA, force);
                    }
                }
                Act::Cleanup(client) => {
                    world.server.get_mut().remove(&World::back(client, ""));
                    world.server.get_mut().remove(&format!("/local/domain/{client}/device/vbd/{XVDA}"));
                }
                Act::Answer(accept) => owner.answer(&mut world, accept),
                Act::Abandon(client) => {
                    let found = owner.0.values().find(|(device, _)| {
                        world.backend.info(*device).is_some_and(|info| info.domain.0 == client)
                    });
                    if let Some((device, _)) = found {
                        world.backend.abandon(*device);
                    }
                }
                Act::Wait => {
                    if let Some(deadline) = world.backend.deadline() {
                        world.now = deadline;
                    }
                }
                Act::Rest => {
                    for event in world.run() {
                        owner.hear(event);
                    }
                }
            }
            for event in steps.into_iter().filter_map(|which| world.step(which)) {
                owner.hear(event);
            }
        }
        // Whatever went before, a new device is offered.
        for event in world.run_long() {
            owner.hear(event);
        }
        let fresh: Vec<u16> = (10..14).filter(|client| world.state(*client).is_none()).collect();
        for client in &fresh {
            world.create(*client, "new");
        }
        for event in world.run_long() {
            owner.hear(event);
        }
        for _ in 0..3 {
            owner.answer(&mut world, true);
            for event in world.run_long() {
                owner.hear(event);
            }
        }
        for client in &fresh {
            prop_assert_eq!(world.state(*client), Some("2".to_owned()));
        }
        for client in 10..14 {
            if world.state(client).is_some() {
                world.server.get_mut().detach_vbd(M1, client, XVDA, true);
            }
        }
        for _ in 0..6 {
            for event in world.run_long() {
                owner.hear(event);
            }
            owner.answer(&mut world, true);
        }
        prop_assert!(world.backend.is_empty(), "{:?}", owner.0);
        prop_assert!(owner.0.is_empty());
        for client in 10..14 {
            prop_assert_eq!(world.state(client), None);
        }
    }
}
