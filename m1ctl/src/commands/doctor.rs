//! `m1ctl doctor`: what on this host will stop a fleet early, and what to set, to what.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::Arguments;
use crate::failure::{Failure, Result};
use crate::m1::M1;
use crate::out::{self, Table, mib, number};
use crate::xl::{self, saved};
use crate::xs::Store;

/// Debian's place for it.
const OXENSTORED: &str = "/etc/xen/oxenstored.conf";
/// Nodes of xenstore that one device of M1's needs, and M1 itself (docs/CONTROL.md; libxl makes about 20 for a disk).
const NODES_A_DEVICE: u64 = 27;
const NODES_OF_M1: u64 = 60;
/// One more domain as xl makes it, in KiB: 4 MiB, the smallest there is, and Xen's part. A client gives back what it does not need.
const KIB_A_DOMAIN: u64 = 4096 + 128;

/// libxl's own limit where a configuration says nothing (libxl_create.c).
const EVENT_CHANNELS: u64 = 1023;

/// What came of one check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Good,
    /// Good for fewer clients than were asked about.
    Short,
    /// Could not be found out.
    Unknown,
}

struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// Clients that it is good for; as many as you like if nothing is said.
    clients: Option<u64>,
    advice: String,
}

pub(crate) fn run(arguments: &Arguments, clients: u64, mapped_mib: u64) -> Result<u8> {
    let info = xl::run(&["info"], xl::OTHERS)?;
    let conf = std::fs::read_to_string(Path::new(OXENSTORED)).ok();
    let mut checks = vec![
        version(&info),
        memory(&info, clients),
        xenstored(&mut Store::open()?, conf.as_deref(), clients)?,
    ];
    let asked = M1::find(Store::open()?, &arguments.m1, arguments.timeout).and_then(|mut m1| {
        Ok((m1.json("limits")?, saved::event_channels(m1.domid).unwrap_or(EVENT_CHANNELS)))
    });
    match asked {
        Ok((limits, channels)) => checks.extend(m1_checks(&limits, channels, clients, mapped_mib)),
        Err(Failure::NotThere(why)) => checks.push(Check {
            what: "M1",
            verdict: Verdict::Unknown,
            found: why,
            clients: None,
            advice: "start it, and ask again for what it is given".to_owned(),
        }),
        Err(other) => return Err(other),
    }
    let enough = checks.iter().all(|check| check.verdict != Verdict::Short);
    if arguments.json {
        out::json(&tell(&checks, clients, enough));
    } else {
        out::say(&screen(&checks, clients, enough));
    }
    Ok(u8::from(!enough))
}

/// A line of `xl info`.
fn line<'t>(info: &'t str, key: &str) -> Option<&'t str> {
    info.lines()
        .find_map(|line| line.split_once(':').filter(|(name, _)| name.trim() == key))
        .map(|(_, value)| value.trim())
}

fn version(info: &str) -> Check {
    let part = |key| line(info, key).unwrap_or("?");
    let found = format!("Xen {}.{}{}", part("xen_major"), part("xen_minor"), part("xen_extra"));
    let pv = line(info, "virt_caps").is_none_or(|caps| caps.split(' ').any(|cap| cap == "pv"));
    let known = part("xen_major").parse::<u32>().ok().zip(part("xen_minor").parse::<u32>().ok());
    let verdict = match known {
        Some(version) if version >= (4, 17) && pv => Verdict::Good,
        Some(_) => Verdict::Short,
        None => Verdict::Unknown,
    };
    let advice = match (verdict, pv) {
        (Verdict::Good, _) => String::new(),
        (_, false) => "this Xen has no PV guests: M1 and the clients that map its pages are such".to_owned(),
        _ => "tried with Xen 4.17 and nothing older".to_owned(),
    };
    Check { what: "Xen", verdict, found, clients: None, advice }
}

fn memory(info: &str, clients: u64) -> Check {
    let Some(free) = line(info, "free_memory").and_then(|free| free.parse::<u64>().ok()) else {
        return Check {
            what: "free memory",
            verdict: Verdict::Unknown,
            found: "xl info says nothing".to_owned(),
            clients: None,
            advice: String::new(),
        };
    };
    let good = free * 1024 / KIB_A_DOMAIN;
    Check {
        what: "free memory",
        verdict: if good >= clients { Verdict::Good } else { Verdict::Short },
        found: format!("{free} MiB at Xen's"),
        clients: Some(good),
        advice: if good >= clients {
            String::new()
        } else {
            "without what each writes; give dom0 less (dom0_mem= of Xen's command line), or the host more"
                .to_owned()
        },
    }
}

/// Quotas of the xenstore daemon: oxenstored's are in a file.
fn xenstored(store: &mut Store, conf: Option<&str>, clients: u64) -> Result<Check> {
    let daemon = store.read("/tool/xenstored")?.unwrap_or_default();
    let (nodes, from) = if daemon.ends_with("oxenstored") || daemon.is_empty() {
        let quota = |key: &str| conf.and_then(|conf| setting(conf, key));
        let off = quota("quota-activate") == Some("false");
        let nodes = quota("quota-maxentity").and_then(|nodes| nodes.parse().ok()).unwrap_or(1000);
        (if off { u64::MAX } else { nodes }, OXENSTORED)
    } else {
        // The C daemon's are arguments of its own: -E, 1000 unless told (xenstored --help).
        (1000, "xenstored's option --quota nb-nodes or -E")
    };
    let good = nodes.saturating_sub(NODES_OF_M1) / NODES_A_DEVICE;
    let needed = clients * NODES_A_DEVICE + NODES_OF_M1;
    Ok(Check {
        what: "xenstore nodes",
        verdict: if good >= clients { Verdict::Good } else { Verdict::Short },
        found: format!("{nodes} for one domain"),
        clients: Some(good),
        advice: if good >= clients {
            String::new()
        } else {
            format!(
                "quota-maxentity = {needed} ({from}), then start the host again: xenstored cannot be restarted"
            )
        },
    })
}

/// `key = value` of a file with comments.
fn setting<'t>(conf: &'t str, key: &str) -> Option<&'t str> {
    let lines = conf.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

/// What M1 itself knows of its bounds.
fn m1_checks(limits: &Value, channels: u64, clients: u64, mapped_mib: u64) -> Vec<Check> {
    let of = |key: &str| number(&limits[key]);
    let pages = mapped_mib.max(1) * 256;
    let references = of("grant_frames_max") * 512;
    let frames = (clients * pages).div_ceil(512) + 5;
    let rest = |needed: bool, text: String| if needed { text } else { String::new() };
    let check = |what, good: u64, found, advice| Check {
        what,
        verdict: if good >= clients { Verdict::Good } else { Verdict::Short },
        found,
        clients: Some(good),
        advice: rest(good < clients, advice),
    };
    let grants = references.saturating_sub(2560) / pages;
    // What M1 has for itself and its disks, and one for each device.
    let own = of("event_channels").saturating_sub(of("devices"));
    let ports = channels.min(of("event_channels_max")).saturating_sub(own);
    vec![
        check(
            "grant table",
            grants,
            format!(
                "{} frames at most, {references} references; {mapped_mib} MiB mapped by each client",
                of("grant_frames_max")
            ),
            format!(
                "xl set-parameters gnttab_max_frames={frames} (and on Xen's command line), max_grant_frames={frames} in \
                 M1's configuration; beyond the limit pages are copied, slower and never wrong"
            ),
        ),
        check(
            "event channels",
            ports,
            format!("{channels} at most, {own} of them M1's own"),
            "max_event_channels=4095 in M1's configuration".to_owned(),
        ),
        check(
            "devices",
            of("devices_max"),
            format!("{} at once", of("devices_max")),
            format!("clients={} in M1's extra=, at most 1024; more need another M1", clients.min(1024)),
        ),
        Check {
            what: "M1's memory",
            verdict: if of("memory_free") > 0 || of("memory_clean") > 0 {
                Verdict::Good
            } else {
                Verdict::Short
            },
            found: format!(
                "{} MiB, of which {} free and {} cached",
                mib(of("memory_size")),
                mib(of("memory_free")),
                mib(of("memory_clean"))
            ),
            clients: None,
            advice: rest(
                of("memory_free") + of("memory_clean") == 0,
                "memory= in M1's configuration".to_owned(),
            ),
        },
    ]
}

fn tell(checks: &[Check], clients: u64, enough: bool) -> Value {
    let checks: Vec<Value> = checks
        .iter()
        .map(|check| {
            let verdict = match check.verdict {
                Verdict::Good => "good",
                Verdict::Short => "short",
                Verdict::Unknown => "unknown",
            };
            json!({
                "what": check.what, "verdict": verdict, "found": check.found, "clients": check.clients,
                "advice": check.advice,
            })
        })
        .collect();
    json!({ "clients": clients, "enough": enough, "checks": checks })
}

fn screen(checks: &[Check], clients: u64, enough: bool) -> String {
    let mut table = Table::new(&["", "what", " clients", "found"]);
    for check in checks {
        let mark = match check.verdict {
            Verdict::Good => "ok",
            Verdict::Short => "SHORT",
            Verdict::Unknown => "?",
        };
        let good = check.clients.map_or_else(|| "-".to_owned(), |clients| clients.to_string());
        table.row([mark.to_owned(), check.what.to_owned(), good, check.found.clone()]);
    }
    let mut screen = table.to_string();
    for check in checks.iter().filter(|check| !check.advice.is_empty()) {
        screen += &format!("\n{}: {}\n", check.what, check.advice);
    }
    let verdict = if enough { "nothing here stops" } else { "something here stops" };
    screen + &format!("\n{verdict} {clients} clients\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "host : dom0\nxen_major              : 4\nxen_minor              : 17\nxen_extra              : .7\n\
        virt_caps              : pv hvm hap gnttab-v1\nfree_memory            : 512\n";

    #[test]
    fn xl_info_is_read() {
        let check = version(INFO);
        assert_eq!((check.verdict, check.found.as_str()), (Verdict::Good, "Xen 4.17.7"));
        assert_eq!(version(&INFO.replace(": 17", ": 11")).verdict, Verdict::Short);
        assert_eq!(version(&INFO.replace("pv hvm", "hvm")).verdict, Verdict::Short);
        assert_eq!(version("").verdict, Verdict::Unknown);
        assert_eq!(memory(INFO, 100).verdict, Verdict::Good);
        assert_eq!(memory(INFO, 5000).verdict, Verdict::Short);
        assert_eq!(memory("", 1).verdict, Verdict::Unknown);
    }

    #[test]
    fn a_setting_is_found_among_comments() {
        let conf = "# quota-maxentity = 7\nquota-maxentity = 1000\n  quota-maxwatch=100\n";
        assert_eq!(setting(conf, "quota-maxentity"), Some("1000"));
        assert_eq!(setting(conf, "quota-maxwatch"), Some("100"));
        assert_eq!(setting(conf, "quota"), None);
    }

    #[test]
    fn what_is_short_is_named_with_what_would_do() {
        let limits = json!({
            "grant_frames_max": 64, "event_channels_max": 4096, "event_channels": 7, "devices": 1, "devices_max": 256,
            "memory_size": 64 << 20, "memory_free": 1 << 20, "memory_clean": 0,
        });
        let checks = m1_checks(&limits, 1023, 100, 20);
        let short: Vec<&str> =
            checks.iter().filter(|check| check.verdict == Verdict::Short).map(|check| check.what).collect();
        assert_eq!(short, ["grant table"]);
        assert_eq!(checks[0].clients, Some(5), "30,208 references for 5,120 pages each");
        assert!(checks[0].advice.contains("gnttab_max_frames=1005"), "{}", checks[0].advice);
        let screen = screen(&checks, 100, false);
        assert!(screen.contains("SHORT") && screen.contains("something here stops 100 clients"), "{screen}");
        assert!(m1_checks(&limits, 1023, 5, 20).iter().all(|check| check.verdict == Verdict::Good));
    }
}
