//! M1 with the other xenstore daemon, the one in C: from `xl create` to a client's end.

use std::time::Duration;

use m1_tests::m1::{client, disk, m1};
use m1_tests::raw_disk::RawDisk;
use m1_tests::unikernel::{digest, wait_rounds};
use m1_tests::{Dom0, Shared, Xenstored, image};

const ADDRESS: [u8; 4] = [10, 0, 2, 50];
/// What takes seconds at most, but on a busy host.
const LIMIT: Duration = Duration::from_secs(90);

static DOM0: Shared = Shared::new(|| {
    Ok(Dom0::builder()
        .xenstored(Xenstored::Xenstored)
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-unikernel")?)
        .disk_read_only(noise().path()))
});

fn noise() -> RawDisk {
    RawDisk::new(env!("CARGO_TARGET_TMPDIR"), 512, 3).expect("a file for a disk")
}

#[test]
fn clients_come_share_and_go_with_the_xenstored_in_c() {
    let dom0 = DOM0.get();
    assert!(dom0.sh("pidof xenstored").is_ok(), "it is the daemon in C");
    let config = m1(&["/dev/vda"], "volume=base:xvda");
    let m1 = dom0.start_m1("m1", ADDRESS, config).expect("M1 starts");
    let unikernel = |name, options| {
        let config = client("mm-unikernel", "m1", "base", options).with("memory", 16);
        dom0.create(name, &config.to_string()).expect("the client starts")
    };
    let clients = [unikernel("alice", "hold=1"), unikernel("bob", "hold=1")];
    for client in &clients {
        let round = wait_rounds(client, 1, LIMIT).expect("a digest")[0];
        assert_eq!((round.digest, round.mapped), (digest([noise().content()]), 512), "{round:?}");
    }
    let metrics = m1.metrics().expect("/metrics");
    assert_eq!((metrics.get("m1_pages_shared"), metrics.get("m1_pages_sharing")), (512.0, 512.0));

    // A volume that there is not, and one more that there is.
    let wrong = disk("xvdb", "m1", "nowhere");
    let output = dom0.run(&format!("xl block-attach alice '{wrong}'")).expect("xl runs");
    assert_ne!(output.code, 0, "{}", output.stdout_text());
    assert!(m1.log().expect("a log").contains("target=nowhere is refused: no volume has this name"));
    let more = disk("xvdc", "m1", "base");
    dom0.sh(&format!("xl block-attach alice '{more}'")).expect("xl block-attach");
    m1.wait_metrics(LIMIT, &["m1_devices"], |now| now.get("m1_devices") == 3.0).expect("a third device");
    dom0.sh("xl block-detach alice xvdc").expect("xl block-detach");

    let [alice, bob] = clients;
    dom0.sh("xl shutdown bob").expect("xl shutdown");
    bob.wait_end(LIMIT).expect("it ends");
    alice.destroy().expect("xl destroy");
    let names = ["m1_clients", "m1_devices", "m1_pages_shared", "m1_client_stale_pinned"];
    m1.wait_metrics(LIMIT, &names, |now| names.iter().all(|name| now.sum(name) == 0.0))
        .expect("nothing is left");
    let left = dom0.sh(&format!("xenstore-ls /local/domain/{}/backend/vbd", m1.domid())).unwrap_or_default();
    assert!(!left.contains("map-ring-ref"), "{left}");
    m1.destroy().expect("xl destroy");
}
