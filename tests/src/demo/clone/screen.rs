//! The report as one screen of text.

use std::fmt::{self, Display};

use super::report::CloneReport;
use crate::demo::screen::checks;

/// Bytes as KiB.
fn kib(bytes: i64) -> String {
    format!("{} KiB", bytes / 1024)
}

impl Display for CloneReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "M1: one warm Python program, {} that go on from it\n", self.clones.len())?;
        writeln!(
            f,
            "  cold: xl create to the first answer {:.2} s, {} of Xen's memory",
            self.cold_seconds,
            kib(self.cold_bytes)
        )?;
        writeln!(
            f,
            "  frozen while it ran: {} pages ({} MiB) copied, it stood still for {} µs; Xen's memory: {}\n",
            self.frozen_pages,
            self.frozen_pages / 256,
            self.standstill_us,
            kib(self.freeze_bytes)
        )?;
        writeln!(
            f,
            "             to its answer   of that: toolstack     boot     thaw   R shared   from Xen  generation"
        )?;
        for (clone, shared) in self.clones.iter().zip(&self.shared_pages) {
            writeln!(
                f,
                "  {:<10} {:>10.2} s {:>19} ms {:>5} ms {:>5} ms {:>6} KiB {:>10}  {}",
                clone.name,
                clone.seconds,
                clone.toolstack_us / 1000,
                clone.boot_us / 1000,
                clone.thaw_us / 1000,
                shared * 4,
                kib(clone.bytes),
                clone.generation.get(..8).unwrap_or("-"),
            )?;
        }
        writeln!(
            f,
            "\n  a clone frozen in its turn: {} pages copied, {} kept by number\n",
            self.captured_again, self.kept_pages
        )?;
        checks(&self.checks, f)?;
        writeln!(f, "\n  Xen runs under emulation here: times say something beside each other only.")?;
        writeln!(f, "  curl {}/metrics", self.url)
    }
}
