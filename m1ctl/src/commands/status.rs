//! `m1ctl status`.

use std::fmt::Write;

use serde_json::Value;

use super::{clients, snapshots, volumes};
use crate::failure::Result;
use crate::m1::M1;
use crate::out::{self, mib, number, printable, text};

pub(crate) fn run(m1: &mut M1, json: bool) -> Result<()> {
    let status = m1.json("status")?;
    if json {
        out::json(&status);
        return Ok(());
    }
    let names = clients::names(m1, &status)?;
    out::say(&screen(&m1.name, m1.domid, &status, &names));
    Ok(())
}

/// What fits on one screen.
pub(crate) fn screen(name: &str, domid: u16, status: &Value, names: &clients::Names) -> String {
    let mut screen = String::new();
    // Strings take everything.
    let _ = write_screen(&mut screen, name, domid, status, names);
    screen
}

fn write_screen(
    screen: &mut String,
    name: &str,
    domid: u16,
    status: &Value,
    names: &clients::Names,
) -> std::fmt::Result {
    let up = number(&status["now"]).saturating_sub(number(&status["started"]));
    let ready = if status["ready"] == true { "ready" } else { "NOT READY" };
    let (version, xen) = (text(&status["version"]), text(&status["xen"]));
    writeln!(screen, "{name} (domain {domid}): M1 {version} on Xen {xen}, {ready}, up {up} s")?;
    let memory = &status["memory"];
    write!(screen, "memory  {} MiB:", mib(number(&memory["size"])))?;
    for (state, bytes) in memory.as_object().into_iter().flatten().filter(|(state, _)| *state != "size") {
        write!(screen, " {} {}", state.replace('_', " "), mib(number(bytes)))?;
    }
    let sharing = &status["sharing"];
    let saved = mib(number(&sharing["saved_bytes"]));
    writeln!(
        screen,
        "\nsharing {} pages, {saved} MiB that clients would need in addition",
        number(&sharing["pages_shared"])
    )?;
    write!(screen, "\n{}", volumes::table(status))?;
    if status["clients"].as_array().is_some_and(|clients| !clients.is_empty()) {
        write!(screen, "\n{}", clients::table(status, names))?;
    }
    if status["snapshots"].as_array().is_some_and(|snapshots| !snapshots.is_empty()) {
        write!(screen, "\n{}", snapshots::table(status))?;
    }
    for problem in status["problems"].as_array().into_iter().flatten() {
        writeln!(screen, "\nproblem: {}", printable(text(problem)))?;
    }
    for refusal in status["refusals"].as_array().into_iter().flatten() {
        let (target, reason) = (printable(text(&refusal["target"])), printable(text(&refusal["reason"])));
        writeln!(screen, "refused: domain {}, target={target}: {reason}", number(&refusal["domid"]))?;
    }
    Ok(())
}
