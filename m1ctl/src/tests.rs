//! The tool against a xenstored in memory, behind a socket as the real one's, and an M1 that a test plays.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use xen_ring::{ByteRing, PageWords};
use xenstore::fake::{FakeXenstored, Flavour};

use crate::commands::{clients, status};
use crate::failure::{Failure, Result};
use crate::m1::{M1, domain};
use crate::xs::Store;

/// Pages of the window.
static WINDOW: [PageWords; 2] = [const { PageWords::new() }; 2];
/// Only one test at a time has it.
static TURN: Mutex<()> = Mutex::new(());

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
