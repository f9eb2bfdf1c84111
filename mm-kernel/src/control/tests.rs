//! The channel on a fake xenstored: dom0 writes, M1 answers.

use std::format;
use std::string::String;
use std::vec::Vec;

use mm_proto::{RequestBody, Status};
use serde_json::Value;
use xen::{Access, GrantRef, PageWords};
use xenstore::fake::{Perm, Right};

use crate::tests::world::World;

mod exchange;

fn node(world: &World, path: &str) -> String {
    format!("/local/domain/{}/{path}", world.domain.id().0)
}

/// dom0 asks, and M1's reply is here.
fn ask(world: &mut World, request: &str) -> String {
    let path = node(world, "m1ctl/request");
    world.store.set(&path, request);
    world.run();
    world.store.get(&node(world, "data/m1ctl/reply")).expect("a reply")
}

/// The window's pages as dom0 maps them.
fn window(world: &World) -> Vec<&'static PageWords> {
    let references = world.store.get(&node(world, "data/m1ctl/window")).expect("a window");
    references
        .split(' ')
        .map(|reference| {
            let reference = GrantRef(reference.parse().expect("a number"));
            world.dom0.map(world.domain.id(), reference, Access::ReadWrite).expect("granted to dom0").words()
        })
        .collect()
}

/// A long answer: asked for piece after piece.
fn bulk(world: &mut World, request: &str) -> String {
    let pages = window(world);
    let reply = ask(world, request);
    let total: usize = reply.split(' ').nth(2).expect("a length").parse().expect(&reply);
    let mut text = Vec::new();
    while text.len() < total {
        let mut id = 1000 + text.len();
        if !text.is_empty() {
            id += 1;
            let reply = ask(world, &format!("{id} more {}", text.len()));
            assert!(reply.starts_with(&format!("{id} ok ")), "{reply}");
        }
        let mut piece = std::vec![0; (total - text.len()).min(pages.len() * 4096)];
        for (page, bytes) in pages.iter().zip(piece.chunks_mut(4096)) {
            assert!(page.read(0, bytes));
        }
        text.extend(piece);
    }
    String::from_utf8(text).expect("text")
}

#[test]
fn a_request_is_answered_under_its_number() {
    let mut world = World::new("volume=base:xvda", 24);
    assert_eq!(world.store.get(&node(&world, "data/m1ctl/version")).as_deref(), Some("1"));
    assert_eq!(world.store.get(&node(&world, "data/m1ctl/reply")).as_deref(), Some("0 ok"));
    assert_eq!(ask(&mut world, "7 ping"), "7 ok");
    assert_eq!(
        ask(&mut world, "18446744073709551615 version"),
        format!("18446744073709551615 ok 1 {}", env!("CARGO_PKG_VERSION"))
    );
    let owned = world.store.owned_by(world.domain.id().0);
    for (request, reply) in [
        ("8", "8 error a request is ID VERB ARGUMENTS"),
        ("9 dance", "9 error no such verb: this M1 may be older than its tool"),
        ("10 trace", "10 error usage: trace DOMID"),
        ("11 trace x", "11 error usage: trace DOMID"),
        ("12 trace 40", "12 error M1 serves no device of this domain"),
        ("13 overlays", "13 error M1 has no store: store_disk= names its disk"),
        ("14 more 99999999999", "14 ok 0"),
    ] {
        assert_eq!(ask(&mut world, request), reply);
    }
    let long = format!("15 {}", "x".repeat(4000));
    assert_eq!(ask(&mut world, &long), "15 error a request is ID VERB ARGUMENTS");
    // No number, no answer; and what is no text is none.
    for nothing in ["", "ping", "-3 ping", "x ping", "99999999999999999999 ping", " "] {
        assert_eq!(ask(&mut world, nothing), "15 error a request is ID VERB ARGUMENTS", "{nothing:?}");
    }
    assert_eq!(world.store.owned_by(world.domain.id().0), owned, "answers make no nodes");
    assert_eq!(world.m1.control.counters().answered, 10);
    assert_eq!(world.m1.control.counters().failed, 7);
}

#[test]
fn a_number_is_answered_once() {
    let mut world = World::new("volume=base:xvda", 24);
    assert_eq!(ask(&mut world, "7 ping"), "7 ok");
    assert_eq!(ask(&mut world, "7 dance"), "7 ok");
    let path = node(&world, "m1ctl/request");
    world.store.remove(&path);
    world.run();
    assert_eq!(ask(&mut world, "8 dance"), "8 error no such verb: this M1 may be older than its tool");
    assert_eq!(world.m1.control.counters().answered, 2);
}

#[test]
fn a_node_that_others_can_write_is_refused_and_counted() {
    let mut world = World::new("volume=base:xvda", 24);
    let m1 = world.domain.id().0;
    let path = node(&world, "m1ctl/request");
    let perm = |domain, right| Perm { domain, right };
    let reads = perm(m1, Right::Read);
    let bad: [&[Perm]; 4] = [
        &[perm(0, Right::None), reads, perm(5, Right::Both)],
        &[perm(0, Right::None), perm(5, Right::Write), reads],
        &[perm(0, Right::Both)],
        &[perm(5, Right::Read)],
    ];
    for (id, perms) in (1..).zip(bad) {
        world.store.set_with(&path, &format!("{id} ping"), perms);
        world.run();
        let reply = world.store.get(&node(&world, "data/m1ctl/reply"));
        let refused = format!("{id} error others than domain 0 can write m1ctl/request");
        assert_eq!(reply.as_deref(), Some(refused.as_str()), "{perms:?}");
        assert_eq!(world.m1.control.counters().refused, id);
    }
    world.store.set_with(&path, "9 ping", &[perm(0, Right::None), reads, perm(7, Right::Read)]);
    world.run();
    assert_eq!(world.store.get(&node(&world, "data/m1ctl/reply")).as_deref(), Some("9 ok"));
    assert_eq!(world.m1.control.counters().refused, 4);
}

#[test]
fn long_answers_come_through_the_window_in_pieces() {
    let mut world = World::new("volume=base:xvda clients=64", 24);
    for _ in 0..45 {
        world.client("base", 0);
    }
    let text = bulk(&mut world, "5 status");
    assert!(text.len() > 2 * 4096, "more than the window: {}", text.len());
    let told: Value = serde_json::from_str(&text).expect("JSON");
    let shown: Value = serde_json::from_str(&world.render(mm_http::Page::Status)).expect("JSON");
    assert_eq!(told["clients"], shown["clients"]);
    assert_eq!(told["clients"].as_array().map(Vec::len), Some(45));
    let verbs = bulk(&mut world, "6 verbs");
    assert!(verbs.lines().any(|line| line == "trace DOMID"), "{verbs}");
}

#[test]
fn an_answer_that_does_not_fit_is_an_error() {
    let mut world = World::new("volume=base:xvda clients=64", 24);
    for _ in 0..60 {
        world.client("base", 0);
    }
    assert_eq!(ask(&mut world, "5 status"), "5 error the answer is longer than M1 has room for");
    assert_eq!(ask(&mut world, "6 more 0"), "6 ok 0");
}

#[test]
fn a_trace_has_what_m1_served_and_when() {
    let mut world = World::new("volume=base:xvda window=1", 24);
    let client = world.client("base", 0);
    let domain = world.clients[client].domain.id().0;
    for page in 3..6 {
        world.xen.advance(1_000_000);
        world.touch(client, page);
    }
    let trace: Value = serde_json::from_str(&bulk(&mut world, &format!("5 trace {domain}"))).expect("JSON");
    assert_eq!(trace["domid"], domain);
    let device = &trace["devices"][0];
    assert_eq!(device["volume"], "base");
    let requests = device["requests"].as_array().expect("a list");
    assert_eq!(requests[0]["operation"], "hello");
    let grants: Vec<&Value> = requests.iter().filter(|request| request["operation"] == "grant").collect();
    assert_eq!(grants.iter().filter_map(|grant| grant["page"].as_u64()).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(grants.iter().all(|grant| grant["result"] == "ok"), "{requests:?}");
    let times: Vec<u64> = grants.iter().filter_map(|grant| grant["received_us"].as_u64()).collect();
    assert_eq!(times[1] - times[0], 1000);
    // As many as there is room for, the last ones.
    for page in 10..22 {
        world.touch(client, page);
    }
    let trace: Value = serde_json::from_str(&bulk(&mut world, &format!("6 trace {domain}"))).expect("JSON");
    let requests = trace["devices"][0]["requests"].as_array().expect("a list");
    assert_eq!(requests.len(), 8);
    assert_eq!(requests[7]["page"], 21);
    assert_eq!(requests[0]["page"], 14);
    // Whoever has the place next begins with nothing.
    world.destroy(client);
    world.pass(5_000_000_000);
    assert_eq!(ask(&mut world, &format!("7 trace {domain}")), "7 error M1 serves no device of this domain");
    let next = world.client("base", 0);
    let domain = world.clients[next].domain.id().0;
    let trace: Value = serde_json::from_str(&bulk(&mut world, &format!("8 trace {domain}"))).expect("JSON");
    assert_eq!(trace["devices"][0]["answered"], 1);
}

#[test]
fn what_xenstored_refuses_at_first_is_tried_again() {
    let mut world = World::stalled("volume=base:xvda", 24);
    // The world has let M1 run already: a second channel begins here.
    world.m1.control = super::Control::new(super::Window::new(world.m1.platform, &[], Default::default()));
    let connection = world.connection;
    for _ in 0..3 {
        world.store.refuse_next(connection, "EQUOTA");
    }
    world.run();
    assert!(ask(&mut world, "3 ping") != "3 ok");
    world.pass(5_000_000_000);
    assert_eq!(world.store.get(&node(&world, "data/m1ctl/reply")).as_deref(), Some("3 ok"));
}

#[test]
fn an_overlay_is_deleted_when_no_device_has_it() {
    let mut world = World::new("volume=base:xvda store_disk=xvdb clients=4", 64);
    let stock = world.stock("base+mine", "w");
    assert_eq!(world.write_block(stock, 3, 9), crate::tests::stock::OKAY);
    let list: Value = serde_json::from_str(&bulk(&mut world, "5 overlays")).expect("JSON");
    let overlay = &list["overlays"][0];
    assert_eq!((&overlay["name"], &overlay["in_use"]), (&"mine".into(), &true.into()));
    assert_eq!(overlay["bytes"], 4096);
    assert_eq!(ask(&mut world, "6 overlay-rm mine"), "6 error a client has it");
    assert_eq!(ask(&mut world, "7 overlay-rm yours"), "7 error no overlay has this name");
    assert_eq!(ask(&mut world, "8 overlay-rm"), "8 error usage: overlay-rm NAME");
    world.destroy_stock(stock);
    assert_eq!(ask(&mut world, "9 overlay-rm mine"), "9 ok");
    assert_eq!(bulk(&mut world, "10 overlays"), "{\"overlays\":[]}");
}

#[test]
fn bounds_and_thaws_are_told() {
    let mut world = World::new("volume=base:xvda clients=7", 24);
    let client = world.client("base", 0);
    let domain = world.clients[client].domain.id().0;
    let limits: Value = serde_json::from_str(&bulk(&mut world, "5 limits")).expect("JSON");
    assert_eq!((&limits["devices"], &limits["devices_max"]), (&1.into(), &7.into()));
    let figures = world.figures();
    assert_eq!(limits["memory_size"], figures.pages.total() * 4096);
    assert_eq!(limits["references"], figures.references);
    let times: Value = serde_json::from_str(&bulk(&mut world, &format!("6 times {domain}"))).expect("JSON");
    assert_eq!(times["devices"][0], serde_json::json!({ "thaw_ns": null }), "it came from no snapshot");
    assert_eq!(ask(&mut world, "7 times 99"), "7 error M1 serves no device of this domain");
}

#[test]
fn a_freeze_is_ordered_asked_after_and_its_snapshot_removed() {
    let mut world = World::new("volume=base:xvda clients=8 window=16", 80);
    let source = world.client("base", 0);
    let domain = world.clients[source].domain.id().0;
    assert_eq!(ask(&mut world, "1 freeze"), "1 error usage: freeze DOMID NAME [persist]");
    assert_eq!(
        ask(&mut world, &format!("2 freeze {domain} warm hot")),
        "2 error usage: freeze DOMID NAME [persist]"
    );
    let reply = ask(&mut world, &format!("3 freeze {domain} w@rm"));
    assert!(reply.starts_with("3 error a snapshot's name has"), "{reply}");
    let reply = ask(&mut world, "4 freeze 99 warm");
    assert_eq!(reply, "4 error the domain has no device of M1's that is connected");
    let nothing = "error no freeze of this domain under this name is under way";
    assert_eq!(ask(&mut world, &format!("5 progress {domain} warm")), format!("5 {nothing}"));
    assert_eq!(ask(&mut world, &format!("6 cancel {domain} warm")), format!("6 {nothing}"));

    // Ordered, and given up.
    assert_eq!(ask(&mut world, &format!("7 freeze {domain} warm")), "7 running 0 of 0");
    let reply = ask(&mut world, &format!("8 freeze {domain} other"));
    assert_eq!(reply, "8 error the domain is being frozen already");
    assert_eq!(ask(&mut world, &format!("9 cancel {domain} warm")), "9 ok");
    world.run();
    assert_eq!(ask(&mut world, &format!("10 progress {domain} warm")), "10 error it was cancelled");
    assert!(core::mem::take(&mut world.clients[source].ordered), "it had been told");

    // Ordered, and done.
    assert_eq!(ask(&mut world, &format!("11 freeze {domain} warm")), "11 running 0 of 0");
    assert!(core::mem::take(&mut world.clients[source].ordered), "it was told");
    assert_eq!(world.step(source, RequestBody::Freeze { pages: 3 }).0, Status::Ok);
    assert_eq!(world.capture(source, &[1, 2]).0, Status::Ok);
    assert_eq!(ask(&mut world, &format!("12 progress {domain} warm")), "12 running 2 of 3");
    assert_eq!(ask(&mut world, "13 rm base warm"), "13 error it is being taken");
    let (status, pages) = world.capture(source, &[3]);
    assert_eq!(status, Status::Ok);
    world.commit(source, pages[0].into());
    assert_eq!(ask(&mut world, &format!("14 progress {domain} warm")), "14 ok 3 0 3000000");
    let list: Value = serde_json::from_str(&bulk(&mut world, "15 snapshots")).expect("JSON");
    let snapshot = &list["snapshots"][0];
    assert_eq!((&snapshot["name"], &snapshot["volume"]), (&"warm".into(), &"base".into()));
    assert_eq!((&snapshot["state"], &snapshot["bytes"]), (&"ready".into(), &(3 * 4096).into()));

    // Needed, and removed.
    let clone = world.client("base@warm", 0);
    let needs = world.clients[clone].domain.id().0;
    let named = format!("running domains need it: {needs}");
    assert_eq!(ask(&mut world, "16 rm base warm"), format!("16 error {named}"));
    world.destroy(clone);
    world.pass(3_000_000_000);
    assert_eq!(ask(&mut world, "17 rm base warm"), "17 ok");
    assert_eq!(ask(&mut world, "18 rm base warm"), "18 error no such snapshot");
    assert_eq!(bulk(&mut world, "19 snapshots"), "{\"snapshots\":[]}");
}
