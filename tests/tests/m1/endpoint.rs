//! M1 and those who ask it over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use m1_tests::m1::M1;
use m1_tests::metrics::{Metrics, promtool};
use m1_tests::raw_disk::PAGE;
use m1_tests::{full, http};
use serde_json::Value;

use crate::bed::{BASE_PAGES, Bed};

/// Bytes of volumes in `/metrics` and `/status.json`.
const BASE_BYTES: usize = BASE_PAGES * PAGE;

/// The pages by use of M1's memory add up to all of it.
#[track_caller]
pub(crate) fn assert_states_add_up(metrics: &Metrics) {
    assert_eq!(metrics.sum("m1_memory_bytes"), metrics.get("m1_memory_size_bytes"));
    assert!(metrics.samples("m1_memory_bytes").all(|sample| sample.value >= 0.0));
}

#[test]
fn m1_as_documented_boots_and_answers_the_host() {
    let bed = Bed::get();
    // The example as it is, with Debian's promise that dom0 finds the disk there, and DHCP.
    let config = m1_tests::xl_config::XlConfig::of("m1.cfg").expect("the example");
    assert_eq!(config.get("extra"), Some("\"volume=base:xvda ip=dhcp\""), "this scenario is about DHCP");
    let config = config.with_list("disk", ["format=raw,vdev=xvda,access=r,target=/dev/vda"]);
    let start = Instant::now();
    let m1 = bed.start_m1_as(&bed.name("m1"), [10, 0, 2, 50], config).expect("M1 starts");
    eprintln!("M1 answers {:.1} s after xl create began", start.elapsed().as_secs_f64());

    let answer = m1.get("/metrics").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.head);
    promtool(&answer.body).expect("promtool finds nothing to complain about");
    let metrics = Metrics::parse(&answer.body).expect("metrics");
    assert_states_add_up(&metrics);
    assert_eq!(metrics.get("m1_ready"), 1.0);
    assert_eq!(metrics.get("m1_engine_bugs"), 0.0);
    assert_eq!(metrics.get("m1_config_problems"), 0.0);
    assert_eq!(metrics.sum("m1_build_info"), 1.0);
    let labels = [("volume", "base"), ("group", "base")];
    assert_eq!(metrics.with("m1_volume_bytes", &labels), Some(BASE_BYTES as f64));
    // 256 MiB in the example: all of it is accounted for, but for what Xen's builder keeps or rounds.
    let size = metrics.get("m1_memory_size_bytes");
    assert!((255.0..=256.0).contains(&(size / f64::from(1 << 20))), "{size}");

    let status = m1.status().expect("/status.json is JSON");
    assert_eq!(status["ready"], Value::Bool(true));
    assert_eq!(status["problems"], Value::Array(Vec::new()));
    assert_eq!(status["volumes"][0]["state"], "serving");
    assert_eq!(status["volumes"][0]["bytes"], BASE_BYTES);
    assert_eq!(status["memory"]["size"].as_f64(), Some(size));

    let index = m1.get("/").expect("an answer");
    assert!(index.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{}", index.head);
    for part in ["<html", "Sharing", "base", "/metrics", "/status.json"] {
        assert!(index.body.contains(part), "{part} is missing in:\n{}", index.body);
    }
    for (path, body) in [("/healthz", "ok\n"), ("/ready", "ready\n")] {
        let answer = m1.get(path).expect("an answer");
        assert_eq!((answer.status, &*answer.body), (200, body), "{path}");
    }
    bed.finish(m1);
}

#[test]
fn requests_of_every_kind_get_the_answer_that_http_wants() {
    let bed = Bed::get();
    let m1 = bed.m1("");
    let ask = |request: String| {
        let answer = http::exchange(m1.port(), request.as_bytes()).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
        let status: u16 = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, head.to_ascii_lowercase(), body.to_owned())
    };
    let plain = |method: &str, path: &str| {
        ask(format!("{method} {path} HTTP/1.1\r\nHost: m1\r\nConnection: close\r\n\r\n"))
    };

    let (status, head, body) = plain("GET", "/healthz");
    assert_eq!((status, &*body), (200, "ok\n"));
    assert!(head.contains("content-length: 3") && head.contains("\r\ndate: "), "{head}");
    let (status, head, body) = plain("HEAD", "/status.json");
    assert_eq!((status, &*body), (200, ""));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    assert!((100..10_000).contains(&length), "{length}");

    assert_eq!(plain("GET", "/nothing").0, 404);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let (status, head, _) = plain(method, "/metrics");
        assert_eq!(status, 405, "{method}: {head}");
        let allow = head.lines().find_map(|line| line.strip_prefix("allow: ")).expect("Allow");
        assert!(allow.contains("get") && allow.contains("head"), "{allow}");
    }
    let fields = |fields: &str| ask(format!("GET /healthz HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")).0;
    assert_eq!(fields(""), 400, "no Host");
    assert_eq!(fields("Host: a\r\nHost: b\r\n"), 400, "two Hosts");
    assert_eq!(fields("Host: a b\r\n"), 400, "a Host that is none");
    assert_eq!(ask("GET /healthz HTTP/1.0\r\n\r\n".into()).0, 200, "HTTP/1.0 has no Host");
    assert_eq!(ask("nonsense\r\n\r\n".into()).0, 400);
    assert_eq!(plain("GET", &format!("/{}", "a".repeat(9000))).0, 414);
    assert_eq!(fields(&format!("Host: m1\r\nX-Long: {}\r\n", "b".repeat(20_000))), 431);
    assert_eq!(fields(&format!("Host: m1\r\n{}", "X: y\r\n".repeat(200))), 431);
    // None of that did any harm.
    assert_eq!(plain("GET", "/metrics").0, 200);
    bed.finish(m1);
}

/// A connection that stays open.
struct Open {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Open {
    fn to(m1: &M1<'_>) -> Open {
        let stream = TcpStream::connect(("127.0.0.1", m1.port())).expect("QEMU listens");
        stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a time-out");
        stream.set_write_timeout(Some(Duration::from_secs(15))).expect("a time-out");
        Open { stream, held: Vec::new() }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("sent");
    }

    /// The next response that has a length: status and body.
    fn response(&mut self) -> (u16, String) {
        let head = loop {
            if let Some(at) = self.held.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            self.more();
        };
        let text = String::from_utf8_lossy(&self.held[..head]).to_ascii_lowercase();
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").parse().expect("a number");
        while self.held.len() < head + 4 + length {
            self.more();
        }
        let rest = self.held.split_off(head + 4 + length);
        let body = String::from_utf8_lossy(&self.held[head + 4..]).into_owned();
        self.held = rest;
        (status, body)
    }

    fn more(&mut self) {
        let mut bytes = [0; 16 * 1024];
        let length = self.stream.read(&mut bytes).expect("an answer");
        assert_ne!(length, 0, "closed after {:?}", String::from_utf8_lossy(&self.held));
        self.held.extend_from_slice(&bytes[..length]);
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: m1\r\n\r\n")
}

#[test]
fn requests_in_one_piece_are_answered_in_order() {
    // `mm-http` is asked so on the host every time.
    if !full::wanted() {
        return;
    }
    let bed = Bed::get();
    let m1 = bed.m1("");
    let mut open = Open::to(&m1);
    open.send(&[get("/healthz"), get("/nothing"), get("/ready"), get("/metrics"), get("/healthz")].concat());
    assert_eq!(open.response(), (200, "ok\n".into()));
    assert_eq!(open.response().0, 404);
    assert_eq!(open.response(), (200, "ready\n".into()));
    let (status, metrics) = open.response();
    assert_eq!(status, 200);
    assert_states_add_up(&Metrics::parse(&metrics).expect("metrics"));
    assert_eq!(open.response(), (200, "ok\n".into()));
    // And the connection is still good, for requests in many pieces too.
    for byte in get("/healthz").as_bytes().chunks(7) {
        open.send(std::str::from_utf8(byte).expect("ASCII"));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(open.response(), (200, "ok\n".into()));
    bed.finish(m1);
}

#[test]
fn sixty_four_connections_are_served_while_slow_ones_hang_on() {
    let bed = Bed::get();
    let m1 = bed.m1("");
    // All have asked before the first is heard.
    let mut all: Vec<Open> = Vec::new();
    for _ in 0..64 {
        let mut open = Open::to(&m1);
        open.send(&get("/metrics"));
        all.push(open);
    }
    for open in &mut all {
        let (status, body) = open.response();
        assert_eq!(status, 200);
        assert!(body.contains("m1_memory_size_bytes"), "{body}");
    }
    drop(all);
    // Now as many that never come to the end of their requests, one letter at a time, and some that say nothing.
    let mut slow: Vec<Open> = (0..72).map(|_| Open::to(&m1)).collect();
    let text = format!("GET /metrics HTTP/1.1\r\nHost: m1\r\nX: {}", "y".repeat(1000));
    let mut worst = Duration::ZERO;
    for letter in text.as_bytes().chunks(1).take(24) {
        for open in slow.iter_mut().take(64) {
            // M1 may have closed it: that is its right.
            let _ = open.stream.write_all(letter);
        }
        let start = Instant::now();
        assert_eq!(m1.get("/metrics").expect("an answer").status, 200);
        worst = worst.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("with 72 slow clients, the slowest /metrics took {} ms", worst.as_millis());
    assert!(worst < Duration::from_secs(5), "a slow client held up others for {worst:?}");
    assert_eq!(m1.metrics().expect("/metrics").get("m1_engine_bugs"), 0.0);
    bed.finish(m1);
}
