//! Client domains of one M1: created, waited for, compared with Linux, and destroyed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::workload::Program;
use crate::dom0::{Dom0, quote};
use crate::guest::Guest;
use crate::mm_guest::{self, End, Figures, Log};

/// A program may take this long, on an emulated processor that others use too.
const LIMIT: Duration = Duration::from_secs(180);

/// A program that a client ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ran {
    /// The client's number.
    pub client: u32,
    /// The domain's name.
    pub domain: String,
    /// The program's.
    pub program: String,
    /// What it wrote.
    pub output: String,
    /// How it ended.
    pub end: Option<End>,
    /// What differs from what Linux made of it.
    pub wrong: Option<String>,
    /// The kernel's figures.
    pub figures: Figures,
    /// Timed faults.
    pub faults: Vec<mm_guest::Fault>,
}

/// A domain that runs a program.
pub(crate) struct Running<'a> {
    pub(crate) guest: Guest<'a>,
    number: u32,
    program: &'a Program,
}

/// Creates a domain for a program on the volume `base` of an M1.
pub(crate) fn start<'a>(
    dom0: &'a Dom0,
    m1: &str,
    name: &str,
    number: u32,
    program: &'a Program,
    options: &str,
    memory: u32,
) -> Result<Running<'a>> {
    let config = mm_guest::client(m1, "base", options, &program.path, &program.arguments)?;
    let guest = dom0.create(name, &config.with("memory", memory).to_string())?;
    Ok(Running { guest, number, program })
}

impl Running<'_> {
    /// Waits until the program waits, if it does.
    pub(crate) fn wait_waiting(&self, dom0: &Dom0) -> Result<()> {
        let Some(mark) = self.program.waits else { return Ok(()) };
        let deadline = Instant::now() + LIMIT;
        loop {
            let log = Log::parse(&self.guest.log()?)?;
            // The line with the mark has to be whole.
            if log.output.rfind(mark).is_some_and(|at| log.output[at..].contains('\n')) {
                return Ok(());
            }
            let alive = dom0.run(&format!("xenstore-exists /local/domain/{}/name", self.guest.domid()))?;
            if log.end.is_some() || alive.code != 0 || Instant::now() > deadline {
                bail!("{} does not come to {mark:?}; its console:\n{}", self.guest.name(), self.guest.log()?);
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Gives it the line that it waits for: by the console, as a person would.
    pub(crate) fn go_on(&self, dom0: &Dom0) -> Result<()> {
        if self.program.waits.is_none() {
            return Ok(());
        }
        let node = format!("/local/domain/{}/console/tty", self.guest.domid());
        dom0.sh(&format!("tty=$(xenstore-read {}) && echo go on >\"$tty\"", quote(&node))).map(drop)
    }

    /// Waits until it has ended, and compares.
    pub(crate) fn finish(&self, dom0: &Dom0) -> Result<Ran> {
        let log = mm_guest::wait_end(dom0, &self.guest, LIMIT)?;
        let figures = log.figures.with_context(|| format!("{} says no figures", self.guest.name()))?;
        Ok(Ran {
            client: self.number,
            domain: self.guest.name().to_owned(),
            program: self.program.name.clone(),
            wrong: difference(self.program, &log),
            output: log.output,
            end: log.end,
            figures,
            faults: log.faults,
        })
    }
}

/// The first thing that differs from what Linux made of it.
fn difference(program: &Program, log: &Log) -> Option<String> {
    let code = program.expected.code.unwrap_or(-1);
    if log.end != Some(End::Exited(code)) {
        return Some(format!("it ended so: {:?}; on Linux with {code}", log.end));
    }
    // Both streams go to the console; where a program uses both, their lines may mix otherwise than on Linux.
    let stderr = String::from_utf8_lossy(&program.expected.stderr);
    let stdout = String::from_utf8_lossy(&program.expected.stdout).replace('\r', "");
    let mut lines = log.output.lines().filter(|line| !stderr.lines().any(|other| other == *line));
    for expected in stdout.lines().filter(|line| !stderr.lines().any(|other| other == *line)) {
        match lines.next() {
            Some(line) if line == expected => {}
            other => return Some(format!("{other:?}; on Linux {expected:?}")),
        }
    }
    lines.next().map(|more| format!("{more:?} in addition"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::Finished;

    fn program(stdout: &str, stderr: &str) -> Program {
        Program {
            name: "x".into(),
            path: "/bin/x".into(),
            arguments: Vec::new(),
            expected: Finished { code: Some(0), stdout: stdout.into(), stderr: stderr.into() },
            waits: None,
        }
    }

    fn log(output: &str, code: i32) -> Log {
        Log { output: output.into(), end: Some(End::Exited(code)), ..Log::default() }
    }

    #[test]
    fn every_difference_is_found() {
        let linux = program("a\nb\n", "warning\n");
        assert_eq!(difference(&linux, &log("a\nwarning\nb\n", 0)), None);
        for (output, code) in [("a\nb\n", 1), ("a\n", 0), ("a\nc\n", 0), ("a\nb\nc\n", 0), ("b\na\n", 0)] {
            assert!(difference(&linux, &log(output, code)).is_some(), "{output:?} {code}");
        }
    }
}
