//! xl configurations (xl.cfg(5)) made from the ones in `xl-config/`, so that what tests and tools start is what people
//! are told to start, but for the lines that say otherwise.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, bail};

use crate::paths;

/// Lines `key = value`, comments among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XlConfig {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Other(String),
    Setting { key: String, value: String },
}

impl XlConfig {
    /// Reads `xl-config/NAME`. The domain's name is left out: who starts it gives one.
    pub fn of(name: &str) -> Result<Self> {
        let path = paths::workspace().join("xl-config").join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads a configuration whose settings stand in one line each.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        for line in text.lines() {
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                lines.push(Line::Other(line.to_owned()));
                continue;
            }
            let Some((key, value)) = content.split_once('=') else { bail!("no setting: {line:?}") };
            let setting =
                Line::Setting { key: key.trim().to_owned(), value: without_comment(value).trim().to_owned() };
            if key.trim() != "name" {
                lines.push(setting);
            }
        }
        Ok(XlConfig { lines })
    }

    /// What a setting says, as it is written.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| match line {
            Line::Setting { key: found, value } if found == key => Some(&**value),
            _ => None,
        })
    }

    /// Says something else there, or something new at the end. The value is written as it is: quotes are the caller's.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        for line in &mut self.lines {
            if let Line::Setting { key: found, value: old } = line
                && found == key
            {
                *old = value;
                return self;
            }
        }
        self.lines.push(Line::Setting { key: key.to_owned(), value });
        self
    }

    /// The same for a value that is a string.
    #[must_use]
    pub fn with_text(self, key: &str, value: impl fmt::Display) -> Self {
        let quoted = format!("\"{}\"", value.to_string().replace('\\', "\\\\").replace('"', "\\\""));
        self.with(key, quoted)
    }

    /// The same for a list of strings, such as `disk`.
    #[must_use]
    pub fn with_list<T: fmt::Display>(self, key: &str, values: impl IntoIterator<Item = T>) -> Self {
        let values: Vec<String> = values.into_iter().map(|value| format!("'{value}'")).collect();
        self.with(key, format!("[{}]", values.join(", ")))
    }

    /// The same with another domain behind the disks that are M1's.
    #[must_use]
    pub fn backed_by(self, name: &str) -> Self {
        let disks = self.get("disk").unwrap_or("[]").replace("backend=m1,", &format!("backend={name},"));
        self.with("disk", disks)
    }

    /// The same with more words at the end of what the kernel is told.
    #[must_use]
    pub fn saying(self, words: &str) -> Self {
        let before = self.get("extra").unwrap_or("\"\"").trim_matches('"').to_owned();
        self.with_text("extra", format!("{before} {words}").trim_start())
    }
}

impl fmt::Display for XlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            match line {
                Line::Other(text) => writeln!(f, "{text}")?,
                Line::Setting { key, value } => writeln!(f, "{key} = {value}")?,
            }
        }
        Ok(())
    }
}

/// Up to a `#` that stands in no string.
fn without_comment(value: &str) -> &str {
    let mut quote = None;
    for (at, letter) in value.char_indices() {
        match (quote, letter) {
            (None, '#') => return &value[..at],
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            _ => {}
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# An example\nname = \"x\"\nmemory = 64   # MiB\nextra = \"a='#'\"\n\ndisk = ['a,b', 'c']\n";

    #[test]
    fn settings_are_replaced_where_they_stand() {
        let config = XlConfig::parse(TEXT).unwrap();
        assert_eq!(config.get("memory"), Some("64"));
        assert_eq!(config.get("extra"), Some("\"a='#'\""));
        assert_eq!(config.get("name"), None);
        let config = config.with("memory", 8).with_text("extra", "say \"hi\"").with_list("vif", ["a", "b"]);
        assert_eq!(
            config.to_string(),
            "# An example\nmemory = 8\nextra = \"say \\\"hi\\\"\"\n\ndisk = ['a,b', 'c']\nvif = ['a', 'b']\n"
        );
    }

    #[test]
    fn the_examples_for_people_are_read() {
        for (name, kernel) in [("m1.cfg", "\"/srv/m1/mm-kernel\""), ("client.cfg", "\"/srv/m1/mm-guest\"")] {
            let config = XlConfig::of(name).unwrap();
            assert_eq!(config.get("kernel"), Some(kernel), "{name}");
            assert_eq!(config.get("type"), Some("\"pv\""), "{name}");
        }
        let config = XlConfig::of("linux-pv.cfg").unwrap().backed_by("other").saying("quiet");
        assert_eq!(
            config.get("disk"),
            Some("['format=raw,vdev=xvda,access=rw,backend=other,target=debian']")
        );
        assert_eq!(config.get("extra"), Some("\"root=/dev/xvda rw console=hvc0 quiet\""));
    }

    #[test]
    fn a_line_that_is_no_setting_is_an_error() {
        assert!(XlConfig::parse("memory").is_err());
    }
}
