//! Xen's own account of memory, page by page: `xl list` and `xl info` round to MiB.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::dom0::Dom0;

/// What memory is used for at one moment, in pages of 4 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XenMemory {
    /// Free pages of Xen's heap, from which domains and Xen's own tables come alike (`debug-keys H`).
    pub free: u64,
    /// Pages of each domain (`debug-keys q`).
    pub domains: BTreeMap<u16, u64>,
}

impl XenMemory {
    /// Reads the last answers in Xen's log.
    fn parse(log: &str) -> Result<Self> {
        let begin = log.rfind("dumping heap info").context("no heap in Xen's log")?;
        let mut memory = XenMemory::default();
        let mut domain = None;
        let mut zones = 0;
        for line in log[begin..].lines() {
            let line = line.strip_prefix("(XEN) ").unwrap_or(line).trim();
            if let Some(rest) = line.strip_prefix("heap[") {
                let pages = rest.split(" -> ").nth(1).and_then(|text| text.strip_suffix(" pages"));
                memory.free += pages.and_then(|pages| pages.parse::<u64>().ok()).context("no heap zone")?;
                zones += 1;
            } else if let Some(rest) = line.strip_prefix("General information for domain ") {
                domain = Some(rest.trim_end_matches(':').parse().context("no domain")?);
            } else if let Some(rest) = line.strip_prefix("nr_pages=") {
                let pages =
                    rest.split(' ').next().and_then(|pages| pages.parse().ok()).context("no pages")?;
                memory.domains.insert(domain.take().context("pages of no domain")?, pages);
            }
        }
        ensure!(zones > 0, "no heap zone in Xen's log");
        ensure!(memory.domains.contains_key(&0), "no dom0 in Xen's log");
        Ok(memory)
    }

    /// Pages that are neither free nor dom0's. dom0 gives and takes a few by itself, which are of no concern here.
    fn used_by_guests(&self) -> i64 {
        let given = self.free + self.domains.get(&0).copied().unwrap_or(0);
        0_i64.saturating_sub_unsigned(given)
    }

    /// Pages that were taken from Xen between `before` and `self`, those of dom0 left out; negative if some came back.
    #[must_use]
    pub fn taken_since(&self, before: &XenMemory) -> i64 {
        self.used_by_guests() - before.used_by_guests()
    }
}

impl Dom0 {
    /// Asks Xen now. Its log is emptied, and has to be as large as [`CONRING`](crate::grants::CONRING).
    pub fn xen_memory(&self) -> Result<XenMemory> {
        let log = self.sh("xl dmesg -c >/dev/null && xl debug-keys H && xl debug-keys q && xl dmesg")?;
        XenMemory::parse(&log)
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
    const LOG: &str = "(XEN) 'H' pressed -> dumping heap info (now = 123)\n\
        (XEN) heap[node=0][zone=15] -> 16128 pages\n(XEN) heap[node=0][zone=16] -> 100 pages\n\
        (XEN) 'q' pressed -> dumping domain info (now = 124)\n(XEN) General information for domain 0:\n\
        (XEN)     refcnt=3 dying=0 pause_count=0\n\
        (XEN)     nr_pages=131072 xenheap_pages=2 dirty_cpus={0-1} max_pages=131072\n\
        (XEN) General information for domain 7:\n(XEN)     nr_pages=766 xenheap_pages=2 dirty_cpus={} max_pages=16640\n";

    #[test]
    fn the_heap_and_the_domains_are_read() {
        let memory = XenMemory::parse(LOG).unwrap();
        assert_eq!(memory.free, 16228);
        assert_eq!(memory.domains, BTreeMap::from([(0, 131_072), (7, 766)]));
        assert!(XenMemory::parse("(XEN) heap[node=0][zone=15] -> 16128 pages").is_err());
        assert!(XenMemory::parse("(XEN) 'H' pressed -> dumping heap info (now = 123)\n").is_err());
    }

    #[test]
    fn what_dom0_gives_back_to_xen_is_nobodys_saving() {
        let before = XenMemory { free: 1000, domains: BTreeMap::from([(0, 500)]) };
        let after = XenMemory { free: 900, domains: BTreeMap::from([(0, 490), (1, 100)]) };
        assert_eq!(after.taken_since(&before), 110);
        assert_eq!(before.taken_since(&after), -110);
    }
}
