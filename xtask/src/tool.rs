//! `cargo xtask m1ctl`: builds dom0's command line.

use std::process::ExitCode;

use anyhow::Result;

pub(crate) fn run() -> Result<ExitCode> {
    println!("{}", m1_tests::tool::m1ctl()?.display());
    Ok(ExitCode::SUCCESS)
}
