//! What fio says in its terse format, version 3 (fio's HOWTO, "Terse output"): fields separated by semicolons.

use anyhow::{Context, Result, ensure};

/// All jobs, in their order.
pub(super) type Found = Vec<Job>;

/// Which half of a job's figures.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Read,
    Write,
}

/// One job.
pub(super) struct Job {
    name: String,
    /// KiB a second and requests a second, by direction.
    read: (f64, f64),
    write: (f64, f64),
}

impl Job {
    /// Whether it is `NAME:MAKER`.
    pub(super) fn is(&self, name: &str, maker: &str) -> bool {
        self.name.split_once(':') == Some((name, maker))
    }

    pub(super) fn kib_per_second(&self, direction: Direction) -> f64 {
        self.of(direction).0
    }

    pub(super) fn requests_per_second(&self, direction: Direction) -> f64 {
        self.of(direction).1
    }

    fn of(&self, direction: Direction) -> (f64, f64) {
        match direction {
            Direction::Read => self.read,
            Direction::Write => self.write,
        }
    }
}

/// All lines of a console that have it.
pub(super) fn parse(log: &str) -> Result<Found> {
    let lines = log.lines().filter_map(|line| line.strip_prefix("fio: 3;"));
    let found = lines.map(job).collect::<Result<Found>>()?;
    ensure!(!found.is_empty(), "fio says nothing:\n{log}");
    Ok(found)
}

/// The fields behind the version: fio's version, name, group, error, 41 of reads, and as many of writes.
fn job(line: &str) -> Result<Job> {
    let fields: Vec<&str> = line.split(';').collect();
    let field = |at: usize| fields.get(at).copied().with_context(|| format!("fio breaks off: {line}"));
    let number = |at: usize| -> Result<f64> {
        field(at)?.parse().with_context(|| format!("field {at} of fio is no number: {line}"))
    };
    ensure!(field(3)? == "0", "fio failed: {line}");
    // Of each half: KiB in all, KiB a second, requests a second, milliseconds.
    Ok(Job { name: field(1)?.to_owned(), read: (number(5)?, number(6)?), write: (number(46)?, number(47)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_found_in_terse_lines() {
        let half = |speed: &str, requests: &str| format!("4096;{speed};{requests};700{}", ";0".repeat(37));
        let line = format!("fio: 3;fio-3.33;flush:m1;0;0;{};{};0", half("10", "20"), half("30", "7"));
        let found = parse(&format!("init: x\n{line}\ninit: done\n")).unwrap();
        assert!(found[0].is("flush", "m1") && !found[0].is("flush", "linux"));
        assert_eq!(found[0].kib_per_second(Direction::Read), 10.0);
        assert_eq!(found[0].requests_per_second(Direction::Write), 7.0);
        assert!(parse("nothing").is_err());
        assert!(parse(&line.replace("m1;0;0;", "m1;0;5;")).is_err());
    }
}
