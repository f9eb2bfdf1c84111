//! Guests of a booted machine.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::channel::Output;
use crate::dom0::{Dom0, quote};

/// `xl create` may take this long: it gives up itself on a device that does not come after ten seconds.
const CREATE: Duration = Duration::from_secs(240);

/// A domain that `xl create` made. It is not destroyed when dropped: tests of a domain's end need it so.
pub struct Guest<'a> {
    dom0: &'a Dom0,
    name: String,
    domid: u16,
}

impl Dom0 {
    /// Runs `xl create` with this configuration (xl.cfg(5)), which has to name the domain `name`; whether it succeeds is
    /// the caller's to judge.
    pub fn xl_create(&self, name: &str, configuration: &str) -> Result<Output> {
        let path = self.put_configuration(name, configuration)?;
        self.run_with(&format!("xl create {path}"), &[], CREATE)
    }

    /// Creates a domain that has to come into being. The line `name =` is added to the configuration.
    pub fn create(&self, name: &str, configuration: &str) -> Result<Guest<'_>> {
        let path = self.put_configuration(name, configuration)?;
        // Paused until its number is known: what has little to do may be gone before anybody can ask.
        let script = format!(
            "xl create -p {path} >&2 || exit\ndomid=$(xl domid {}) && xl unpause $domid && echo $domid",
            quote(name)
        );
        let output = self.run_with(&script, &[], CREATE)?;
        let (said, complaint) = (output.stdout_text(), output.stderr_text());
        ensure!(output.code == 0, "xl create {name} ended with {}:\n{said}{complaint}", output.code);
        let domid = said.trim().parse().with_context(|| format!("xl domid {name} says {said:?}"))?;
        Ok(Guest { dom0: self, name: name.to_owned(), domid })
    }

    /// Writes the configuration; gives its path, as a word for the shell.
    fn put_configuration(&self, name: &str, configuration: &str) -> Result<String> {
        let path = format!("/run/m1/{name}.cfg");
        self.put(&path, 0o644, format!("name = \"{name}\"\n{configuration}\n").as_bytes())?;
        Ok(quote(&path))
    }
}

impl Guest<'_> {
    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The domain's number.
    pub fn domid(&self) -> u16 {
        self.domid
    }

    /// What it has written on its console. See [`Dom0::guest_log`].
    pub fn log(&self) -> Result<String> {
        self.dom0.guest_log(&self.name)
    }

    /// Waits until its console has shown `text`, and gives the log.
    pub fn wait_log(&self, text: &str, limit: Duration) -> Result<String> {
        let file = quote(&format!("/var/log/xen/console/guest-{}.log", self.name));
        let wanted = quote(text);
        let script = format!("until grep -qF -- {wanted} {file} 2>/dev/null; do usleep 100000; done");
        let found = self.dom0.run_with(&script, &[], limit);
        let log = self.log()?;
        ensure!(
            found.is_ok(),
            "{} does not say {text:?} within {} s; it says:\n{log}",
            self.name,
            limit.as_secs()
        );
        Ok(log)
    }

    /// Waits until Xen no longer has the domain.
    pub fn wait_end(&self, limit: Duration) -> Result<()> {
        let script = format!("while xl domname {} >/dev/null 2>&1; do usleep 300000; done", self.domid);
        let output = self.dom0.run_with(&script, &[], limit);
        ensure!(output.is_ok(), "{} has not ended after {} s", self.name, limit.as_secs());
        Ok(())
    }

    /// Destroys the domain.
    pub fn destroy(self) -> Result<()> {
        self.dom0.sh(&format!("xl destroy {}", self.domid)).map(drop)
    }
}
