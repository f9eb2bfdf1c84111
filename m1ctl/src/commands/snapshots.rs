//! `m1ctl snapshots`, `freeze`, `rm`: what M1 has frozen.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::commands::bar;
use crate::failure::{Failure, Result};
use crate::m1::{self, Answer, M1};
use crate::out::{self, Table, duration, mib, number, text};
use crate::xl::{self, saved};

/// How far a freeze is, is asked so often.
const LOOK: Duration = Duration::from_millis(200);

/// A snapshot's name: VOLUME@SNAPSHOT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Name {
    pub(crate) volume: String,
    pub(crate) snapshot: String,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.volume, self.snapshot)
    }
}

pub(crate) fn list(m1: &mut M1, json: bool) -> Result<()> {
    let answer = m1.json("snapshots")?;
    if json {
        out::json(&answer);
    } else {
        out::say(&table(&answer).to_string());
    }
    Ok(())
}

/// From `snapshots`, or from `status`, which has the same member.
pub(crate) fn table(answer: &Value) -> Table {
    let heading = ["snapshot", "state", " MiB", " alone MiB", " clones", " thawed", " stood still", "source"];
    let mut table = Table::new(&heading);
    for snapshot in answer["snapshots"].as_array().into_iter().flatten() {
        let state = match snapshot["reason"].as_str() {
            Some(reason) => format!("{}: {reason}", text(&snapshot["state"])),
            None => text(&snapshot["state"]).to_owned(),
        };
        table.row([
            format!("{}@{}", text(&snapshot["volume"]), text(&snapshot["name"])),
            state,
            mib(number(&snapshot["bytes"])),
            mib(number(&snapshot["unique_bytes"])),
            number(&snapshot["clones"]).to_string(),
            number(&snapshot["thawed"]).to_string(),
            duration(number(&snapshot["standstill_ns"])),
            format!("domain {}", number(&snapshot["source_domid"])),
        ]);
    }
    table
}

/// Which snapshot is meant: VOLUME@SNAPSHOT, or SNAPSHOT where only one volume has it.
pub(crate) fn find(answer: &Value, wanted: &str) -> Result<Name> {
    let mut found: Vec<Name> = Vec::new();
    for snapshot in answer["snapshots"].as_array().into_iter().flatten() {
        let name = Name {
            volume: text(&snapshot["volume"]).to_owned(),
            snapshot: text(&snapshot["name"]).to_owned(),
        };
        if name.to_string() == wanted || (!wanted.contains('@') && name.snapshot == wanted) {
            found.push(name);
        }
    }
    match found.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(Failure::Refused(format!("no snapshot is called {wanted}"))),
        several => {
            let names: Vec<String> = several.iter().map(Name::to_string).collect();
            Err(Failure::Refused(format!("{wanted} may be {}: say which", names.join(" or "))))
        }
    }
}

/// `freeze DOMAIN NAME`, until it is done or has failed.
pub(crate) fn freeze(
    m1: &mut M1,
    wanted: &str,
    name: &str,
    persist: bool,
    limit: Duration,
    json: bool,
) -> Result<()> {
    let (domid, domain) = m1::domain(&mut m1.store, wanted)?
        .ok_or_else(|| Failure::Refused(format!("no domain is called {wanted}")))?;
    let how = if persist { " persist" } else { "" };
    let until = Instant::now() + limit;
    let mut answer = m1.begin(&format!("freeze {domid} {name}{how}"))?;
    let bar = bar(json, &format!("freezing {domain}"));
    let done = loop {
        match answer {
            Answer::Done(text) => break text,
            Answer::Running(progress) => {
                if let Some((done, all)) = of(&progress) {
                    bar.set_length(all);
                    bar.set_position(done);
                }
            }
        }
        if Instant::now() >= until {
            // Nothing may be left that nobody waits for.
            let _ = m1.ask(&format!("cancel {domid} {name}"));
            return Err(Failure::TimedOut(format!(
                "{domain} is not frozen after {} s: cancelled",
                limit.as_secs()
            )));
        }
        std::thread::sleep(LOOK);
        answer = m1.begin(&format!("progress {domid} {name}"))?;
    };
    bar.finish_and_clear();
    let figures: Vec<u64> = done.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [captured, kept, standstill] = figures.as_slice() else {
        return Err(Failure::Host(format!("M1 says of a freeze: {done:?}")));
    };
    let snapshots = m1.json("snapshots")?;
    let entry =
        snapshots["snapshots"].as_array().into_iter().flatten().find(|snapshot| {
            snapshot["name"] == name && number(&snapshot["source_domid"]) == u64::from(domid)
        });
    let volume = entry.map_or("-", |entry| text(&entry["volume"])).to_owned();
    let whole = Name { volume, snapshot: name.to_owned() };
    // What its clones are made with, unless they are told otherwise.
    let config = saved::keep(domid, &whole.to_string());
    if json {
        out::json(&json!({
            "domid": domid, "domain": domain, "volume": whole.volume, "snapshot": name,
            "captured_pages": captured, "kept_pages": kept, "standstill_ns": standstill,
            "config": config.as_ref().ok().map(|path| path.display().to_string()),
        }));
    } else {
        let (pages, still) = (captured + kept, duration(*standstill));
        out::say(&format!("{whole}: {} MiB, {domain} stood still for {still}\n", mib(pages * 4096)));
        if let Err(why) = config {
            out::say(&format!("its configuration is not kept ({why}): clone it with --config\n"));
        }
    }
    Ok(())
}

/// `DONE of ALL`
fn of(progress: &str) -> Option<(u64, u64)> {
    let (done, all) = progress.split_once(" of ")?;
    Some((done.parse().ok()?, all.parse().ok()?))
}

pub(crate) fn cancel(m1: &mut M1, wanted: &str, name: &str) -> Result<()> {
    let (domid, _) = m1::domain(&mut m1.store, wanted)?
        .ok_or_else(|| Failure::Refused(format!("no domain is called {wanted}")))?;
    m1.ask(&format!("cancel {domid} {name}")).map(drop)
}

pub(crate) fn remove(m1: &mut M1, wanted: &str, json: bool) -> Result<()> {
    let name = find(&m1.json("snapshots")?, wanted)?;
    m1.ask(&format!("rm {} {}", name.volume, name.snapshot)).map_err(with_names)?;
    saved::forget(&name.to_string());
    if json {
        out::json(&json!({ "removed": name.to_string() }));
    }
    Ok(())
}

/// M1 knows the numbers of the domains that need a snapshot; here they have names.
fn with_names(failure: Failure) -> Failure {
    match (failure, xl::domains()) {
        (Failure::Refused(why), Ok(domains)) => Failure::Refused(named(&why, |number| {
            domains.iter().find(|domain| domain.domid == number).map(|domain| domain.name.clone())
        })),
        (failure, _) => failure,
    }
}

/// The reason with a name behind each number.
fn named(why: &str, name: impl Fn(u16) -> Option<String>) -> String {
    let words = why.split(' ').map(|word| match word.parse().ok().and_then(&name) {
        Some(name) => format!("{word} ({name})"),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_that_need_a_snapshot_are_named() {
        let name = |number| (number == 7).then(|| "web".to_owned());
        assert_eq!(named("running domains need it: 7 8", name), "running domains need it: 7 (web) 8");
    }

    #[test]
    fn a_snapshot_is_named_with_its_volume_or_without() {
        let snapshot = |volume: &str, name: &str| json!({ "volume": volume, "name": name, "state": "ready" });
        let answer = json!({ "snapshots": [snapshot("base", "warm"), snapshot("base", "cold"), snapshot("other", "cold")] });
        assert_eq!(find(&answer, "warm").expect("one").to_string(), "base@warm");
        assert_eq!(find(&answer, "other@cold").expect("one").to_string(), "other@cold");
        let Err(Failure::Refused(why)) = find(&answer, "cold") else { panic!("two") };
        assert_eq!(why, "cold may be base@cold or other@cold: say which");
        for unknown in ["", "base", "base@", "@warm", "other@warm"] {
            assert!(matches!(find(&answer, unknown), Err(Failure::Refused(_))), "{unknown}");
        }
        assert!(table(&answer).to_string().contains("other@cold"));
    }

    #[test]
    fn progress_is_two_numbers() {
        assert_eq!(of("3 of 9"), Some((3, 9)));
        for nonsense in ["", "3", "3 of", "a of b", "3 of 9 of 10"] {
            assert_eq!(of(nonsense), None, "{nonsense}");
        }
    }
}
