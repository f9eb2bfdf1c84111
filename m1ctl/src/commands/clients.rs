//! `m1ctl clients`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::failure::Result;
use crate::m1::M1;
use crate::out::{self, Table, mib, number};

/// Names of domains by their numbers.
pub(crate) type Names = BTreeMap<u64, String>;

pub(crate) fn run(m1: &mut M1, json: bool) -> Result<()> {
    let mut status = m1.json("status")?;
    let names = names(m1, &status)?;
    if json {
        for client in status["clients"].as_array_mut().into_iter().flatten() {
            let name = names.get(&number(&client["domid"])).cloned();
            client["name"] = name.map_or(Value::Null, Value::String);
        }
        out::json(&json!({ "clients": status["clients"] }));
    } else {
        out::say(&table(&status, &names).to_string());
    }
    Ok(())
}

/// What the clients are called.
pub(crate) fn names(m1: &mut M1, status: &Value) -> Result<Names> {
    let mut names = Names::new();
    for client in status["clients"].as_array().into_iter().flatten() {
        let domid = number(&client["domid"]);
        if let Some(name) = m1.store.read(&format!("/local/domain/{domid}/name"))? {
            names.insert(domid, name);
        }
    }
    Ok(names)
}

pub(crate) fn table(status: &Value, names: &Names) -> Table {
    let mut table = Table::new(&[
        "client",
        " domid",
        " devices",
        " mapped MiB",
        " written MiB",
        " kernel MiB",
        " references",
        " served",
        " copies",
        "",
    ]);
    for client in status["clients"].as_array().into_iter().flatten() {
        let domid = number(&client["domid"]);
        let reported = &client["reported"];
        table.row([
            names.get(&domid).cloned().unwrap_or_else(|| "-".to_owned()),
            domid.to_string(),
            number(&client["devices"]).to_string(),
            mib(number(&client["mapped_bytes"])),
            mib(number(&reported["written_bytes"])),
            mib(number(&reported["kernel_bytes"])),
            number(&client["references"]).to_string(),
            number(&client["served"]).to_string(),
            number(&client["copies"]).to_string(),
            if client["leaving"] == true { "leaving".to_owned() } else { String::new() },
        ]);
    }
    table
}
