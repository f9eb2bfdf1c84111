//! A new version of a volume takes new clients while an older one serves those it has.

use mm_http::Page;

use super::stock::OKAY;
use super::world::{PAGES, World, XVDA};
use crate::refusals::Reason;
use crate::volumes::VolumeState;

const XVDB: u32 = XVDA + 16;
const SECOND: u64 = 1_000_000_000;

fn world(options: &str) -> World {
    World::new(&std::format!("volume=base:xvda:xvdb clients=6 window=4 {options}"), 64)
}

fn states(world: &World) -> [VolumeState; 2] {
    [world.m1.volumes[0].state, world.m1.volumes[1].state]
}

#[test]
fn who_has_a_version_keeps_it_and_who_comes_gets_the_newest() {
    let mut world = world("");
    assert_eq!(states(&world), [VolumeState::Serving, VolumeState::Vacant]);
    let old = world.client("base", 0);
    world.touch(old, 3);
    world.attach_disk_as(XVDB, 1, PAGES);
    assert_eq!(states(&world), [VolumeState::Serving; 2]);
    let new = world.client("base", 1);
    for page in [3, 40] {
        // Each checks the bytes of what it gets against its own disk.
        world.touch(new, page);
        world.touch(old, page);
    }
    assert_eq!(world.figures().pages_sharing, 0, "nothing is shared between versions");
    let status: serde_json::Value = serde_json::from_str(&world.render(Page::Status)).expect("JSON");
    let versions: std::vec::Vec<_> = status["volumes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|version| {
            let number = |key: &str| version[key].as_u64().expect("a number");
            (number("version"), number("clients"), version["current"].as_bool().expect("yes or no"))
        })
        .collect();
    assert_eq!(versions, [(1, 1, false), (2, 1, true)]);

    world.destroy(old);
    world.pass(2 * SECOND);
    assert_eq!(states(&world), [VolumeState::Retired, VolumeState::Serving]);
    world.detach_disk_of(XVDA);
    world.pass(2 * SECOND);
    assert_eq!(states(&world), [VolumeState::Vacant, VolumeState::Serving]);
    world.attach_disk_as(XVDA, 2, PAGES - 1);
    let newest = world.client("base", 2);
    world.touch(newest, 5);
    world.touch(0, 6);
    assert_eq!(world.m1.volumes[0].version, 3);
    assert_eq!(world.clients[newest].info().pages, PAGES - 1);
    let metrics = world.render(Page::Metrics);
    assert!(
        metrics.contains("m1_volume_version_clients{volume=\"base\",version=\"3\",device=\"xvda\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains(&std::format!(
        "m1_volume_bytes{{volume=\"base\",group=\"base\"}} {}\n",
        (PAGES - 1) * 4096
    )));
}

#[test]
fn a_hundred_versions_come_one_after_another() {
    let mut world = world("");
    let rest = world.rest();
    let mut before = world.client("base", 0);
    for version in 1..=100_u32 {
        let (devid, number) = if version % 2 == 1 { (XVDB, version % 50) } else { (XVDA, version % 50) };
        world.attach_disk_as(devid, number, PAGES);
        let next = world.client("base", number);
        world.touch(before, u64::from(version) % PAGES);
        world.touch(next, u64::from(version) % PAGES);
        world.destroy(before);
        before = next - 1;
        world.pass(2 * SECOND);
        world.detach_disk_of(if devid == XVDA { XVDB } else { XVDA });
        world.pass(2 * SECOND);
    }
    assert_eq!(world.m1.volumes.iter().map(|volume| volume.version).max(), Some(101));
    world.destroy(before);
    world.pass(2 * SECOND);
    assert_eq!(world.rest(), rest);
}

#[test]
fn disks_of_stock_guests_keep_their_version_too_also_while_they_reconnect() {
    let mut world = world("");
    let stock = world.stock("base", "w");
    assert_eq!(world.write_block(stock, 9, 4), OKAY);
    world.attach_disk_as(XVDB, 1, PAGES);
    let other = world.stock("base", "w");
    assert!(world.shows_base(stock, 3, 0) && world.shows_base(other, 3, 1));
    // A boot loader hands the device on to its kernel.
    world.reconnect(stock);
    assert!(world.shows_base(stock, 4, 0));
    assert_eq!(world.read_block(stock, 9), 4);
    world.pass(2 * SECOND);
    assert_eq!(states(&world), [VolumeState::Serving; 2]);
    world.destroy_stock(stock);
    world.pass(2 * SECOND);
    assert_eq!(states(&world)[0], VolumeState::Retired);
    assert!(world.shows_base(other - 1, 4, 1));
}

#[test]
fn an_overlay_goes_with_the_version_that_it_lies_over_and_with_no_other() {
    let mut world = world("store_disk=xvdc");
    let stock = world.stock("base+mine", "w");
    assert_eq!(world.write_block(stock, 9, 4), OKAY);
    let holder = world.client("base", 0);
    world.attach_disk_as(XVDB, 1, PAGES);
    world.destroy_stock(stock);
    let stock = world.stock("base+mine", "w");
    assert_eq!(world.read_block(stock, 9), 4);
    assert!(world.shows_base(stock, 3, 0), "the old version, which is still there");
    let fresh = world.stock("base+fresh", "w");
    assert!(world.shows_base(fresh, 3, 1));
    world.destroy_stock(stock);
    world.destroy(holder);
    world.pass(2 * SECOND);
    assert_eq!(states(&world)[0], VolumeState::Retired);
    world.create_with("base+mine", "w");
    assert_eq!(world.m1.refusals.iter().last().map(|refusal| refusal.reason), Some(Reason::OtherBase));
}

#[test]
fn a_version_that_nobody_had_stays_until_its_disk_goes() {
    let mut world = world("");
    world.attach_disk_as(XVDB, 1, PAGES);
    world.pass(20 * SECOND);
    assert_eq!(states(&world), [VolumeState::Serving; 2], "somebody may have an overlay over it");
    // Back to the one before: the newest is taken away.
    world.detach_disk_of(XVDB);
    world.pass(12 * SECOND);
    assert_eq!(states(&world), [VolumeState::Serving, VolumeState::Vacant]);
    let client = world.client("base", 0);
    world.touch(client, 3);
}

#[test]
fn a_volume_of_one_disk_changes_while_nobody_has_it() {
    let mut world = World::new("volume=base:xvda clients=4", 64);
    let client = world.client("base", 0);
    world.touch(client, 3);
    world.detach_disk();
    world.attach_disk(1, PAGES);
    assert_eq!(world.m1.volumes[0].state, VolumeState::OtherDisk, "somebody has it");
    world.destroy(client);
    world.pass(2 * SECOND);
    assert_eq!((world.m1.volumes[0].state, world.m1.volumes[0].version), (VolumeState::Serving, 2));
    let client = world.client("base", 1);
    world.touch(client, 3);
    world.destroy(client);
    world.detach_disk();
    world.attach_disk(2, PAGES);
    world.pass(2 * SECOND);
    let client = world.client("base", 2);
    world.touch(client, 3);
}

#[test]
fn a_version_whose_pages_somebody_keeps_mapped_has_its_place_until_they_let_go() {
    let mut world = world("");
    let keeper = world.client("base", 0);
    world.touch(keeper, 3);
    world.attach_disk_as(XVDB, 1, PAGES);
    // Its device goes, and its domain keeps what it maps.
    let domain = world.clients[keeper].domain.id();
    world.remove_device(domain, true);
    world.pass(2 * SECOND);
    assert_eq!(states(&world), [VolumeState::Retiring, VolumeState::Serving]);
    world.detach_disk_of(XVDA);
    world.attach_disk_as(XVDA, 2, PAGES);
    world.pass(2 * SECOND);
    assert_eq!(states(&world)[0], VolumeState::Retiring);
    let current = world.client("base", 1);
    world.touch(current, 3);
    world.clients[keeper].check();
    let kept = world.clients.remove(keeper);
    world.xen.destroy(kept.domain.id());
    world.pass(3 * SECOND);
    assert_eq!(states(&world), [VolumeState::Serving; 2]);
    assert_eq!(world.m1.volumes[0].version, 3);
    let newest = world.client("base", 2);
    world.touch(newest, 3);
    assert_eq!(world.disks.iter().find(|disk| disk.devid == XVDA).expect("attached").reads[0], 0);
}
