//! The asynchronous client over real ring pages against the fake server.

use super::{hear, store};
use crate::fake::{Flavour, Perm, Quota, Right};
use crate::{MAX_OUTSTANDING, SendError, Transaction};

const NONE: Transaction = Transaction::NONE;

#[test]
fn several_requests_are_outstanding_at_once() {
    let (mut server, _, mut connection) = store(Flavour::Ocaml, 5);
    let client = &mut connection.client;
    client.write(NONE, "data/a", b"1").expect("room");
    client.mkdir(NONE, "data/b").expect("room");
    client.read(NONE, "data/a").expect("room");
    client.directory(NONE, "data").expect("room");
    client.rm(NONE, "data/a").expect("room");
    client.read(NONE, "data/a").expect("room");
    let heard = hear(&mut server, &mut connection);
    assert_eq!(heard, ["ok OK", "ok OK", "ok 1", "ok a\0b", "ok OK", "no NotFound"]);
    assert_eq!(connection.client.outstanding(), 0);
}

#[test]
fn values_as_large_as_a_message_pass_through_the_small_ring() {
    let (mut server, _, mut connection) = store(Flavour::Ocaml, 5);
    server.set_quota(Quota { value: 4096, ..Quota::default() });
    let value = "x".repeat(4000);
    connection.client.write(NONE, "data/a", value.as_bytes()).expect("room");
    connection.client.read(NONE, "data/a").expect("room");
    assert_eq!(hear(&mut server, &mut connection), ["ok OK".to_owned(), format!("ok {value}")]);
}

#[test]
fn what_was_not_polled_is_not_forgotten() {
    let (mut server, _, mut connection) = store(Flavour::C, 5);
    connection.client.watch("data", "t").expect("room");
    connection.flush().expect("honest");
    assert!(!connection.look_again());
    server.run();
    assert!(connection.look_again());
    assert!(connection.poll().expect("honest").is_some());
    assert!(connection.look_again(), "the reply");
    assert!(connection.poll().expect("honest").is_some());
    assert!(!connection.look_again());
}

#[test]
fn more_than_the_bound_can_be_asked_in_turns() {
    let (mut server, _, mut connection) = store(Flavour::Ocaml, 5);
    for round in 0..20 {
        for i in 0..MAX_OUTSTANDING {
            connection.client.write(NONE, "data/a", format!("{round}.{i}").as_bytes()).expect("room");
        }
        assert_eq!(connection.client.read(NONE, "data/a"), Err(SendError::Full));
        assert_eq!(hear(&mut server, &mut connection).len(), MAX_OUTSTANDING);
    }
    assert_eq!(server.get("/local/domain/5/data/a").as_deref(), Some("19.31"));
}

#[test]
fn a_watch_fires_at_once_and_then_for_everything_below() {
    let (mut server, id, mut connection) = store(Flavour::Ocaml, 5);
    connection.client.watch("device", "mine").expect("room");
    connection.client.watch("/local/domain", "all").expect("room");
    let heard = hear(&mut server, &mut connection);
    assert!(
        heard.contains(&"watch mine device".to_owned())
            && heard.contains(&"watch all /local/domain".to_owned())
    );
    assert_eq!(server.watches_of(id), 2);
    server.set("/local/domain/5/device/vif/0/state", "1");
    assert_eq!(
        hear(&mut server, &mut connection),
        ["watch mine device/vif/0/state", "watch all /local/domain/5/device/vif/0/state"]
    );
}

#[test]
fn one_watch_on_local_domain_shows_what_we_may_read_of_others() {
    for flavour in [Flavour::Ocaml, Flavour::C] {
        let (mut server, _, mut connection) = store(flavour, 5);
        connection.client.watch("/local/domain", "all").expect("room");
        hear(&mut server, &mut connection);
        server.set_with("/local/domain/6", "", &[Perm { domain: 0, right: Right::None }]);
        server.set("/local/domain/6/name", "secret");
        assert_eq!(hear(&mut server, &mut connection), [""; 0], "nothing of what we may not read");
        server.add_vbd(5, 6, 51712, "v", "r");
        hear(&mut server, &mut connection);
        server.set("/local/domain/6/device/vbd/51712/state", "4");
        assert_eq!(hear(&mut server, &mut connection), ["watch all /local/domain/6/device/vbd/51712/state"]);
        server.remove("/local/domain/6/device/vbd/51712");
        assert_eq!(hear(&mut server, &mut connection), ["watch all /local/domain/6/device/vbd/51712"]);
    }
}

#[test]
fn watching_twice_or_ending_what_is_not_there_is_refused() {
    let (mut server, _, mut connection) = store(Flavour::C, 5);
    for _ in 0..2 {
        connection.client.watch("data", "t").expect("room");
    }
    for _ in 0..2 {
        connection.client.unwatch("data", "t").expect("room");
    }
    let heard = hear(&mut server, &mut connection);
    assert_eq!(heard, ["watch t data", "ok OK", "no Exists", "ok OK", "no NotFound"]);
}

#[test]
fn each_xenstored_has_its_own_words_for_too_much() {
    for flavour in [Flavour::Ocaml, Flavour::C] {
        let (mut server, _, mut connection) = store(flavour, 5);
        let owned = server.owned_by(5);
        server.set_quota(Quota { nodes: owned + 1, value: 10, watches: 1, transactions: 1 });
        let client = &mut connection.client;
        client.write(NONE, "data/a", b"12345678901").expect("room");
        client.write(NONE, "data/a", b"1").expect("room");
        client.write(NONE, "data/b", b"1").expect("room");
        client.watch("data", "t").expect("room");
        client.watch("data", "u").expect("room");
        client.start_transaction().expect("room");
        client.start_transaction().expect("room");
        let heard = hear(&mut server, &mut connection);
        assert_eq!(heard.iter().filter(|h| *h == "no Quota").count(), 4, "{heard:?}");
        assert_eq!(server.get("/local/domain/5/data/b"), None);
    }
}

#[test]
fn what_is_not_ours_is_closed() {
    let (mut server, _, mut connection) = store(Flavour::C, 5);
    server.set_with("/local/domain/6", "", &[Perm { domain: 0, right: Right::None }]);
    let client = &mut connection.client;
    client.read(NONE, "/local/domain/6").expect("room");
    client.write(NONE, "/local/domain/6/x", b"1").expect("room");
    client.write(NONE, "name", b"1").expect("room");
    client.write(NONE, "bad//path", b"1").expect("room");
    assert_eq!(hear(&mut server, &mut connection), ["no Access", "no Access", "no Access", "no Invalid"]);
}

#[test]
fn permissions_are_set_by_the_owner() {
    let (mut server, _, mut connection) = store(Flavour::Ocaml, 5);
    let client = &mut connection.client;
    client.mkdir(NONE, "data/m1").expect("room");
    client.set_perms(NONE, "data/m1", &["n5", "r6"]).expect("room");
    client.set_perms(NONE, "data/m1", &["n6"]).expect("room");
    assert_eq!(hear(&mut server, &mut connection), ["ok OK", "ok OK", "no Permission"]);
}
