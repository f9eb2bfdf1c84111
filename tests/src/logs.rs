//! The logs that explain what happened: Xen's, dom0's and the guests'.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::dom0::{Dom0, quote};
use crate::symbols::symbolise;

/// Where dom0's xenconsoled keeps what guests write.
const CONSOLES: &str = "/var/log/xen/console";
/// Each question for a failure's logs gets this long: dom0 may be part of the failure.
const PATIENCE: Duration = Duration::from_secs(10);

impl Dom0 {
    /// Everything that came over the serial line: Xen's log and dom0's kernel log.
    pub fn serial_log(&self) -> String {
        self.console.text()
    }

    /// Waits until a line of the serial log contains `text`; false if it does not come in time.
    pub fn wait_serial(&self, text: &str, limit: Duration) -> bool {
        self.console.wait_for(Instant::now() + limit, |line| line.contains(text))
    }

    /// What the guest of this name has written on its console, also after its end, with names put to the addresses
    /// of a backtrace; empty if it wrote nothing.
    pub fn guest_log(&self, name: &str) -> Result<String> {
        let path = quote(&format!("{CONSOLES}/guest-{name}.log"));
        let log = self.sh(&format!("cat {path} 2>/dev/null || :"))?.replace('\r', "");
        Ok(symbolise(&log, &self.images))
    }

    pub(crate) fn serial_tail(&self, lines: usize) -> String {
        tail("Xen's serial log", &self.serial_log(), lines)
    }

    /// The logs that explain a failure, as far as they can still be had: Xen's, and the guests' consoles.
    pub fn diagnostics(&self) -> String {
        let mut text = self.serial_tail(40);
        let ask = |script: &str| self.run_with(script, &[], PATIENCE);
        match ask("xl list; xl dmesg | tail -n 20") {
            Ok(output) => text.push_str(&tail("xl list, xl dmesg", &output.stdout_text(), 60)),
            Err(error) => {
                let _ = writeln!(text, "(dom0 does not answer: {error:#})");
                return text;
            }
        }
        let names = ask(&format!("cd {CONSOLES} && ls -tr"));
        let names = names.map(|output| output.stdout_text()).unwrap_or_default();
        let guests = names.lines().filter_map(|name| name.strip_prefix("guest-")?.strip_suffix(".log"));
        for guest in guests {
            if let Ok(log) = self.guest_log(guest) {
                text.push_str(&tail(&format!("console of {guest}"), &log, 60));
            }
        }
        text
    }
}

fn tail(title: &str, text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    format!("--- {title} (last {} of {} lines)\n{}\n", all.len() - from, all.len(), all[from..].join("\n"))
}
