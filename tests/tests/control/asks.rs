//! What the tool tells, and what M1 refuses to tell to others.

use crate::bed::{Bed, CLIENT};

#[test]
fn the_tool_tells_what_the_endpoint_tells_and_only_dom0_may_ask() {
    let bed = Bed::get();

    // Nobody there, and a domain that is no M1: told apart from an M1 that says no.
    let output = bed.m1ctl("status");
    assert_eq!((output.code, output.stdout_text().as_str()), (3, ""), "{}", output.stderr_text());
    assert!(output.stderr_text().contains("no domain is called m1"), "{}", output.stderr_text());
    assert_eq!(bed.m1ctl("--m1 0 status").code, 3);
    assert_eq!(bed.m1ctl("dance").code, 2);
    assert_eq!(bed.m1ctl("--help").code, 0);

    let m1 = bed.m1();
    println!("{}", bed.m1ctl("ping").stdout_text());
    let warm = bed.unikernel("warm", "pages=40 hold=1");
    warm.wait_log("digest", CLIENT).expect("it has read its pages");

    let (told, shown) = (bed.json("status"), m1.status().expect("/status.json"));
    for part in ["version", "xen", "ready", "started", "problems", "volumes", "refusals"] {
        assert_eq!(told[part], shown[part], "{part}");
    }
    let clients = bed.json("clients");
    assert_eq!(clients["clients"][0]["name"], "warm");
    assert_eq!(clients["clients"][0]["domid"], warm.domid());
    assert_eq!(clients["clients"][0]["mapped_bytes"], shown["clients"][0]["mapped_bytes"]);
    assert_eq!(bed.json("volumes")["volumes"][0]["name"], "base");
    for screen in ["status", "clients", "volumes", "trace warm"] {
        let output = bed.m1ctl(screen);
        assert_eq!(output.code, 0, "{screen}: {}", output.stderr_text());
        println!("{}", output.stdout_text());
    }

    // By name and by number; the first request of the ring is its first record.
    let trace = bed.json("trace warm");
    assert_eq!(trace["domid"], warm.domid());
    assert_eq!(trace, {
        let mut other = bed.json(&format!("trace {}", warm.domid()));
        other["now_us"] = trace["now_us"].clone();
        other
    });
    let requests = trace["devices"][0]["requests"].as_array().expect("a list");
    assert_eq!(requests[0]["operation"], "hello");
    assert!(
        requests.iter().any(|request| request["operation"] == "grant" && request["page"] == 0),
        "{trace}"
    );

    let output = bed.m1ctl("trace 0");
    assert_eq!(output.code, 1, "{}", output.stderr_text());
    assert!(output.stderr_text().contains("serves no device"), "{}", output.stderr_text());
    let output = bed.m1ctl("overlays");
    assert_eq!(output.code, 1, "{}", output.stderr_text());
    assert!(output.stderr_text().contains("store_disk="), "{}", output.stderr_text());

    // A node that a client could write is believed by nobody.
    let node = format!("/local/domain/{}/m1ctl/request", m1.domid());
    bed.sh(&format!("xenstore-chmod {node} n0 r{} b{}", m1.domid(), warm.domid())).expect("xenstore-chmod");
    let output = bed.m1ctl("ping");
    assert_eq!(output.code, 1, "{}", output.stderr_text());
    assert!(output.stderr_text().contains("others than domain 0"), "{}", output.stderr_text());
    assert!(m1.metrics().expect("/metrics").get("m1_control_refused_total") >= 1.0);
    bed.sh(&format!("xenstore-chmod {node} n0 r{}", m1.domid())).expect("xenstore-chmod");
    assert_eq!(bed.m1ctl("ping").code, 0);

    // M1 stands still: the tool gives up in time.
    bed.sh(&format!("xl pause {}", m1.domid())).expect("xl pause");
    let output = bed.m1ctl("--timeout 2 ping");
    assert_eq!(output.code, 3, "{}", output.stderr_text());
    bed.sh(&format!("xl unpause {}", m1.domid())).expect("xl unpause");
    assert_eq!(bed.m1ctl("ping").code, 0, "and it is there again");

    warm.destroy().expect("xl destroy");
    m1.destroy().expect("xl destroy");
}
