//! `m1ctl ping`.

use std::time::Instant;

use serde_json::json;

use crate::failure::Result;
use crate::m1::M1;
use crate::out::{self, duration};

pub(crate) fn run(m1: &mut M1, json: bool) -> Result<()> {
    let begin = Instant::now();
    let answer = m1.ask("version")?;
    let took = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let version = answer.split(' ').nth(1).unwrap_or_default();
    if json {
        out::json(&json!({ "name": m1.name, "domid": m1.domid, "version": version, "took_ns": took }));
    } else {
        out::say(&format!("{} (domain {}): M1 {version} answers in {}\n", m1.name, m1.domid, duration(took)));
    }
    Ok(())
}
