//! The report as one screen of text.

use std::fmt::{self, Display};

use super::report::StorageReport;
use crate::demo::screen::checks;

/// Bytes as MiB.
struct Mib(u64);

impl Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = self.0 / 1024 * 100 / 1024;
        f.pad(&format!("{}.{:02}", hundredths / 100, hundredths % 100))
    }
}

impl Display for StorageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.guests.len();
        writeln!(
            f,
            "\n{count} stock Debian guests, one base of {} MiB, one M1; it dies and another takes over\n",
            self.base_bytes >> 20
        )?;
        writeln!(
            f,
            "  MiB            read    wrote  its overlay  flushed before M1's death  found after it"
        )?;
        for guest in &self.guests {
            let same = if guest.found == guest.flushed { "the same" } else { "ANOTHER" };
            writeln!(
                f,
                "  {:<10} {:>8} {:>8} {:>12}  {:<25}  {same}",
                guest.name,
                Mib(guest.read),
                Mib(guest.written),
                Mib(guest.overlay),
                guest.flushed.get(..16).unwrap_or("nothing"),
            )?;
        }
        let read = self.guests.iter().map(|guest| guest.read).sum();
        writeln!(
            f,
            "  together   {:>8}   of which M1 read from the base's disk, and holds once:",
            Mib(read)
        )?;
        writeln!(
            f,
            "  m1         {:>8}   for the first guest; {} with all {count} of them\n",
            Mib(self.held_for_one),
            Mib(self.held_for_all)
        )?;
        writeln!(f, "  the next M1 opened the store in {:.0} ms\n", self.recovery_seconds * 1000.0)?;
        checks(&self.checks, f)?;
        writeln!(f, "\n  curl {}/metrics", self.url)
    }
}
