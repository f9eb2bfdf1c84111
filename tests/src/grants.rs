//! Xen's own view of grants, from `xl debug-keys g`: who has mapped which reference of whom.
//!
//! Xen prints every entry that is mapped to its log (`gnttab_usage_print` in `xen/common/grant_table.c`). The log is a
//! ring, so a machine that is asked with many mappings needs one that holds them: see [`CONRING`].

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::dom0::Dom0;

/// For [`Builder::xen_arguments`](crate::Builder::xen_arguments): a log that holds some forty thousand mappings.
pub const CONRING: &str = "conring_size=4M";
/// Xen's log in pieces that fit: the whole of it may be longer than what a command should give.
const PATIENCE: Duration = Duration::from_secs(60);

/// An entry of a grant table that somebody has mapped (or is just copying).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// Domain whose table it is.
    pub owner: u16,
    /// Its number there.
    pub reference: u32,
    /// Who maps it.
    pub peer: u16,
    /// The page.
    pub mfn: u64,
    /// `GNTPIN` counts: host writers, host readers, device writers, device readers, a byte each from the lowest.
    pub pin: u32,
    /// `GTF_*` of the shared entry.
    pub flags: u16,
}

impl Active {
    /// How often it is mapped for writing.
    pub fn writers(&self) -> u32 {
        self.pin & 0xff
    }

    /// How often it is mapped for reading.
    pub fn readers(&self) -> u32 {
        self.pin >> 8 & 0xff
    }
}

/// One domain's grant table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The domain.
    pub owner: u16,
    /// Frames of it, and how many it may have.
    pub frames: (u32, u32),
    /// Frames of its maptrack (what it maps of others), and how many it may have.
    pub maptrack: (u32, u32),
    /// What others map of it.
    pub active: Vec<Active>,
}

/// All tables at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// In Xen's order.
    pub tables: Vec<Table>,
}

impl Grants {
    /// The table of a domain; `None` if Xen has no such domain.
    pub fn table(&self, owner: u16) -> Option<&Table> {
        self.tables.iter().find(|table| table.owner == owner)
    }

    /// What `peer` maps of `owner`.
    pub fn mapped(&self, owner: u16, peer: u16) -> impl Iterator<Item = &Active> {
        let active = self.table(owner).map(|table| &table.active[..]).unwrap_or_default();
        active.iter().filter(move |entry| entry.peer == peer)
    }

    /// Reads the last whole answer to `debug-keys g` in Xen's log.
    pub fn parse(log: &str) -> Result<Self> {
        let begin = log.rfind("gnttab_usage_print_all [ key 'g' pressed").context("no answer in the log")?;
        let mut grants = Grants::default();
        for line in log[begin..].lines().skip(1) {
            // Xen may be told to put the time before each line.
            let line = line.strip_prefix("(XEN) ").unwrap_or(line);
            if line.contains("gnttab_usage_print_all ] done") {
                return Ok(grants);
            }
            if let Some(at) = line.find("grant-table for remote d") {
                grants.tables.push(table(&line[at..]).with_context(|| format!("no table: {line:?}"))?);
            } else if let Some(counts) =
                line.trim().strip_suffix(" max)").filter(|l| l.contains(" maptrack "))
            {
                let last = grants.tables.last_mut().context("frames of no table")?;
                (last.frames, last.maptrack) =
                    frames(counts).with_context(|| format!("no frames: {line:?}"))?;
            } else if let Some(at) = line.find("[0x") {
                let last = grants.tables.last_mut().context("an entry of no table")?;
                let entry = active(last.owner, &line[at..]).with_context(|| format!("no entry: {line:?}"))?;
                last.active.push(entry);
            }
        }
        bail!("the answer in the log has no end")
    }
}

/// `grant-table for remote d5 (v1)`
fn table(line: &str) -> Option<Table> {
    let rest = line.strip_prefix("grant-table for remote d")?;
    let owner = rest.split(' ').next()?.parse().ok()?;
    Some(Table { owner, ..Table::default() })
}

/// `  1 frames (64 max), 0 maptrack frames (1024`
fn frames(line: &str) -> Option<((u32, u32), (u32, u32))> {
    let mut numbers = line.split(|letter: char| !letter.is_ascii_digit()).filter(|word| !word.is_empty());
    let mut next = || numbers.next()?.parse().ok();
    Some(((next()?, next()?), (next()?, next()?)))
}

/// `[0x008]      0 0x03a4bd 0x00000001          0 0x0004bd 0x19`: reference, peer, frame and pin; then what the shared entry says.
fn active(owner: u16, line: &str) -> Option<Active> {
    let (reference, rest) = line.strip_prefix('[')?.split_once(']')?;
    let mut words = rest.split_ascii_whitespace();
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let reference = u32::try_from(hex(reference)?).ok()?;
    let peer = words.next()?.parse().ok()?;
    let mfn = hex(words.next()?)?;
    let pin = u32::try_from(hex(words.next()?)?).ok()?;
    let _shared_peer = words.next()?;
    let _shared_frame = words.next()?;
    let flags = u16::try_from(hex(words.next()?)?).ok()?;
    Some(Active { owner, reference, peer, mfn, pin, flags })
}

impl Dom0 {
    /// Asks Xen now. Xen's log is emptied.
    pub fn grants(&self) -> Result<Grants> {
        let script = "xl dmesg -c >/dev/null && xl debug-keys g && \
                      for i in $(seq 100); do xl dmesg | grep -q 'gnttab_usage_print_all ] done' && break; \
                      usleep 100000; done; xl dmesg";
        let output = self.run_with(script, &[], PATIENCE)?;
        ensure!(output.code == 0, "xl debug-keys g: {}", output.stderr_text());
        let log = output.stdout_text();
        Grants::parse(&log).with_context(|| {
            let start: Vec<&str> = log.lines().take(20).collect();
            format!("Xen's log begins with:\n{}", start.join("\n"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Xen 4.17: M1 is domain 1, and domains 2 and 3 map two of its volumes' pages, beside rings and info pages.
    const LOG: &str = include_str!("grants/example.log");

    #[test]
    fn entries_and_tables_are_read() {
        let grants = Grants::parse(LOG).unwrap();
        assert_eq!(grants.tables.iter().map(|table| table.owner).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(grants.table(4).is_none());
        let table = grants.table(1).unwrap();
        assert_eq!((table.frames, table.maptrack), ((16, 64), (1, 1024)));
        let [ring, info, first] = grants.mapped(1, 2).collect::<Vec<_>>()[..] else { panic!("{table:?}") };
        let (mfn, flags) = (0x7dd41, 0xd);
        assert_eq!(*first, Active { owner: 1, reference: 0x1fe8, peer: 2, mfn, pin: 0x100, flags });
        assert_eq!((ring.writers(), ring.readers()), (1, 0));
        assert_eq!((info.writers(), info.readers()), (0, 1));
        assert_eq!(grants.mapped(1, 3).filter(|entry| entry.mfn == mfn).count(), 1, "the same frame");
        assert_eq!(grants.mapped(0, 1).count(), 0);
    }

    #[test]
    fn the_last_answer_counts() {
        let twice = format!("{LOG}{}", LOG.replace("[0x1fe8]", "[0x1fff]"));
        let grants = Grants::parse(&twice).unwrap();
        assert_eq!(grants.mapped(1, 2).map(|entry| entry.reference).last(), Some(0x1fff));
    }

    #[test]
    fn an_answer_that_was_cut_is_an_error() {
        let cut = LOG.rfind("done").unwrap();
        assert!(Grants::parse(&LOG[..cut]).is_err());
        assert!(Grants::parse("(XEN) something else").is_err());
    }
}
