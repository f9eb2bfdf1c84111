//! `m1ctl clone`: domains that go on from a snapshot.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::pool::{self, Member};
use super::snapshots::{self, Name};
use crate::commands::bar;
use crate::failure::{Failure, Result};
use crate::m1::M1;
use crate::out::{self, Table, duration};
use crate::reaper::{self, Wishes};
use crate::xl::config::{Config, Value};
use crate::xl::disk::Disk;
use crate::xl::{self, saved};
use crate::{files, m1};

/// A program that goes on is looked for so often.
const LOOK: Duration = Duration::from_millis(50);

/// What the command line says.
pub(crate) struct Order<'a> {
    pub(crate) snapshot: &'a str,
    pub(crate) count: u32,
    pub(crate) pattern: Option<&'a str>,
    pub(crate) config: Option<&'a Path>,
    /// Each clone has so long until its program goes on.
    pub(crate) limit: Duration,
    pub(crate) json: bool,
}

/// One clone that there is.
struct Clone {
    name: String,
    domid: u16,
    /// It waited in the pool.
    pooled: bool,
    /// `xl create`, or `xl block-attach` of a domain that waited, in nanoseconds.
    toolstack: u64,
    /// What it says of itself, see [`times`].
    thaw: Option<Thaw>,
    /// From the program's first instruction to the first that it wrote to its console, in nanoseconds, if it has written something already.
    output: Option<u64>,
}

impl Clone {
    /// What booting took. One of the pool had booted before anybody asked.
    fn boot(&self) -> Option<u64> {
        self.thaw.filter(|_| !self.pooled).map(|thaw| thaw.boot)
    }

    /// From the beginning to the program's first instruction: xl lets a domain run when it has made it.
    fn all(&self) -> Option<u64> {
        self.thaw.map(|thaw| self.toolstack + self.boot().unwrap_or(0) + thaw.attach)
    }
}

/// A thaw, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Thaw {
    /// From the client kernel's first instruction to its connection with M1.
    boot: u64,
    /// From there to the program's first instruction.
    attach: u64,
}

pub(crate) fn run(m1: &mut M1, order: &Order<'_>) -> Result<()> {
    let answer = m1.json("snapshots")?;
    let name = snapshots::find(&answer, order.snapshot)?;
    let base = base(order.config, &name)?;
    let text = files::read(&base)?;
    let config =
        Config::parse(&text).map_err(|why| Failure::Refused(format!("{}: {why}", base.display())))?;
    let config = of_snapshot(config, m1, &name)
        .map_err(|why| Failure::Refused(format!("{}: {why}", base.display())))?;
    let taken: BTreeSet<String> = xl::domains()?.into_iter().map(|domain| domain.name).collect();
    let names = names(order.pattern, &name.snapshot, order.count, &taken)?;
    let bar = bar(order.json, &format!("cloning {name}"));
    bar.set_length(names.len() as u64);
    let mut clones = Vec::new();
    let mut failure = None;
    for clone in names {
        bar.set_message(clone.clone());
        match create(m1, &config, &clone) {
            Ok(clone) => clones.push(clone),
            Err(error) => {
                // Those before it stay: they run.
                failure = Some(error.of(&clone));
                break;
            }
        }
        bar.inc(1);
    }
    bar.set_message("waiting for their programs");
    let waited = wait(m1, &mut clones, order.limit);
    for clone in &mut clones {
        let node = format!("/local/domain/{}/data/first-output", clone.domid);
        clone.output = m1.store.read(&node)?.as_deref().and_then(first_output);
    }
    bar.finish_and_clear();
    if order.json {
        out::json(&tell(&name, &clones));
    } else {
        out::say(&table(&clones).to_string());
    }
    failure.map_or(waited, Err)
}

/// The configuration to begin with.
fn base(given: Option<&Path>, name: &Name) -> Result<PathBuf> {
    match given {
        Some(path) => Ok(path.to_owned()),
        None => saved::find(&name.to_string())?.ok_or_else(|| {
            Failure::Refused(format!("no configuration is kept for {name}: --config names one"))
        }),
    }
}

/// The same domain, with every disk of this M1's at the snapshot.
pub(crate) fn of_snapshot(mut config: Config, m1: &M1, name: &Name) -> std::result::Result<Config, String> {
    let (mut disks, mut pointed) = (Vec::new(), false);
    for entry in config.list("disk") {
        let text = match Disk::parse(entry)? {
            Some(disk) if disk.backend == m1.name || disk.backend == m1.domid.to_string() => {
                pointed |= disk.volume == name.volume;
                disk.at(&name.snapshot)
            }
            _ => entry.to_owned(),
        };
        disks.push(Value::Text(text));
    }
    if !pointed {
        return Err(format!("no disk of it is the volume {} of {}", name.volume, m1.name));
    }
    config.set("disk", Value::List(disks));
    Ok(config)
}

/// Names that no domain has. `{}` in a pattern is a number; a pattern without one gets it at its end if there are several.
pub(crate) fn names(
    pattern: Option<&str>,
    snapshot: &str,
    count: u32,
    taken: &BTreeSet<String>,
) -> Result<Vec<String>> {
    let pattern = pattern.map_or_else(|| format!("{snapshot}-{{}}"), str::to_owned);
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-_.+:{}".contains(letter);
    if pattern.is_empty() || !pattern.chars().all(good) {
        return Err(Failure::Refused(format!("{pattern:?} is no name for a domain")));
    }
    if !pattern.contains("{}") && count == 1 {
        if taken.contains(&pattern) {
            return Err(Failure::Refused(format!("there is a domain called {pattern}")));
        }
        return Ok(vec![pattern]);
    }
    let pattern = if pattern.contains("{}") { pattern } else { format!("{pattern}-{{}}") };
    let free = (1_u64..).map(|number| pattern.replace("{}", &number.to_string()));
    Ok(free.filter(|name| !taken.contains(name)).take(count as usize).collect())
}

fn create(m1: &mut M1, config: &Config, name: &str) -> Result<Clone> {
    let mut config = config.clone();
    config.set("name", Value::Text(name.to_owned()));
    if let Some(member) = pool::take(&mut m1.store, &config)? {
        return attach(&member, &config, name, m1);
    }
    let file = files::run("clones")?.join(format!("{name}.cfg"));
    let wishes = Wishes::of(&config, name, &file).map_err(Failure::Refused)?;
    files::write(&file, config.to_string().as_bytes())?;
    let begin = Instant::now();
    let words = ["create".as_ref(), "-e".as_ref(), "-q".as_ref(), file.as_os_str()];
    xl::run(&words, xl::CREATE)?;
    let toolstack = nanoseconds(begin.elapsed());
    let (domid, _) = m1::domain(&mut m1.store, name)?
        .ok_or_else(|| Failure::Host("xl created it, and it is not there".to_owned()))?;
    reaper::entrust(domid, &wishes)?;
    Ok(Clone { name: name.to_owned(), domid, pooled: false, toolstack, thaw: None, output: None })
}

/// Gives a domain of the pool its disks, the first one last: that one is what it waits for.
fn attach(member: &Member, config: &Config, name: &str, m1: &M1) -> Result<Clone> {
    let file = files::run("clones")?.join(format!("{name}.cfg"));
    let wishes = Wishes::of(config, name, &file).map_err(Failure::Refused)?;
    files::write(&file, config.to_string().as_bytes())?;
    let domid = member.domid.to_string();
    let mine = |disk: &Disk| disk.backend == m1.name || disk.backend == m1.domid.to_string();
    let entries: Vec<&str> = config
        .list("disk")
        .filter(|entry| Disk::parse(entry).is_ok_and(|disk| disk.as_ref().is_some_and(mine)))
        .collect();
    let begin = Instant::now();
    for entry in entries.into_iter().rev() {
        xl::run(&["block-attach", &domid, entry], xl::OTHERS)?;
    }
    let toolstack = nanoseconds(begin.elapsed());
    xl::run(&["rename", &domid, name], xl::OTHERS)?;
    reaper::entrust(member.domid, &wishes)?;
    Ok(Clone {
        name: name.to_owned(),
        domid: member.domid,
        pooled: true,
        toolstack,
        thaw: None,
        output: None,
    })
}

/// Waits until all their programs go on.
fn wait(m1: &mut M1, clones: &mut [Clone], limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    loop {
        for clone in clones.iter_mut().filter(|clone| clone.thaw.is_none()) {
            // A snapshot that M1 lost, a kernel that is another: the domain ends, and its console says why.
            clone.thaw =
                times(&m1.json(&format!("times {}", clone.domid)).map_err(|error| error.of(&clone.name))?);
        }
        let Some(late) = clones.iter().find(|clone| clone.thaw.is_none()) else { return Ok(()) };
        if Instant::now() >= until {
            let what =
                format!("its program does not go on after {} s: xl console {}", limit.as_secs(), late.name);
            return Err(Failure::TimedOut(what).of(&late.name));
        }
        std::thread::sleep(LOOK);
    }
}

/// What the domain says of its thaw, once it has gone on.
fn times(answer: &Json) -> Option<Thaw> {
    answer["devices"].as_array()?.iter().find_map(|device| {
        let duration = device["thaw_ns"].as_u64()?;
        let attach = device["connected_ns"].as_u64()?;
        Some(Thaw { boot: duration.saturating_sub(attach), attach })
    })
}

/// What a domain wrote about its first output: `thawed=… output=…`, since the same moment.
fn first_output(text: &str) -> Option<u64> {
    let number = |key: &str| -> Option<u64> {
        text.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?.parse().ok()
    };
    number("output")?.checked_sub(number("thawed")?)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn tell(name: &Name, clones: &[Clone]) -> Json {
    let clones: Vec<Json> = clones
        .iter()
        .map(|clone| {
            json!({
                "name": clone.name, "domid": clone.domid, "from": if clone.pooled { "pool" } else { "created" },
                "toolstack_ns": clone.toolstack, "total_ns": clone.all(),
                "boot_ns": clone.boot(), "attach_ns": clone.thaw.map(|thaw| thaw.attach),
                "first_output_ns": clone.output,
            })
        })
        .collect();
    json!({ "snapshot": name.to_string(), "clones": clones })
}

fn table(clones: &[Clone]) -> Table {
    let mut table =
        Table::new(&["clone", " domid", "from", " toolstack", " boot", " thaw", " all", " first words"]);
    let shown = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), duration);
    for clone in clones {
        table.row([
            clone.name.clone(),
            clone.domid.to_string(),
            if clone.pooled { "the pool" } else { "xl create" }.to_owned(),
            duration(clone.toolstack),
            shown(clone.boot()),
            shown(clone.thaw.map(|thaw| thaw.attach)),
            shown(clone.all()),
            shown(clone.output),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::first_output;

    #[test]
    fn the_first_output_counts_from_the_programs_going_on() {
        assert_eq!(first_output("connected=5 thawed=20 output=120"), Some(100));
        for text in ["", "thawed=20", "thawed=20 output=19", "thawed=x output=30"] {
            assert_eq!(first_output(text), None, "{text}");
        }
    }
}
