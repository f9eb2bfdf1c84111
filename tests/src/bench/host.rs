//! What needs no Xen: the engine's requests a second, and the sizes of images.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Row, Samples};
use crate::{image, paths};

/// One line of `crates/mm-engine/examples/rate`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rate {
    /// `grant`: at random places; `sequential`: the page after the last window.
    pub kind: String,
    /// Clients that take turns at random.
    pub clients: u32,
    /// Pages of the volume, all in memory.
    pub pages: u32,
    /// Requests a second, releases of windows among them, at best.
    pub requests_per_second: f64,
    /// Nanoseconds of one fault, with the release that goes with it.
    pub fault: Spread,
    /// Nanoseconds for each page lent.
    pub page: Spread,
    /// What memory alone costs in tables of these sizes; only for `grant`.
    pub floor: Option<Floor>,
}

/// Of many slices of a measurement.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Spread {
    /// The least: other work on the machine only adds.
    pub least: f64,
    /// The one in the middle.
    pub median: f64,
    /// A tenth of them is higher.
    pub high: f64,
}

/// A fault that does nothing but change so many lines of memory.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Floor {
    /// Random places, each known only when the one before was read.
    pub places: u32,
    /// Lines of the cache at them.
    pub lines: u32,
    /// Nanoseconds.
    pub fault: Spread,
    /// The engine's fault divided by this one, both measured by turns: the one in the middle.
    pub ratio: f64,
}

impl From<Spread> for Samples {
    fn from(Spread { least, median, high }: Spread) -> Self {
        Samples { count: SLICES, low: least, median, high }
    }
}

/// Slices of each measurement of the engine's example.
const SLICES: usize = 30;
/// By how much the ratio to the floor may rise above that of the smallest tables, where all is "flat".
const FLAT: f64 = 1.3;

/// Runs the engine's own measurement for `seconds` a pair, in release mode; the rows and the numbers behind them.
pub fn host(seconds: f64) -> Result<(Vec<Row>, Vec<Rate>)> {
    let mut rates = rates(seconds)?;
    rates.sort_by(|a, b| (&a.kind, a.clients, a.pages).cmp(&(&b.kind, b.clients, b.pages)));
    let first = rates.iter().find_map(|rate| rate.floor).context("no floor")?;
    let rows = rates.iter().map(|rate| {
        let what = format!("{}: {} clients, {} pages", rate.kind, rate.clients, rate.pages);
        let requests = format!("{:.0} requests/s", rate.requests_per_second);
        // Sequential windows grow, so their requests are not alike: pages are.
        let Some(floor) = rate.floor else {
            let row = Row::value(what, rate.page.least, "ns a page").note(requests);
            return Row { samples: Some(rate.page.into()), ..row };
        };
        let row = Row::value(what, rate.fault.least, "ns a fault").note(format!(
            "{requests}; floor: {} lines at {} places, {:.0} ns at least",
            floor.lines, floor.places, floor.fault.least
        ));
        let (samples, floors) = (Some(rate.fault.into()), Some(floor.fault.into()));
        Row { samples, floor: floors, ratio: Some(floor.ratio), ..row }.budget(FLAT * first.ratio)
    });
    Ok((rows.collect(), rates))
}

fn rates(seconds: f64) -> Result<Vec<Rate>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo)
        .current_dir(paths::workspace())
        .args(["run", "--quiet", "--release", "--package", "mm-engine", "--example", "rate", "--"])
        .arg(seconds.to_string())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(done.status.success(), "the engine's example `rate` failed: {}", done.status);
    let text = String::from_utf8(done.stdout)?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no rate: {line}"))).collect()
}

/// The stripped images.
pub fn images() -> Result<Vec<Row>> {
    let rows = image::build_all()?.into_iter().map(|image| {
        #[expect(clippy::cast_precision_loss, reason = "a megabyte or so")]
        let row = Row::value(&image.name, image.bytes as f64, "bytes");
        if image.name == "mm-kernel" { row.note("Unikraft's hello world on Xen: 197280") } else { row }
    });
    Ok(rows.collect())
}
