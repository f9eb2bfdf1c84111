//! Clients that share pages: what they get, and what M1 and Xen count.

use std::collections::BTreeSet;
use std::time::Duration;

use m1_tests::full;
use m1_tests::m1::m1;
use m1_tests::raw_disk::PAGE;
use m1_tests::unikernel::wait_rounds;

use crate::bed::{BASE_PAGES, Bed, CLIENT, digest_of};
use crate::endpoint::assert_states_add_up;
use crate::leaving::wait_all_back;

#[test]
fn two_clients_map_the_same_pages_and_m1_counts_what_xen_counts() {
    let bed = Bed::get();
    let m1 = bed.m1("");
    let before = m1.metrics().expect("/metrics");
    let all = digest_of(0..BASE_PAGES);
    // The first has each page read from disk. For the second all are there, and windows grow.
    let clients = [BASE_PAGES as u64 / 4, 40].map(|most| {
        let client = bed.unikernel(&m1, "write=20 hold=1");
        let round = wait_rounds(&client, 1, CLIENT).expect("a digest")[0];
        assert_eq!((round.pages, round.digest), (BASE_PAGES as u64, all), "{round:?}");
        assert_eq!((round.mapped, round.copied, round.retries), (BASE_PAGES as u64, 0, 0), "{round:?}");
        assert!(round.asked < most, "{round:?}");
        client.wait_log("wrote 20 pages of its own, M1's are as before", CLIENT).expect("private writes");
        client.wait_log("holding", CLIENT).expect("it stays");
        client
    });
    let metrics = m1.metrics().expect("/metrics");
    assert_states_add_up(&metrics);
    assert_eq!(metrics.get("m1_pages_shared"), BASE_PAGES as f64);
    assert_eq!(metrics.get("m1_pages_sharing"), BASE_PAGES as f64);
    assert_eq!(metrics.get("m1_saved_bytes"), (BASE_PAGES * PAGE) as f64);
    assert_eq!(metrics.with("m1_memory_bytes", &[("state", "shared")]), Some((BASE_PAGES * PAGE) as f64));
    assert_eq!(metrics.get("m1_block_read_pages_total"), BASE_PAGES as f64, "each page is read once");

    let grants = bed.grants().expect("xl debug-keys g");
    let mut frames: Vec<BTreeSet<u64>> = Vec::new();
    for client in &clients {
        let domid = client.domid().to_string();
        let mapped = metrics.with("m1_client_mapped_bytes", &[("domid", &domid)]);
        assert_eq!(mapped, Some((BASE_PAGES * PAGE) as f64));
        let by_xen = m1.pages_mapped(&grants, client.domid()).expect("Xen's count");
        assert_eq!(by_xen.len(), BASE_PAGES, "Xen's count of domain {domid}");
        assert!(by_xen.iter().all(|entry| entry.writers() == 0), "a page is mapped for writing");
        frames.push(by_xen.iter().map(|entry| entry.mfn).collect());
    }
    assert_eq!(frames[0].len(), BASE_PAGES, "each page once");
    assert_eq!(frames[0], frames[1], "the very same frames");

    let [alice, bob] = clients;
    alice.destroy().expect("xl destroy");
    let metrics = m1
        .wait_metrics(Duration::from_secs(20), &["m1_pages_sharing", "m1_clients"], |now| {
            now.get("m1_pages_sharing") == 0.0 && now.get("m1_clients") == 1.0
        })
        .expect("only one is left");
    assert_eq!(metrics.get("m1_pages_shared"), BASE_PAGES as f64);
    // The other ends as dom0 asks it to.
    bed.sh(&format!("xl shutdown {}", bob.domid())).expect("xl shutdown");
    bob.wait_end(CLIENT).expect("it ends");
    wait_all_back(&m1, &before);
    bed.finish(m1);
}

#[test]
fn with_a_window_of_one_every_page_touched_is_a_fault_that_m1_served() {
    let bed = Bed::get();
    let m1 = bed.m1("window=1");
    // 300 distinct pages, each touched twice, by each of two clients.
    let touched = digest_of((7..).step_by(3).take(300));
    for number in 1..=2 {
        let client = bed.unikernel(&m1, "first=7 stride=3 pages=300 rounds=2");
        let rounds = wait_rounds(&client, 2, CLIENT).expect("digests");
        for round in &rounds {
            assert_eq!(round.digest, touched, "{round:?}");
            assert_eq!((round.asked, round.copied, round.retries), (300, 0, 0), "{round:?}");
        }
        client.wait_end(CLIENT).expect("it ends");
        let metrics = m1.metrics().expect("/metrics");
        assert_eq!(metrics.get("m1_faults_served_total"), f64::from(300 * number));
        assert_eq!(metrics.get("m1_windows_total"), f64::from(300 * number));
        assert_eq!(metrics.get("m1_block_read_pages_total"), 300.0, "no read-ahead, and none twice");
    }
    bed.finish(m1);
}

#[test]
fn without_references_pages_are_copied_and_nothing_fails() {
    let bed = Bed::get();
    // Its own references need five frames.
    let m1 = bed.m1("grant_frames=6");
    let before = m1.metrics().expect("/metrics");
    let clients = [(); 2].map(|()| bed.unikernel(&m1, "hold=1"));
    for client in &clients {
        let round = wait_rounds(client, 1, CLIENT).expect("a digest")[0];
        assert_eq!((round.pages, round.digest), (BASE_PAGES as u64, digest_of(0..BASE_PAGES)), "{round:?}");
        assert!(round.copied > 1000 && round.mapped > 0, "some are lent, most are copied: {round:?}");
    }
    let metrics = m1.metrics().expect("/metrics");
    assert!(metrics.get("m1_copies_total") > 2000.0);
    assert_eq!(metrics.get("m1_grant_frames"), 6.0);
    let causes = ["references", "reference_quota"]
        .map(|cause| metrics.with("m1_copy_instead_total", &[("cause", cause)]));
    assert!(causes.iter().flatten().sum::<f64>() > 0.0, "{causes:?}");
    for client in clients {
        client.destroy().expect("xl destroy");
    }
    wait_all_back(&m1, &before);
    bed.finish(m1);
}

#[test]
fn with_too_little_memory_pages_are_evicted_and_read_again() {
    let bed = Bed::get();
    for memory in [8, 11] {
        let m1 = bed.start(m1(&["/dev/vda"], "volume=base:xvda").with("memory", memory));
        let before = m1.metrics().expect("/metrics");
        let store = before.with("m1_memory_bytes", &[("state", "free")]).expect("free") / PAGE as f64;
        assert!(store < BASE_PAGES as f64, "{memory} MiB hold all of the volume: {store} pages");
        // One that keeps all that it can, and one that comes while the first is there.
        let first = bed.unikernel(&m1, "hold=1");
        let round = wait_rounds(&first, 1, CLIENT).expect("a digest")[0];
        assert_eq!((round.pages, round.digest), (BASE_PAGES as u64, digest_of(0..BASE_PAGES)), "{round:?}");
        let second = bed.unikernel(&m1, "rounds=2 copy=1");
        for round in wait_rounds(&second, 2, CLIENT).expect("digests") {
            assert_eq!(
                (round.pages, round.digest),
                (BASE_PAGES as u64, digest_of(0..BASE_PAGES)),
                "{round:?}"
            );
        }
        let metrics = m1.metrics().expect("/metrics");
        assert_states_add_up(&metrics);
        assert!(metrics.get("m1_evictions_total") > 0.0);
        assert!(metrics.get("m1_block_read_pages_total") > BASE_PAGES as f64);
        first.destroy().expect("xl destroy");
        second.wait_end(CLIENT).expect("it ends");
        wait_all_back(&m1, &before);
        bed.finish(m1);
    }
}

#[test]
fn with_share_copy_nothing_is_mapped() {
    // `mm-guest/tests/xen.rs` runs programs so every time.
    if !full::wanted() {
        return;
    }
    let bed = Bed::get();
    let m1 = bed.m1("share=copy");
    let client = bed.unikernel(&m1, "pages=400 hold=1");
    let round = wait_rounds(&client, 1, CLIENT).expect("a digest")[0];
    assert_eq!((round.digest, round.copied, round.mapped), (digest_of(0..400), 400, 0), "{round:?}");
    let metrics = m1.metrics().expect("/metrics");
    assert_eq!((metrics.get("m1_pages_shared"), metrics.get("m1_copies_total")), (0.0, 400.0));
    let grants = bed.grants().expect("xl debug-keys g");
    assert_eq!(m1.pages_mapped(&grants, client.domid()).expect("Xen's count"), []);
    client.destroy().expect("xl destroy");
    bed.finish(m1);
}
