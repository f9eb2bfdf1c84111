//! A running M1, found and asked: docs/CONTROL.md.

mod pages;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use xen_ring::{PAGE_SIZE, PageWords};

use crate::failure::{Failure, Result};
use crate::gntdev;
use crate::xs::Store;

/// The contract that this tool knows.
const VERSION: &str = "1";
const TOKEN: &str = "m1ctl-reply";
/// A reply is looked at again after so long even if no event came.
const LOOK: Duration = Duration::from_millis(500);
/// Where locks are.
const RUN: &str = "/run/m1ctl";

/// Maps the window: gntdev's, or a test's.
pub(crate) type Mapper = fn(u16, &[u32]) -> Result<&'static [PageWords]>;

/// What a request is answered with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It is done.
    Done(String),
    /// It goes on, and this is how far it is.
    Running(String),
}

/// A connection to one M1.
pub(crate) struct M1 {
    pub(crate) store: Store,
    pub(crate) domid: u16,
    pub(crate) name: String,
    home: String,
    patience: Duration,
    window: Option<&'static [PageWords]>,
    mapper: Mapper,
    locks: PathBuf,
    last: u64,
}

impl M1 {
    /// Finds the M1 with this name or number.
    pub(crate) fn find(mut store: Store, wanted: &str, patience: Duration) -> Result<Self> {
        let (domid, name) = domain(&mut store, wanted)?
            .ok_or_else(|| Failure::NotThere(format!("no domain is called {wanted}: --m1 names another")))?;
        let home = format!("/local/domain/{domid}");
        match store.read(&format!("{home}/data/m1ctl/version"))? {
            Some(version) if version == VERSION => {}
            Some(version) => {
                return Err(Failure::NotThere(format!(
                    "{name} speaks version {version} of the control channel, and this tool {VERSION}"
                )));
            }
            None => return Err(Failure::NotThere(format!("domain {domid} ({name}) is no M1, or not yet"))),
        }
        Ok(Self {
            store,
            domid,
            name,
            home,
            patience,
            window: None,
            mapper: gntdev::map,
            locks: PathBuf::from(RUN),
            last: 0,
        })
    }

    /// The same with another way to map pages and another place for locks.
    #[cfg(test)]
    pub(crate) fn with(mut self, mapper: Mapper, locks: &Path) -> Self {
        self.mapper = mapper;
        self.locks = locks.to_owned();
        self
    }

    /// A request that is answered with a few words.
    pub(crate) fn ask(&mut self, request: &str) -> Result<String> {
        let _lock = self.lock()?;
        match self.exchange(request)? {
            Answer::Done(text) => Ok(text),
            Answer::Running(_) => Err(Failure::Host(format!("M1 goes on with {request}: unexpected"))),
        }
    }

    /// A request that M1 may take its time for.
    pub(crate) fn begin(&mut self, request: &str) -> Result<Answer> {
        let _lock = self.lock()?;
        self.exchange(request)
    }

    /// A request that is answered with JSON.
    pub(crate) fn json(&mut self, request: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.bulk(request)?)?)
    }

    /// A request that is answered with bytes in the window.
    pub(crate) fn bulk(&mut self, request: &str) -> Result<Vec<u8>> {
        // Somebody else's request would put another text into the window.
        let _lock = self.lock()?;
        let nonsense = |text: &str| Failure::Host(format!("M1 answers {request} with {text:?}"));
        let number = |answer: Answer| match answer {
            Answer::Done(text) => text.parse::<usize>().map_err(|_| nonsense(&text)),
            Answer::Running(progress) => Err(nonsense(&progress)),
        };
        let total = number(self.exchange(request)?)?;
        let window = self.window()?;
        let mut bytes = Vec::new();
        let mut shown = total.min(window.len() * PAGE_SIZE);
        while bytes.len() < total {
            let begin = bytes.len();
            bytes.resize(begin + shown, 0);
            for (page, piece) in window.iter().zip(bytes[begin..].chunks_mut(PAGE_SIZE)) {
                let _ = page.read(0, piece);
            }
            if bytes.len() < total {
                shown = number(self.exchange(&format!("more {}", bytes.len()))?)?;
                if shown == 0 || shown > (total - bytes.len()).min(window.len() * PAGE_SIZE) {
                    return Err(nonsense(&shown.to_string()));
                }
            }
        }
        Ok(bytes)
    }

    /// The pages that M1 has granted to dom0.
    pub(crate) fn window(&mut self) -> Result<&'static [PageWords]> {
        if let Some(window) = self.window {
            return Ok(window);
        }
        let text = self.store.read(&format!("{}/data/m1ctl/window", self.home))?.unwrap_or_default();
        let references: Option<Vec<u32>> =
            text.split_ascii_whitespace().map(|word| word.parse().ok()).collect();
        let references = references.ok_or_else(|| Failure::Host(format!("M1's window is {text:?}")))?;
        let window = (self.mapper)(self.domid, &references)?;
        self.window = Some(window);
        Ok(window)
    }

    /// One request and its reply. The lock is held.
    fn exchange(&mut self, request: &str) -> Result<Answer> {
        let until = Instant::now() + self.patience;
        let id = self.number();
        let reply = format!("{}/data/m1ctl/reply", self.home);
        self.store.watch(&reply, TOKEN)?;
        self.store.write(&format!("{}/m1ctl/request", self.home), &format!("{id} {request}"))?;
        loop {
            if let Some(value) = self.store.read(&reply)?
                && let Some(answer) = parse(&value, id)
            {
                return answer.map_err(|why| Failure::Refused(format!("{}: {why}", self.name)));
            }
            let now = Instant::now();
            if now >= until {
                return Err(Failure::NotThere(format!(
                    "{} (domain {}) does not answer within {} s",
                    self.name,
                    self.domid,
                    self.patience.as_secs()
                )));
            }
            self.store.wait(TOKEN, until.min(now + LOOK))?;
        }
    }

    /// A number that no request before had.
    fn number(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(self.last + 1);
        self.last
    }

    /// Requests of several tools take turns.
    fn lock(&self) -> Result<File> {
        let failed =
            |path: &Path, error: std::io::Error| Failure::Host(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(&self.locks).map_err(|error| failed(&self.locks, error))?;
        let path = self.locks.join(format!("{}.lock", self.domid));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| failed(&path, error))?;
        let until = Instant::now() + self.patience;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= until {
                return Err(Failure::TimedOut(format!("{}: another m1ctl holds it", path.display())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(file)
    }
}

/// `ID STATE TEXT`, if it is the answer to request `id`.
fn parse(value: &str, id: u64) -> Option<std::result::Result<Answer, String>> {
    let mut words = value.splitn(3, ' ');
    if words.next()?.parse() != Ok(id) {
        return None;
    }
    let (state, text) = (words.next()?, words.next().unwrap_or_default().to_owned());
    match state {
        "ok" => Some(Ok(Answer::Done(text))),
        "running" => Some(Ok(Answer::Running(text))),
        "error" => Some(Err(text)),
        _ => None,
    }
}

/// The number and the name of a domain that is called so, or has this number.
pub(crate) fn domain(store: &mut Store, wanted: &str) -> Result<Option<(u16, String)>> {
    let mut numbered = None;
    for domid in store.list("/local/domain")? {
        let Ok(number) = domid.parse::<u16>() else { continue };
        let Some(name) = store.read(&format!("/local/domain/{domid}/name"))? else { continue };
        if name == wanted {
            return Ok(Some((number, name)));
        }
        if domid == wanted {
            numbered = Some((number, name));
        }
    }
    Ok(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_by_their_number() {
        assert_eq!(parse("7 ok", 7), Some(Ok(Answer::Done(String::new()))));
        assert_eq!(parse("7 ok 12 3", 7), Some(Ok(Answer::Done("12 3".to_owned()))));
        assert_eq!(parse("7 error no such verb", 7), Some(Err("no such verb".to_owned())));
        assert_eq!(parse("7 running 3 of 9", 7), Some(Ok(Answer::Running("3 of 9".to_owned()))));
        for other in ["8 ok", "", "ok", "7", "7 what", "77 ok"] {
            assert_eq!(parse(other, 7), None, "{other}");
        }
    }
}
