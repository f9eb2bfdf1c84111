//! The client kernel on real Xen with M1: what each client and M1 and Xen count, and what a client does without.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use m1_tests::m1::{M1, client, m1};
use m1_tests::mm_guest::{End, Figures, Log};
use m1_tests::programs::{self, Prepared};
use m1_tests::{Dom0, Guest, Shared, full, grants, image};

/// A program takes seconds, but on a busy host.
const LIMIT: Duration = Duration::from_secs(120);

static MACHINE: Shared = Shared::new(|| {
    let mut builder = Dom0::builder()
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-guest")?)
        .disk_read_only(&prepared().volume.image)
        .xen_arguments(grants::CONRING);
    for last in ADDRESSES {
        builder = builder.forward([10, 0, 2, last], 80);
    }
    Ok(builder)
});

/// The last parts of addresses: each M1 has one that no other had.
const ADDRESSES: std::ops::Range<u8> = 101..106;
/// One scenario at a time: they count.
static TURN: Mutex<()> = Mutex::new(());

fn prepared() -> &'static Prepared {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| programs::prepare(programs::fresh_seed().unwrap()).unwrap())
}

/// What a client's console has at its program's end.
struct Said {
    log: Log,
    figures: Figures,
}

impl Said {
    fn of(text: &str) -> Self {
        let log = Log::parse(text).unwrap_or_else(|error| panic!("{error:#}\n{text}"));
        let figures = log.figures.unwrap_or_else(|| panic!("no figures in:\n{text}"));
        Self { log, figures }
    }

    fn exit_code(&self) -> i32 {
        if let Some(End::Exited(code)) = self.log.end { code } else { -1 }
    }
}

fn start<'a>(dom0: &'a Dom0, m1: &M1<'_>, name: &str, options: &str) -> Guest<'a> {
    let config = client("mm-guest", m1.name(), "base", options);
    dom0.create(name, &config.to_string()).expect("the client starts")
}

fn start_m1<'a>(dom0: &'a Dom0, name: &str, options: &str) -> M1<'a> {
    static NEXT: AtomicU8 = AtomicU8::new(ADDRESSES.start);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(ADDRESSES.contains(&last), "more M1s than addresses");
    let config = m1(&["/dev/vda"], &format!("volume=base:xvda {options}"));
    dom0.start_m1(name, [10, 0, 2, last], config).expect("M1 starts")
}

#[test]
fn clients_m1_and_xen_count_the_same_pages_and_a_write_is_the_writers_alone() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dom0 = MACHINE.get();
    let m1 = start_m1(&dom0, "m1-counts", "");
    // The first client writes over every page of a file that it has mapped; the second then reads the file, and so does
    // the first, by another way. Both leave without taking their memory apart, for that is counted next.
    let script = |write: &str| {
        format!(
            "init=/usr/bin/python3 hold=1 -- -c \"import mmap,hashlib,os\n\
             f=open('/srv/python3/input.bin','rb'); m=mmap.mmap(f.fileno(),0,access=mmap.ACCESS_COPY)\n\
             s=hashlib.sha256(m[:]).hexdigest()\n{write}\nprint(s, hashlib.sha256(f.read()).hexdigest(), m[4096], flush=True)\nos._exit(0)\""
        )
    };
    let one_line = |text: String| text.replace('\n', ";").replace(";;", ";");
    let writer = start(&dom0, &m1, "writer", &one_line(script("m[:]=bytes([7])*len(m)")));
    writer.wait_log("mm-guest: holding", LIMIT).unwrap();
    let reader = start(&dom0, &m1, "reader", &one_line(script("pass")));
    reader.wait_log("mm-guest: holding", LIMIT).unwrap();
    let said = [&writer, &reader].map(|guest| Said::of(&guest.log().unwrap()));
    let words =
        said.each_ref().map(|said| said.log.output.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(words[0][0], words[0][1], "the volume is as it was, for the writer");
    assert_eq!(words[0][..2], words[1][..2], "and for the reader");
    assert_eq!(words[0][2], "7");
    assert!(said[0].figures.written > said[1].figures.written + 40, "fifty pages became the writer's own");

    let metrics = m1.metrics().unwrap();
    let by_xen = dom0.grants().expect("xl debug-keys g");
    let mut frames = Vec::new();
    for (guest, said) in [&writer, &reader].into_iter().zip(&said) {
        let domid = guest.domid().to_string();
        let mapped = metrics.with("m1_client_mapped_bytes", &[("domid", &domid)]).unwrap();
        assert_eq!(mapped, (said.figures.mapped * 4096) as f64, "M1 and {:?}", said.figures);
        let pages = m1.pages_mapped(&by_xen, guest.domid()).expect("Xen's count");
        assert_eq!(pages.len() as u64, said.figures.mapped, "Xen and {:?}", said.figures);
        assert!(pages.iter().all(|entry| entry.writers() == 0));
        frames.push(pages.iter().map(|entry| entry.mfn).collect::<BTreeSet<u64>>());
        let status = dom0.sh(&format!("xenstore-read /local/domain/{domid}/data/exit-status")).unwrap();
        assert_eq!(status.trim(), "exited 0");
    }
    let common = frames[0].intersection(&frames[1]).count();
    assert!(common > 500, "the very same frames: {common}");
    for guest in [writer, reader] {
        dom0.sh(&format!("xl shutdown {}", guest.domid())).unwrap();
        guest.wait_end(LIMIT).expect("it ends when it is told to");
    }
    m1.destroy().unwrap();
}

#[test]
fn with_a_window_of_one_each_distinct_page_is_a_fault_that_m1_served() {
    // `tests/tests/m1/clients.rs` counts the same with another kernel every time.
    if !full::wanted() {
        return;
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dom0 = MACHINE.get();
    let m1 = start_m1(&dom0, "m1-window", "window=1");
    let run = &prepared().runs[0];
    let guest = start(&dom0, &m1, "window-one", &run.extra());
    guest.wait_end(LIMIT).expect("it ends");
    let said = Said::of(&guest.log().unwrap());
    run.check(said.log.output.as_bytes(), said.exit_code()).unwrap();
    let metrics = m1.metrics().unwrap();
    assert_eq!(metrics.get("m1_faults_served_total"), said.figures.asked as f64, "{:?}", said.figures);
    assert!(said.figures.asked >= said.figures.mapped, "{:?}", said.figures);
    m1.destroy().unwrap();
}

#[test]
fn where_m1_only_copies_programs_run_all_the_same() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dom0 = MACHINE.get();
    let m1 = start_m1(&dom0, "m1-copies", "share=copy");
    let wanted: &[&str] = full::or(&["python3"], &["busybox", "python3"]);
    for run in prepared().runs.iter().filter(|run| wanted.contains(&run.case.name)) {
        let guest = start(&dom0, &m1, &format!("copy-{}", run.case.name), &run.extra());
        guest.wait_end(LIMIT).expect("it ends");
        let said = Said::of(&guest.log().unwrap());
        run.check(said.log.output.as_bytes(), said.exit_code()).unwrap();
        assert_eq!(said.figures.mapped, 0, "{:?}", said.figures);
        // The kernel's own reads of directories are not the program's pages.
        let Figures { copy, asked, .. } = said.figures;
        assert!(copy > 50 && asked > copy, "{:?}", said.figures);
    }
    m1.destroy().unwrap();
}

#[test]
fn a_page_needed_after_m1_is_gone_is_a_bus_error_and_what_is_mapped_stays() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dom0 = MACHINE.get();
    let m1 = start_m1(&dom0, "m1-dies", "");
    let script = "init=/usr/bin/python3 -- -u -c \"import time,mmap; f=open('/usr/bin/openssl','rb'); \
                  m=mmap.mmap(f.fileno(),0,prot=1); x=m[0]; print('mapped'); time.sleep(4); print(m[0]==x); m[600000]; \
                  print('never')\"";
    let guest = start(&dom0, &m1, "orphan", script);
    guest.wait_log("mapped", LIMIT).unwrap();
    m1.destroy().unwrap();
    guest.wait_end(LIMIT).expect("it ends");
    let said = Said::of(&guest.log().unwrap());
    assert_eq!(said.log.output.lines().collect::<Vec<_>>(), ["mapped", "True"]);
    assert_eq!(said.log.end, Some(End::Signal(7)));
}

#[test]
fn a_client_of_eight_mebibytes_runs_busybox_and_says_what_does_not_fit() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let dom0 = MACHINE.get();
    let m1 = start_m1(&dom0, "m1-small", "");
    let small = |name: &str, options: &str| {
        let config = client("mm-guest", m1.name(), "base", options).with("memory", 8);
        let guest = dom0.create(name, &config.to_string()).expect("the client starts");
        guest.wait_end(LIMIT).expect("it ends");
        Said::of(&guest.log().unwrap())
    };
    let said = small("small-1", "init=/usr/bin/busybox -- sha256sum /usr/bin/busybox");
    assert_eq!(said.exit_code(), 0);
    let said = small("small-2", "init=/usr/bin/busybox -- dd if=/dev/zero of=/tmp/x bs=1M count=20");
    assert_eq!(said.exit_code(), 1);
    assert!(said.log.output.contains("No space left on device"));
    m1.destroy().unwrap();
}
