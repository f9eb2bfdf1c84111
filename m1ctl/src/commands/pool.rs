//! `m1ctl pool`: domains that are created ahead, without a disk, and wait until one is attached: a clone then skips what xl and the boot
//! take. A member is told by its kernel with `data/pool` (`waiting`, `taken`): mm-guest's `pool=1`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bar;
use super::clone::names;
use crate::failure::{Failure, Result};
use crate::files;
use crate::m1;
use crate::out::{self, Table};
use crate::reaper::{self, Wishes};
use crate::xl::config::{Config, Value};
use crate::xl::disk::Disk;
use crate::xl::{self, OTHERS};
use crate::xs::Store;

/// A member that has to boot first is looked at so often.
const LOOK: Duration = Duration::from_millis(50);

/// One domain of the pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) domid: u16,
    /// What it can stand for: its configuration without name and disks.
    body: String,
}

impl Member {
    /// What it says of itself.
    fn state(&self, store: &mut Store) -> Result<Option<String>> {
        let home = format!("/local/domain/{}", self.domid);
        if store.read(&format!("{home}/name"))?.as_deref() != Some(&self.name) {
            return Ok(None);
        }
        Ok(Some(store.read(&format!("{home}/data/pool"))?.unwrap_or_else(|| "starting".to_owned())))
    }
}

/// A configuration without what differs from one clone to the next.
pub(crate) fn body(config: &Config) -> String {
    let mut body = config.clone();
    for key in ["name", "disk", "uuid"] {
        body.set(key, Value::Text(String::new()));
    }
    // `pool=1` is what makes it a member.
    let extra = body.text("extra").unwrap_or_default().to_owned();
    let words: Vec<&str> = extra.split_whitespace().filter(|word| *word != "pool=1").collect();
    body.set("extra", Value::Text(words.join(" ")));
    // The order of settings says nothing.
    let mut lines: Vec<String> = body.to_string().lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// The domain of this configuration as a member of a pool.
pub(crate) fn member_config(mut config: Config, m1: &[&str]) -> std::result::Result<Config, String> {
    let mut disks = Vec::new();
    for entry in config.list("disk") {
        if !Disk::parse(entry)?.is_some_and(|disk| m1.contains(&disk.backend.as_str())) {
            disks.push(Value::Text(entry.to_owned()));
        }
    }
    config.set("disk", Value::List(disks));
    let extra = config.text("extra").unwrap_or_default().to_owned();
    // Before the rest: what follows `--` is the program's.
    config.set("extra", Value::Text(format!("pool=1 {extra}").trim().to_owned()));
    Ok(config)
}

fn members() -> Result<Vec<(PathBuf, Member)>> {
    let directory = files::run("pool")?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).map_err(|error| files::failed(&directory, &error))? {
        let path = entry?.path();
        if let Some(member) = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            found.push((path, member));
        }
    }
    found.sort_by_key(|(_, member): &(PathBuf, Member)| member.domid);
    Ok(found)
}

/// `pool start`: as many members as there are to be.
pub(crate) fn start(
    store: &mut Store,
    size: u32,
    file: &Path,
    m1: &str,
    limit: Duration,
    json: bool,
) -> Result<()> {
    let refused = |why: String| Failure::Refused(format!("{}: {why}", file.display()));
    let config = Config::parse(&files::read(file)?).map_err(refused)?;
    let body = body(&config);
    let number = m1::domain(store, m1)?.map(|(domid, _)| domid.to_string()).unwrap_or_default();
    let config = member_config(config, &[m1, &number]).map_err(refused)?;
    let taken: BTreeSet<String> = xl::domains()?.into_iter().map(|domain| domain.name).collect();
    let bar = bar(json, "filling the pool");
    bar.set_length(size.into());
    let mut made = Vec::new();
    for name in names(Some("pool-{}"), "", size, &taken)? {
        bar.set_message(name.clone());
        let mut config = config.clone();
        config.set("name", Value::Text(name.clone()));
        let path = files::run("clones")?.join(format!("{name}.cfg"));
        // A member is nobody's program yet: one that ends is gone.
        let wishes = Wishes::of(&config, &name, &path).map_err(refused)?;
        files::write(&path, config.to_string().as_bytes())?;
        xl::run(&["create".as_ref(), "-e".as_ref(), "-q".as_ref(), path.as_os_str()], xl::CREATE)?;
        let (domid, _) = m1::domain(store, &name)?
            .ok_or_else(|| Failure::Host(format!("xl created {name}, and it is not there")))?;
        reaper::entrust(domid, &wishes)?;
        let member = Member { name, domid, body: body.clone() };
        let text = serde_json::to_vec(&member).unwrap_or_default();
        files::write(&files::run("pool")?.join(format!("{domid}.json")), &text)?;
        made.push(member);
        bar.inc(1);
    }
    let until = Instant::now() + limit;
    for member in &made {
        while member.state(store)?.as_deref() != Some("waiting") {
            if Instant::now() >= until {
                let (name, limit) = (&member.name, limit.as_secs());
                return Err(Failure::TimedOut(format!(
                    "{name} does not wait after {limit} s: xl console {name}"
                )));
            }
            std::thread::sleep(LOOK);
        }
    }
    bar.finish_and_clear();
    if json {
        out::json(&json!({ "members": made.iter().map(|member| &member.name).collect::<Vec<_>>() }));
    } else {
        out::say(&format!("{} domains wait\n", made.len()));
    }
    Ok(())
}

pub(crate) fn status(store: &mut Store, json: bool) -> Result<()> {
    let mut table = Table::new(&["member", " domid", "state"]);
    let mut list = Vec::new();
    for (path, member) in members()? {
        let Some(state) = member.state(store)? else {
            // It has ended, or xl was told to destroy it.
            let _ = fs::remove_file(path);
            continue;
        };
        table.row([member.name.clone(), member.domid.to_string(), state.clone()]);
        list.push(json!({ "name": member.name, "domid": member.domid, "state": state }));
    }
    if json {
        out::json(&json!({ "members": list }));
    } else {
        out::say(&table.to_string());
    }
    Ok(())
}

/// `pool stop`: members that nobody has taken end.
pub(crate) fn stop(json: bool) -> Result<()> {
    let mut ended = Vec::new();
    for (path, member) in members()? {
        // Whoever removes the file has the member.
        if fs::remove_file(path).is_ok() {
            xl::run(&["destroy", &member.domid.to_string()], OTHERS)?;
            ended.push(member.name);
        }
    }
    if json {
        out::json(&json!({ "ended": ended }));
    } else {
        out::say(&format!("{} domains have ended\n", ended.len()));
    }
    Ok(())
}

/// Takes a member that waits and can stand for this configuration; it is nobody else's then.
pub(crate) fn take(store: &mut Store, config: &Config) -> Result<Option<Member>> {
    let wanted = body(config);
    for (path, member) in members()? {
        if member.body == wanted
            && member.state(store)?.as_deref() == Some("waiting")
            && fs::remove_file(path).is_ok()
        {
            return Ok(Some(member));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_stands_for_clones_of_the_same_configuration() {
        let base = "name='a'\nkernel='/k'\nmemory=8\nextra='init=/x'\n\
            disk=['format=raw,vdev=xvda,access=r,backend=m1,target=base','format=raw,vdev=xvdz,target=/f']";
        let base = Config::parse(base).expect("a configuration");
        let member = member_config(base.clone(), &["m1", "5"]).expect("a member");
        assert_eq!(member.list("disk").collect::<Vec<_>>(), ["format=raw,vdev=xvdz,target=/f"]);
        assert_eq!(member.text("extra"), Some("pool=1 init=/x"));
        let mut clone = base.clone();
        clone.set("name", Value::Text("b".to_owned()));
        clone.set("disk", Value::List(Vec::new()));
        assert_eq!(body(&clone), body(&base));
        assert_eq!(body(&member), body(&base));
        let mut other = base.clone();
        other.set("memory", Value::Number("16".to_owned()));
        assert_ne!(body(&other), body(&base));
    }
}
