//! `cargo xtask dom0`: one command in a freshly booted dom0.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use m1_tests::{Builder, Dom0, Stream};

/// Which xenstore daemon dom0 runs.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Xenstored {
    Oxenstored,
    Xenstored,
}

/// The machine, as the command line describes it.
#[derive(clap::Args)]
pub(crate) struct MachineArguments {
    /// Puts a file or a directory of the host into dom0
    #[arg(long = "file", value_name = "HOST:GUEST")]
    files: Vec<String>,
    /// Adds a raw disk image: /dev/vda, /dev/vdb … in dom0
    #[arg(long = "disk", value_name = "IMAGE")]
    disks: Vec<PathBuf>,
    /// The machine's memory, of which dom0 takes 512 MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    /// More arguments for Xen
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    xen_args: Option<String>,
    /// The xenstore daemon
    #[arg(long, value_enum, default_value = "oxenstored")]
    xenstored: Xenstored,
    /// Shows Xen's and dom0's log as it comes
    #[arg(long)]
    log: bool,
}

impl MachineArguments {
    pub(crate) fn builder(&self) -> Result<Builder> {
        let mut builder = Dom0::builder().memory(self.memory).xenstored(match self.xenstored {
            Xenstored::Oxenstored => m1_tests::Xenstored::Oxenstored,
            Xenstored::Xenstored => m1_tests::Xenstored::Xenstored,
        });
        for file in &self.files {
            let (host, guest) =
                file.split_once(':').with_context(|| format!("--file {file} is not HOST:GUEST"))?;
            builder = builder.file(host, guest);
        }
        for disk in &self.disks {
            builder = builder.disk(disk);
        }
        if let Some(arguments) = &self.xen_args {
            builder = builder.xen_arguments(arguments);
        }
        Ok(if self.log { builder.show_log() } else { builder })
    }
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    machine: MachineArguments,
    /// The command may run this long
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    /// Keeps the machine running after the command, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// A program with its arguments, or one word that is a script for dom0's shell
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let dom0 = arguments.machine.builder()?.boot()?;
    eprintln!(
        "          http://127.0.0.1:{}/ leads to 10.0.2.50:80, the first guest that asks DHCP",
        dom0.http_port()
    );
    let script = match arguments.command.as_slice() {
        [script] => script.clone(),
        words => words.iter().map(|word| m1_tests::quote(word)).collect::<Vec<_>>().join(" "),
    };
    let result = dom0.stream(&script, &[], Duration::from_secs(arguments.limit), &mut pass_on);
    if !matches!(result, Ok(0)) {
        eprintln!("{}", dom0.diagnostics());
    }
    if arguments.keep {
        eprintln!("          The machine goes on running; Ctrl-C ends it.");
        loop {
            std::thread::park();
        }
    }
    Ok(ExitCode::from(u8::try_from(result?).unwrap_or(1)))
}

/// Passes output on; a closed pipe is the reader's business.
fn pass_on(stream: Stream, bytes: &[u8]) {
    let _ = match stream {
        Stream::Out => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        Stream::Err => std::io::stderr().write_all(bytes),
    };
}
