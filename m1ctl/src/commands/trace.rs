//! `m1ctl trace DOMAIN`.

use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::m1::{self, M1};
use crate::out::{self, Table, duration, number, text};

pub(crate) fn run(m1: &mut M1, wanted: &str, json: bool) -> Result<()> {
    let (domid, _) = m1::domain(&mut m1.store, wanted)?
        .ok_or_else(|| Failure::Refused(format!("no domain is called {wanted}")))?;
    let trace = m1.json(&format!("trace {domid}"))?;
    if json {
        out::json(&trace);
    } else {
        out::say(&screen(&trace));
    }
    Ok(())
}

fn screen(trace: &Value) -> String {
    let now = number(&trace["now_us"]);
    let mut screen = String::new();
    for device in trace["devices"].as_array().into_iter().flatten() {
        let requests = device["requests"].as_array().map(Vec::as_slice).unwrap_or_default();
        let answered = number(&device["answered"]);
        screen += &format!("volume {}: the last {} of {answered}\n", text(&device["volume"]), requests.len());
        let mut table = Table::new(&[" before", "operation", " page", "result", " took"]);
        for request in requests {
            let ago = now.saturating_sub(number(&request["received_us"]));
            table.row([
                duration(ago.saturating_mul(1000)),
                text(&request["operation"]).to_owned(),
                number(&request["page"]).to_string(),
                text(&request["result"]).to_owned(),
                duration(number(&request["took_ns"])),
            ]);
        }
        screen += &table.to_string();
    }
    screen
}
