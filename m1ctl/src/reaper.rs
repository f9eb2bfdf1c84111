//! The one process that takes away domains that have ended, for all that were created with `xl create -e`: where xl keeps a process for each,
//! of several MB, this keeps one for all.
//!
//! Each such domain has a file below `/run/m1ctl/reap` that says what its configuration wants done. `m1ctl reap` holds a lock
//! beside them, wakes when xenstore says that some domain has ended, and ends itself when no file is left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::failure::Result;
use crate::files;
use crate::xl::config::Config;
use crate::xl::{self, Domain, Ended};
use crate::xs::Store;

/// The list is looked at so often even if xenstore says nothing.
const LOOK: Duration = Duration::from_secs(30);
const TOKEN: &str = "m1ctl-reaper";

/// What is done with a domain that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Destroy,
    /// Destroyed and created again.
    Restart,
    /// Left as it is.
    Preserve,
}

/// What a domain's configuration says about its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Wishes {
    pub(crate) name: String,
    pub(crate) config: PathBuf,
    on_poweroff: Action,
    on_reboot: Action,
    on_crash: Action,
}

impl Wishes {
    /// From a configuration, with xl's own defaults.
    ///
    /// # Errors
    /// Which setting asks for what only xl's own process can do.
    pub(crate) fn of(config: &Config, name: &str, file: &Path) -> std::result::Result<Self, String> {
        let action = |key: &str, default| match config.text(key) {
            None => Ok(default),
            Some("destroy") => Ok(Action::Destroy),
            Some("restart") => Ok(Action::Restart),
            Some("preserve") => Ok(Action::Preserve),
            Some(other) => Err(format!("{key} = \"{other}\": only destroy, restart and preserve are done")),
        };
        Ok(Self {
            name: name.to_owned(),
            config: file.to_owned(),
            on_poweroff: action("on_poweroff", Action::Destroy)?,
            on_reboot: action("on_reboot", Action::Restart)?,
            on_crash: action("on_crash", Action::Destroy)?,
        })
    }

    /// What is to be done with a domain that has ended so; nothing while it is only suspended.
    pub(crate) fn after(&self, ended: Ended) -> Option<Action> {
        match ended {
            Ended::Poweroff => Some(self.on_poweroff),
            Ended::Reboot => Some(self.on_reboot),
            Ended::Crash | Ended::Other => Some(self.on_crash),
            Ended::Suspend => None,
        }
    }
}

fn directory() -> Result<PathBuf> {
    files::run("reap")
}

/// Gives a domain to the reaper, which is started if it is not there.
pub(crate) fn entrust(domid: u16, wishes: &Wishes) -> Result<()> {
    let text = serde_json::to_vec(wishes).unwrap_or_default();
    files::write(&directory()?.join(format!("{domid}.json")), &text)?;
    // Where nobody holds it, it is free again now. A test's program is no reaper.
    if lock()?.is_some() && !cfg!(test) {
        let program = std::env::current_exe()?;
        Command::new(program)
            .arg("reap")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()?;
    }
    Ok(())
}

/// The lock, unless another has it.
fn lock() -> Result<Option<File>> {
    let path = directory()?.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| files::failed(&path, &error))?;
    Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| file))
}

/// The same for the reaper itself: who looked whether there is one held it for a moment.
fn patiently() -> Result<Option<File>> {
    for _ in 0..20 {
        if let Some(held) = lock()? {
            return Ok(Some(held));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

/// Domains that are entrusted to the reaper.
fn entrusted() -> Result<Vec<(u16, Wishes, PathBuf)>> {
    let mut found = Vec::new();
    let directory = directory()?;
    for entry in fs::read_dir(&directory).map_err(|error| files::failed(&directory, &error))? {
        let path = entry?.path();
        let domid = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        let wishes = fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let (Some(domid), Some(wishes)) = (domid, wishes) {
            found.push((domid, wishes, path));
        }
    }
    Ok(found)
}

/// `m1ctl reap`: until nothing is left to do.
pub(crate) fn run() -> Result<()> {
    // The shell that started the one who started us may go.
    let _ = rustix::process::setsid();
    loop {
        let Some(held) = patiently()? else { return Ok(()) };
        let mut store = Store::open()?;
        store.watch("@releaseDomain", TOKEN)?;
        while look()? {
            store.wait(TOKEN, Instant::now() + LOOK)?;
        }
        drop(held);
        // Somebody may have come between the last look and the lock's end.
        if entrusted()?.is_empty() {
            return Ok(());
        }
    }
}

/// Takes away what has ended. True while something is left to wait for.
pub(crate) fn look() -> Result<bool> {
    if entrusted()?.is_empty() {
        return Ok(false);
    }
    // The list is younger than the entries: a domain that is not in it has gone.
    let entries = entrusted()?;
    // Where xl fails now it may not in half a minute.
    let Ok(domains) = xl::domains() else { return Ok(true) };
    for (domid, wishes, path) in entries {
        match judge(&domains, domid, &wishes) {
            Verdict::Lives => {}
            Verdict::Gone => forget(&path),
            Verdict::Do(action) => {
                if action != Action::Preserve
                    && xl::run(&["destroy", &domid.to_string()], xl::OTHERS).is_err()
                {
                    continue;
                }
                forget(&path);
                if action == Action::Restart {
                    restart(&wishes);
                }
            }
        }
    }
    Ok(!entrusted()?.is_empty())
}

/// What becomes of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Lives,
    Gone,
    Do(Action),
}

/// Judges a domain by the list. A number may have been given to another domain since: its name tells.
pub(crate) fn judge(domains: &[Domain], domid: u16, wishes: &Wishes) -> Verdict {
    let Some(domain) = domains.iter().find(|domain| domain.domid == domid && !domain.dying) else {
        return Verdict::Gone;
    };
    match domain.ended {
        _ if domain.name != wishes.name => Verdict::Gone,
        Some(ended) => wishes.after(ended).map_or(Verdict::Lives, Verdict::Do),
        None => Verdict::Lives,
    }
}

fn forget(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Creates it again. Where that fails there is nobody to tell, and xl's log has it.
fn restart(wishes: &Wishes) {
    let Some(file) = wishes.config.to_str() else { return };
    if xl::run(&["create", "-e", "-q", file], xl::CREATE).is_err() {
        return;
    }
    let domains = xl::domains().unwrap_or_default();
    let new = |domain: &&Domain| domain.name == wishes.name && domain.ended.is_none() && !domain.dying;
    if let Some(domain) = domains.iter().find(new)
        && let Ok(directory) = directory()
    {
        let text = serde_json::to_vec(wishes).unwrap_or_default();
        let _ = files::write(&directory.join(format!("{}.json", domain.domid)), &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(domid: u16, name: &str, ended: Option<Ended>, dying: bool) -> Domain {
        Domain { name: name.to_owned(), domid, ended, dying }
    }

    #[test]
    fn what_a_configuration_wants_is_done() {
        let file = Path::new("/x");
        let plain = Wishes::of(&Config::default(), "a", file).expect("xl's defaults");
        let actions = |wishes: &Wishes| {
            [Ended::Poweroff, Ended::Reboot, Ended::Crash, Ended::Other].map(|ended| wishes.after(ended))
        };
        let (destroy, restart) = (Some(Action::Destroy), Some(Action::Restart));
        assert_eq!(actions(&plain), [destroy, restart, destroy, destroy]);
        assert_eq!(plain.after(Ended::Suspend), None);
        let config = "on_poweroff='preserve'\non_reboot='destroy'\non_crash='restart'";
        let wishes = Wishes::of(&Config::parse(config).expect("a configuration"), "a", file).expect("wishes");
        assert_eq!(actions(&wishes), [Some(Action::Preserve), destroy, restart, restart]);
        let text = serde_json::to_string(&wishes).expect("text");
        assert_eq!(serde_json::from_str::<Wishes>(&text).expect("its own"), wishes);
        let config = Config::parse("on_crash='coredump-destroy'").expect("a configuration");
        assert!(Wishes::of(&config, "a", file).expect_err("xl's").contains("coredump-destroy"));
    }

    #[test]
    fn a_number_that_is_anothers_now_is_left_alone() {
        let wishes = Wishes::of(&Config::default(), "a", Path::new("/x")).expect("xl's defaults");
        let judge = |domains: &[Domain]| judge(domains, 5, &wishes);
        assert_eq!(judge(&[]), Verdict::Gone);
        assert_eq!(judge(&[domain(5, "a", None, false)]), Verdict::Lives);
        assert_eq!(judge(&[domain(5, "b", Some(Ended::Crash), false)]), Verdict::Gone);
        assert_eq!(judge(&[domain(5, "a", Some(Ended::Crash), true)]), Verdict::Gone);
        let ended = [domain(6, "a", None, false), domain(5, "a", Some(Ended::Poweroff), false)];
        assert_eq!(judge(&ended), Verdict::Do(Action::Destroy));
    }
}
