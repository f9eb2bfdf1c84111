//! `m1ctl top`: what changes, as it changes.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clients;
use crate::failure::{Failure, Result};
use crate::m1::M1;
use crate::out::{self, Table, mib, number};

/// Counters of a client.
#[derive(Clone, Copy, Default)]
struct Counts {
    served: u64,
    copies: u64,
    local: u64,
    breaks: u64,
}

/// `count` screens (for ever if 0), `every` apart; Ctrl-C ends it.
pub(crate) fn run(m1: &mut M1, every: Duration, count: u64) -> Result<()> {
    static ENDED: AtomicBool = AtomicBool::new(false);
    ctrlc::set_handler(|| ENDED.store(true, Ordering::Relaxed))
        .map_err(|error| Failure::Host(format!("Ctrl-C: {error}")))?;
    let clear = std::io::stdout().is_terminal();
    let mut before: Option<(Instant, BTreeMap<u64, Counts>)> = None;
    let mut shown = 0;
    while !ENDED.load(Ordering::Relaxed) {
        let status = m1.json("status")?;
        let (now, counts) = (Instant::now(), counts(&status));
        let names = clients::names(m1, &status)?;
        let empty = BTreeMap::new();
        let (seconds, old) =
            before.as_ref().map_or((0.0, &empty), |(then, old)| ((now - *then).as_secs_f64(), old));
        let screen = screen(&m1.name, &status, &names, seconds, old, &counts);
        out::say(&if clear { format!("\u{1b}[H\u{1b}[2J{screen}") } else { format!("{screen}\n") });
        before = Some((now, counts));
        shown += 1;
        if shown == count {
            break;
        }
        let until = now + every;
        while Instant::now() < until && !ENDED.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50).min(every));
        }
    }
    Ok(())
}

fn counts(status: &Value) -> BTreeMap<u64, Counts> {
    let clients = status["clients"].as_array().into_iter().flatten();
    clients
        .map(|client| {
            let reported = &client["reported"];
            let counts = Counts {
                served: number(&client["served"]),
                copies: number(&client["copies"]),
                local: number(&reported["local_faults"]),
                breaks: number(&reported["cow_breaks"]),
            };
            (number(&client["domid"]), counts)
        })
        .collect()
}

fn screen(
    name: &str,
    status: &Value,
    names: &clients::Names,
    seconds: f64,
    before: &BTreeMap<u64, Counts>,
    now: &BTreeMap<u64, Counts>,
) -> String {
    let memory = &status["memory"];
    let mut screen = format!("{name}: {} clients; MiB", now.len());
    for (state, bytes) in memory.as_object().into_iter().flatten() {
        screen += &format!(" {} {}", state.replace('_', " "), mib(number(bytes)));
    }
    screen += &format!("\nsaved {} MiB\n\n", mib(number(&status["sharing"]["saved_bytes"])));
    let heading = [
        "client",
        " domid",
        " R MiB",
        " W MiB",
        " KAS MiB",
        " served/s",
        " copied/s",
        " local/s",
        " breaks/s",
    ];
    let mut table = Table::new(&heading);
    for client in status["clients"].as_array().into_iter().flatten() {
        let domid = number(&client["domid"]);
        let (old, new) = (before.get(&domid).copied(), now.get(&domid).copied().unwrap_or_default());
        let rate = |of: fn(&Counts) -> u64| match &old {
            Some(old) if seconds > 0.0 => per_second(of(&new).saturating_sub(of(old)), seconds),
            _ => "-".to_owned(),
        };
        table.row([
            names.get(&domid).cloned().unwrap_or_else(|| "-".to_owned()),
            domid.to_string(),
            mib(number(&client["mapped_bytes"])),
            mib(number(&client["reported"]["written_bytes"])),
            mib(number(&client["reported"]["kernel_bytes"])),
            rate(|counts| counts.served),
            rate(|counts| counts.copies),
            rate(|counts| counts.local),
            rate(|counts| counts.breaks),
        ]);
    }
    screen + &table.to_string()
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(count: u64, seconds: f64) -> String {
    format!("{:.1}", count as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_are_of_what_happened_since_the_last_screen() {
        let status = |served: u64| {
            json!({ "memory": { "size": 1 << 20 }, "sharing": { "saved_bytes": 0 }, "clients": [
                { "domid": 3, "served": served, "copies": 0, "mapped_bytes": 0, "reported": {} } ] })
        };
        let (old, new) = (counts(&status(10)), counts(&status(30)));
        let names = clients::Names::from([(3, "warm".to_owned())]);
        let screen = super::screen("m1", &status(30), &names, 2.0, &old, &new);
        assert!(screen.contains("warm") && screen.contains(" 10.0 "), "{screen}");
        let first = super::screen("m1", &status(30), &names, 0.0, &BTreeMap::new(), &new);
        assert!(!first.contains("10.0"), "{first}");
    }
}
