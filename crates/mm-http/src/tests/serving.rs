use super::link::{Setup, World, response, responses};
use crate::response::Status;

const HOST: &str = "Host: m1\r\n";

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\n{HOST}\r\n").into_bytes()
}

#[test]
fn every_page_is_served_with_all_its_fields() {
    let mut world = World::new();
    let pages = [
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/status.json", "application/json"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/ready", "text/plain; charset=utf-8"),
    ];
    for (path, content_type) in pages {
        let (text, closed) = world.exchange(&get(path));
        let [answer] = &responses(&text)[..] else { panic!("{text}") };
        assert_eq!(answer.code, 200);
        assert!(!closed, "a connection of HTTP/1.1 is kept");
        assert_eq!(answer.field("Content-Type"), Some(content_type));
        assert_eq!(answer.field("Date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(answer.field("Cache-Control"), Some("no-store"));
        assert_eq!(answer.field("Connection"), Some("keep-alive"));
        match path {
            "/healthz" => assert_eq!(answer.body, "ok\n"),
            "/ready" => assert_eq!(answer.body, "ready\n"),
            _ => assert_eq!(answer.body.lines().count(), 40),
        }

        let (text, _) = world.exchange(format!("HEAD {path} HTTP/1.1\r\n{HOST}\r\n").as_bytes());
        let (head, rest) = response(&text, true).unwrap();
        assert_eq!(rest, "", "HEAD has no body");
        assert_eq!(head.fields, answer.fields, "HEAD has the same fields");
    }
    world.wall = None;
    let (text, _) = world.exchange(&get("/healthz"));
    assert_eq!(responses(&text)[0].field("Date"), None, "no clock, no date");
}

#[test]
fn readiness_is_a_status() {
    let mut world = World::new();
    world.pages.ready = false;
    let (text, closed) = world.exchange(&get("/ready"));
    let answer = &responses(&text)[0];
    assert_eq!((answer.code, answer.body.as_str(), closed), (503, "no volume\n", false));
    assert_eq!(answer.field("Retry-After"), Some("1"));
    let (text, _) = world.exchange(&get("/healthz"));
    assert_eq!(responses(&text)[0].code, 200, "the service runs all the same");
}

#[test]
fn every_fault_has_its_status() {
    let mut world = World::new();
    let cases: Vec<(String, u16, bool)> = vec![
        ("GET /nothing HTTP/1.1\r\nHost: m1\r\n\r\n".into(), 404, false),
        ("POST /metrics HTTP/1.1\r\nHost: m1\r\nContent-Length: 3\r\n\r\nabc".into(), 405, false),
        ("DELETE / HTTP/1.1\r\nHost: m1\r\n\r\n".into(), 405, false),
        ("PUT / HTTP/1.1\r\nHost: m1\r\nContent-Length: 9999999\r\n\r\n".into(), 405, true),
        ("PUT / HTTP/1.1\r\nHost: m1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".into(), 405, true),
        ("BREW / HTTP/1.1\r\nHost: m1\r\n\r\n".into(), 501, false),
        ("GET / HTTP/1.1\r\nHost: m1\r\nTransfer-Encoding: gzip\r\n\r\n".into(), 501, true),
        ("GET / HTTP/2.0\r\n\r\n".into(), 505, true),
        ("GET / HTTP/1.1\r\n\r\n".into(), 400, true),
        ("GET / HTTP/1.1\r\nHost: m1\r\nHost: m1\r\n\r\n".into(), 400, true),
        ("GET / HTTP/1.1\r\nHost: m1\r\n folded\r\n\r\n".into(), 400, true),
        (
            "GET / HTTP/1.1\r\nHost: m1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            400,
            true,
        ),
        ("GET / HTTP/1.1\r\nHost: m1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".into(), 400, true),
        ("GET / HTTP/1.1\r\nHost: m1\r\nContent-Length: 65537\r\n\r\n".into(), 413, true),
        (format!("GET /{} HTTP/1.1\r\nHost: m1\r\n\r\n", "a".repeat(8000)), 414, true),
        ("GET / HTTP/1.1\r\nHost: m1\r\nExpect: tea\r\n\r\n".into(), 417, true),
        (format!("GET / HTTP/1.1\r\nHost: m1\r\nCookie: {}\r\n\r\n", "a".repeat(20_000)), 431, true),
        (format!("GET / HTTP/1.1\r\nHost: m1\r\n{}\r\n", "a: b\r\n".repeat(100)), 431, true),
        ("\u{16}\u{3}\u{1}".into(), 400, true),
    ];
    for (request, code, closes) in cases {
        let (text, closed) = world.exchange(request.as_bytes());
        let start: String = request.chars().take(60).collect();
        let [answer] = &responses(&text)[..] else { panic!("{start:?}: {text:?}") };
        assert_eq!((answer.code, closed), (code, closes), "{start:?}");
        assert_eq!(
            answer.field("Connection"),
            Some(if closes { "close" } else { "keep-alive" }),
            "{start:?}"
        );
        assert_eq!(answer.field("Allow"), (code == 405).then_some("GET, HEAD"), "{start:?}");
        assert!(answer.body.starts_with(&code.to_string()), "the body says it too: {}", answer.body);
        let status = Status::ALL.into_iter().find(|status| status.code() == code.to_string()).unwrap();
        assert!(world.service.http().responses(status) > 0);
    }
}

#[test]
fn a_body_is_thrown_away_and_the_next_request_is_found_behind_it() {
    let mut world = World::new();
    let next = "GET /healthz HTTP/1.1\r\nHost: m1\r\nConnection: close\r\n\r\n";
    for (fields, body) in [
        ("Content-Length: 26", "GET /evil HTTP/1.1\r\n\r\n\r\n\r\n".to_owned()),
        ("Content-Length: 60000", "x".repeat(60_000)),
        ("Transfer-Encoding: chunked", "5\r\nGET /\r\n0\r\n\r\n".to_owned()),
    ] {
        let (text, _) =
            world.exchange(format!("GET /ready HTTP/1.1\r\n{HOST}{fields}\r\n\r\n{body}{next}").as_bytes());
        let codes: Vec<_> =
            responses(&text).iter().map(|answer| (answer.code, answer.body.clone())).collect();
        assert_eq!(codes, [(200, "ready\n".into()), (200, "ok\n".into())], "{fields}");
    }
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let mut world = World::new();
    let peer = world.connect();
    world.send(peer, b"GET /ready HTTP/1.1\r\nHost: m1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    world.run(100);
    assert_eq!(world.text(peer), "HTTP/1.1 100 Continue\r\n\r\n");
    world.send(peer, b"abc");
    world.run(100);
    let codes: Vec<_> = responses(&world.text(peer)).iter().map(|answer| answer.code).collect();
    assert_eq!(codes, [100, 200]);
}

#[test]
fn connections_are_kept_or_closed_as_the_client_wants() {
    let mut world = World::new();
    for (request, kept) in [
        ("GET /healthz HTTP/1.1\r\nHost: m1\r\n\r\n", true),
        ("GET /healthz HTTP/1.1\r\nHost: m1\r\nConnection: close\r\n\r\n", false),
        ("GET /healthz HTTP/1.0\r\n\r\n", false),
        ("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ("GET /nothing HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
    ] {
        let (text, closed) = world.exchange(request.as_bytes());
        assert_eq!(closed, !kept, "{request}");
        let connection = if kept { "keep-alive" } else { "close" };
        assert_eq!(responses(&text)[0].field("Connection"), Some(connection));
    }
    // Ten requests on one connection, one after the other.
    let accepted = world.service.http().accepted;
    let peer = world.connect();
    for count in 1..=10 {
        world.send(peer, &get("/healthz"));
        world.until(1_000, |world| responses(&world.text(peer)).len() == count);
    }
    assert_eq!(world.service.http().accepted, accepted + 1);
}

#[test]
fn a_client_that_closes_its_half_still_gets_its_answer() {
    let mut world = World::new();
    let peer = world.connect();
    world.send(peer, &get("/metrics"));
    world.socket(peer).close();
    world.run(100);
    assert_eq!(responses(&world.text(peer))[0].code, 200);
    assert_eq!(world.service.http().open, 0, "and the connection is over");
}

#[test]
fn pipelined_requests_are_answered_in_order_wherever_they_are_cut() {
    let requests =
        [&get("/ready")[..], b"\r\nHEAD /nothing HTTP/1.1\r\nHost: m1\r\n\r\n".as_slice()].concat();
    let body = b"GET /healthz HTTP/1.1\nHost: m1\nContent-Length: 4\n\nbodyGET /nothing HTTP/1.0\r\n\r\n";
    let requests = [&requests[..], body].concat();
    let mut world = World::new();
    let (whole, closed) = world.exchange(&requests);
    assert!(closed);
    let (ready, rest) = response(&whole, false).unwrap();
    let (head, rest) = response(rest, true).unwrap();
    let rest = responses(rest);
    let codes = [ready.code, head.code, rest[0].code, rest[1].code];
    assert_eq!((codes, rest.len()), ([200, 404, 200, 404], 2));
    for cut in 1..requests.len() {
        let peer = world.connect();
        world.send(peer, &requests[..cut]);
        world.run(3);
        world.send(peer, &requests[cut..]);
        world.until(1_000, |world| {
            world.read(peer);
            !world.socket(peer).may_recv()
        });
        assert_eq!(world.text(peer), whole, "cut at {cut}");
        world.socket(peer).close();
        world.run(1);
    }
}

#[test]
fn a_large_page_is_one_moment_however_it_is_read() {
    let mut world = World::new();
    world.pages.lines = 8_000; // 100 KiB
    let slow = world.connect_with(0, 1_000);
    world.until(1_000, |world| world.socket(slow).may_send());
    world.send(slow, &get("/metrics"));
    // Others make newer pages meanwhile.
    for _ in 0..40 {
        let (text, _) = world.exchange(&get("/metrics"));
        assert_one_moment(&responses(&text)[0].body);
        world.read(slow);
    }
    world.until(25_000, |world| {
        let text = world.text(slow);
        world.run(1);
        response(&text, false).is_some()
    });
    let text = world.text(slow);
    assert_one_moment(&responses(&text)[0].body);
    assert!(world.pages.renders > 40);
}

fn assert_one_moment(body: &str) {
    let first = body.lines().next().unwrap();
    assert_eq!(body.lines().filter(|line| *line == first).count(), 8_000);
}

#[test]
fn requests_of_one_moment_share_one_rendering() {
    let mut world = World::new();
    let peers: Vec<_> = (0..20).map(|_| world.connect()).collect();
    for (index, peer) in peers.iter().enumerate() {
        let method = if index % 2 == 0 { "GET" } else { "HEAD" };
        world.send(*peer, format!("{method} /metrics HTTP/1.1\r\n{HOST}\r\n").repeat(20).as_bytes());
    }
    world.until(10_000, |world| {
        peers.iter().all(|peer| world.text(*peer).matches("HTTP/1.1 200 OK").count() == 20)
    });
    let took_ms = world.now_ns / 1_000_000;
    assert!(
        world.pages.renders <= 2 * (took_ms / 10 + 1),
        "{} renderings in {took_ms} ms",
        world.pages.renders
    );
    assert_eq!(world.service.http().responses(Status::Ok), 400);
}

#[test]
fn a_page_larger_than_its_buffer_is_an_error_that_says_so() {
    let mut world = World::with(Setup { snapshots: 4096, ..Setup::default() });
    world.pages.lines = 1_000;
    let (text, closed) = world.exchange(&get("/metrics"));
    let answer = &responses(&text)[0];
    assert_eq!((answer.code, closed), (500, false));
    assert!(answer.body.contains("larger than the buffer"));
    world.pages.lines = 10;
    let (text, _) = world.exchange(&get("/metrics"));
    assert_eq!(responses(&text)[0].code, 200);
}

#[test]
fn sixty_four_connections_at_once_are_served_and_the_next_as_well() {
    let mut world = World::new();
    let peers: Vec<_> = (0..64).map(|_| world.connect_from(0)).collect();
    world.until(5_000, |world| peers.iter().all(|&peer| world.socket(peer).may_send()));
    assert_eq!(world.service.http().open, 64);
    for round in 1..=3 {
        for &peer in &peers {
            world.send(peer, &get("/metrics"));
        }
        world.until(5_000, |world| {
            peers.iter().all(|&peer| world.text(peer).matches("HTTP/1.1 200 OK").count() == round)
        });
        world.run(20);
    }
    for &peer in &peers {
        let text = world.text(peer);
        assert!(responses(&text).iter().all(|answer| answer.field("Connection") == Some("keep-alive")));
    }
    // All sixty-four stay; one more comes, then thirty more.
    for _ in 0..31 {
        let peer = world.connect();
        world.send(peer, &get("/healthz"));
        world.until(1_000, |world| world.text(peer).contains("200 OK"));
    }
    assert!(world.service.http().evicted > 0, "somebody idle went");
    let left = peers.iter().filter(|&&peer| world.socket(peer).may_recv()).count();
    assert!(left >= 64 - 31 - crate::RESERVE, "no more went than had to: {left}");
}

#[test]
fn a_crowd_that_comes_and_goes_leaves_nothing_behind() {
    let mut world = World::new();
    world.pages.lines = 1000;
    for round in 0..15 {
        let peers: Vec<_> = (0..64).map(|_| world.connect_from(0)).collect();
        let mut asked = vec![false; peers.len()];
        world.until(5_000, |world| {
            let mut done = 0;
            for (asked, &peer) in asked.iter_mut().zip(&peers) {
                if !*asked && world.socket(peer).may_send() {
                    *asked = true;
                    let close = if round % 2 == 0 { "Connection: close\r\n" } else { "" };
                    world.send(peer, format!("GET /metrics HTTP/1.1\r\n{HOST}{close}\r\n").as_bytes());
                }
                done += usize::from(response(&world.text(peer), false).is_some());
            }
            done == peers.len()
        });
        for peer in peers {
            world.socket(peer).close();
        }
        world.run(100);
    }
    world.run(12_000); // TIME-WAIT
    assert_eq!(world.service.http().open, 0);
    assert_eq!(world.service.http().responses(Status::Ok), 15 * 64);
    assert_eq!(world.service.http().reset, 0);
}
