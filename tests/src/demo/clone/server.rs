//! A program that answers on its console.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::dom0::{Dom0, quote};
use crate::guest::Guest;

/// An answer, on an emulated processor.
const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(50);

/// What it said.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The same wherever the same program is asked the same.
    pub(crate) text: String,
    /// Which request it was.
    pub(crate) count: u64,
    /// Of the domain.
    pub(crate) generation: String,
    /// From the kernel's generator.
    pub(crate) random: String,
}

/// A domain with such a program.
pub(crate) struct Server<'a> {
    dom0: &'a Dom0,
    name: String,
    domid: u16,
}

impl<'a> Server<'a> {
    /// One that was just created.
    pub(crate) fn new(dom0: &'a Dom0, guest: Guest<'a>) -> Self {
        Self { dom0, name: guest.name().to_owned(), domid: guest.domid() }
    }

    /// One that somebody else has created.
    pub(crate) fn named(dom0: &'a Dom0, name: &str) -> Result<Self> {
        let domid = dom0.sh(&format!("xl domid {}", quote(name)))?;
        let domid = domid.trim().parse().with_context(|| format!("{name}: no number: {domid:?}"))?;
        Ok(Self { dom0, name: name.to_owned(), domid })
    }

    pub(crate) fn domid(&self) -> u16 {
        self.domid
    }

    fn log(&self) -> Result<String> {
        self.dom0.sh(&format!("cat /var/log/xen/console/guest-{}.log", quote(&self.name)))
    }

    /// Waits for a line that begins so.
    pub(crate) fn wait(&self, word: &str) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let log = self.log()?;
            if let Some(line) = log.lines().find(|line| line.starts_with(word)) {
                return Ok(line.trim().to_owned());
            }
            if Instant::now() > deadline {
                bail!("{} does not say {word:?}:\n{log}", self.name);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Says a word to it.
    pub(crate) fn send(&self, word: &str) -> Result<()> {
        let tty = format!("/local/domain/{}/console/tty", self.domid);
        self.dom0.sh(&format!("echo {} > $(xenstore-read {tty})", quote(word))).map(drop)
    }

    /// Asks it, and waits for the answer.
    pub(crate) fn ask(&self, word: &str) -> Result<Answer> {
        self.send(word)?;
        let line = self.wait(&format!("answer {word} "))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, _, text, count, generation, random] = words.as_slice() else {
            bail!("{} answers {line:?}", self.name)
        };
        Ok(Answer {
            text: (*text).to_owned(),
            count: count.parse().with_context(|| line.clone())?,
            generation: (*generation).to_owned(),
            random: (*random).to_owned(),
        })
    }

    pub(crate) fn destroy(self) -> Result<()> {
        self.dom0.sh(&format!("xl destroy {}", self.domid)).map(drop)
    }
}
