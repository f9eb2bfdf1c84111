use smoltcp::time::Duration;

use super::link::{Peer, Setup, World, response, responses};
use crate::Limits;
use crate::response::Status;
use crate::stats::Timeout;

const GET_METRICS: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: m1\r\n\r\n";
const SECOND: u64 = 1_000_000_000;

/// Asks on a new connection, and returns how many milliseconds the answer took.
fn ask(world: &mut World) -> u64 {
    let before = world.now_ns;
    let peer = world.connect();
    world.send(peer, GET_METRICS);
    world.until(10_000, |world| response(&world.text(peer), false).is_some());
    assert_eq!(responses(&world.text(peer))[0].code, 200);
    let after = world.now_ns;
    world.socket(peer).close();
    (after - before) / 1_000_000
}

fn is_open(world: &mut World, peer: Peer) -> bool {
    world.socket(peer).may_recv()
}

#[test]
fn a_head_that_comes_byte_by_byte_runs_out_of_time_and_holds_up_nobody() {
    let mut world = World::new();
    let peer = world.connect();
    let begun = world.now_ns;
    for index in 0..60 {
        if !is_open(&mut world, peer) {
            break;
        }
        world.send(peer, &GET_METRICS[index % 16..=index % 16]);
        world.run(500);
        assert!(ask(&mut world) < 20);
        world.read(peer);
    }
    let text = world.text(peer);
    assert_eq!(responses(&text)[0].code, 408, "{text}");
    assert!((9 * SECOND..12 * SECOND).contains(&(world.now_ns - begun)), "{}", world.now_ns - begun);
    assert_eq!(world.service.http().timeouts(Timeout::Request), 1);
}

#[test]
fn a_body_that_never_ends_runs_out_of_time() {
    let mut world = World::new();
    let peer = world.connect();
    world.send(peer, b"GET / HTTP/1.1\r\nHost: m1\r\nContent-Length: 100\r\n\r\nabc");
    world.run(9_000);
    assert_eq!(world.text(peer), "");
    world.run(1_500);
    assert_eq!(responses(&world.text(peer))[0].code, 408);
}

#[test]
fn a_client_that_says_nothing_is_closed_without_a_word() {
    let mut world = World::new();
    let silent = world.connect();
    world.run(9_000);
    assert!(is_open(&mut world, silent));
    world.run(1_500);
    assert!(!is_open(&mut world, silent));
    assert_eq!(world.text(silent), "");

    let kept = world.connect();
    world.send(kept, GET_METRICS);
    world.run(74_000);
    world.read(kept);
    assert!(is_open(&mut world, kept), "a connection that was used is kept for longer");
    world.run(2_000);
    assert!(!is_open(&mut world, kept));
    assert_eq!(world.service.http().timeouts(Timeout::Idle), 2);
    assert_eq!(world.service.http().responses(Status::Ok), 1);
}

#[test]
fn a_client_that_does_not_read_runs_out_of_time_and_holds_up_nobody() {
    let mut world = World::new();
    world.pages.lines = 4_000;
    let peer = world.connect_with(0, 1_000);
    world.until(1_000, |world| world.socket(peer).may_send());
    world.send(peer, GET_METRICS);
    for _ in 0..28 {
        world.run(1_000);
        assert!(ask(&mut world) < 100);
    }
    assert!(is_open(&mut world, peer));
    world.run(4_000);
    assert_eq!(world.service.http().timeouts(Timeout::Response), 1);
    assert_eq!(world.socket(peer).state(), smoltcp::socket::tcp::State::Closed, "reset");
}

#[test]
fn a_client_that_never_closes_is_reset_after_its_answer() {
    let mut world = World::new();
    let peer = world.connect();
    world.send(peer, b"GET /healthz HTTP/1.0\r\n\r\n");
    world.run(1_000);
    assert_eq!(responses(&world.text(peer))[0].code, 200);
    assert_eq!(world.service.http().open, 1);
    world.run(1_500);
    assert_eq!(world.service.http().open, 0);
    assert_eq!(world.service.http().timeouts(Timeout::Linger), 1);
}

#[test]
fn a_client_that_goes_on_sending_after_a_refusal_still_reads_why() {
    let mut world = World::new();
    let peer = world.connect();
    world.send(peer, format!("GET /{} HTTP/1.1\r\n", "a".repeat(30_000)).as_bytes());
    world.run(500);
    assert_eq!(responses(&world.text(peer))[0].code, 414);
    // Without end it does not go on.
    for _ in 0..20 {
        let _sent = world.socket(peer).send_slice(&[b'a'; 16 * 1024]);
        world.run(50);
    }
    assert_eq!(world.service.http().open, 0);
}

#[test]
fn a_client_that_resets_gives_its_place_and_its_snapshot_back() {
    let mut world = World::with(Setup { snapshots: 40 * 1024, ..Setup::default() });
    world.pages.lines = 1_000; // one page fills more than half of the room
    for bytes in
        [&b""[..], b"GET / HT", GET_METRICS, b"GET / HTTP/1.1\r\nHost: m1\r\nContent-Length: 9\r\n\r\n"]
    {
        for wait in [0, 1, 5] {
            let peer = world.connect_with(0, 1_000);
            world.until(1_000, |world| world.socket(peer).may_send());
            if !bytes.is_empty() {
                world.send(peer, bytes);
            }
            world.run(wait);
            world.socket(peer).abort();
            world.run(5);
            assert_eq!(world.service.http().open, 0);
            assert!(ask(&mut world) < 20);
            world.run(15_000);
        }
    }
    assert!(world.service.http().reset >= 10);
}

#[test]
fn all_places_full_of_slow_heads_leave_room_for_the_next() {
    let mut world = World::new();
    let mut slow: Vec<_> = (0..80).map(|_| world.connect_from(0)).collect();
    for second in 0..8 {
        for &peer in &slow {
            if world.socket(peer).may_send() {
                world.send(peer, b"G");
            }
        }
        // Those who were put out come again at once.
        for peer in &mut slow {
            if !world.socket(*peer).is_open() {
                *peer = world.connect_from(0);
            }
        }
        world.run(1_000);
        let took = ask(&mut world);
        assert!(took < 50, "in second {second} the next client waited for {took} ms");
    }
    assert!(world.service.http().evicted > 0);
}

#[test]
fn all_places_full_of_readers_that_do_not_read_leave_room_for_the_next() {
    let mut world = World::with(Setup { snapshots: 100 * 1024, ..Setup::default() });
    world.pages.lines = 2_500; // a third of the room
    for _ in 0..80 {
        let peer = world.connect_with(0, 1_000);
        world.until(3_000, |world| world.socket(peer).may_send());
        world.send(peer, GET_METRICS);
        world.run(200);
    }
    let mut worst = 0;
    for _ in 0..10 {
        let took = ask(&mut world);
        worst = worst.max(took);
        world.run(500);
    }
    assert!(worst <= 2_100, "the next client waited for {worst} ms");
}

#[test]
fn an_address_that_is_not_allowed_gets_no_connection() {
    let allow = crate::AllowList::parse("10.0.0.11").unwrap();
    let mut world = World::with(Setup { allow, hosts: 2, ..Setup::default() });
    let (refused, allowed) = (world.connect_from(0), world.connect_from(1));
    world.run(100);
    assert_eq!(world.socket(refused).state(), smoltcp::socket::tcp::State::Closed, "reset");
    assert!(world.socket(allowed).may_send());
    let stats = *world.service.http();
    assert_eq!((stats.refused, stats.accepted, stats.open), (1, 1, 1));
    // A flood of refused clients takes no place from the others.
    for _ in 0..200 {
        world.connect_from(0);
    }
    let late = world.connect_from(1);
    world.send(allowed, GET_METRICS);
    world.until(1_000, |world| world.text(allowed).contains("200 OK") && world.socket(late).may_send());
    assert_eq!(world.service.http().refused, 201);
}

#[test]
fn answers_are_whole_on_a_link_that_loses_and_spoils_frames() {
    let mut world = World::with(Setup { loss: 10, corruption: 10, ..Setup::default() });
    world.pages.lines = 2_000;
    for _ in 0..10 {
        let peer = world.connect_from(0);
        world.until(120_000, |world| world.socket(peer).may_send());
        world.send(peer, b"GET /metrics HTTP/1.1\r\nHost: m1\r\nConnection: close\r\n\r\n");
        world.until(120_000, |world| {
            world.read(peer);
            response(&world.text(peer), false).is_some()
        });
        assert_eq!(responses(&world.text(peer))[0].body.lines().count(), 2_000);
        world.socket(peer).close();
    }
    world.run(60_000);
    assert_eq!(world.service.http().open, 0);
}

#[test]
fn a_client_that_waits_in_vain_for_room_is_told_to_come_again() {
    let limits = Limits { hold: Duration::from_secs(60), ..Limits::default() };
    let mut world = World::with(Setup { snapshots: 20 * 1024, limits, ..Setup::default() });
    world.pages.lines = 1_000; // more than half of the room
    let slow = world.connect_with(0, 1_000);
    world.until(1_000, |world| world.socket(slow).may_send());
    world.send(slow, GET_METRICS);
    world.run(2_000);
    let next = world.connect();
    world.send(next, GET_METRICS);
    world.run(4_900);
    assert_eq!(world.text(next), "");
    world.run(200);
    let answer = &responses(&world.text(next))[0];
    assert_eq!((answer.code, answer.field("Retry-After")), (503, Some("1")));
    // Small answers need no room, and the page is there when the slow reader has gone.
    let (text, _) = world.exchange(b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert_eq!(response(&text, true).unwrap().0.code, 200);
    world.socket(slow).abort();
    world.run(10);
    assert!(ask(&mut world) < 20);
}
