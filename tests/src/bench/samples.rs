//! Many measurements of one thing.

use serde::Serialize;

/// Their middle and their spread: the tenth part that is lowest and that is highest left out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Samples {
    /// How many there are.
    pub count: usize,
    /// A tenth of them is lower.
    pub low: f64,
    /// The one in the middle.
    pub median: f64,
    /// A tenth of them is higher.
    pub high: f64,
}

impl Samples {
    /// Of these numbers; `None` if there is none.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |tenths: usize| values[last * tenths / 10];
        Some(Samples { count: values.len(), low: at(1), median: at(5), high: at(9) })
    }

    /// The same, each divided by so much.
    #[must_use]
    pub fn per(self, parts: f64) -> Self {
        Samples {
            low: self.low / parts,
            median: self.median / parts,
            high: self.high / parts,
            count: self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_spread_are_found() {
        let samples = Samples::of((0..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!(samples, Samples { count: 101, low: 10.0, median: 50.0, high: 90.0 });
        assert_eq!(samples.per(2.0).median, 25.0);
        assert_eq!(Samples::of(vec![7.0]).unwrap().high, 7.0);
        assert_eq!(Samples::of(Vec::new()), None);
    }
}
