//! The pages of an M1 that has served, refused and copied: well formed, of one mind, and closed against what others wrote.

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use mm_http::Page;

use crate::tests::world::{METADATA, PAGES, World, XVDA};

mod exposition;

use exposition::{Exposition, parse};

/// Pages of the store.
const STORE: u32 = 40;

/// Two clients that share three pages, one that got copies, one that was refused, and options that were wrong.
fn served() -> World {
    let mut world = World::new(
        "volume=base:xvda volume=copies:xvdb,share=copy window=16 clients=4 window=<b>\"3\" loud\u{1b}[2J",
        STORE,
    );
    for _ in 0..2 {
        let client = world.client("base", 0);
        for page in [5, 6, 40] {
            world.touch(client, page);
        }
    }
    world.touch(0, 20);
    let copies = world.client("copies", 1);
    world.touch(copies, 9);
    world.create("<i>\"no\\such");
    world
}

#[test]
fn metrics_are_well_formed_prometheus_text() {
    let mut world = served();
    let families = parse(&world.render(Page::Metrics));
    for (name, family) in &families {
        assert!(name.starts_with("m1_"), "{name}");
        assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name}");
        // Families of clients are there without clients too, so that a rule can be written before one comes.
        let of_what_is_there = name.starts_with("m1_client_") || name.starts_with("m1_snapshot_");
        assert!(!family.samples.is_empty() || of_what_is_there, "{name} says nothing");
    }
    assert_eq!(families["m1_service_seconds"].kind, "histogram");
}

#[test]
fn without_anybody_the_same_families_are_there() {
    let names = |text: &str| parse(text).into_keys().collect::<Vec<String>>();
    let served = names(&served().render(Page::Metrics));
    let mut empty = World::new("volume=base:xvda", STORE);
    let text = empty.render(Page::Metrics);
    assert_eq!(names(&text), served);
    let families = parse(&text);
    assert_eq!(value(&families, "m1_clients", ""), 0.0);
    assert!(families["m1_client_mapped_bytes"].samples.is_empty());
}

#[expect(clippy::cast_precision_loss, reason = "a test's pages are few")]
fn bytes(pages: u64) -> f64 {
    (pages * 4096) as f64
}

fn value(families: &Exposition, name: &str, labels: &str) -> f64 {
    let key = if labels.is_empty() { name.to_string() } else { std::format!("{name}{{{labels}}}") };
    *families[name].samples.get(&key).unwrap_or_else(|| panic!("{key}: {:?}", families[name].samples))
}

fn sum(families: &Exposition, name: &str) -> f64 {
    families[name].samples.values().sum()
}

#[test]
fn the_states_of_memory_are_a_closed_set_with_the_right_numbers() {
    let mut world = served();
    let families = parse(&world.render(Page::Metrics));
    let size = value(&families, "m1_memory_size_bytes", "");
    assert_eq!(sum(&families, "m1_memory_bytes"), size);
    assert_eq!(size, bytes(u64::from(STORE) + METADATA));
    let state = |name| value(&families, "m1_memory_bytes", &std::format!("state=\"{name}\""));
    assert_eq!(state("shared"), bytes(4));
    assert_eq!(state("metadata"), bytes(METADATA));
    assert_eq!(state("stale_pinned"), 0.0);
    assert_eq!(value(&families, "m1_pages_shared", ""), 4.0);
    assert_eq!(value(&families, "m1_pages_sharing", ""), 3.0);
    assert_eq!(value(&families, "m1_saved_bytes", ""), bytes(3));
    let profit = value(&families, "m1_general_profit_bytes", "");
    let xen = sum(&families, "m1_xen_memory_bytes");
    assert_eq!(profit, bytes(3) - bytes(METADATA) - xen, "Xen's memory and M1's own count");
    let idle = state("free") + state("clean") + state("stale_pinned");
    assert_eq!(value(&families, "m1_net_saving_bytes", ""), profit - idle);
}

#[test]
fn references_are_used_kept_or_free() {
    let mut world = served();
    let total = world.figures().references;
    let families = parse(&world.render(Page::Metrics));
    #[expect(clippy::cast_precision_loss, reason = "a test's references are few")]
    let total = total as f64;
    assert_eq!(sum(&families, "m1_grant_entries"), total);
    let held = sum(&families, "m1_client_references");
    assert_eq!(value(&families, "m1_grant_entries", "state=\"used\""), held);
    assert!(held > 0.0);
}

#[test]
fn what_happened_is_counted_where_it_belongs() {
    let mut world = served();
    let ids: Vec<u16> = world.clients.iter().map(|client| client.domain.id().0).collect();
    let families = parse(&world.render(Page::Metrics));
    let mapped = |client: usize| {
        value(&families, "m1_client_mapped_bytes", &std::format!("domid=\"{}\"", ids[client]))
    };
    assert_eq!([mapped(0), mapped(1), mapped(2)], [bytes(4), bytes(3), 0.0]);
    assert_eq!(value(&families, "m1_devices_refused_total", ""), 1.0);
    assert_eq!(value(&families, "m1_devices_attached_total", ""), 3.0);
    assert_eq!(value(&families, "m1_copies_total", ""), 1.0);
    assert_eq!(value(&families, "m1_copy_instead_total", "cause=\"copy_only\""), 1.0);
    assert_eq!(value(&families, "m1_config_problems", ""), 2.0);
    assert_eq!(value(&families, "m1_engine_bugs", ""), 0.0);
    assert_eq!(
        sum(&families, "m1_faults_total") - value(&families, "m1_faults_served_total", ""),
        1.0,
        "all went well but the one that was sent on to ask for a copy"
    );
    let volume =
        |name| value(&families, "m1_volume_bytes", &std::format!("volume=\"{name}\",group=\"{name}\""));
    assert_eq!([volume("base"), volume("copies")], [bytes(PAGES); 2]);
}

#[test]
fn a_kept_page_is_shown_as_stale_and_whose_it_is() {
    let mut world = served();
    let kept = world.clients.remove(0);
    world.remove_device(kept.domain.id(), true);
    let families = parse(&world.render(Page::Metrics));
    let label = std::format!("domid=\"{}\"", kept.domain.id().0);
    assert_eq!(value(&families, "m1_client_stale_pinned", &label), 4.0);
    assert_eq!(value(&families, "m1_memory_bytes", "state=\"stale_pinned\""), bytes(1));
    assert_eq!(sum(&families, "m1_memory_bytes"), value(&families, "m1_memory_size_bytes", ""));
}

#[test]
fn status_is_json_and_says_the_same_as_metrics() {
    let mut world = served();
    let families = parse(&world.render(Page::Metrics));
    let status: serde_json::Value = serde_json::from_str(&world.render(Page::Status)).expect("JSON");
    let memory = status["memory"].as_object().expect("an object");
    let parts: u64 = memory.iter().filter(|(name, _)| *name != "size").filter_map(|(_, v)| v.as_u64()).sum();
    assert_eq!(Some(parts), memory["size"].as_u64());
    assert_eq!(
        status["memory"]["shared"].as_f64(),
        Some(value(&families, "m1_memory_bytes", "state=\"shared\""))
    );
    assert_eq!(
        status["sharing"]["net_saving_bytes"].as_f64(),
        Some(value(&families, "m1_net_saving_bytes", ""))
    );
    let names: Vec<&str> =
        status["volumes"].as_array().expect("a list").iter().filter_map(|v| v["name"].as_str()).collect();
    assert_eq!(names, ["base", "copies"]);
    assert_eq!(status["volumes"][0]["state"], "serving");
    assert_eq!(status["clients"].as_array().map(Vec::len), Some(3));
    assert_eq!(status["clients"][0]["mapped_bytes"].as_f64(), Some(bytes(4)));
    // What others wrote comes out as they wrote it.
    assert_eq!(status["refusals"][0]["target"], "<i>\"no\\such");
    assert_eq!(status["refusals"][0]["reason"], "no volume has this name");
    let problems = status["problems"].as_array().expect("a list");
    assert!(problems[0].as_str().expect("text").contains("window=<b>\"3\""), "{problems:?}");
    assert!(problems[1].as_str().expect("text").contains("loud\u{1b}[2J"), "{problems:?}");
}

#[test]
fn the_page_for_people_is_closed_against_what_others_wrote() {
    let mut world = served();
    let html = world.render(Page::Index);
    assert!(html.contains("window=&lt;b&gt;"), "{html}");
    assert!(!html.contains("<b>") && !html.contains("<i>"));
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1).map(|rest| rest.split('>').next().expect("a tag ends")) {
        let name = tag.trim_start_matches('/').split(' ').next().expect("a tag has a name");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{html}"),
            None if matches!(name, "meta" | "link" | "br" | "!doctype" | "!DOCTYPE") => {}
            None => open.push(name),
        }
    }
    // HTML lets the end of these be left out.
    open.retain(|name| !matches!(*name, "html" | "head" | "body" | "p" | "tr" | "td" | "th"));
    assert_eq!(open, [""; 0], "{html}");
    for needed in ["profit", "serving", "4", "/metrics"] {
        assert!(html.contains(needed), "{needed}");
    }
}

#[test]
fn readiness_is_about_volumes_and_health_about_the_loop() {
    let mut world = World::new("volume=base:xvda", STORE);
    assert_eq!(world.render(Page::Ready), "ready\n");
    assert_eq!(world.render(Page::Health), "ok\n");
    let mut text = String::new();
    let mut facts = world.facts();
    facts.ready = false;
    mm_http::Pages::render(&mut facts, Page::Ready, &mm_http::HttpStats::default(), &mut text).expect("text");
    assert!(text.contains("no volume can be served"));
    assert!(!mm_http::Pages::ready(&mut facts));
}

#[test]
fn a_client_that_breaks_the_protocol_is_counted() {
    let mut world = served();
    let lying = world.clients.remove(1);
    lying.ring.words().store(0, 99);
    xen::Hypervisor::evtchn_send(&lying.domain, lying.port).expect("bound");
    world.run();
    let families = parse(&world.render(Page::Metrics));
    for name in ["m1_ring_faults_total", "m1_protocol_faults_total", "m1_devices_closed_total"] {
        assert_eq!(value(&families, name, ""), 1.0, "{name}");
    }
    assert_eq!(world.backend(lying.domain.id(), XVDA, "state").as_deref(), Some("5"));
}

#[test]
fn the_parser_of_these_tests_finds_what_is_wrong() {
    let good = "# HELP m1_a_total A.\n# TYPE m1_a_total counter\nm1_a_total{x=\"1\\\"\"} 2\n";
    assert_eq!(parse(good)["m1_a_total"].samples, BTreeMap::from([("m1_a_total{x=\"1\\\"\"}".into(), 2.0)]));
    for bad in [
        "m1_a 1\n",
        "# TYPE m1_a gauge\nm1_a 1\n",
        "# HELP m1_a A.\n# TYPE m1_a gauge\nm1_b 1\n",
        "# HELP m1_a A.\n# TYPE m1_a gauge\nm1_a 1\nm1_a 2\n",
        "# HELP m1_a A.\n# TYPE m1_a gauge\n# HELP m1_b B.\n# TYPE m1_b gauge\nm1_a 1\n",
        "# HELP m1_a A.\n# TYPE m1_a gauge\nm1_a one\n",
        "# HELP m1_a A.\n# TYPE m1_a gauge\nm1_a{x=1} 1\n",
        "# HELP m1_a A.\n# TYPE m1_a gauge\nm1_a 1",
        "# HELP m1_h H.\n# TYPE m1_h histogram\nm1_h_bucket{le=\"1\"} 2\nm1_h_bucket{le=\"+Inf\"} 1\nm1_h_sum 1\nm1_h_count 1\n",
        "# HELP m1_h H.\n# TYPE m1_h histogram\nm1_h_bucket{le=\"1\"} 1\nm1_h_bucket{le=\"+Inf\"} 2\nm1_h_sum 1\nm1_h_count 1\n",
    ] {
        assert!(std::panic::catch_unwind(|| parse(bad)).is_err(), "{bad}");
    }
}

#[test]
fn requests_of_stock_guests_are_counted_by_operation_and_by_client() {
    use xen_sys::blkif::op;

    let mut world = World::new("volume=base:xvda store_disk=xvdb overlay_quota=2 clients=4", STORE);
    let keeps = world.stock("base+mine", "w");
    let plain = world.stock("base", "w");
    for block in 0..3 {
        world.write_block(keeps, block, 7);
        world.write_block(plain, block, 8);
    }
    assert!(world.shows_base(keeps, 40, 0));
    assert!(world.shows_base(plain, 40, 0));
    world.write_block(plain, 1, 0);
    let text = world.render(Page::Metrics);
    let families = parse(&text);
    let count = |labels: &str| {
        let name = "m1_block_request_seconds";
        families[name].samples[&std::format!("{name}_count{{operation=\"{labels}\"}}")]
    };
    assert_eq!(["read", "write", "flush", "discard"].map(count), [2.0, 7.0, 0.0, 0.0]);
    assert_eq!(value(&families, "m1_block_bytes_total", "direction=\"write\""), bytes(7));
    assert_eq!(value(&families, "m1_cache_misses_total", "service=\"block\""), 1.0);
    assert_eq!(value(&families, "m1_cache_hits_total", "service=\"block\""), 1.0, "the other had read it");
    let id = world.stocks[plain].domain.id().0;
    let of = |name: &str, rest: &str| {
        value(&families, name, &std::format!("domid=\"{id}\",devid=\"{XVDA}\"{rest}"))
    };
    assert_eq!(of("m1_client_overlay_memory_bytes", ""), bytes(2), "one block is of zeroes");
    assert_eq!(of("m1_client_block_bytes_total", ",direction=\"read\""), bytes(1));
    let times = &families["m1_client_block_request_seconds"].samples;
    let key = |operation| {
        std::format!(
            "m1_client_block_request_seconds_count{{domid=\"{id}\",devid=\"{XVDA}\",operation=\"{operation}\"}}"
        )
    };
    assert_eq!((times[&key("write")], times[&key("read")], times.get(&key("flush"))), (4.0, 1.0, None));
    assert_eq!(value(&families, "m1_block_zero_rows", "state=\"used\""), 1.0);
    // What is kept: written, and durable once it is flushed.
    assert_eq!(value(&families, "m1_overlay_bytes", "overlay=\"mine\""), bytes(3));
    assert_eq!(value(&families, "m1_overlay_quota_bytes", "overlay=\"mine\""), bytes(512));
    let kept = |families: &Exposition| {
        ["written_bytes_total", "flushed_bytes_total", "dirty_bytes"]
            .map(|name| value(families, &std::format!("m1_store_{name}"), ""))
    };
    assert_eq!(kept(&families), [bytes(3), 0.0, bytes(3)]);
    world.ask(keeps, op::FLUSH_DISKCACHE, 0, &[]);
    world.write_block(keeps, 5, 7);
    let families = parse(&world.render(Page::Metrics));
    assert_eq!(kept(&families), [bytes(4), bytes(3), bytes(1)]);
    assert_eq!(value(&families, "m1_store_recovery_seconds", ""), 0.005);
}
