//! `cargo xtask shell`: a prompt in a freshly booted dom0.

use std::process::ExitCode;

use anyhow::Result;

use crate::dom0::MachineArguments;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    machine: MachineArguments,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut dom0 = arguments.machine.builder()?.terminal().boot()?;
    eprintln!(
        "          http://127.0.0.1:{}/ leads to 10.0.2.50:80, the first guest that asks DHCP",
        dom0.http_port()
    );
    eprintln!("          `exit` or Ctrl-] ends the machine.");
    m1_tests::terminal::attach(&mut dom0)?;
    Ok(ExitCode::SUCCESS)
}
