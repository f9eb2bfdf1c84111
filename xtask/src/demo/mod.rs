//! `cargo demo`: a story on real Xen, on one screen. Each story is a file here and a module of `m1_tests::demo`.

mod clone;
mod limit;
mod memory;
mod storage;

use std::fmt::Display;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result};
use m1_tests::demo;
use serde::Serialize;

use limit::Limit;

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Story {
    /// Clients run Debian's programs out of pages that M1 lends, and what that saves
    Memory,
    /// Stock guests boot from one base through M1 and write their own; M1 dies, and what they flushed is there with the next
    Storage,
    /// A warm program is frozen while it runs, and clones go on from it
    Clone,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The story that is told
    #[arg(long, value_enum, default_value = "memory")]
    story: Story,
    /// So many clients
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(demo::CLIENTS_MAX)))]
    clients: u32,
    /// Leaves everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Writes every number to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    memory: memory::Only,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.story {
        Story::Memory => memory::run(&arguments),
        Story::Storage => storage::run(&arguments),
        Story::Clone => clone::run(&arguments),
    }
}

/// Prints what a story came to, writes its numbers, and with `--keep` stays: the machine ends with the caller's.
fn show(arguments: &Arguments, report: &(impl Display + Serialize), good: bool) -> Result<ExitCode> {
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(report)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{report}");
    if arguments.keep {
        println!("  It answers now; `cargo demo` goes on until Ctrl-C.");
        loop {
            thread::park();
        }
    }
    println!("  With --keep it answers until Ctrl-C.");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
