//! `m1ctl`: what dom0 tells an M1, and what it hears. A static program, so that it runs in any dom0.
//!
//! [`cli`] is the command line; each command is a file of [`commands`]. [`m1`] finds an M1 and asks it over the control channel
//! (docs/CONTROL.md), [`xs`] is xenstore, [`gntdev`] the pages of M1's that long answers come in.

mod cli;
mod commands;
mod disk_pages;
mod failure;
mod files;
mod gntdev;
mod m1;
mod out;
mod reaper;
mod snapshot_file;
#[cfg(test)]
mod tests;
mod xl;
mod xs;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if help { 0 } else { 2 });
        }
    };
    match commands::run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("m1ctl: {failure}");
            ExitCode::from(failure.code())
        }
    }
}
