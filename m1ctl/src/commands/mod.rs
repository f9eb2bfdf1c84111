//! The commands, a file for each family.

pub(crate) mod clients;
pub(crate) mod clone;
mod doctor;
pub(crate) mod exchange;
mod man;
mod overlays;
mod ping;
pub(crate) mod pool;
mod selftest;
mod snapshots;
pub(crate) mod status;
mod top;
mod trace;
mod volumes;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{Arguments, Command, Overlay, Pool};
use crate::failure::Result;
use crate::m1::M1;
use crate::reaper;
use crate::xs::Store;

/// Does what is asked; gives the exit code.
pub(crate) fn run(arguments: &Arguments) -> Result<u8> {
    let json = arguments.json;
    let m1 = || M1::find(Store::open()?, &arguments.m1, arguments.timeout);
    match &arguments.command {
        Command::Ping => ping::run(&mut m1()?, json)?,
        Command::Status => status::run(&mut m1()?, json)?,
        Command::Volumes => volumes::run(&mut m1()?, json)?,
        Command::Clients => clients::run(&mut m1()?, json)?,
        Command::Overlays | Command::Overlay(Overlay::List) => overlays::list(&mut m1()?, json)?,
        Command::Overlay(Overlay::Rm { name }) => overlays::remove(&mut m1()?, name)?,
        Command::Trace { domain } => trace::run(&mut m1()?, domain, json)?,
        Command::Snapshots => snapshots::list(&mut m1()?, json)?,
        Command::Freeze { domain, name, persist, limit } => {
            snapshots::freeze(&mut m1()?, domain, name, *persist, *limit, json)?;
        }
        Command::Cancel { domain, name } => snapshots::cancel(&mut m1()?, domain, name)?,
        Command::Rm { snapshot } => snapshots::remove(&mut m1()?, snapshot, json)?,
        Command::Export { snapshot, file, limit } => {
            exchange::export(&mut m1()?, snapshot, file, *limit, json)?;
        }
        Command::Import { file, name, persist, limit } => {
            let (name, persist, limit) = (name.as_deref(), *persist, *limit);
            exchange::import(&mut m1()?, &exchange::Order { path: file, name, persist, limit, json })?;
        }
        Command::Clone { snapshot, count, name, config, limit } => {
            let (count, limit) = (*count, *limit);
            let (pattern, config) = (name.as_deref(), config.as_deref());
            clone::run(&mut m1()?, &clone::Order { snapshot, count, pattern, config, limit, json })?;
        }
        Command::Pool(Pool::Start { size, config, limit }) => {
            pool::start(&mut Store::open()?, *size, config, &arguments.m1, *limit, json)?;
        }
        Command::Pool(Pool::Status) => pool::status(&mut Store::open()?, json)?,
        Command::Pool(Pool::Stop) => pool::stop(json)?,
        Command::Top { every, count } => top::run(&mut m1()?, *every, *count)?,
        Command::Doctor { clients, mapped } => return doctor::run(arguments, *clients, *mapped),
        Command::Selftest(selftest) => return selftest::run(selftest, selftest.limit, json),
        Command::Reap => reaper::run()?,
        Command::Man => man::run()?,
    }
    Ok(0)
}

/// A bar for people; scripts see none.
fn bar(json: bool, what: &str) -> ProgressBar {
    let target = if json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(None, target).with_prefix(what.to_owned());
    // Wrong only if the pattern below is.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar
}
