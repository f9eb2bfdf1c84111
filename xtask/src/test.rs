//! `cargo xtask test`: what `cargo test` runs, and with `--full` the longer forms.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The longer forms: more clients, more rounds, more random cases
    #[arg(long)]
    full: bool,
    /// Passed on to `cargo test`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the tests; the exit code is theirs.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--workspace"]).args(&arguments.rest);
    if arguments.full {
        // tests/src/full.rs says what the variable changes; proptest reads its own.
        command.env(m1_tests::full::VARIABLE, "1").env("PROPTEST_CASES", "4096");
    }
    let status = command.status().context("cargo test does not start")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(101)))
}
