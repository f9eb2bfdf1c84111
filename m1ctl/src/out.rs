//! What people read.

use std::io::Write;

use serde_json::Value;

/// Prints, whatever becomes of it: a reader that has gone is no error.
pub(crate) fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush());
}

/// Prints JSON.
pub(crate) fn json(value: &Value) {
    say(&format!("{value:#}\n"));
}

/// Bytes as MiB with two places, as M1's own pages have them.
pub(crate) fn mib(bytes: u64) -> String {
    // Hundredths of a MiB, rounded; no file or memory is so long that it matters.
    let hundredths = bytes.saturating_mul(100).saturating_add(1 << 19) >> 20;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Nanoseconds in the unit that suits them.
pub(crate) fn duration(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{} µs", ns / 1000),
        10_000_000..10_000_000_000 => format!("{} ms", ns / 1_000_000),
        _ => format!("{} s", ns / 1_000_000_000),
    }
}

/// A member that is a number; 0 where it is none.
pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A member that is text.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// A table: a heading, and rows of as many cells. Columns whose heading begins with a blank are numbers.
pub(crate) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let heading: Vec<String> = self.heading.iter().map(|name| name.trim().to_owned()).collect();
        let lines = || std::iter::once(&heading).chain(&self.rows);
        let widths: Vec<usize> = (0..heading.len())
            .map(|column| {
                lines()
                    .filter_map(|line| line.get(column))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        for line in lines() {
            let mut out = String::new();
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                let gap = " ".repeat(width - cell.chars().count());
                let right = self.heading[column].starts_with(' ');
                let (before, after) = if right { (&*gap, "") } else { ("", &*gap) };
                out.push_str(&format!("{before}{cell}{after}  "));
            }
            writeln!(f, "{}", out.trim_end())?;
        }
        Ok(())
    }
}

/// Text of others' without what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up_and_say_nothing_to_the_terminal() {
        let mut table = Table::new(&["name", " MiB", "state"]);
        table.row(["a".to_owned(), mib(5 << 20), "ok".to_owned()]);
        table.row(["bb\u{1b}[2J".to_owned(), mib(1 << 30), "x".to_owned()]);
        let text = table.to_string();
        assert_eq!(text, "name        MiB  state\na          5.00  ok\nbb\u{fffd}[2J  1024.00  x\n");
    }

    #[test]
    fn units() {
        assert_eq!(mib(0), "0.00");
        assert_eq!(mib(4096 * 3), "0.01");
        assert_eq!(mib(u64::MAX), mib(u64::MAX - 1));
        assert_eq!(duration(9_999), "9999 ns");
        assert_eq!(duration(10_000), "10 µs");
        assert_eq!(duration(10_000_000), "10 ms");
        assert_eq!(duration(12_345_000_000), "12 s");
    }
}
