//! Clients that share pages, come, go and die; and what is left of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use m1_tests::full;
use m1_tests::m1::{M1, disk};
use m1_tests::metrics::Metrics;
use m1_tests::raw_disk::PAGE;
use m1_tests::unikernel::wait_rounds;

use crate::bed::{BASE_PAGES, Bed, CLIENT, digest_of};
use crate::endpoint::assert_states_add_up;

/// Everything that a client may have changed and that has to be back when it is gone.
pub(crate) const RESOURCES: [&str; 9] = [
    "m1_clients",
    "m1_devices",
    "m1_event_channels",
    "m1_grant_entries_own",
    "m1_grant_entries_permitted",
    "m1_client_references",
    "m1_client_stale_pinned",
    "m1_pages_shared",
    "m1_engine_bugs",
];

/// Waits until M1 has all back that it had before.
pub(crate) fn wait_all_back(m1: &M1<'_>, before: &Metrics) -> Metrics {
    let after = m1
        .wait_metrics(Duration::from_secs(20), &RESOURCES, |now| {
            before.differences(now, &RESOURCES).is_empty()
                && now.with("m1_grant_entries", &[("state", "used")]) == Some(0.0)
        })
        .expect("everything comes back");
    assert_states_add_up(&after);
    let usable = |metrics: &Metrics| {
        ["free", "clean"]
            .map(|state| metrics.with("m1_memory_bytes", &[("state", state)]))
            .iter()
            .flatten()
            .sum()
    };
    let (had, has): (f64, f64) = (usable(before), usable(&after));
    assert_eq!(had, has, "pages that are neither free nor cached any more");
    after
}

/// What dom0 and Xen keep for domains.
fn left_in_dom0(bed: &Bed, m1: &M1<'_>) -> String {
    let m1 = m1.domid();
    bed.sh(&format!(
        "for d in /local/domain /vm /libxl /local/domain/{m1}/backend/vbd /local/domain/0/backend/console; do \
             echo $d: $(xenstore-list $d 2>/dev/null | sort); done\n\
         echo ports: $(lsevtchn {m1} | grep -c .)\n\
         echo domains: $(xl list | awk 'NR > 1 {{ print $2 }}')"
    ))
    .expect("dom0 answers")
}

fn free_mib(bed: &Bed) -> i64 {
    bed.sh("xl info free_memory").expect("xl info").trim().parse().expect("a number")
}

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
        let m1 = bed.start(m1_tests::m1::m1(&["/dev/vda"], "volume=base:xvda").with("memory", memory));
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

#[test]
fn clients_that_are_destroyed_while_they_fault_leave_nothing_behind() {
    let bed = Bed::get();
    let m1 = bed.m1("window=1");
    let before = m1.metrics().expect("/metrics");
    let here = left_in_dom0(&bed, &m1);
    let mut caught = 0;
    for wait in [0, 0, 100, 400, 900] {
        let served = m1.metrics().expect("/metrics").get("m1_faults_served_total");
        let client = bed.unikernel(&m1, "");
        client.wait_log("mm-unikernel: a volume of", CLIENT).expect("it begins");
        std::thread::sleep(Duration::from_millis(wait));
        let log = client.log().expect("its console");
        client.destroy().expect("xl destroy");
        let after = wait_all_back(&m1, &before);
        let now = after.get("m1_faults_served_total");
        caught += u32::from(now > served && now < served + BASE_PAGES as f64 && !log.contains("round=0"));
    }
    assert!(caught > 0, "none was in the middle of its faults");
    assert_eq!(left_in_dom0(&bed, &m1), here);
    // Whoever comes next is served.
    let client = bed.unikernel(&m1, "");
    assert_eq!(wait_rounds(&client, 1, CLIENT).expect("a digest")[0].digest, digest_of(0..BASE_PAGES));
    client.wait_end(CLIENT).expect("it ends");
    wait_all_back(&m1, &before);
    bed.finish(m1);
}

#[test]
fn a_device_comes_and_goes_while_its_client_runs() {
    let bed = Bed::get();
    let m1 = bed.m1("");
    let client = bed.unikernel(&m1, "hold=1");
    client.wait_log("holding", CLIENT).expect("it stays");
    let before = m1.metrics().expect("/metrics");
    for _ in 0..2 {
        let more = disk("xvdb", m1.name(), "base");
        bed.sh(&format!("xl block-attach {} '{more}'", client.domid())).expect("xl block-attach");
        let metrics = m1
            .wait_metrics(CLIENT, &["m1_devices"], |now| now.get("m1_devices") == 2.0)
            .expect("one more device");
        assert_eq!(metrics.get("m1_clients"), 1.0, "of the same client");
        bed.sh(&format!("xl block-detach {} xvdb", client.domid())).expect("xl block-detach");
        m1.wait_metrics(CLIENT, &RESOURCES, |now| before.differences(now, &RESOURCES).is_empty())
            .expect("everything comes back");
    }
    // Of another group: refused.
    let wrong = disk("xvdb", m1.name(), "base+x");
    let output = bed.run(&format!("xl block-attach {} '{wrong}'", client.domid())).expect("xl runs");
    assert_ne!(output.code, 0, "{}", output.stdout_text());
    assert!(m1.log().expect("a log").contains("overlays (+) and snapshots (@) are not supported"));
    // The first device is as it was.
    assert_eq!(m1.metrics().expect("/metrics").get("m1_pages_shared"), BASE_PAGES as f64);
    client.destroy().expect("xl destroy");
    bed.finish(m1);
}

#[test]
fn many_clients_leave_nothing_behind() {
    // All hundred take minutes on an emulated processor.
    let count = full::or(40, 100);
    let bed = Bed::get();
    let m1 = bed.m1("");
    // What is only taken once is taken by the first.
    let first = bed.unikernel(&m1, "");
    first.wait_end(CLIENT).expect("it ends");
    let before = m1.wait_metrics(CLIENT, &RESOURCES, |now| now.get("m1_clients") == 0.0).expect("it is gone");
    let (here, free) = (left_in_dom0(&bed, &m1), free_mib(&bed));

    let start = Instant::now();
    let config = bed.unikernel_config(&m1, "stride=5 pages=200");
    let expected = digest_of((0..).step_by(5).take(200));
    // Eight at a time, which end by themselves, but for every fourth, which is destroyed wherever it is then.
    let script = format!(
        "cd /run/m1 && cat >churn.cfg\n\
         for n in $(seq {count}); do\n\
           {{ echo \"name = 'churn-$n'\"; cat churn.cfg; }} >churn-$n.cfg; xl create -q churn-$n.cfg || exit 1\n\
           [ $((n % 4)) != 0 ] || xl destroy churn-$n 2>/dev/null\n\
           while [ $(xl list | grep -c churn-) -gt 8 ]; do usleep 100000; done\n\
         done\n\
         while xl list | grep -q churn-; do usleep 100000; done\n\
         cat /var/log/xen/console/guest-churn-*.log | grep 'round='"
    );
    let output =
        bed.run_with(&script, config.to_string().as_bytes(), Duration::from_secs(500)).expect("churn");
    assert_eq!(output.code, 0, "{}", output.stderr_text());
    eprintln!("{count} clients in {:.0} s", start.elapsed().as_secs_f64());
    let rounds = output.stdout_text();
    assert!(rounds.lines().count() >= count * 3 / 4, "{rounds}");
    assert!(rounds.lines().all(|line| line.contains(&format!("digest={expected:016x}"))), "{rounds}");

    let after = wait_all_back(&m1, &before);
    assert_eq!(
        after.get("m1_devices_attached_total"),
        before.get("m1_devices_attached_total") + count as f64
    );
    assert_eq!(after.get("m1_devices_closed_total"), 0.0);
    assert_eq!(after.get("m1_devices_forged_total"), 0.0);
    assert_eq!(left_in_dom0(&bed, &m1), here);
    let grants = bed.grants().expect("xl debug-keys g");
    let table = grants.table(m1.domid()).expect("M1's table");
    assert!(table.active.iter().all(|entry| entry.peer == 0), "only dom0 maps something: {table:?}");
    let now = free_mib(&bed);
    assert!((free - now).abs() <= 2, "Xen had {free} MiB free, and has {now}");
    bed.forget("churn-");
    bed.finish(m1);
}
