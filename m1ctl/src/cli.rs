//! The command line.

use std::time::Duration;

use clap::{Parser, Subcommand};

pub(crate) const CODES: &str = "\
Exit codes: 0 done; 1 refused, or a check says no; 2 usage; 3 M1 is not there or does not answer; 4 not done in time; \
5 this host: xenstore, xl, a file.";

/// What is to be done.
#[derive(Parser)]
#[command(name = "m1ctl", version, about = "dom0's command line for M1, the memory-manager domain", after_help = CODES)]
pub(crate) struct Arguments {
    /// Which M1: its domain's name or number
    #[arg(long, global = true, default_value = "m1", value_name = "NAME|DOMID")]
    pub(crate) m1: String,
    /// The answer as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// M1 has so long to answer, in seconds
    #[arg(long, global = true, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Duration,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Whether M1 answers, and how fast
    Ping,
    /// What M1 is doing and what is wrong
    Status,
    /// The volumes that it serves
    Volumes,
    /// The domains that use them
    Clients,
    /// The overlays in its store
    Overlays,
    /// The last 256 requests of each device of a domain
    Trace {
        /// The client: its name or number
        #[arg(value_name = "DOMAIN")]
        domain: String,
    },
    /// The manual page, in roff: m1ctl man | man -l -
    Man,
}

/// A time limit: more than nothing, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    if !(0.001..=86400.0).contains(&seconds) {
        return Err("from 0.001 to 86400".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
