//! The engine against a world of clients, a grant table as Xen has it, and frames that carry bytes.

mod blocks;
mod cache;
mod check;
mod clients;
mod disks;
mod freezes;
mod grants;
mod hostile;
mod limits;
mod lives;
mod model;
mod plain;
mod requests;
mod simulation;
mod snapshots;
mod turns;
mod world;

/// So many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> proptest::prelude::ProptestConfig {
    let said = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let failure_persistence = None;
    proptest::prelude::ProptestConfig {
        cases: said.unwrap_or(cases),
        max_shrink_iters: 5000,
        failure_persistence,
        ..Default::default()
    }
}
