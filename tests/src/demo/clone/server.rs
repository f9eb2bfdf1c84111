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
pub(super) struct Answer {
    /// The same wherever the same program is asked the same.
    pub(super) text: String,
    /// Which request it was.
    pub(super) count: u64,
    /// Of the domain.
    pub(super) generation: String,
    /// From the kernel's generator.
    pub(super) random: String,
}

/// A domain with such a program.
pub(super) struct Server<'a> {
    dom0: &'a Dom0,
    name: String,
    domid: u16,
}

impl<'a> Server<'a> {
    /// One that was just created.
    pub(super) fn new(dom0: &'a Dom0, guest: Guest<'a>) -> Self {
        Self { dom0, name: guest.name().to_owned(), domid: guest.domid() }
    }

    /// One that somebody else has created.
    pub(super) fn named(dom0: &'a Dom0, name: &str) -> Result<Self> {
        let domid = dom0.sh(&format!("xl domid {}", quote(name)))?;
        let domid = domid.trim().parse().with_context(|| format!("{name}: no number: {domid:?}"))?;
        Ok(Self { dom0, name: name.to_owned(), domid })
    }

    pub(super) fn domid(&self) -> u16 {
        self.domid
    }

    fn log(&self) -> Result<String> {
        self.dom0.sh(&format!("cat /var/log/xen/console/guest-{}.log", quote(&self.name)))
    }

    /// Waits for a line that begins so.
    pub(super) fn wait(&self, word: &str) -> Result<String> {
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

    /// Asks it, and waits for the answer.
    pub(super) fn ask(&self, word: &str) -> Result<Answer> {
        self.dom0.sh(&format!(
            "echo {} > $(xenstore-read /local/domain/{}/console/tty)",
            quote(word),
            self.domid
        ))?;
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

    pub(super) fn destroy(self) -> Result<()> {
        self.dom0.sh(&format!("xl destroy {}", self.domid)).map(drop)
    }
}
