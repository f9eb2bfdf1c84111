//! How a stock frontend and M1 find each other, part, and find each other again.

use xenstore::fake::Quota;

use super::stock::{BLOCKS, Bed, DISK, whole};
use super::world::{M1, World, XVDA, map_offer};
use crate::vbdback::{BadRing, BlockFeatures, BlockOffer, Event, Unusable};

/// What M1 said of the device.
fn said(bed: &Bed, key: &str) -> Option<String> {
    bed.world.get(bed.id(), key)
}

#[test]
fn what_a_ring_needs_is_said_before_state_2_and_the_disk_before_state_4() {
    let mut bed = Bed::offered(DISK);
    let transport =
        [("map-ring-ref", "100"), ("feature-max-indirect-segments", "32"), ("max-ring-page-order", "4")];
    for (key, value) in transport {
        assert_eq!(said(&bed, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(bed.m1_state(), "2");
    let disk = [
        ("sectors", (BLOCKS * 8).to_string()),
        ("info", "0".into()),
        ("sector-size", "512".into()),
        ("feature-flush-cache", "1".into()),
        ("feature-barrier", "1".into()),
        ("feature-discard", "1".into()),
        ("discard-granularity", "4096".into()),
        ("discard-alignment", "0".into()),
        ("discard-secure", "0".into()),
        ("feature-persistent", "0".into()),
    ];
    for (key, _) in &disk {
        assert_eq!(said(&bed, key), None, "{key}: a client of the map service needs none of it");
    }
    bed.client_publishes(0);
    let events = bed.client_says("3");
    assert!(matches!(events[..], [Event::BlockRing { .. }, Event::Connected(_)]), "{events:?}");
    for (key, value) in disk {
        assert_eq!(said(&bed, key), Some(value), "{key}");
    }
    assert_eq!(bed.m1_state(), "4");
    assert_eq!(said(&bed, "mode").as_deref(), Some("w"), "dom0's");
    // Nodes count against a quota: three of the disk, the map service's, and what features need.
    let id = bed.id();
    let nodes = bed.world.server.get_mut().children(&World::back(id, ""));
    let of_the_toolstack =
        ["frontend", "frontend-id", "online", "state", "mode", "dev", "type", "params", "bootable"];
    let feature = |node: &str| {
        ["feature-", "discard-", "max-ring", "map-", "info-ref"].iter().any(|part| node.starts_with(part))
    };
    let mut own: Vec<_> =
        nodes.iter().filter(|node| !of_the_toolstack.contains(&node.as_str()) && !feature(node)).collect();
    own.sort_unstable();
    assert_eq!(own, ["info", "sector-size", "sectors"]);
}

#[test]
fn a_frontend_that_sees_state_4_sees_the_whole_disk() {
    let mut bed = Bed::offered(DISK);
    bed.client_publishes(0);
    let id = bed.id();
    bed.world.client_says(id, "3");
    let mut steps = 0;
    while bed.m1_state() != "4" {
        bed.world.now += 1_000_000_000;
        if let Some(Event::BlockRing { device, .. }) = bed.world.step(steps) {
            bed.world.backend.block_ready(device);
        }
        steps = steps.wrapping_add(1);
        if bed.m1_state() == "4" {
            assert!(said(&bed, "sector-size").is_some() && said(&bed, "discard-granularity").is_some());
        }
    }
}

#[test]
fn frontends_that_jump_to_state_4_are_met_as_well() {
    // mini-os does so in one transaction; and it may be there before our offer.
    let mut bed = Bed::offered(DISK);
    bed.client_publishes(0);
    let events = bed.client_says("4");
    assert!(matches!(events[..], [Event::BlockRing { .. }, Event::Connected(_)]), "{events:?}");
    assert_eq!(bed.m1_state(), "4");
    assert_eq!(bed.ask_for(0, 8, &[whole(0)]), 0);
}

#[test]
fn a_client_without_a_ring_is_connected_as_ever() {
    let mut bed = Bed::offered(DISK);
    let events = bed.client_says("4");
    assert!(matches!(events[..], [Event::Connected(_)]), "{events:?}");
    assert_eq!((bed.m1_state().as_str(), said(&bed, "sectors")), ("4", None));
    assert!(bed.ring.is_none());
}

#[test]
fn rings_of_all_offered_sizes_are_taken() {
    for order in 0..=4 {
        let mut bed = Bed::connected(DISK, order);
        let (_, ring) = bed.ring.as_ref().expect("mapped");
        assert_eq!(ring.slots(), 32 << order);
        assert_eq!(bed.window.mapped(), 1 << order);
        for _ in 0..40 {
            assert_eq!(bed.ask_for(0, 8, &[whole(0)]), 0);
        }
    }
}

#[test]
fn an_order_of_0_may_stand_beside_either_name() {
    for name in ["ring-ref", "ring-ref0"] {
        let mut bed = Bed::offered(DISK);
        bed.client_publishes(0);
        bed.client_removes("ring-ref");
        bed.client_writes("ring-page-order", "0");
        bed.client_writes(name, "8");
        bed.client_says("3");
        assert_eq!(bed.m1_state(), "4", "{name}");
    }
}

#[test]
fn no_protocol_is_the_native_one() {
    let mut bed = Bed::offered(DISK);
    bed.client_publishes(0);
    bed.client_removes("protocol");
    bed.client_says("3");
    assert_eq!(bed.m1_state(), "4");
}

#[test]
fn nonsense_closes_the_device_and_says_why() {
    for (key, value, bad) in [
        ("protocol", Some("x86_32-abi"), BadRing::Protocol),
        ("event-channel", None, BadRing::Port),
        ("event-channel", Some("-1"), BadRing::Port),
        ("ring-ref", Some("eight"), BadRing::Reference),
        ("ring-ref", Some("4294967296"), BadRing::Reference),
        ("ring-page-order", Some("5"), BadRing::Order),
        ("ring-page-order", Some("999999999999"), BadRing::Order),
        ("ring-page-order", Some(""), BadRing::Order),
        ("ring-page-order", Some("1"), BadRing::Reference),
    ] {
        let mut bed = Bed::offered(DISK);
        bed.client_publishes(0);
        match value {
            Some(value) => bed.client_writes(key, value),
            None => bed.client_removes(key),
        }
        let events = bed.client_says("3");
        let why = Unusable::Ring(bad);
        assert!(
            matches!(events[..], [Event::Unusable { why: told, .. }, Event::Closing(_)] if told == why),
            "{key}={value:?}: {events:?}"
        );
        assert_eq!(bed.m1_state(), "5");
        assert_eq!(said(&bed, "error"), Some(bad.to_string()));
        // It may come back with something better.
        bed.client_takes_back();
        bed.client_removes("ring-page-order");
        bed.client_says("6");
        assert_eq!(bed.m1_state(), "6");
        bed.client_says("1");
        assert_eq!(bed.m1_state(), "2");
        bed.client_publishes(0);
        bed.client_says("3");
        assert_eq!(bed.m1_state(), "4");
    }
}

#[test]
fn a_ring_that_cannot_be_mapped_or_bound_closes_the_device() {
    for what in ["reference", "second page", "read-only", "port"] {
        let mut bed = Bed::offered(DISK);
        bed.client_publishes(1);
        match what {
            "reference" => bed.client_writes("ring-ref0", "4000000000"),
            "second page" => bed.client_writes("ring-ref1", "31"),
            "read-only" => {
                bed.client.revoke(8);
                bed.client.grant(8, bed.client.ring_page(), xen::Access::ReadOnly);
            }
            _ => bed.client_writes("event-channel", "0"),
        }
        let events = bed.client_says("3");
        assert!(matches!(events[..], [Event::BlockRing { .. }, Event::Closing(_)]), "{what}: {events:?}");
        assert_eq!(bed.m1_state(), "5");
        assert!(said(&bed, "error").is_some_and(|error| error.starts_with("cannot ")), "{what}");
        assert_eq!((bed.window.mapped(), bed.m1.open_ports()), (0, 0), "{what}");
        bed.client_takes_back();
    }
}

#[test]
fn a_disk_alone_needs_a_ring() {
    let mut bed = Bed::offered(DISK);
    let id = bed.id();
    bed.client_says("6");
    bed.world.client_says(id, "1");
    let device = bed.world.offered();
    bed.world.backend.accept(device, None, Some(DISK));
    assert_eq!(bed.world.run_long(), []);
    let events = bed.client_says("3");
    let why = Unusable::Ring(BadRing::Missing);
    assert!(
        matches!(events[..], [Event::Unusable { why: told, .. }, Event::Closing(_)] if told == why),
        "{events:?}"
    );
}

/// What M1 says of a disk.
fn properties(disk: BlockOffer, dom0: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
    let mut bed = Bed::offered(DISK);
    let id = bed.id();
    bed.client_says("6");
    for (key, value) in dom0 {
        bed.world.server.get_mut().set(&World::back(id, &format!("/{key}")), value);
    }
    bed.world.client_says(id, "1");
    let device = bed.world.offered();
    bed.world.backend.accept(device, None, Some(disk));
    bed.world.run_long();
    bed.client_publishes(0);
    bed.client_says("3");
    assert_eq!(bed.m1_state(), "4");
    move |key| said(&bed, key)
}

#[test]
fn large_disks_have_large_numbers() {
    let sectors = (1 << 40) + 8;
    let said = properties(BlockOffer { sectors, ..DISK }, &[]);
    assert_eq!(said("sectors").as_deref(), Some("1099511627784"));
    let said = properties(BlockOffer { sectors: u64::MAX, ..DISK }, &[]);
    assert_eq!(said("sectors").as_deref(), Some("18446744073709551615"));
}

#[test]
fn what_is_not_offered_is_not_said() {
    let features = BlockFeatures { indirect_segments: 0, ring_order: 0, ..BlockFeatures::READ };
    let said = properties(BlockOffer { read_only: true, features, ..DISK }, &[]);
    assert_eq!(said("info").as_deref(), Some("4"));
    for key in ["feature-flush-cache", "feature-barrier", "feature-discard", "max-ring-page-order"] {
        assert_eq!(said(key).as_deref(), Some("0"), "{key}");
    }
    assert_eq!(said("discard-granularity"), None);
    let too_much = BlockFeatures { indirect_segments: 999, ring_order: 9, ..BlockFeatures::ALL };
    let said = properties(BlockOffer { features: too_much, ..DISK }, &[("discard-enable", "0")]);
    assert_eq!(said("feature-max-indirect-segments").as_deref(), Some("32"));
    assert_eq!(said("max-ring-page-order").as_deref(), Some("4"));
    assert_eq!(said("feature-discard").as_deref(), Some("0"), "dom0 does not want it");
}

#[test]
fn a_boot_loader_hands_over_to_its_kernel() {
    let mut bed = Bed::offered(DISK);
    for order in [0, 2, 0] {
        // GRUB: 3, then 6 without 5; it waits for each answer.
        bed.client_publishes(order);
        bed.client_says("3");
        assert_eq!(bed.m1_state(), "4");
        assert_eq!(bed.ask_for(0, 8, &[whole(0)]), 0);
        let events = bed.client_says("6");
        assert!(matches!(events[..], [Event::Closing(_)]), "{events:?}");
        assert_eq!(bed.m1_state(), "6");
        assert_eq!((bed.window.mapped(), bed.m1.open_ports()), (0, 0));
        bed.client_takes_back();
        bed.client_says("1");
        assert_eq!(bed.m1_state(), "2");
    }
    // Then a kernel that knows the map protocol.
    for key in ["ring-ref", "event-channel"] {
        bed.client_removes(key);
    }
    bed.client_says("4");
    assert_eq!(bed.m1_state(), "4");
    assert!(bed.ring.is_none());
}

#[test]
fn mini_os_closes_by_5_and_6() {
    let mut bed = Bed::connected(DISK, 0);
    bed.client_says("5");
    assert_eq!(bed.m1_state(), "5");
    assert_eq!(
        (bed.window.mapped(), bed.m1.open_ports()),
        (0, 0),
        "a frontend that frees its ring now finds it free"
    );
    bed.client_takes_back();
    bed.client_says("6");
    assert_eq!(bed.m1_state(), "6");
    bed.client_says("1");
    assert_eq!(bed.m1_state(), "2");
    bed.client_publishes(3);
    bed.client_says("4");
    assert_eq!(bed.m1_state(), "4");
}

#[test]
fn a_kernel_that_starts_over_without_a_word_gets_a_new_ring() {
    let mut bed = Bed::connected(DISK, 1);
    bed.client_says("1");
    assert_eq!((bed.m1_state().as_str(), bed.window.mapped()), ("2", 0));
    bed.client_takes_back();
    bed.client_publishes(0);
    bed.client_says("3");
    assert_eq!((bed.m1_state().as_str(), bed.window.mapped()), ("4", 1));
    assert_eq!(bed.ask_for(0, 8, &[whole(0)]), 0);
}

#[test]
fn a_detach_waits_for_the_frontend_and_ends_with_the_directory_gone() {
    let mut bed = Bed::connected(DISK, 0);
    let id = bed.id();
    bed.world.server.get_mut().detach_vbd(M1, id, XVDA, false);
    assert_eq!(bed.run(), []);
    assert_eq!(bed.window.mapped(), 1, "it is still in use");
    let events = bed.client_says("6");
    assert!(matches!(events[..], [Event::Closing(_), Event::Gone(_)]), "{events:?}");
    assert_eq!((bed.window.mapped(), bed.m1_state().as_str()), (0, ""));
    bed.client_takes_back();
}

#[test]
fn a_client_that_is_destroyed_under_load_leaves_no_zombie() {
    let mut bed = Bed::connected(DISK, 2);
    let id = bed.client.domain.id();
    for _ in 0..20 {
        bed.client.push(crate::blkfront::wire::request(1, 1, 0, &[whole(0)]));
    }
    // Some are taken, none is answered.
    let (_, ring) = bed.ring.as_mut().expect("mapped");
    for _ in 0..5 {
        assert!(ring.pop().expect("an honest client").is_some());
    }
    bed.xen.destroy(id);
    bed.serve();
    assert!(bed.xen.knows(id), "its ring is mapped");
    bed.world.server.get_mut().detach_vbd(M1, id.0, XVDA, true);
    let events = bed.run();
    assert!(matches!(events[..], [Event::Closing(_), Event::Gone(_)]), "{events:?}");
    assert!(!bed.xen.knows(id), "nothing of it is left");
    assert_eq!((bed.m1.open_ports(), bed.xen.leaked_mappings()), (0, 0));
}

#[test]
fn a_frontend_that_leaves_while_its_ring_is_mapped_is_not_connected() {
    let mut bed = Bed::offered(DISK);
    bed.client_publishes(0);
    let id = bed.id();
    bed.world.client_says(id, "3");
    let events = bed.world.run_long();
    let [Event::BlockRing { device, .. }] = events[..] else { panic!("{events:?}") };
    bed.world.client_says(id, "6");
    assert_eq!(bed.world.run_long(), [Event::Closing(device)]);
    bed.world.backend.block_ready(device);
    bed.world.backend.block_failed(device, "too late");
    assert_eq!(bed.world.run_long(), []);
    bed.world.backend.closed(device);
    assert_eq!(bed.world.run_long(), []);
    assert_eq!((bed.m1_state().as_str(), said(&bed, "sectors"), said(&bed, "error")), ("6", None, None));
}

#[test]
fn answers_to_what_was_not_asked_are_passed_over() {
    let mut bed = Bed::offered(DISK);
    let id = bed.id();
    bed.client_says("6");
    bed.world.client_says(id, "1");
    let device = bed.world.offered();
    bed.world.backend.block_ready(device);
    bed.world.backend.block_failed(device, "no");
    assert_eq!((bed.world.run_long(), bed.m1_state().as_str()), (vec![], "6"));
    bed.world.backend.accept(device, Some(map_offer(1)), Some(DISK));
    bed.world.backend.block_ready(device);
    assert_eq!((bed.world.run_long(), bed.m1_state().as_str()), (vec![], "2"));
}

#[test]
fn a_quota_that_is_reached_while_connecting_closes_the_device() {
    let mut bed = Bed::offered(DISK);
    bed.client_publishes(0);
    let owned = bed.world.server.get_mut().owned_by(M1);
    bed.world.server.get_mut().set_quota(Quota { nodes: owned + 3, ..Quota::default() });
    let events = bed.client_says("3");
    assert!(
        matches!(
            events[..],
            [Event::BlockRing { .. }, Event::Connected(_), Event::Unusable { .. }, Event::Closing(_)]
        ),
        "{events:?}"
    );
    assert_eq!(bed.window.mapped(), 0);
    assert_ne!(bed.m1_state(), "4");
}
