//! The commands, a file for each family.

pub(crate) mod clients;
mod man;
mod overlays;
mod ping;
pub(crate) mod status;
mod trace;
mod volumes;

use crate::cli::{Arguments, Command};
use crate::failure::Result;
use crate::m1::M1;
use crate::xs::Store;

/// Does what is asked; gives the exit code.
pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    match &arguments.command {
        Command::Ping => ping::run(&mut m1(arguments)?, arguments.json)?,
        Command::Status => status::run(&mut m1(arguments)?, arguments.json)?,
        Command::Volumes => volumes::run(&mut m1(arguments)?, arguments.json)?,
        Command::Clients => clients::run(&mut m1(arguments)?, arguments.json)?,
        Command::Overlays => overlays::list(&mut m1(arguments)?, arguments.json)?,
        Command::Trace { domain } => trace::run(&mut m1(arguments)?, domain, arguments.json)?,
        Command::Man => man::run()?,
    }
    Ok(0)
}

/// The M1 that the command line names.
fn m1(arguments: &Arguments) -> Result<M1> {
    M1::find(Store::open()?, &arguments.m1, arguments.timeout)
}
