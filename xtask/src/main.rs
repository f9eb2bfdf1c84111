//! The one door: `cargo xtask …`.

mod dom0;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, boots, tests and measures M1")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boots Xen and a Linux dom0 in QEMU and runs a command in dom0
    Dom0(dom0::Arguments),
}

fn main() -> ExitCode {
    m1_tests::stage::elapsed();
    let result = match Arguments::parse().command {
        Command::Dom0(arguments) => dom0::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(101)
    })
}
