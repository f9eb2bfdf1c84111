//! Programs that the client kernel was not written for, out of Debian's packages, over files that are new in every run: what each
//! prints in a client domain on real Xen is what it prints on Linux.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use m1_tests::m1::m1;
use m1_tests::mm_guest::{self, End};
use m1_tests::programs::{Prepared, Run, fresh_seed, prepare};
use m1_tests::{Dom0, image};

/// One program, on an emulated processor that it shares with others.
const LIMIT: Duration = Duration::from_secs(180);
/// Domains at a time.
const AT_ONCE: usize = 3;
/// Programs at least.
const LEAST: usize = 8;

/// Runs one program in a domain of its own, and compares.
fn in_a_client(dom0: &Dom0, m1: &str, run: &Run) -> Result<mm_guest::Figures> {
    let case = &run.case;
    let config = mm_guest::client(m1, "base", "", case.program, case.arguments)?;
    let guest = dom0.create(case.name, &config.to_string())?;
    let log = mm_guest::wait_end(dom0, &guest, LIMIT)?;
    let code = match log.end {
        Some(End::Exited(code)) => code,
        other => bail!("it ended so: {other:?}\n{}", guest.log()?),
    };
    run.check(log.output.as_bytes(), code).with_context(|| log.kernel.join("\n"))?;
    guest.wait_end(LIMIT)?;
    log.figures.context("no figures")
}

#[test]
fn programs_of_debian_print_in_clients_what_they_print_on_linux() {
    let Prepared { seed, volume, runs } =
        prepare(fresh_seed().expect("randomness")).expect("programs and a volume");
    assert!(runs.len() >= LEAST, "{} programs", runs.len());
    let images = ["mm-kernel", "mm-guest"].map(|name| image::build(name).expect("an image"));
    let dom0 = Dom0::builder().image(&images[0]).image(&images[1]).disk_read_only(&volume.image).boot();
    let dom0 = dom0.expect("Xen and dom0 boot");
    let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", 128);
    let m1 = dom0.start_m1("m1", [10, 0, 2, 50], config).expect("M1 starts");

    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    match in_a_client(&dom0, m1.name(), run) {
                        Ok(figures) => eprintln!(
                            "{:<12} as on Linux, {:.1} s: R={} W={} pages, {} of {} faults asked M1",
                            run.case.name,
                            start.elapsed().as_secs_f64(),
                            figures.mapped,
                            figures.written,
                            figures.asked,
                            figures.total
                        ),
                        Err(error) => {
                            wrong.lock().expect("the list").push(format!("{}: {error:#}", run.case.name))
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("the list");
    if !wrong.is_empty() {
        panic!(
            "{} of {} programs (seed {seed}):\n{}\n{}",
            wrong.len(),
            runs.len(),
            wrong.join("\n"),
            dom0.diagnostics()
        );
    }
    // Every page came from M1, and when all have left nothing is kept for them.
    let metrics = m1.wait_metrics(Duration::from_secs(30), &["m1_clients", "m1_devices"], |metrics| {
        metrics.get("m1_clients") == 0.0
    });
    let metrics = metrics.expect("all clients have left");
    assert!(metrics.get("m1_devices_attached_total") >= runs.len() as f64);
    assert_eq!(metrics.get("m1_engine_bugs"), 0.0);
    assert_eq!(metrics.get("m1_protocol_faults_total"), 0.0);
    assert_eq!(metrics.get("m1_pages_shared"), 0.0);
}
