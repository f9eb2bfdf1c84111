//! Xen's own account of memory, page by page: `xl list` and `xl info` round to MiB.

use std::collections::BTreeMap;
use std::str::SplitAsciiWhitespace;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::dom0::Dom0;

/// dom0's name.
const DOM0: &str = "Domain-0";

/// What memory is used for at one moment, in pages of 4 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XenMemory {
    /// Free pages of Xen's heap, from which domains and Xen's own tables come alike (`debug-keys H`).
    pub free: u64,
    /// Pages of each domain, by name (`xentop`).
    pub domains: BTreeMap<String, u64>,
}

impl XenMemory {
    /// Reads Xen's log from the last `debug-keys H` on, and xentop's table.
    fn parse(log: &str, top: &str) -> Result<Self> {
        let begin = log.rfind("dumping heap info").context("no heap in Xen's log")?;
        let mut memory = XenMemory::default();
        let zones = log[begin..].lines().filter_map(|line| line.split_once("heap[")?.1.split_once(" -> "));
        for (zone, pages) in zones {
            let pages = pages.trim_end().strip_suffix(" pages").and_then(|pages| pages.parse::<u64>().ok());
            memory.free += pages.with_context(|| format!("no heap zone: {zone}"))?;
        }
        ensure!(memory.free > 0, "no heap zone in Xen's log");
        let mut rows = top.lines().map(str::split_ascii_whitespace);
        let place = |mut row: SplitAsciiWhitespace<'_>| row.position(|word| word == "MEM(k)");
        let column = rows.find_map(place).context("no table of xentop's")?;
        for row in rows {
            let words: Vec<&str> = row.collect();
            let kib: u64 =
                words.get(column).and_then(|kib| kib.parse().ok()).context("no memory in xentop's table")?;
            memory.domains.insert(words[0].to_owned(), kib / 4);
        }
        ensure!(memory.domains.contains_key(DOM0), "no dom0 in xentop's table");
        Ok(memory)
    }

    /// Pages that are neither free nor dom0's. dom0 gives and takes a few by itself, which are of no concern here.
    fn used_by_guests(&self) -> i64 {
        let given = self.free + self.domains.get(DOM0).copied().unwrap_or(0);
        0_i64.saturating_sub_unsigned(given)
    }

    /// Pages that were taken from Xen between `before` and `self`, those of dom0 left out; negative if some came back.
    #[must_use]
    pub fn taken_since(&self, before: &XenMemory) -> i64 {
        self.used_by_guests() - before.used_by_guests()
    }
}

impl Dom0 {
    /// Asks Xen now. Its log is emptied.
    pub fn xen_memory(&self) -> Result<XenMemory> {
        let log = self.sh("xl dmesg -c >/dev/null && xl debug-keys H && xl dmesg")?;
        XenMemory::parse(&log, &self.sh("TERM=dumb xentop -b -f -i 1")?)
    }

    /// Asks until nothing changes any more: domains give memory back, and die, in the background.
    pub fn settled_xen_memory(&self, limit: Duration) -> Result<XenMemory> {
        let deadline = Instant::now() + limit;
        let mut last = self.xen_memory()?;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = self.xen_memory()?;
            if now == last {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "Xen's memory does not come to rest: {last:?}, {now:?}");
            last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Xen 4.17 prints it, shortened.
    const LOG: &str = "(XEN) 'H' pressed -> dumping heap info (now = 1)\n(XEN) heap[node=0][zone=15] -> 5 pages\n\
        (XEN) 'H' pressed -> dumping heap info (now = 123)\n(XEN) heap[node=0][zone=15] -> 16128 pages\n\
        (XEN) heap[node=0][zone=16] -> 100 pages\n(XEN) heap[node=0][zone=17] -> 0 pages\n";
    const TOP: &str = "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS\n\
        \x20 Domain-0 -----r         57    0.0     524288   25.0   no limit       n/a     2    0\n\
        \x20   client1 --b---          1    0.0       3064    0.1      66560       3.2     1    0\n";

    #[test]
    fn the_heap_and_the_domains_are_read() {
        let memory = XenMemory::parse(LOG, TOP).unwrap();
        assert_eq!(memory.free, 16228);
        assert_eq!(memory.domains, domains(131_072, &[("client1", 766)]));
        assert!(XenMemory::parse("(XEN) heap[node=0][zone=15] -> 16128 pages", TOP).is_err());
        assert!(XenMemory::parse(LOG, "").is_err());
        assert!(XenMemory::parse(LOG, TOP.split_once('\n').unwrap().0).is_err());
    }

    fn domains(dom0: u64, others: &[(&str, u64)]) -> BTreeMap<String, u64> {
        let others = others.iter().map(|(name, pages)| ((*name).to_owned(), *pages));
        [(DOM0.to_owned(), dom0)].into_iter().chain(others).collect()
    }

    #[test]
    fn what_dom0_gives_back_to_xen_is_nobodys_saving() {
        let before = XenMemory { free: 1000, domains: domains(500, &[]) };
        let after = XenMemory { free: 900, domains: domains(490, &[("client1", 100)]) };
        assert_eq!(after.taken_since(&before), 110);
        assert_eq!(before.taken_since(&after), -110);
    }
}
