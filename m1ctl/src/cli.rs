//! The command line.

use std::path::PathBuf;
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
    /// Deletes an overlay, or lists them
    #[command(subcommand)]
    Overlay(Overlay),
    /// The snapshots that M1 has
    Snapshots,
    /// Freezes a client under a name, while it goes on running
    Freeze {
        /// The client: its name or number
        domain: String,
        /// What the snapshot is called
        name: String,
        /// Keeps it on the store's disk, so that it is there after M1's death
        #[arg(long)]
        persist: bool,
        /// The freeze may take so long, in seconds
        #[arg(long, default_value = "120", value_name = "SECONDS", value_parser = seconds)]
        limit: Duration,
    },
    /// Gives up a freeze that is under way
    Cancel {
        /// The client: its name or number
        domain: String,
        /// What the snapshot was to be called
        name: String,
    },
    /// Removes a snapshot that no running domain needs
    Rm {
        /// VOLUME@SNAPSHOT, or SNAPSHOT where only one volume has it
        snapshot: String,
    },
    /// Writes a snapshot to a file, for another M1 over the same volume
    Export {
        /// VOLUME@SNAPSHOT, or SNAPSHOT where only one volume has it
        snapshot: String,
        /// Where it goes; no such file may be there
        file: PathBuf,
        /// The export may take so long, in seconds
        #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
        limit: Duration,
    },
    /// Makes a snapshot of what another M1 has exported
    Import {
        /// The file
        file: PathBuf,
        /// What it is called here: [VOLUME@]SNAPSHOT; as it was there, if nothing is said
        name: Option<String>,
        /// Keeps it on the store's disk, so that it is there after M1's death
        #[arg(long)]
        persist: bool,
        /// The import may take so long, in seconds
        #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = seconds)]
        limit: Duration,
    },
    /// Starts domains that go on from a snapshot
    Clone {
        /// VOLUME@SNAPSHOT, or SNAPSHOT where only one volume has it
        snapshot: String,
        /// How many
        #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        /// What they are called: {} stands for a number
        #[arg(long, value_name = "PATTERN")]
        name: Option<String>,
        /// The configuration to begin with; that of the domain that was frozen, if nothing is said
        #[arg(long, value_name = "BASE.cfg")]
        config: Option<PathBuf>,
        /// Their programs have so long to go on, in seconds
        #[arg(long, default_value = "120", value_name = "SECONDS", value_parser = seconds)]
        limit: Duration,
    },
    /// Domains that are created ahead and wait to become clones
    #[command(subcommand)]
    Pool(Pool),
    /// What changes, as it changes; Ctrl-C ends it
    Top {
        /// Seconds between two screens
        #[arg(long, default_value = "2", value_parser = seconds)]
        every: Duration,
        /// Ends after so many screens
        #[arg(long, default_value = "0")]
        count: u64,
    },
    /// What on this host will stop a fleet early, and what to set, to what
    Doctor {
        /// So many clients there are to be
        #[arg(long, default_value = "50")]
        clients: u64,
        /// Each of which maps so much of M1's pages
        #[arg(long, default_value = "20", value_name = "MIB")]
        mapped: u64,
    },
    /// An M1 and two clients on this host: do they work? Leaves nothing behind
    Selftest(SelfTest),
    /// Takes away domains that have ended; started by clone and pool
    #[command(hide = true)]
    Reap,
    /// The manual page, in roff: m1ctl man | man -l -
    Man,
}

#[derive(Subcommand)]
pub(crate) enum Overlay {
    /// Lists the overlays
    List,
    /// Deletes an overlay that no client has, and all that was written to it
    Rm {
        /// Its name
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Pool {
    /// Creates domains that wait
    Start {
        /// How many
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
        size: u32,
        /// The configuration of the clones that are to come; its kernel must be mm-guest
        #[arg(long, value_name = "BASE.cfg")]
        config: PathBuf,
        /// They have so long to boot, in seconds
        #[arg(long, default_value = "120", value_name = "SECONDS", value_parser = seconds)]
        limit: Duration,
    },
    /// Lists those that wait
    Status,
    /// Ends those that wait
    Stop,
}

#[derive(clap::Args)]
pub(crate) struct SelfTest {
    /// Where mm-kernel and mm-unikernel are
    #[arg(long, default_value = "/srv/m1", value_name = "DIR")]
    pub(crate) images: PathBuf,
    /// A block device to read from, instead of a file behind a loop device
    #[arg(long, value_name = "DEVICE")]
    pub(crate) disk: Option<String>,
    /// All of it may take so long, in seconds
    #[arg(long, default_value = "180", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) limit: Duration,
}

/// A time limit: more than nothing, at most a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds".to_owned())?;
    if !(0.001..=86400.0).contains(&seconds) {
        return Err("from 0.001 to 86400".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
