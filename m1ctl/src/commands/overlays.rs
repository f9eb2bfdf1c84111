//! `m1ctl overlays`, `overlay rm`.

use crate::failure::Result;
use crate::m1::M1;
use crate::out::{self, Table, mib, number, text};

pub(crate) fn list(m1: &mut M1, json: bool) -> Result<()> {
    let answer = m1.json("overlays")?;
    if json {
        out::json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["overlay", " MiB", " of MiB", " quota MiB", "state"]);
    for overlay in answer["overlays"].as_array().into_iter().flatten() {
        let quota = overlay["quota_bytes"].as_u64().map_or_else(|| "-".to_owned(), mib);
        let rotten = number(&overlay["rotten_blocks"]);
        let state = if overlay["in_use"] == true { "in use" } else { "" };
        table.row([
            text(&overlay["name"]).to_owned(),
            mib(number(&overlay["bytes"])),
            mib(number(&overlay["base_bytes"])),
            quota,
            if rotten > 0 {
                format!("{state} {rotten} ROTTEN BLOCKS").trim().to_owned()
            } else {
                state.to_owned()
            },
        ]);
    }
    out::say(&table.to_string());
    Ok(())
}

/// Deletes an overlay. What it held is gone at once, and its space is free soon.
pub(crate) fn remove(m1: &mut M1, name: &str) -> Result<()> {
    m1.ask(&format!("overlay-rm {name}")).map(drop)
}
