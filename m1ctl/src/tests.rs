//! The tool against a xenstored in memory, behind a socket as the real one's, and an M1 that a test plays.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use xen_ring::{ByteRing, PageWords};
use xenstore::fake::{FakeXenstored, Flavour};

use crate::commands::{clients, clone, pool, status};
use crate::failure::{Failure, Result};
use crate::m1::{M1, domain};
use crate::reaper::{self, Wishes};
use crate::xl::config::Config;
use crate::xs::Store;

mod exchange;

/// Pages of the window.
static WINDOW: [PageWords; 2] = [const { PageWords::new() }; 2];
/// Only one test at a time has it.
static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    /// Where files of the test that runs in this thread are, and its `xl`.
    static ROOT: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// The root of what this thread's test sees.
pub(crate) fn root() -> PathBuf {
    ROOT.with_borrow(|root| root.clone().expect("a test with a host"))
}

/// Answers a request: what comes behind its number.
type Play = Box<dyn FnMut(&str) -> Option<String> + Send>;

struct Machine {
    store: FakeXenstored,
    play: Play,
    last: String,
}

/// A dom0 with an M1 as domain 5.
struct Host {
    directory: tempfile::TempDir,
    machine: Arc<Mutex<Machine>>,
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    fn turn(&mut self) {
        self.store.run();
        let request = self.store.get("/local/domain/5/m1ctl/request").unwrap_or_default();
        if request != self.last {
            let (id, words) = request.split_once(' ').expect("ID VERB");
            if let Some(answer) = (self.play)(words) {
                self.store.set("/local/domain/5/data/m1ctl/reply", &format!("{id} {answer}"));
            }
            self.last = request;
            self.store.run();
        }
    }
}

impl Host {
    fn new(play: impl FnMut(&str) -> Option<String> + Send + 'static) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut store = FakeXenstored::new(Flavour::Ocaml);
        for (domid, name) in [(0, "Domain-0"), (5, "m1"), (7, "warm"), (9, "5")] {
            store.set(&format!("/local/domain/{domid}/name"), name);
        }
        store.set("/local/domain/5/data/m1ctl/version", "1");
        store.set("/local/domain/5/data/m1ctl/window", "8 9");
        store.set("/local/domain/5/data/m1ctl/reply", "0 ok");
        let directory = tempfile::tempdir().expect("a directory");
        ROOT.with_borrow_mut(|root| *root = Some(directory.path().to_owned()));
        let listener = UnixListener::bind(directory.path().join("socket")).expect("a socket");
        let machine = Machine { store, play: Box::new(play), last: String::new() };
        let machine = Arc::new(Mutex::new(machine));
        let served = Arc::clone(&machine);
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || serve(socket, &served));
            }
        });
        Self { directory, machine, _turn: turn }
    }

    fn connect(&self) -> Store {
        Store::socket(&self.directory.path().join("socket")).expect("it listens")
    }

    /// What `xl` is here: a shell script, to which `$ROOT` is the test's root. Its arguments are written down.
    fn xl(&self, script: &str) {
        let root = self.directory.path();
        let text = format!("#!/bin/sh\nROOT={}\necho \"$*\" >>$ROOT/asked\n{script}\n", root.display());
        std::fs::write(root.join("xl"), text).expect("written");
        std::fs::set_permissions(root.join("xl"), PermissionsExt::from_mode(0o755)).expect("its own file");
    }

    /// What `xl` was asked since this was called last.
    fn asked(&self) -> Vec<String> {
        let path = self.directory.path().join("asked");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn m1(&self, wanted: &str, patience: Duration) -> Result<M1> {
        let locks = self.directory.path().join("locks");
        Ok(M1::find(self.connect(), wanted, patience)?.with(
            |domid, references| {
                assert_eq!((domid, references), (5, [8, 9].as_slice()));
                Ok(&WINDOW)
            },
            &locks,
        ))
    }
}

/// Bytes of one connection to the rings of a domain 0, and back.
fn serve(mut socket: UnixStream, machine: &Mutex<Machine>) {
    let page: &'static PageWords = Box::leak(Box::new(PageWords::new()));
    let (mut requests, mut replies) =
        (ByteRing::XENSTORE_REQUEST.producer(page), ByteRing::XENSTORE_REPLY.consumer(page));
    machine.lock().expect("no panic").store.introduce(0, page);
    socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a socket");
    let mut bytes = [0; 1024];
    loop {
        let mut from = match socket.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => &bytes[..count],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => &[],
            Err(_) => return,
        };
        loop {
            let count = requests.write(from).expect("an honest ring");
            from = &from[count..];
            let Ok(mut machine) = machine.lock() else { return };
            machine.turn();
            drop(machine);
            let mut back = [0; 1024];
            let count = replies.read(&mut back).expect("an honest ring");
            if socket.write_all(&back[..count]).is_err() {
                return;
            }
            if from.is_empty() && count == 0 {
                break;
            }
        }
    }
}

/// Puts a text into the window as M1 does; gives how much of it fits.
fn show(text: &str) -> usize {
    for (page, bytes) in WINDOW.iter().zip(text.as_bytes().chunks(4096)) {
        assert!(page.write(0, bytes));
    }
    text.len().min(8192)
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn an_m1_is_found_by_name_and_by_number() {
    let host = Host::new(|_| None);
    for (wanted, domid) in [("m1", Some(5)), ("7", Some(7)), ("5", Some(9)), ("0", Some(0)), ("m2", None)] {
        let found = domain(&mut host.connect(), wanted).expect("xenstore answers");
        assert_eq!(found.map(|(domid, _)| domid), domid, "{wanted}");
    }
    assert_eq!(host.m1("m1", PATIENCE).expect("there").domid, 5);
    for wanted in ["warm", "m2"] {
        assert!(matches!(host.m1(wanted, PATIENCE), Err(Failure::NotThere(_))), "{wanted}");
    }
    host.machine.lock().expect("no panic").store.set("/local/domain/5/data/m1ctl/version", "2");
    let Err(Failure::NotThere(why)) = host.m1("m1", PATIENCE) else { panic!("another contract") };
    assert!(why.contains("version 2"), "{why}");
}

#[test]
fn answers_errors_and_silence_are_told_apart() {
    let host = Host::new(|words| match words {
        "version" => Some("ok 1 0.1.0".to_owned()),
        "dance" => Some("error no such verb".to_owned()),
        _ => None,
    });
    let mut m1 = host.m1("m1", PATIENCE).expect("there");
    for _ in 0..3 {
        assert_eq!(m1.ask("version").expect("answered"), "1 0.1.0");
    }
    let Err(Failure::Refused(why)) = m1.ask("dance") else { panic!("M1 said no") };
    assert_eq!(why, "m1: no such verb");
    let mut m1 = host.m1("m1", Duration::from_millis(200)).expect("there");
    let begin = Instant::now();
    assert!(matches!(m1.ask("silence"), Err(Failure::NotThere(_))));
    assert!(begin.elapsed() < Duration::from_secs(5), "every wait has its limit");
}

#[test]
fn long_answers_are_put_together() {
    let text = json!({ "words": (0..5000).collect::<Vec<u32>>() }).to_string();
    let sent = text.clone();
    let host = Host::new(move |words| {
        let offset = match words.split_once(' ') {
            Some(("more", offset)) => offset.parse().expect("a number"),
            _ => 0,
        };
        let shown = show(&sent[offset..]);
        Some(format!("ok {}", if offset == 0 { sent.len() } else { shown }))
    });
    assert!(text.len() > 2 * 8192);
    let mut m1 = host.m1("m1", PATIENCE).expect("there");
    assert_eq!(m1.json("status").expect("JSON").to_string(), text);
}

#[test]
fn nonsense_of_an_m1_is_an_error_and_ends() {
    for answer in ["ok x", "ok -1", "ok", "ok 99999999"] {
        let host = Host::new(move |words| {
            Some(if words.starts_with("more") { "ok 0".to_owned() } else { answer.to_owned() })
        });
        let mut m1 = host.m1("m1", PATIENCE).expect("there");
        assert!(matches!(m1.json("status"), Err(Failure::Host(_))), "{answer}");
    }
}

#[test]
fn several_tools_take_turns() {
    let host = Host::new(|words| {
        let text = words.repeat(3);
        Some(format!("ok {}", show(&text)))
    });
    std::thread::scope(|scope| {
        for tool in ["one", "two", "three"] {
            let mut m1 = host.m1("m1", PATIENCE).expect("there");
            scope.spawn(move || {
                for turn in 0..5 {
                    let words = format!("{tool} {turn}");
                    let bytes = m1.bulk(&words).expect("an answer");
                    assert_eq!(String::from_utf8(bytes).expect("text"), words.repeat(3));
                }
            });
        }
    });
}

#[test]
fn the_screen_of_status_has_what_matters() {
    let answer = json!({
        "version": "0.1.0", "xen": "4.17", "ready": true, "started": 100, "now": 160,
        "problems": ["option 'x': unknown\u{1b}[2J"],
        "volumes": [{ "name": "base", "group": "base", "device": "xvda", "bytes": 8 << 20, "state": "serving" }],
        "memory": { "size": 64 << 20, "free": 60 << 20, "metadata": 4 << 20 },
        "sharing": { "pages_shared": 3, "saved_bytes": 4096 << 10 },
        "clients": [{ "domid": 7, "devices": 1, "mapped_bytes": 12288, "references": 16, "served": 2, "copies": 0,
            "reported": { "written_bytes": 4096, "kernel_bytes": 8192 } }],
        "refusals": [{ "domid": 9, "target": "nowhere", "reason": "no volume has this name" }],
    });
    let text = answer.to_string();
    let host = Host::new(move |_| Some(format!("ok {}", show(&text))));
    let mut m1 = host.m1("m1", PATIENCE).expect("there");
    let told = m1.json("status").expect("JSON");
    let names = clients::names(&mut m1, &told).expect("names");
    let screen = status::screen(&m1.name, m1.domid, &told, &names);
    for needed in
        ["m1 (domain 5): M1 0.1.0 on Xen 4.17, ready, up 60 s", "warm", "serving", "target=nowhere", "64.00"]
    {
        assert!(screen.contains(needed), "{needed} in:\n{screen}");
    }
    assert!(!screen.contains('\u{1b}'), "what others wrote says nothing to the terminal");
}

const LIST: &str = "Name ID Mem VCPUs State Time(s) UUID Reason-Code Security Label\n\
    Domain-0 0 512 2 r----- 1.0 00000000-0000-0000-0000-000000000000 - -\n\
    first-2 8 512 2 r----- 1.0 00000000-0000-0000-0000-000000000000 - -";

/// A host with an M1 that has the snapshot `base@first`, on which clones become domains 11, 12 and 13.
fn host_with_a_snapshot() -> Host {
    let host = Host::new(|words| {
        let text = match words.split_once(' ') {
            None if words == "snapshots" => json!({ "snapshots": [{ "volume": "base", "name": "first" }] }),
            Some(("times", "13")) => {
                json!({ "devices": [{ "thaw_ns": 9_000_000_000_u64, "connected_ns": 2_000 }] })
            }
            Some(("times", _)) => json!({ "devices": [{ "thaw_ns": 5_000, "connected_ns": 2_000 }] }),
            _ => return Some("error no such verb".to_owned()),
        };
        let text = text.to_string();
        Some(format!("ok {}", show(&text)))
    });
    let mut machine = host.machine.lock().expect("no panic");
    for (domid, name) in [(11, "first-1"), (12, "first-3"), (13, "pool-1")] {
        machine.store.set(&format!("/local/domain/{domid}/name"), name);
    }
    drop(machine);
    host.xl(&format!("case \"$1\" in list) echo '{LIST}';; esac"));
    let config = "name = 'warm'\nkernel = '/k'\nmemory = 8\nextra = 'init=/x'\n\
        disk = ['format=raw,vdev=xvda,access=r,backend=m1,target=base', 'format=raw,vdev=xvdb,access=rw,backend=5,target=data+mine']";
    std::fs::write(host.directory.path().join("base.cfg"), config).expect("written");
    host
}

fn order(config: &std::path::Path) -> clone::Order<'_> {
    clone::Order {
        snapshot: "first",
        count: 2,
        pattern: None,
        config: Some(config),
        limit: PATIENCE,
        json: true,
    }
}

#[test]
fn clones_are_made_with_the_disks_at_the_snapshot_and_names_that_are_free() {
    let host = host_with_a_snapshot();
    let mut m1 = host.m1("m1", PATIENCE).expect("there");
    let config = host.directory.path().join("base.cfg");
    clone::run(&mut m1, &order(&config)).expect("made");
    let asked = host.asked();
    assert_eq!(asked[0], "list -v");
    for (asked, name) in asked[1..].iter().zip(["first-1", "first-3"]) {
        let file = asked.strip_prefix("create -e -q ").expect("no process of xl's stays");
        let made = Config::parse(&std::fs::read_to_string(file).expect("it is kept")).expect("xl's");
        assert_eq!(made.text("name"), Some(name));
        let disks: Vec<&str> = made.list("disk").collect();
        assert_eq!(disks[0], "format=raw,vdev=xvda,access=r,backend=m1,target=base@first");
        assert_eq!(
            disks[1], "format=raw,vdev=xvdb,access=rw,backend=5,target=data@first",
            "not another's overlay"
        );
    }
    let reaped = host.directory.path().join("run/m1ctl/reap");
    assert!(reaped.join("11.json").is_file() && reaped.join("12.json").is_file());

    // What cannot be is said before anything is made.
    for (text, why) in [
        ("disk = []", "no disk of it"),
        ("disk = ['format=raw,vdev=xvda,backend=m1,target=other']", "no disk of it"),
        ("disk =", "line 1"),
    ] {
        std::fs::write(&config, text).expect("written");
        let Err(Failure::Refused(said)) = clone::run(&mut m1, &order(&config)) else { panic!("{text}") };
        assert!(said.contains(why), "{said}");
    }
    let unknown = clone::Order { snapshot: "second", ..order(&config) };
    assert!(matches!(clone::run(&mut m1, &unknown), Err(Failure::Refused(_))));
    let kept = clone::Order { config: None, ..order(&config) };
    let Err(Failure::Refused(said)) = clone::run(&mut m1, &kept) else { panic!("none is kept") };
    assert!(said.contains("--config"), "{said}");
    assert!(host.asked().iter().all(|asked| !asked.starts_with("create")));
}

#[test]
fn a_domain_that_waits_becomes_a_clone_and_only_once() {
    let host = host_with_a_snapshot();
    host.machine.lock().expect("no panic").store.set("/local/domain/13/data/pool", "waiting");
    let mut m1 = host.m1("m1", PATIENCE).expect("there");
    let config = host.directory.path().join("base.cfg");
    pool::start(&mut host.connect(), 1, &config, "m1", PATIENCE, true).expect("it waits");
    let asked = host.asked();
    let file = asked[1].strip_prefix("create -e -q ").expect("no process of xl's stays");
    let member = Config::parse(&std::fs::read_to_string(file).expect("kept")).expect("xl's");
    assert_eq!((member.text("name"), member.list("disk").count()), (Some("pool-1"), 0));
    assert_eq!(member.text("extra"), Some("pool=1 init=/x"));

    let order = clone::Order { count: 1, ..order(&config) };
    clone::run(&mut m1, &order).expect("made");
    let asked = host.asked();
    let data = "block-attach 13 format=raw,vdev=xvdb,access=rw,backend=5,target=data@first";
    let root = "block-attach 13 format=raw,vdev=xvda,access=r,backend=m1,target=base@first";
    assert_eq!(asked, ["list -v", data, root, "rename 13 first-1"], "what it waits for comes last");
    clone::run(&mut m1, &order).expect("made");
    assert!(host.asked()[1].starts_with("create "), "nobody waits any more");
    pool::stop(true).expect("nobody is there");
    assert!(host.asked().is_empty());
}

#[test]
fn what_xl_says_and_that_it_hangs_is_told() {
    let host = host_with_a_snapshot();
    host.xl("echo 'libxl: error: no memory' >&2; exit 3");
    let Err(Failure::Host(why)) = crate::xl::domains() else { panic!("it failed") };
    assert_eq!(why, "xl list -v: libxl: error: no memory");
    host.xl("exec sleep 100");
    let begin = Instant::now();
    let hung = crate::xl::run(&["list"], Duration::from_millis(100));
    assert!(matches!(hung, Err(Failure::TimedOut(_))), "{hung:?}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_reaper_does_what_configurations_want_and_stops_when_nothing_is_left() {
    let host = host_with_a_snapshot();
    let wishes = |name: &str, text: &str| {
        Wishes::of(&Config::parse(text).expect("a configuration"), name, std::path::Path::new("/x.cfg"))
            .expect("wishes")
    };
    assert!(!reaper::look().expect("it looks"), "nothing to do");
    assert!(host.asked().is_empty());
    reaper::entrust(11, &wishes("first-1", "")).expect("written");
    reaper::entrust(12, &wishes("first-3", "on_crash = 'preserve'")).expect("written");
    reaper::entrust(13, &wishes("again", "")).expect("written");
    let row = |name: &str, domid: u16, state: &str, reason: &str| {
        format!("{name} {domid} 8 1 {state} 1.0 00000000-0000-0000-0000-000000000000 {reason} -")
    };
    let heading = LIST.lines().next().expect("a heading");
    let list = |rows: &[String]| {
        let text = rows.join("\n");
        host.xl(&format!("case \"$1\" in list) echo '{heading}\n{text}';; esac"));
    };
    list(&[
        row("first-1", 11, "-b----", "-"),
        row("first-3", 12, "r-----", "-"),
        row("again", 13, "-b----", "-"),
    ]);
    assert!(reaper::look().expect("it looks"));
    assert_eq!(host.asked(), ["list -v"], "all of them live");
    // One has powered off, one crashed and is to be kept, one wants to boot again: it has another number then.
    list(&[
        row("first-1", 11, "---s--", "0"),
        row("first-3", 12, "---sc-", "3"),
        row("again", 13, "---s--", "1"),
        row("again", 20, "r-----", "-"),
    ]);
    assert!(reaper::look().expect("it looks"), "the one that booted again is there");
    let reaped = host.directory.path().join("run/m1ctl/reap");
    let left = [11, 12, 13, 20].map(|domid| reaped.join(format!("{domid}.json")).is_file());
    assert_eq!(left, [false, false, false, true]);
    let mut asked = host.asked();
    asked.sort_unstable();
    assert_eq!(asked, ["create -e -q /x.cfg", "destroy 11", "destroy 13", "list -v", "list -v"]);
    list(&[row("first-3", 12, "---sc-", "3")]);
    assert!(!reaper::look().expect("it looks"), "nothing is left to wait for");
    assert_eq!(host.asked(), ["list -v"]);
}
