//! M1's options: `extra=` of its xl configuration, words of the form `key=value`.
//!
//! `xl-config/m1.cfg` documents each for users. A missing or wrong option is a [`Problem`], one clear line for the
//! console and `/status.json`; the rest of the configuration stands, and M1 serves what it still can.

use core::fmt;
use core::str::FromStr;

use crate::overlays::OpenFailed;
use heapless::{String, Vec};
use mm_http::{Addressing, AllowList, ConfigError};

/// Volumes that one M1 serves at most.
pub const VOLUMES_MAX: usize = 16;
/// Disks of one volume at most: as many of its versions can be there at once.
pub const DEVICES_MAX: usize = 4;
/// Disks of all volumes at most.
pub const PLACES_MAX: usize = 32;
/// Longest name of a volume or a group, in bytes.
pub const NAME_MAX: usize = 32;
/// Problems that are kept; more are counted.
const PROBLEMS_MAX: usize = 16;
/// Longest part of an option that a problem repeats, in bytes.
const QUOTE_MAX: usize = 40;

/// A volume's or group's name: letters, digits, `-`, `_` and `.`.
pub type Name = String<NAME_MAX>;

/// Whether a volume's pages are lent or only copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// Clients map M1's own pages.
    Map,
    /// Every page is copied into a frame of the client's: what the host would pay without sharing.
    Copy,
}

/// One `volume=`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    /// What clients write behind `target=`.
    pub name: Name,
    /// The disks of M1's own `disk=` line that hold it or its versions, such as `xvda`.
    pub devices: Vec<Name, DEVICES_MAX>,
    /// Volumes of one group may be used by one client, and nothing is shared across groups.
    pub group: Name,
    /// How its pages reach clients.
    pub share: Share,
}

/// All options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The volumes, in the order given.
    pub volumes: Vec<VolumeConfig, VOLUMES_MAX>,
    /// Where M1's address comes from.
    pub ip: Addressing,
    /// TCP port of the endpoint.
    pub http_port: u16,
    /// Who may read the endpoint: everybody, unless it says otherwise; nobody, if what it says is wrong.
    pub http_allow: AllowList,
    /// Largest window in pages, a power of two from 1 to 512.
    pub window: u32,
    /// Clients (devices) at once.
    pub clients: u16,
    /// References that one client may hold; `None`: a share of the table, see [`Config::quota`].
    pub client_refs: Option<u32>,
    /// Grant table frames that M1 grows to; `None`: as many as Xen allows.
    pub grant_frames: Option<u32>,
    /// Pages of the store at most; `None`: all memory that is left.
    pub store_pages: Option<u32>,
    /// The disk of M1's own `disk=` line that holds overlays.
    pub store_disk: Option<Name>,
    /// Blocks of 4 KiB that an overlay that is made may hold; `None`: as many as there are.
    pub overlay_quota: Option<u32>,
    /// Blocks that a device may keep in memory; see [`Config::memory_quota`].
    pub memory_quota: Option<u32>,
    /// Log level.
    pub log: log::LevelFilter,
    /// What was wrong.
    pub problems: Vec<Problem, PROBLEMS_MAX>,
    /// Problems beyond those that are kept.
    pub problems_dropped: u32,
}

/// One wrong word of the command line, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The word, cut to 40 bytes.
    pub word: String<QUOTE_MAX>,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No `=` in it.
    NotKeyValue,
    /// No option has this name.
    UnknownKey,
    /// The value is not of the form that is named.
    Expected(&'static str),
    /// More volumes than M1 has room for.
    TooManyVolumes,
    /// More disks than M1 has room for.
    TooManyDisks,
    /// The disk belongs to a volume already.
    DuplicateDisk,
    /// The name was used before.
    DuplicateVolume,
    /// A value of the network's.
    Network(ConfigError),
    /// The store cannot be used.
    Store(OpenFailed),
    /// There is no `volume=`.
    NoVolume,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::NotKeyValue => write!(f, "option '{}': expected key=value", self.word),
            Reason::UnknownKey => write!(f, "option '{}': unknown", self.word),
            Reason::Expected(what) => write!(f, "option '{}': expected {what}", self.word),
            Reason::TooManyVolumes => write!(f, "option '{}': more than {VOLUMES_MAX} volumes", self.word),
            Reason::TooManyDisks => {
                write!(
                    f,
                    "option '{}': more than {DEVICES_MAX} disks of a volume, or {PLACES_MAX} of all",
                    self.word
                )
            }
            Reason::DuplicateDisk => write!(f, "option '{}': that disk is another volume's", self.word),
            Reason::DuplicateVolume => write!(f, "option '{}': that volume is already defined", self.word),
            Reason::Network(error) => write!(f, "option '{}': {error}", self.word),
            Reason::Store(why) => write!(f, "option '{}': {why}", self.word),
            Reason::NoVolume => {
                f.write_str("no volume: add volume=NAME:DEVICE for a disk of M1, such as volume=base:xvda")
            }
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            volumes: Vec::new(),
            ip: Addressing::Dhcp,
            http_port: 80,
            http_allow: AllowList::any(),
            window: 512,
            clients: 256,
            client_refs: None,
            grant_frames: None,
            store_pages: None,
            store_disk: None,
            overlay_quota: None,
            memory_quota: None,
            log: log::LevelFilter::Info,
            problems: Vec::new(),
            problems_dropped: 0,
        }
    }
}

impl Config {
    /// Reads a command line. Never fails: what is wrong is in `problems`.
    #[must_use]
    pub fn parse(command_line: &str) -> Self {
        let mut config = Self::default();
        // `share=` is the default of every volume that does not say otherwise, wherever it stands.
        let words = || command_line.split_ascii_whitespace();
        let default = words()
            .filter_map(|word| sharing(word.strip_prefix("share=")?).ok())
            .next_back()
            .unwrap_or(Share::Map);
        for word in words() {
            if let Err(reason) = config.option(word, default) {
                config.problem(word, reason);
            }
        }
        if config.volumes.is_empty() {
            config.problem("", Reason::NoVolume);
        }
        config
    }

    /// References that one client may hold of a table of `total`: half of it, unless `client_refs=` says otherwise. One
    /// client alone can then never starve all the others.
    #[must_use]
    pub fn quota(&self, total: u32) -> u32 {
        self.client_refs.unwrap_or(total / 2).min(total)
    }

    /// Disks of all volumes.
    #[must_use]
    pub fn places(&self) -> usize {
        self.volumes.iter().map(|volume| volume.devices.len()).sum()
    }

    /// Blocks that a device may keep in memory: what holds for an overlay on the store's disk, unless `memory_quota=` says otherwise.
    #[must_use]
    pub fn memory_quota(&self) -> Option<u32> {
        self.memory_quota.or(self.overlay_quota)
    }

    fn option(&mut self, word: &str, default: Share) -> Result<(), Reason> {
        let (key, value) = word.split_once('=').ok_or(Reason::NotKeyValue)?;
        match key {
            "volume" => self.volume(value, default)?,
            "ip" => self.ip = Addressing::parse(value).map_err(Reason::Network)?,
            "http_allow" => {
                // A list that cannot be read keeps everybody out: it was written to keep somebody out.
                self.http_allow = AllowList::nobody();
                self.http_allow = AllowList::parse(value).map_err(Reason::Network)?;
            }
            "http_port" => self.http_port = mm_http::config::parse_port(value).map_err(Reason::Network)?,
            "window" => {
                let pages: u32 = number(value, 1, 512, "a power of two from 1 to 512")?;
                if !pages.is_power_of_two() {
                    return Err(Reason::Expected("a power of two from 1 to 512"));
                }
                self.window = pages;
            }
            "clients" => self.clients = number(value, 1, 1024, "a number from 1 to 1024")?,
            "client_refs" => self.client_refs = Some(number(value, 0, u32::MAX, "a number of references")?),
            "grant_frames" => {
                self.grant_frames =
                    Some(number(value, 1, 65536, "a number of grant table frames, at least 1")?);
            }
            "store" => {
                let mib: u32 = number(value, 1, 1 << 22, "a size in MiB, at least 1")?;
                self.store_pages = Some(mib << 8);
            }
            "store_disk" => {
                self.store_disk = Some(name(value).ok_or(Reason::Expected("a disk, such as xvdb"))?);
            }
            "overlay_quota" => {
                let mib: u32 = number(value, 1, 1 << 22, "a size in MiB, at least 1")?;
                self.overlay_quota = Some(mib << 8);
            }
            "memory_quota" => {
                let mib: u32 = number(value, 1, 1 << 22, "a size in MiB, at least 1")?;
                self.memory_quota = Some(mib << 8);
            }
            "share" => _ = sharing(value)?,
            "log" => {
                self.log = value
                    .parse()
                    .map_err(|_| Reason::Expected("one of off, error, warn, info, debug, trace"))?;
            }
            _ => return Err(Reason::UnknownKey),
        }
        Ok(())
    }

    /// `NAME:DEVICE[:DEVICE…][,group=GROUP][,share=map|copy]`
    fn volume(&mut self, value: &str, share: Share) -> Result<(), Reason> {
        const FORM: &str = "volume=NAME:DEVICE[:DEVICE…][,group=GROUP][,share=map|copy]";
        let mut parts = value.split(',');
        let mut names = parts.next().unwrap_or_default().split(':');
        let name = names.next().and_then(self::name).ok_or(Reason::Expected(FORM))?;
        let mut devices = Vec::new();
        for device in names {
            let device = self::name(device).ok_or(Reason::Expected(FORM))?;
            if devices.contains(&device) || self.volumes.iter().any(|known| known.devices.contains(&device)) {
                return Err(Reason::DuplicateDisk);
            }
            devices.push(device).map_err(|_| Reason::TooManyDisks)?;
        }
        if devices.is_empty() {
            return Err(Reason::Expected(FORM));
        }
        if self.places() + devices.len() > PLACES_MAX {
            return Err(Reason::TooManyDisks);
        }
        let mut volume = VolumeConfig { group: name.clone(), name, devices, share };
        for part in parts {
            match part.split_once('=') {
                Some(("group", group)) => volume.group = self::name(group).ok_or(Reason::Expected(FORM))?,
                Some(("share", value)) => volume.share = sharing(value)?,
                _ => return Err(Reason::Expected(FORM)),
            }
        }
        if self.volumes.iter().any(|known| known.name == volume.name) {
            return Err(Reason::DuplicateVolume);
        }
        self.volumes.push(volume).map_err(|_| Reason::TooManyVolumes)
    }

    /// Notes a problem that shows only later, such as a disk that is not there.
    pub fn problem(&mut self, word: &str, reason: Reason) {
        let mut quoted = String::new();
        for letter in word.chars() {
            // A full quote is cut: the rest of the word is not needed to know it again.
            if quoted.push(letter).is_err() {
                break;
            }
        }
        if self.problems.push(Problem { word: quoted, reason }).is_err() {
            self.problems_dropped = self.problems_dropped.saturating_add(1);
        }
    }
}

fn name(text: &str) -> Option<Name> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(legal) {
        return None;
    }
    Name::from_str(text).ok()
}

fn number<T: FromStr + PartialOrd>(value: &str, low: T, high: T, form: &'static str) -> Result<T, Reason> {
    let number: T = value.parse().map_err(|_| Reason::Expected(form))?;
    if number < low || number > high { Err(Reason::Expected(form)) } else { Ok(number) }
}

fn sharing(value: &str) -> Result<Share, Reason> {
    match value {
        "map" => Ok(Share::Map),
        "copy" => Ok(Share::Copy),
        _ => Err(Reason::Expected("share=map or share=copy")),
    }
}

#[cfg(test)]
mod tests;
