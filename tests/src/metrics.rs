//! What M1's `/metrics` says, as numbers to ask for by name; and `promtool`, which judges the text itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::packages::{self, Follow};

/// One line: a name, labels, a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Of the metric.
    pub name: String,
    /// Label and value.
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

/// All samples of one answer, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    samples: Vec<Sample>,
}

impl Metrics {
    /// Reads Prometheus' text format; comments are left out.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| format!("no sample: {line:?}")));
        Ok(Metrics { samples: samples.collect::<Result<_>>()? })
    }

    /// All samples of this name.
    pub fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The sample that has this name and no label; `None` if there is none.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.with(name, &[])
    }

    /// The sample with this name and exactly these labels, in any order.
    pub fn with(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self.samples(name).filter(|sample| {
            sample.labels.len() == labels.len()
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        });
        found.next().map(|sample| sample.value)
    }

    /// The sum of all samples of this name; 0 if there is none.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples(name).map(|sample| sample.value).sum()
    }

    /// The sample without a label that has to be there.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn get(&self, name: &str) -> f64 {
        self.value(name).unwrap_or_else(|| panic!("/metrics has no {name}"))
    }

    /// Those of `names` that differ between `self` and `other`, with all labels, a line each; empty if none does.
    pub fn differences(&self, other: &Metrics, names: &[&str]) -> String {
        let mut text = String::new();
        for name in names {
            let (before, after): (Vec<_>, Vec<_>) =
                (self.samples(name).collect(), other.samples(name).collect());
            if before != after {
                let show = |samples: &[&Sample]| -> Vec<String> {
                    samples.iter().map(|sample| format!("{:?} {}", sample.labels, sample.value)).collect()
                };
                let _ = writeln!(text, "{name}: {} -> {}", show(&before).join(", "), show(&after).join(", "));
            }
        }
        text
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Result<Sample> {
    let (id, value) = line.rsplit_once(' ').context("no value")?;
    let (name, labels) = match id.split_once('{') {
        None => (id, BTreeMap::new()),
        Some((name, rest)) => (name, labels(rest.strip_suffix('}').context("no closing brace")?)?),
    };
    ensure!(!name.is_empty(), "no name");
    Ok(Sample { name: name.to_owned(), labels, value: value.parse()? })
}

/// `label="value",…` with `\\`, `\"` and `\n` in values.
fn labels(text: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once("=\"").context("no label")?;
        let mut value = String::new();
        let mut letters = quoted.char_indices();
        let end = loop {
            match letters.next() {
                Some((at, '"')) => break at,
                Some((_, '\\')) => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, letter)) => value.push(letter),
                    None => bail!("no end of a value"),
                },
                Some((_, letter)) => value.push(letter),
                None => bail!("no end of a value"),
            }
        };
        found.insert(key.to_owned(), value);
        rest = &quoted[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Ok(found)
}

/// Runs `promtool check metrics` of Debian's prometheus package; the error is what it complains about.
pub fn promtool(text: &str) -> Result<()> {
    let set = packages::unpack(&["prometheus"], Follow::Libraries)?;
    let mut promtool = Command::new(set.require("/usr/bin/promtool")?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("promtool does not start")?;
    // It reads all before it says anything, so this cannot block for ever.
    promtool.stdin.take().context("no pipe")?.write_all(text.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success() && said.trim().is_empty(), "promtool ({}): {said}", output.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# HELP a Some.\n# TYPE a gauge\na 5\nb{x=\"1\",y=\"q\\\"u,o\\\\te\"} -2.5\nb{x=\"2\"} 1e3\n";

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let metrics = Metrics::parse(TEXT).unwrap();
        assert_eq!(metrics.value("a"), Some(5.0));
        assert_eq!(metrics.value("b"), None);
        assert_eq!(metrics.with("b", &[("y", "q\"u,o\\te"), ("x", "1")]), Some(-2.5));
        assert_eq!(metrics.with("b", &[("x", "2")]), Some(1000.0));
        assert_eq!(metrics.with("b", &[("x", "1")]), None, "all labels count");
        assert_eq!(metrics.sum("b"), 997.5);
        assert_eq!(metrics.sum("c"), 0.0);
    }

    #[test]
    fn what_is_no_sample_is_an_error() {
        for wrong in ["a", "a x", "{x=\"1\"} 2", "a{x=\"1} 2", "a{x} 2", "a{x=\"1\" 2"] {
            assert!(Metrics::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn differences_name_what_changed() {
        let (before, after) = (Metrics::parse("a 1\nb 2\nc 3").unwrap(), Metrics::parse("a 1\nb 3").unwrap());
        assert_eq!(before.differences(&before, &["a", "b", "c"]), "");
        let said = before.differences(&after, &["a", "b", "c"]);
        assert_eq!(said, "b: {} 2 -> {} 3\nc: {} 3 -> \n");
    }
}
