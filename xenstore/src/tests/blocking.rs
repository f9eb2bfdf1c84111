use std::cell::RefCell;

use super::store;
use crate::fake::{FakeXenstored, Flavour};
use crate::{Blocking, CallError, Message, Pause, Refusal, Transaction, XenbusState};

const NONE: Transaction = Transaction::NONE;

/// A wait that lets the server run whenever it is notified, and gives up after so many sleeps.
fn patient(server: &RefCell<FakeXenstored>, mut sleeps: u32) -> impl FnMut(Pause) -> bool {
    move |pause| match pause {
        Pause::Notify => {
            server.borrow_mut().run();
            true
        }
        Pause::Sleep => {
            sleeps = sleeps.saturating_sub(1);
            sleeps > 0
        }
    }
}

#[test]
fn calls_give_their_answers() {
    let (server, _, mut connection) = store(Flavour::Ocaml, 5);
    let server = RefCell::new(server);
    let mut wait = patient(&server, 100);
    let mut calls = Blocking::new(&mut connection, &mut wait);
    calls.write(NONE, "data/n", b"17").expect("ours");
    assert_eq!(calls.read(NONE, "data/n"), Ok(&b"17"[..]));
    assert_eq!(calls.read_number::<u32>("data/n"), Ok(17));
    assert_eq!(calls.read_text::<8>("data/n").expect("text").as_str(), "17");
    assert_eq!(calls.read_text::<1>("data/n"), Err(CallError::Unexpected));
    assert_eq!(calls.list(NONE, "data"), Ok(&b"n\0"[..]));
    calls.rm(NONE, "data/n").expect("ours");
    assert_eq!(calls.read_state("data/n"), Ok(None));
    let missing = calls.read(NONE, "data/n").expect_err("removed");
    assert!(missing.is_missing());
    assert_eq!(calls.write(NONE, "name", b"x"), Err(CallError::Refused(Refusal::Access)));
}

#[test]
fn watch_events_between_are_kept() {
    let (mut server, _, mut connection) = store(Flavour::Ocaml, 5);
    server.set("/local/domain/5/data/a", "1");
    let server = RefCell::new(server);
    let mut wait = patient(&server, 100);
    let mut calls = Blocking::new(&mut connection, &mut wait);
    calls.watch("data", "t").expect("room");
    calls.watch("data", "t").expect("twice is no error");
    server.borrow_mut().set("/local/domain/5/data/a", "2");
    assert_eq!(calls.read(NONE, "data/a"), Ok(&b"2"[..]));
    let path = calls.next_watch(|event| event.map(|e| e.path.to_owned())).expect("kept");
    assert_eq!(path.as_deref(), Some("data"));
    let incoming = connection.poll().expect("honest").expect("the second");
    assert!(
        matches!(incoming.message, Message::Watch(event) if event.path == "data/a" && event.token == "t")
    );
    assert!(connection.poll().expect("honest").is_none());
}

#[test]
fn too_many_events_between_are_reported_as_lost() {
    let (server, _, mut connection) = store(Flavour::Ocaml, 5);
    let server = RefCell::new(server);
    let mut wait = patient(&server, 1000);
    let mut calls = Blocking::new(&mut connection, &mut wait);
    calls.watch("data", "t").expect("room");
    for i in 0..20 {
        calls.write(NONE, "data/a", i.to_string().as_bytes()).expect("ours");
    }
    assert!(matches!(connection.poll().expect("honest").expect("word of it").message, Message::WatchesLost));
    let mut after = 0;
    while connection.poll().expect("honest").is_some() {
        after += 1;
    }
    assert_eq!(after, 1, "the kept ones are of no use then; the last write's was still in the ring");
}

#[test]
fn a_silent_xenstored_times_out_and_its_late_answer_is_dropped() {
    let (server, _, mut connection) = store(Flavour::Ocaml, 5);
    let server = RefCell::new(server);
    let mut deaf = |pause| pause == Pause::Notify;
    let mut calls = Blocking::new(&mut connection, &mut deaf);
    assert_eq!(calls.write(NONE, "data/a", b"1"), Err(CallError::TimedOut));
    server.borrow_mut().run();
    let mut wait = patient(&server, 100);
    let mut calls = Blocking::new(&mut connection, &mut wait);
    assert_eq!(calls.read(NONE, "data/a"), Ok(&b"1"[..]), "and not the answer to the write");
}

#[test]
fn a_transaction_is_done_again_when_it_meets_another() {
    let (mut server, id, mut connection) = store(Flavour::Ocaml, 5);
    server.set("/local/domain/5/data/count", "1");
    let server = RefCell::new(server);
    let mut wait = patient(&server, 100);
    let mut calls = Blocking::new(&mut connection, &mut wait);
    let mut rounds = 0;
    let result = calls.transaction(5, |calls, transaction| {
        rounds += 1;
        let count: u32 = crate::number(calls.read(transaction, "data/count")?).expect("a number");
        if rounds < 3 {
            server.borrow_mut().set("/local/domain/5/data/count", &(count + 10).to_string());
        }
        calls.write(transaction, "data/count", (count + 1).to_string().as_bytes())?;
        Ok(count)
    });
    assert_eq!(result, Ok(21));
    assert_eq!(server.borrow().get("/local/domain/5/data/count").as_deref(), Some("22"));

    let failed = calls.transaction(2, |calls, transaction| {
        server.borrow_mut().set("/local/domain/5/data/x", "1");
        calls.write(transaction, "data/count", b"0")
    });
    assert_eq!(failed, Err(CallError::Refused(Refusal::Again)), "not for ever");
    let failed: Result<(), _> = calls.transaction(2, |calls, transaction| {
        calls.write(transaction, "data/count", b"0")?;
        calls.read(transaction, "data/none").map(drop)
    });
    assert_eq!(failed, Err(CallError::Refused(Refusal::NotFound)));
    assert_eq!(
        server.borrow().get("/local/domain/5/data/count").as_deref(),
        Some("22"),
        "nothing of it stayed"
    );
    server.borrow_mut().refuse_next(id, "EQUOTA");
    let failed = calls.transaction(2, |_, _| Ok(()));
    assert_eq!(failed, Err(CallError::Refused(Refusal::Quota)));
}

#[test]
fn waiting_for_a_state_follows_the_watch_and_leaves_none() {
    let (mut server, id, mut connection) = store(Flavour::C, 5);
    server.set("/local/domain/5/data/state", "1");
    let server = RefCell::new(server);
    let mut step = 1;
    let mut wait = |pause| {
        if pause == Pause::Sleep {
            step += 1;
            server.borrow_mut().set("/local/domain/5/data/state", &step.to_string());
        }
        server.borrow_mut().run();
        step < 9
    };
    let mut calls = Blocking::new(&mut connection, &mut wait);
    let state = calls.wait_for_state("data/state", |s| s == Some(XenbusState::Connected));
    assert_eq!(state, Ok(Some(XenbusState::Connected)));
    assert_eq!(server.borrow().watches_of(id), 0);
    let mut calls = Blocking::new(&mut connection, &mut wait);
    let state = calls.wait_for_state("data/state", |s| s == Some(XenbusState::Initialising));
    assert_eq!(state, Err(CallError::TimedOut));
}
