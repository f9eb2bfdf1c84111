//! `m1-fsck`: makes a store of overlays on a disk or in a file, checks one, lists what is in it. `docs/STORE.md` is the format.
//!
//! It never changes a store that is there, and reads one as M1 does: what M1 would show after it starts, this shows.
//!
//! Exit codes, as fsck(8) has them: 0 no errors; 4 errors that are left; 8 it could not do its work; 16 usage.

mod check;
mod format;
mod image;
mod list;
mod snapshots;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

const CLEAN: u8 = 0;
const ERRORS_LEFT: u8 = 4;
const OPERATIONAL: u8 = 8;
const USAGE: u8 = 16;

#[derive(Parser)]
#[command(
    name = "m1-fsck",
    about = "Makes, checks and lists M1's stores of overlays",
    after_help = "Exit codes: 0 no errors, 4 errors are left, 8 operational error, 16 usage.\n\
                  Do not use it on a disk that a running M1 has."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes an empty store
    Format {
        /// A disk or a file
        image: PathBuf,
        /// Makes the file this long first, or uses so much of the disk: bytes, or with K, M, G or T
        #[arg(long, value_parser = format::bytes)]
        size: Option<u64>,
        /// Even if there is a store already
        #[arg(long)]
        force: bool,
    },
    /// Replays the journal in memory, and reads every block that is in use and compares its checksum
    Check {
        /// A disk or a file
        image: PathBuf,
    },
    /// Lists the overlays
    List {
        /// A disk or a file
        image: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if help { CLEAN } else { USAGE });
        }
    };
    let result = match arguments.command {
        Command::Format { image, size, force } => format::run(&image, size, force),
        Command::Check { image } => check::run(&image),
        Command::List { image, json } => list::run(&image, json),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("m1-fsck: {error:#}");
            // A damaged store is what fsck looks for; everything else kept it from looking.
            let damaged = error.downcast_ref::<image::Damaged>().is_some();
            ExitCode::from(if damaged { ERRORS_LEFT } else { OPERATIONAL })
        }
    }
}
