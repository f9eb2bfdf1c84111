//! What needs no Xen: the engine's requests a second, and the sizes of images.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Row;
use crate::{image, paths};

/// One line of `crates/mm-engine/examples/rate.rs`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rate {
    /// `grant`: at random places; `sequential`: the page after the last window.
    pub kind: String,
    /// Clients that take turns at random.
    pub clients: u32,
    /// Pages of the volume, all in memory.
    pub pages: u32,
    /// Requests a second, releases of windows among them.
    pub requests_per_second: f64,
    /// Time of one fault, with the release that goes with it.
    pub nanoseconds_per_fault: f64,
    /// Time for each page lent.
    pub nanoseconds_per_page: f64,
}

/// Runs the engine's own measurement for `seconds` a pair, in release mode; the rows and the numbers behind them.
pub fn host(seconds: f64) -> Result<(Vec<Row>, Vec<Rate>)> {
    let rates = rates(seconds)?;
    let mut rows = Vec::new();
    for kind in ["grant", "sequential"] {
        let of = |clients: u32, pages: u32| {
            rates.iter().find(|rate| rate.kind == kind && rate.clients == clients && rate.pages == pages)
        };
        let mut sizes: Vec<(u32, u32)> =
            rates.iter().filter(|rate| rate.kind == kind).map(|rate| (rate.clients, rate.pages)).collect();
        sizes.sort_unstable();
        // Sequential windows grow, so their requests are not alike: pages are.
        let (cost, unit) = match kind {
            "grant" => (nanoseconds as fn(&Rate) -> f64, "ns a fault"),
            _ => (per_page as fn(&Rate) -> f64, "ns a page"),
        };
        let first = cost(of(1, 1000).context("no rate for one client and 1000 pages")?);
        for (clients, pages) in sizes {
            let rate = of(clients, pages).context("no rate")?;
            let what = format!("{kind}: {clients} clients, {pages} pages");
            rows.push(Row::value(what, cost(rate), unit).note(format!(
                "{:.0} requests/s; {:.1} × the first line",
                rate.requests_per_second,
                cost(rate) / first
            )));
        }
    }
    Ok((rows, rates))
}

fn nanoseconds(rate: &Rate) -> f64 {
    rate.nanoseconds_per_fault
}

fn per_page(rate: &Rate) -> f64 {
    rate.nanoseconds_per_page
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
