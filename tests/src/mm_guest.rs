//! Domains that run one Linux program on `mm-guest`: their configuration, and what they say on their consoles.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::dom0::{Dom0, quote};
use crate::guest::Guest;
use crate::m1;
use crate::xl_config::XlConfig;

/// Begins every line of the kernel's own on the console.
const PREFIX: &str = "mm-guest: ";
/// Xen passes no longer command line to a PV domain (`MAX_GUEST_CMDLINE`, `xen/include/public/xen.h`), with its end.
const COMMAND_LINE: usize = 1023;

/// The kernel's figures at the end of a program: memory in pages, faults in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// R: pages of M1 that the program has mapped.
    pub mapped: u64,
    /// W: pages of its own.
    pub written: u64,
    /// KAS: the kernel's own pages.
    pub kernel: u64,
    /// Faults served by a reference that was held.
    pub local: u64,
    /// Pages mapped, fault-around included.
    pub map: u64,
    /// Pages copied from M1.
    pub copy: u64,
    /// Copy-on-write breaks.
    pub cow: u64,
    /// Zero pages handed out.
    pub zero: u64,
    /// Frames that Xen did not give.
    pub populate_failed: u64,
    /// All faults.
    pub total: u64,
    /// Faults for which M1 was asked.
    pub asked: u64,
}

/// A fault for which M1 was asked, in nanoseconds since the trap, by Xen's system time. M1's clock and the client's are of
/// two processors, which an emulated machine keeps together only roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Page of the volume.
    pub page: u64,
    /// The request was on the ring.
    pub ring: u64,
    /// M1 took it.
    pub m1_received: u64,
    /// M1 put its answer on the ring.
    pub m1_replied: u64,
    /// The client had the answer.
    pub resumed: u64,
    /// The pages were mapped.
    pub mapped: u64,
    /// The program went on.
    pub returned: u64,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal.
    Signal(u32),
    /// It was never started.
    NotStarted(String),
}

/// What a console has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// What the program wrote.
    pub output: String,
    /// The kernel's lines, without their prefix.
    pub kernel: Vec<String>,
    /// The figures, once the program has ended.
    pub figures: Option<Figures>,
    /// Timed faults.
    pub faults: Vec<Fault>,
    /// How the program ended, once it has.
    pub end: Option<End>,
}

impl Log {
    /// Takes the kernel's lines and the program's output apart.
    pub fn parse(text: &str) -> Result<Log> {
        let mut log = Log::default();
        for line in text.split_inclusive('\n') {
            // The program may have left its last line open.
            let start = if line.starts_with(PREFIX) { Some(0) } else { closing_line(line) };
            let (own, kernel) = line.split_at(start.unwrap_or(line.len()));
            if !is_log_line(own) {
                log.output.push_str(own);
            }
            if let Some(said) = kernel.strip_prefix(PREFIX) {
                log.take(said.trim_end())?;
            }
        }
        Ok(log)
    }

    fn take(&mut self, said: &str) -> Result<()> {
        let bad = || format!("not understood: {said:?}");
        if said.starts_with("R=") {
            self.figures = Some(figures(said).with_context(bad)?);
        } else if said.starts_with("fault page=") {
            self.faults.push(fault(said).with_context(bad)?);
        } else if let Some(code) = said.strip_prefix("exited ") {
            self.end = Some(End::Exited(code.parse().with_context(bad)?));
        } else if let Some(signal) = said.strip_prefix("signal ") {
            self.end = Some(End::Signal(signal.parse().with_context(bad)?));
        } else if let Some(why) = said.strip_prefix("not started: ") {
            self.end = Some(End::NotStarted(why.to_owned()));
        }
        self.kernel.push(said.to_owned());
        Ok(())
    }
}

/// Where the kernel's first line after the program's end begins, behind output that did not end a line.
fn closing_line(line: &str) -> Option<usize> {
    ["mm-guest: R=", "mm-guest: fault page="].iter().find_map(|start| line.find(start))
}

/// `[   16.985633] INFO  …`: the kernel's log.
fn is_log_line(line: &str) -> bool {
    line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).is_some_and(|(time, rest)| {
        time.trim().parse::<f64>().is_ok()
            && ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].iter().any(|level| rest.starts_with(level))
    })
}

fn number(line: &str, key: &str) -> Result<u64> {
    let word = line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    word.with_context(|| format!("no {key}="))?.parse().with_context(|| format!("{key}= is no number"))
}

fn figures(line: &str) -> Result<Figures> {
    let number = |key| number(line, key);
    Ok(Figures {
        mapped: number("R")?,
        written: number("W")?,
        kernel: number("KAS")?,
        local: number("local")?,
        map: number("map")?,
        copy: number("copy")?,
        cow: number("cow")?,
        zero: number("zero")?,
        populate_failed: number("populate_failed")?,
        total: number("total")?,
        asked: number("asked")?,
    })
}

fn fault(line: &str) -> Result<Fault> {
    let number = |key| number(line, key);
    Ok(Fault {
        page: number("page")?,
        ring: number("ring")?,
        m1_received: number("m1_received")?,
        m1_replied: number("m1_replied")?,
        resumed: number("resumed")?,
        mapped: number("mapped")?,
        returned: number("return")?,
    })
}

/// `xl-config/client.cfg` for a program with its arguments, with one volume of that M1 as `xvda` and these options before
/// `init=`.
///
/// # Errors
/// Where a word cannot stand in a command line, or all together are too long for Xen.
pub fn client<S: AsRef<str>>(
    backend: &str,
    volume: &str,
    options: &str,
    program: &str,
    arguments: &[S],
) -> Result<XlConfig> {
    let mut line = format!("{options} init={} --", word(program)?);
    for argument in arguments {
        line.push(' ');
        line.push_str(&word(argument.as_ref())?);
    }
    let line = line.trim_start();
    ensure!(
        line.len() <= COMMAND_LINE,
        "the program with its arguments takes {} bytes, and Xen passes {COMMAND_LINE}",
        line.len()
    );
    Ok(m1::client("mm-guest", backend, volume, line))
}

/// A word as `extra=` has it, in single quotes where it needs them.
fn word(text: &str) -> Result<String> {
    ensure!(!text.contains(['\n', '\0']), "{text:?} cannot stand in a command line");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+%@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    // As in a shell: a quote cannot stand in quotes.
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

/// Waits until the program of this domain has ended, and gives what it left on the console.
///
/// # Errors
/// Where it does not end in time, or the domain goes away without a word.
pub fn wait_end(dom0: &Dom0, guest: &Guest<'_>, limit: Duration) -> Result<Log> {
    let file = quote(&format!("/var/log/xen/console/guest-{}.log", guest.name()));
    // When the domain is gone, its last words may still be on their way to the log.
    let script = format!(
        "ended() {{ grep -qE '^{PREFIX}(exited|signal|not started)' {file} 2>/dev/null; }}; \
         until ended; do xenstore-exists /local/domain/{}/name || {{ sleep 1; ended; exit; }}; \
         usleep 100000; done",
        guest.domid()
    );
    let ended = dom0.run_with(&script, &[], limit);
    let text = guest.log()?;
    match ended {
        Ok(output) if output.code == 0 => Log::parse(&text),
        Ok(_) => bail!("{} has gone away without a word; its console:\n{text}", guest.name()),
        Err(error) => {
            Err(error.context(format!("{} does not end; its console so far:\n{text}", guest.name())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "mm-guest: the processor has no RDRAND\nfirst\n[   16.985633] WARN  mm_guest: hm\n\
        [not a log line\nopenmm-guest: fault page=49 trap=0 ring=9 m1_received=10 m1_replied=20 resumed=21 mapped=30 return=40\n\
        mm-guest: R=233 W=13 KAS=721 faults local=9 map=236 copy=3 cow=2 populate_failed=0 zero=8 total=56 asked=73\n\
        mm-guest: exited 3\n";

    #[test]
    fn output_and_the_kernels_lines_are_taken_apart() {
        let log = Log::parse(TEXT).unwrap();
        assert_eq!(log.output, "first\n[not a log line\nopen");
        assert_eq!(log.end, Some(End::Exited(3)));
        let figures = log.figures.unwrap();
        assert_eq!((figures.mapped, figures.written, figures.kernel, figures.asked), (233, 13, 721, 73));
        assert_eq!(log.faults.len(), 1);
        assert_eq!((log.faults[0].page, log.faults[0].returned), (49, 40));
        assert_eq!(log.kernel.len(), 4);
    }

    #[test]
    fn a_program_that_runs_has_no_end_yet_and_wrong_figures_are_an_error() {
        let log = Log::parse("hello\n").unwrap();
        assert_eq!((log.end, log.figures), (None, None));
        assert!(Log::parse("mm-guest: R=1 W=x\n").is_err());
    }

    #[test]
    fn words_are_quoted_as_the_kernel_reads_them() {
        for (text, quoted) in
            [("a.b", "a.b"), ("", "''"), ("a b", "'a b'"), ("don't \\", "'don'\\''t \\'"), ("\"", "'\"'")]
        {
            assert_eq!(word(text).unwrap(), quoted);
        }
        assert!(word("a\nb").is_err());
        assert!(client("m1", "base", "", "/bin/x", &["y".repeat(1100)]).is_err());
    }
}
