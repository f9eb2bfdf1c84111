//! One behaviour at a time.

use mm_proto::{RequestBody, Response, Status};

use super::{SETTINGS, granted, ready, rows, run};
use crate::*;

#[test]
fn nothing_may_be_asked_before_the_greeting_is_answered() {
    let mut client = MapClient::new(rows(32), SETTINGS);
    assert_eq!(client.ask(1, 1, 0), Err(AskError::NotReady));
    let hello = client.next_request(0).unwrap();
    assert_eq!(client.copy(1, 1, 0), Err(AskError::NotReady));
    let answer = Response::bare(hello.id, Status::Unsupported);
    assert_eq!(client.on_response(&answer), Ok(Event::Unsupported));
    assert_eq!(client.next_request(0), None);
    assert!(!client.is_ready());
}

#[test]
fn a_window_that_m1_was_not_asked_for_is_refused() {
    for window in [0, 3, 1024, u64::MAX] {
        let mut client = MapClient::new(rows(32), SETTINGS);
        let hello = client.next_request(0).unwrap();
        let answer = Response { page: window, ..Response::bare(hello.id, Status::Ok) };
        assert_eq!(client.on_response(&answer), Err(ServerFault::BadRun));
    }
}

#[test]
fn what_was_granted_is_held_and_its_neighbours_are_near() {
    let (mut client, _) = ready(64);
    let request = client.ask(37, 100, 0).unwrap();
    assert_eq!(request.body, RequestBody::Grant { page: 37, wanted: 100 });
    assert_eq!(client.ask(37, 1, 0), Err(AskError::Asked));
    let answer = run(&request, Status::Ok, 32, 500, 16, &[0, 3, 5, 6, 9, 15]);
    assert_eq!(client.on_response(&answer), Ok(Event::Granted { page: 37 }));
    assert_eq!(client.lookup(37), Lookup::Have(505));
    assert_eq!(client.lookup(36), Lookup::Missing);
    assert_eq!(client.lookup(31), Lookup::Missing);
    let near: Vec<_> = client.neighbours(37, 16).collect();
    assert_eq!(near, [(38, 506), (41, 509), (47, 515), (32, 500), (35, 503)]);
    assert_eq!(client.neighbours(37, 8).collect::<Vec<_>>(), [(38, 506), (32, 500), (35, 503)]);
    // Across windows.
    granted(&mut client, 48, 900);
    assert_eq!(client.neighbours(47, 32).count(), 16 + 5);
    assert_eq!(client.neighbours(9_999, 512).count(), 0);
    assert_eq!(client.neighbours(u64::MAX, 512).count(), 0);
}

#[test]
fn a_failed_map_asks_once_more_and_then_for_a_copy() {
    let (mut client, _) = ready(64);
    granted(&mut client, 20, 500);
    client.mapped(21);
    assert_eq!(client.map_failed(20), Retry::Ask);
    assert_eq!((client.lookup(20), client.lookup(21)), (Lookup::Missing, Lookup::Missing));
    granted(&mut client, 20, 500);
    assert_eq!(client.lookup(20), Lookup::Have(504));
    assert_eq!(client.map_failed(20), Retry::Copy);
    // One that goes well makes good.
    granted(&mut client, 20, 500);
    client.mapped(20);
    assert_eq!(client.map_failed(22), Retry::Ask);
    assert_eq!(client.windows(), 1);
}

#[test]
fn a_revocation_is_obeyed_acknowledged_and_listened_for_again() {
    let (mut client, listen) = ready(64);
    granted(&mut client, 20, 500);
    client.mapped(20);
    let request = mm_proto::Request { id: listen, body: RequestBody::Listen };
    let revoke = run(&request, Status::Revoke, 16, 500, 16, &[]);
    let event = Event::Revoke { page: 16, reference: 500, count: 16 };
    assert_eq!(client.on_response(&revoke), Ok(event));
    // From now on nothing of it may be mapped; the answer waits until it is unmapped.
    assert_eq!(client.lookup(20), Lookup::Missing);
    assert_eq!(client.next_request(0), None);
    client.unmapped(20);
    client.revoked();
    assert_eq!(client.windows(), 0);
    let ack = client.next_request(0).unwrap();
    assert_eq!(ack.body, RequestBody::RevokeAck { reference: 500, count: 16 });
    assert_eq!(client.next_request(0).unwrap().body, RequestBody::Listen);
    assert_eq!(client.next_request(0), None);
}

#[test]
fn a_revocation_of_what_was_given_back_meanwhile_is_acknowledged_all_the_same() {
    let (mut client, listen) = ready(64);
    granted(&mut client, 20, 500);
    client.give_back(1);
    assert_eq!(client.next_request(0).unwrap().body, RequestBody::Release { reference: 500, count: 16 });
    let request = mm_proto::Request { id: listen, body: RequestBody::Listen };
    let revoke = run(&request, Status::Revoke, 16, 500, 16, &[]);
    assert_eq!(client.on_response(&revoke), Ok(Event::Nothing));
    let ack = client.next_request(0).unwrap();
    assert_eq!(ack.body, RequestBody::RevokeAck { reference: 500, count: 16 });
}

#[test]
fn only_windows_that_are_neither_mapped_nor_asked_for_are_given_back_oldest_first() {
    let (mut client, _) = ready(64);
    for (page, reference) in [(0, 100), (16, 116), (32, 132), (48, 148)] {
        granted(&mut client, page, reference);
    }
    client.mapped(1);
    client.mapped(1);
    client.unmapped(1);
    // A page of the third is asked for again: M1 may answer with this very window.
    client.map_failed(35);
    let asked = client.ask(35, 1, 0).unwrap();
    client.give_back(4);
    let next = |client: &mut MapClient<'_>| client.next_request(0).map(|request| request.body);
    assert_eq!(next(&mut client), Some(RequestBody::Release { reference: 116, count: 16 }));
    assert_eq!(next(&mut client), Some(RequestBody::Release { reference: 148, count: 16 }));
    assert_eq!(next(&mut client), None);
    let answer = run(&asked, Status::Ok, 32, 132, 16, &[3]);
    assert_eq!(client.on_response(&answer), Ok(Event::Granted { page: 35 }));
    assert_eq!(client.windows(), 2);
}

#[test]
fn the_table_never_overflows_whatever_is_outstanding() {
    let (mut client, _) = ready(20);
    let mut asked = Vec::new();
    for page in 0_u32.. {
        match client.ask(u64::from(page) * 16, 1, 0) {
            Ok(request) => asked.push((page, request)),
            Err(error) => {
                assert_eq!(error, AskError::RingFull);
                break;
            }
        }
    }
    // Three slots are left: a Listen is posted, and there is room for an acknowledgement and for a release.
    assert_eq!(asked.len(), 12);
    for (page, request) in &asked {
        let first = u64::from(*page) * 16;
        let answer = run(request, Status::Ok, first, 1000 + 16 * page, 16, &[0]);
        assert!(client.on_response(&answer).is_ok());
        client.mapped(first);
    }
    for page in 12_u32..20 {
        let first = u64::from(page) * 16;
        granted(&mut client, first, 2000 + 16 * page);
        client.mapped(first);
    }
    assert_eq!(client.ask(9000, 1, 0), Err(AskError::TableFull));
    // A page of a window that is held needs no row; a copy neither.
    assert!(client.ask(5, 1, 0).is_ok());
    assert!(client.copy(9000, 7, 0).is_ok());
    assert_eq!(client.next_request(0), None);
    client.unmapped(32);
    let release = client.next_request(0).unwrap();
    assert_eq!(release.body, RequestBody::Release { reference: 1032, count: 16 });
    // The one row that came free is promised to the ask that is outstanding.
    assert_eq!(client.ask(9000, 1, 0), Err(AskError::TableFull));
}

#[test]
fn reports_are_sent_when_there_is_room_the_last_one_only() {
    let (mut client, _) = ready(32);
    client.report(OwnFigures { written: 1, ..OwnFigures::default() });
    let figures = OwnFigures {
        written: 2,
        kernel: 3,
        mapped: 4,
        local_faults: 5,
        cow_breaks: 6,
        ahead: 7,
        ahead_used: 8,
        reserve: 9,
        populate_failed: 10,
    };
    client.report(figures);
    let report = client.next_request(0).unwrap();
    let body = RequestBody::Report {
        written: 2,
        kernel: 3,
        mapped: 4,
        local_faults: 5,
        cow_breaks: 6,
        ahead: 7,
        ahead_used: 8,
        reserve: 9,
        populate_failed: 10,
    };
    assert_eq!(report.body, body);
    assert_eq!(client.next_request(0), None);
    assert_eq!(client.on_response(&Response::bare(report.id, Status::Ok)), Ok(Event::Nothing));
}

#[test]
fn m1_is_judged_only_while_an_answer_is_due() {
    let (mut client, _) = ready(32);
    // The Listen may wait for ever.
    assert_eq!(client.judge(1_000_000, 5), Judgement::Idle);
    let request = client.ask(1, 1, 2_000_000).unwrap();
    assert_eq!(client.judge(2_000_999, 5), Judgement::Well);
    assert_eq!(client.judge(2_001_000, 5), Judgement::Silent);
    // It beats: late, but alive; until it stops for as long again.
    assert_eq!(client.judge(2_001_100, 6), Judgement::Slow);
    assert_eq!(client.judge(2_002_099, 6), Judgement::Slow);
    assert_eq!(client.judge(2_002_100, 6), Judgement::Silent);
    let answer = Response::bare(request.id, Status::ReadError);
    assert_eq!(client.on_response(&answer), Ok(Event::Failed { page: 1, error: PageError::Read }));
    assert_eq!(client.judge(9_000_000, 6), Judgement::Idle);
}

#[test]
fn what_m1_may_not_say_is_refused_by_name() {
    let (mut client, _) = ready(64);
    granted(&mut client, 64, 500);
    let runs: [(u64, u32, u32, &[u32]); 7] = [
        (32, 900, 16, &[4]),  // not the bit of the page
        (48, 900, 16, &[5]),  // not the page
        (33, 900, 16, &[4]),  // not aligned
        (32, 900, 15, &[5]),  // no power of two
        (0, 900, 128, &[37]), // overlaps what is held
        (32, 900, 0, &[]),    // nothing
        (u64::MAX, 900, 1, &[0]),
    ];
    for (page, reference, count, bits) in runs {
        let request = client.ask(37, 1, 0).unwrap();
        let answer = run(&request, Status::Ok, page, reference, count, bits);
        assert_eq!(client.on_response(&answer), Err(ServerFault::BadRun), "{page} {count}");
    }
    // The window that is held, with another reference.
    let request = client.ask(65, 1, 0).unwrap();
    let answer = run(&request, Status::Ok, 64, 501, 16, &[1]);
    assert_eq!(client.on_response(&answer), Err(ServerFault::BadRun));
    let request = client.ask(37, 1, 0).unwrap();
    let answer = Response::bare(request.id, Status::Revoke);
    assert_eq!(client.on_response(&answer), Err(ServerFault::WrongStatus(Status::Revoke)));
    assert_eq!(client.on_response(&answer), Err(ServerFault::UnknownId(request.id)));
    assert_eq!(client.lookup(65), Lookup::Have(501));
}

#[test]
fn a_freeze_goes_step_by_step_and_only_where_both_speak_version_2() {
    let mut rows = vec![Window::default(); 32];
    let settings = Settings { version: 2, frozen: true, ..super::SETTINGS };
    let mut client = MapClient::new(&mut rows, settings);
    let hello = client.next_request(0).unwrap();
    let mut answer = Response::bare(hello.id, Status::Ok);
    answer.page = 512;
    client.on_response(&answer).unwrap();
    let listen = client.next_request(0).unwrap();
    assert_eq!(listen.body, RequestBody::Listen);
    let ordered = client.on_response(&Response::bare(listen.id, Status::Freeze));
    assert_eq!(ordered, Ok(Event::FreezeOrdered));
    let again = client.next_request(0).unwrap();
    assert_eq!(again.body, RequestBody::Listen, "it listens on");

    let step = client.freeze_step(RequestBody::Freeze { pages: 3 }, 0).unwrap();
    assert_eq!(client.freeze_step(RequestBody::Freeze { pages: 3 }, 0), Err(AskError::Asked));
    let pages = [7; mm_proto::CAPTURE_MAX];
    let answer = Response::bare(step.id, Status::NoRoom).with_captured(&pages);
    let event = client.on_response(&answer);
    assert_eq!(event, Ok(Event::FreezeAnswered { status: Status::NoRoom, pages }));
    assert!(client.freeze_step(RequestBody::Freeze { pages: 3 }, 0).is_ok());

    let frozen = mm_proto::FROZEN_FIRST;
    assert!(client.ask(frozen + 5, 1, 0).is_ok(), "a page of the frozen part");
    assert_eq!(client.ask(frozen * 2, 1, 0), Err(AskError::OutOfRange));
    assert_eq!(client.ask(10_000, 1, 0), Err(AskError::OutOfRange));

    let mut rows = vec![Window::default(); 32];
    let mut old = MapClient::new(&mut rows, super::SETTINGS);
    let hello = old.next_request(0).unwrap();
    let mut answer = Response::bare(hello.id, Status::Ok);
    answer.page = 512;
    old.on_response(&answer).unwrap();
    let listen = old.next_request(0).unwrap();
    let freeze = old.on_response(&Response::bare(listen.id, Status::Freeze));
    assert_eq!(freeze, Err(ServerFault::WrongStatus(Status::Freeze)));
    assert_eq!(old.ask(frozen, 1, 0), Err(AskError::OutOfRange), "not attached to a snapshot");
}
