//! The rows, for people and as JSON.

use std::fmt;

use serde::Serialize;

use super::Samples;

/// One line of the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// What the numbers count.
    pub unit: &'static str,
    /// The number; `None` if it was not measured, and `note` says why.
    pub value: Option<f64>,
    /// Where the number is a median: of what.
    pub samples: Option<Samples>,
    /// What the number is compared with, measured in the same run.
    pub floor: Option<Samples>,
    /// The number divided by the floor's median.
    pub ratio: Option<f64>,
    /// The most that the ratio, or the number where there is no floor, may be.
    pub budget: Option<f64>,
    /// The least that the ratio may be.
    pub aim: Option<f64>,
    /// Whether it is no more than the budget, or no less than the aim.
    pub met: Option<bool>,
    /// What else has to be said.
    pub note: String,
}

impl Row {
    /// A number that has no budget.
    pub fn value(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Row { what: what.into(), unit, value: Some(value), ..Row::default() }
    }

    /// Measurements, whose median is the number.
    pub fn samples(what: impl Into<String>, samples: Samples, unit: &'static str) -> Self {
        Row { samples: Some(samples), ..Self::value(what, samples.median, unit) }
    }

    /// A number that could not be measured.
    pub fn not_measured(what: impl Into<String>, unit: &'static str, why: impl fmt::Display) -> Self {
        Row { what: what.into(), unit, note: why.to_string(), ..Row::default() }
    }

    /// Compares it with a floor.
    #[must_use]
    pub fn against(mut self, floor: Samples) -> Self {
        self.floor = Some(floor);
        self.ratio = self.value.map(|value| value / floor.median);
        self
    }

    /// Says how much is allowed: of the ratio, if there is one.
    #[must_use]
    pub fn budget(mut self, most: f64) -> Self {
        self.budget = Some(most);
        self.met = self.ratio.or(self.value).map(|value| value <= most);
        self
    }

    /// Says how large the ratio is to be at least.
    #[must_use]
    pub fn at_least(mut self, least: f64) -> Self {
        self.aim = Some(least);
        self.met = self.ratio.map(|ratio| ratio >= least);
        self
    }

    /// Says something about it.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }
}

/// All rows of a run, in sections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The machine and the day, for people.
    pub about: Vec<(String, String)>,
    /// Title and rows.
    pub sections: Vec<(String, Vec<Row>)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.about {
            writeln!(f, "{name}: {value}")?;
        }
        for (title, rows) in &self.sections {
            writeln!(f, "\n{title}")?;
            let mut table =
                vec![["what", "measured", "spread", "floor", "ratio", "budget", "met"].map(str::to_owned)];
            table.extend(rows.iter().map(cells));
            let width =
                |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let widths: [usize; 7] = std::array::from_fn(width);
            for (at, row) in table.iter().enumerate() {
                let mut line = format!("  {:<1$}", row[0], widths[0]);
                for (cell, width) in row.iter().zip(widths).skip(1).filter(|(_, width)| *width > 0) {
                    line.push_str(&format!("  {cell:>width$}"));
                }
                let note = at.checked_sub(1).map_or("", |at| &*rows[at].note);
                writeln!(f, "{}", format!("{line}  {note}").trim_end())?;
            }
        }
        Ok(())
    }
}

fn cells(row: &Row) -> [String; 7] {
    let spread = |samples: Samples| format!("{}..{}", number(samples.low), number(samples.high));
    let measured = match row.value {
        None => "not measured".to_owned(),
        Some(value) => format!("{} {}", number(value), row.unit),
    };
    let optional = |value: Option<f64>| value.map(number).unwrap_or_default();
    let floor = row.floor.map(|floor| format!("{} ({})", number(floor.median), spread(floor)));
    let met = match row.met {
        None => "",
        Some(true) => "yes",
        Some(false) => "NO",
    };
    [
        row.what.clone(),
        measured,
        row.samples.map(spread).unwrap_or_default(),
        floor.unwrap_or_default(),
        optional(row.ratio),
        match (row.budget, row.aim) {
            (Some(most), _) => format!("≤ {}", number(most)),
            (None, Some(least)) => format!("≥ {}", number(least)),
            (None, None) => String::new(),
        },
        met.to_owned(),
    ]
}

/// With three digits that mean something, or all that stand before the point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        _ if value.fract() == 0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples::of(values.to_vec()).unwrap()
    }

    #[test]
    fn a_ratio_is_judged_by_its_budget() {
        let floor = samples(&[100.0, 100.0, 110.0]);
        let row = Row::samples("fault", samples(&[120.0, 130.0, 140.0]), "ns").against(floor).budget(1.3);
        assert_eq!((row.ratio, row.met), (Some(1.3), Some(true)));
        let row = Row::samples("fault", samples(&[131.0]), "ns").against(floor).budget(1.3);
        assert_eq!(row.met, Some(false));
        assert_eq!(Row::value("idle", 0.05, "%").budget(0.1).met, Some(true));
        let peer = samples(&[100.0]);
        let faster = |value| Row::samples("read", samples(&[value]), "/s").against(peer).at_least(1.0);
        assert_eq!([99.0, 100.0].map(|value| faster(value).met), [Some(false), Some(true)]);
        assert_eq!(Row::not_measured("fault", "ns", "no Xen").budget(1.3).met, None);
    }

    #[test]
    fn the_table_stands_in_columns() {
        let floor = samples(&[100.0]);
        let report = Report {
            about: vec![("machine".into(), "emulated".into())],
            sections: vec![(
                "Faults".into(),
                vec![
                    Row::samples("data", samples(&[125.0]), "ns").against(floor).budget(1.3),
                    Row::not_measured("text", "ns", "it failed"),
                ],
            )],
        };
        assert_eq!(
            report.to_string(),
            "machine: emulated\n\nFaults\n  \
             what      measured    spread           floor  ratio  budget  met\n  \
             data        125 ns  125..125  100 (100..100)   1.25  ≤ 1.30  yes\n  \
             text  not measured                                                it failed\n"
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0012, 0.123, 12.34, 1234.5, 3.0].map(number), ["0.0012", "0.12", "12.3", "1234", "3"]);
    }
}
