//! `m1ctl volumes`.

use serde_json::{Value, json};

use crate::failure::Result;
use crate::m1::M1;
use crate::out::{self, Table, mib, number, text};

pub(crate) fn run(m1: &mut M1, json: bool) -> Result<()> {
    let status = m1.json("status")?;
    if json {
        out::json(&json!({ "volumes": status["volumes"] }));
    } else {
        out::say(&table(&status).to_string());
    }
    Ok(())
}

pub(crate) fn table(status: &Value) -> Table {
    let mut table = Table::new(&["volume", "group", "device", " MiB", "state"]);
    for volume in status["volumes"].as_array().into_iter().flatten() {
        table.row([
            text(&volume["name"]).to_owned(),
            text(&volume["group"]).to_owned(),
            text(&volume["device"]).to_owned(),
            mib(number(&volume["bytes"])),
            text(&volume["state"]).to_owned(),
        ]);
    }
    table
}
