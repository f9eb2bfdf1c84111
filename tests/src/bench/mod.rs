//! What the budgets of the architecture come to, measured: rows with a number, its floor, its ratio and its budget.
//!
//! `cargo xtask bench` runs it. A row that could not be measured says why, and has no number. docs/BENCH.md tells how
//! each is measured and what it does not say.

mod clones;
mod domains;
mod faults;
mod host;
mod report;
mod samples;
mod storage;

pub use clones::clones;
pub use domains::domains;
pub use faults::faults;
pub use host::{Rate, host, images};
pub use report::{Report, Row};
pub use samples::Samples;
pub use storage::storage;
