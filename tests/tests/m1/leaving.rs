//! Clients and devices that come, go and die, and that nothing of theirs is left.

use std::time::{Duration, Instant};

use m1_tests::full;
use m1_tests::m1::{M1, disk, m1};
use m1_tests::metrics::Metrics;
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
fn clients_that_are_destroyed_while_they_fault_leave_nothing_behind() {
    // Of the many below every fourth is, every time.
    if !full::wanted() {
        return;
    }
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
    let m1 =
        bed.start(m1(&["/dev/vda", "/dev/vdb"], "volume=base:xvda volume=other:xvdb").with("memory", 64));
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
    // What it cannot have: a volume of another group, and what this version does not serve. xl waits its ten seconds for each.
    std::thread::scope(|scope| {
        for (vdev, target) in [("xvdb", "other"), ("xvdc", "base+x")] {
            let (bed, wrong) = (&bed, disk(vdev, m1.name(), target));
            let script = format!("xl block-attach {} '{wrong}'", client.domid());
            scope.spawn(move || assert_ne!(bed.run(&script).expect("xl runs").code, 0, "{script}"));
        }
    });
    let log = m1.log().expect("a log");
    for why in [
        "target=other is refused: the client has a volume of another group already",
        "target=base+x is refused: overlays (+) need a store: store_disk= names its disk",
    ] {
        assert!(log.contains(why), "{log}");
    }
    let after = m1.metrics().expect("/metrics");
    assert_eq!(before.differences(&after, &RESOURCES), "");
    // The first device is as it was.
    assert_eq!(m1.metrics().expect("/metrics").get("m1_pages_shared"), BASE_PAGES as f64);
    client.destroy().expect("xl destroy");
    bed.finish(m1);
}

#[test]
fn many_clients_leave_nothing_behind() {
    // All hundred take minutes on an emulated processor.
    let count = full::or(100, 300);
    let bed = Bed::get();
    let m1 = bed.m1("");
    let idle = m1.metrics().expect("/metrics");
    // What is only taken once is taken by the first.
    let first = bed.unikernel(&m1, "");
    first.wait_end(CLIENT).expect("it ends");
    // The ring's page comes back when the domain has let go of it, which can be after its device.
    let before = m1
        .wait_metrics(CLIENT, &RESOURCES, |now| {
            let own = "m1_grant_entries_own";
            now.get("m1_clients") == 0.0 && now.get(own) == idle.get(own)
        })
        .expect("it is gone");
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
