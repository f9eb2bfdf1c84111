//! M1's own disks, when they fail.

use std::time::{Duration, Instant};

use m1_tests::Guest;
use m1_tests::m1::{M1, m1};
use m1_tests::unikernel::{Round, digest, wait_rounds};
use serde_json::Value;

use crate::bed::{BASE_PAGES, Bed, CLIENT, OTHER_PAGES, digest_of, other};
use crate::endpoint::assert_states_add_up;
use crate::leaving::wait_all_back;

/// The client reads these pages, and they are right.
#[track_caller]
fn assert_right(bed: &Bed, m1: &M1<'_>, first: usize, count: usize) {
    let client = bed.unikernel(m1, &format!("first={first} pages={count}"));
    let round = wait_rounds(&client, 1, CLIENT).expect("a digest")[0];
    assert_eq!((round.pages, round.digest), (count as u64, digest_of(first..first + count)), "{round:?}");
    client.wait_end(CLIENT).expect("it ends");
}

/// The client gets as far as `page`, and is told that this one cannot be read.
#[track_caller]
fn assert_error_at(client: &Guest<'_>, page: usize) {
    let log = client.wait_log("mm-unikernel: round=0 ", CLIENT).expect("it says something");
    assert!(log.contains(&format!("round=0 Page({page}, ")), "{log}");
    assert_eq!(Round::all(&log).expect("a log"), []);
    client.wait_end(CLIENT).expect("it ends");
}

fn state_of_base(m1: &M1<'_>) -> String {
    let status = m1.status().expect("/status.json");
    status["volumes"][0]["state"].as_str().expect("a state").to_owned()
}

#[test]
fn a_disk_that_ends_early_is_an_error_to_who_reads_there_and_to_nobody_else() {
    let bed = Bed::get();
    let file = "/run/m1/short.img";
    let script = format!(
        "modprobe loop && mkdir -p /run/m1 && cat /dev/vda >{file} && device=$(losetup -f) && \
         losetup -r $device {file} && echo $device"
    );
    let device = bed.sh(&script).expect("a loop device").trim().to_owned();
    let m1 = bed.start(m1(&[&device], "volume=base:xvda"));
    let before = m1.metrics().expect("/metrics");
    // A quarter of it is left.
    let end = BASE_PAGES / 4;
    bed.sh(&format!("truncate -s $(({end} * 4096)) {file} && losetup -c {device}")).expect("losetup");
    let client = bed.unikernel(&m1, &format!("first={}", end - 100));
    assert_error_at(&client, end);
    assert_right(&bed, &m1, 0, end);
    let metrics = m1.metrics().expect("/metrics");
    assert!(metrics.get("m1_block_read_errors_total") > 0.0);
    let errors = [("kind", "grant_read"), ("result", "read_error")];
    assert!(metrics.with("m1_faults_total", &errors) > Some(0.0));
    assert_states_add_up(&metrics);
    assert_eq!(m1.get("/ready").expect("an answer").status, 200);

    // An error is not for ever: the disk is whole again.
    bed.sh(&format!("cat /dev/vda >{file} && losetup -c {device}")).expect("losetup");
    assert_right(&bed, &m1, 0, BASE_PAGES);
    wait_all_back(&m1, &before);
    bed.finish(m1);
    bed.sh(&format!("losetup -d {device}; rm {file}")).expect("losetup");
}

#[test]
fn a_disk_that_goes_away_takes_only_what_was_not_read_yet_until_it_is_back() {
    let bed = Bed::get();
    let m1 = bed.m1("");
    let holder = bed.unikernel(&m1, "pages=512 hold=1");
    holder.wait_log("holding", CLIENT).expect("it stays");
    bed.sh(&format!("xl block-detach {} xvda", m1.domid())).expect("xl block-detach");
    let wait_for = |wanted: &str| {
        let deadline = Instant::now() + CLIENT;
        while state_of_base(&m1) != wanted {
            assert!(Instant::now() < deadline, "not {wanted}:\n{}", m1.log().expect("a log"));
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    wait_for("its disk is gone: only what is cached is served");
    assert_right(&bed, &m1, 0, 512);
    let client = bed.unikernel(&m1, &format!("first={}", BASE_PAGES - 1));
    assert_error_at(&client, BASE_PAGES - 1);
    assert_eq!(m1.get("/healthz").expect("an answer").status, 200);

    // Another disk in its place is not taken for it; the right one is.
    let attach = |device: &str| {
        let disk = format!("format=raw,vdev=xvda,access=r,target={device}");
        bed.sh(&format!("xl block-attach {} '{disk}'", m1.domid())).expect("xl block-attach");
    };
    attach("/dev/vdb");
    wait_for("another disk is there now: only what is cached of the first is served");
    assert_right(&bed, &m1, 0, 512);
    bed.sh(&format!("xl block-detach {} xvda", m1.domid())).expect("xl block-detach");
    attach("/dev/vda");
    wait_for("serving");
    assert_right(&bed, &m1, 0, BASE_PAGES);
    holder.destroy().expect("xl destroy");
    bed.finish(m1);
}

#[test]
fn a_volume_is_served_from_when_its_disk_is_attached() {
    let bed = Bed::get();
    let m1 = bed.start(m1(&["/dev/vdb"], "volume=other:xvda volume=base:xvdc"));
    let state = || m1.status().expect("/status.json")["volumes"][1]["state"].as_str().map(str::to_owned);
    assert_eq!(state().as_deref(), Some("no such disk: is it in M1's disk= line?"));
    let disk = "format=raw,vdev=xvdc,access=r,target=/dev/vda";
    bed.sh(&format!("xl block-attach {} '{disk}'", m1.domid())).expect("xl block-attach");
    let deadline = Instant::now() + CLIENT;
    while state().as_deref() != Some("serving") {
        assert!(Instant::now() < deadline, "not served:\n{}", m1.log().expect("a log"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_right(&bed, &m1, 0, BASE_PAGES);
    bed.finish(m1);
}

/// Of each version that is there: its number, its clients, and whether it is for new ones.
fn versions(m1: &M1<'_>) -> Vec<(u64, u64, bool)> {
    let status = m1.status().expect("/status.json");
    let number = |version: &Value, key: &str| version[key].as_u64().expect("a number");
    let there = |version: &&Value| version["bytes"] != 0 && version["state"] == "serving";
    let list = status["volumes"].as_array().expect("a list").iter().filter(there);
    list.map(|version| {
        (number(version, "version"), number(version, "clients"), version["current"] == Value::Bool(true))
    })
    .collect()
}

#[test]
fn a_new_version_takes_new_clients_and_the_old_one_goes_when_its_last_client_does() {
    let bed = Bed::get();
    let m1 = bed.start(m1(&["/dev/vda"], "volume=base:xvda:xvdc").with("memory", 64));
    let before = m1.metrics().expect("/metrics");
    let wait_for = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + CLIENT;
        while !done() {
            assert!(Instant::now() < deadline, "{what}:\n{}", m1.log().expect("a log"));
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let attach = |vdev: &str, device: &str| {
        let disk = format!("format=raw,vdev={vdev},access=r,target={device}");
        bed.sh(&format!("xl block-attach {} '{disk}'", m1.domid())).expect("xl block-attach");
    };
    let holder = bed.unikernel(&m1, "pages=512 hold=1");
    holder.wait_log("holding", CLIENT).expect("it stays");
    let mut holder = Some(holder);
    // By turns, so that each place is used again.
    for (round, (old, new, device)) in
        [("xvda", "xvdc", "/dev/vdb"), ("xvdc", "xvda", "/dev/vda"), ("xvda", "xvdc", "/dev/vdb")]
            .into_iter()
            .enumerate()
    {
        attach(new, device);
        let version = u64::try_from(round).expect("few") + 2;
        wait_for("a new version", &|| {
            versions(&m1).iter().any(|(number, _, current)| *current && *number == version)
        });
        let client = bed.unikernel(&m1, "");
        let read = wait_rounds(&client, 1, CLIENT).expect("a digest")[0];
        let expected = if device == "/dev/vda" {
            digest_of(0..BASE_PAGES)
        } else {
            digest(other().pages(&(0..OTHER_PAGES).collect::<Vec<_>>()))
        };
        assert_eq!(read.digest, expected, "version {version}: {read:?}");
        client.wait_end(CLIENT).expect("it ends");
        if let Some(holder) = holder.take() {
            let clients: Vec<u64> = versions(&m1).iter().map(|(_, clients, _)| *clients).collect();
            assert_eq!(clients.iter().sum::<u64>(), 1, "{clients:?}");
            holder.destroy().expect("xl destroy");
        }
        wait_for("the old one is retired", &|| versions(&m1).len() == 1);
        bed.sh(&format!("xl block-detach {} {old}", m1.domid())).expect("xl block-detach");
        wait_for("the old one is gone", &|| {
            let status = m1.status().expect("/status.json");
            status["volumes"]
                .as_array()
                .expect("a list")
                .iter()
                .any(|place| place["state"] == "free for the next version's disk")
        });
    }
    wait_all_back(&m1, &before);
    bed.finish(m1);
}
