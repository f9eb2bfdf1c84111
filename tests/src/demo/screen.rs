//! The report as one screen of text.

use std::fmt::{self, Display, Write as _};

use super::clients::Ran;
use super::report::{Check, Report, Saving};
use crate::mm_guest::Fault;

/// Pages as MiB.
struct Mib(i64);

impl Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = self.0.unsigned_abs() * 100 / 256;
        let text = format!(
            "{}{}.{:02}",
            if self.0 < 0 && hundredths > 0 { "-" } else { "" },
            hundredths / 100,
            hundredths % 100
        );
        f.pad(&text)
    }
}

fn pages(count: u64) -> Mib {
    Mib(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Nanoseconds as microseconds.
fn micros(nanoseconds: u64) -> String {
    format!("{} µs", nanoseconds / 1000)
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.clients.len();
        writeln!(f, "\nM1 on Xen {}: {count} clients, one set of pages\n", self.xen)?;
        clients(self, f)?;
        saving(self, f)?;
        if let Some(fault) = &self.fault {
            trace(fault, f)?;
        }
        writeln!(
            f,
            "window=1: {} faults served through the event channel, {} distinct pages touched\n",
            self.window_one.served, self.window_one.references
        )?;
        checks(&self.checks, f)?;
        writeln!(f, "\n  curl {}/metrics", self.url)
    }
}

/// What has to hold, a line each.
pub(super) fn checks(checks: &[Check], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    checks.iter().try_for_each(|check| {
        let mark = if check.good { "ok" } else { "WRONG" };
        writeln!(f, "{mark:>6}  {}: {}", check.what, check.detail)
    })
}

fn clients(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "  MiB      R shared  W written  KAS kernel  from Xen  with copies  ran, as on Linux")?;
    for client in &report.clients {
        let ran: Vec<String> = client.ran.iter().map(named).collect();
        writeln!(
            f,
            "  {:<8} {:>8} {:>10} {:>11} {:>9} {:>12}  {}",
            format!("client{}", client.number),
            pages(client.r_own),
            pages(client.written),
            pages(client.kernel),
            pages(client.xen),
            pages(client.xen_copy),
            ran.join(", ")
        )?;
    }
    let state = |name: &str| report.m1_memory_bytes.get(name).copied().unwrap_or(0) / 4096;
    writeln!(
        f,
        "  {:<8} {:>42}  shared {}, cached {}, free {}, its own {}\n",
        "m1",
        pages(u64::from(report.m1_memory_mib) * 256),
        pages(state("shared")),
        pages(state("clean")),
        pages(state("free")),
        pages(state("metadata")),
    )
}

/// The program's name, marked if it did not do what it should.
fn named(ran: &Ran) -> String {
    let mark = if ran.wrong.is_some() { " (NOT)" } else { "" };
    format!("{}{mark}", ran.program)
}

fn saving(report: &Report, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Saving { clients, copy, map } = report.saving;
    let mut rows = String::new();
    for (what, without, with) in [
        ("m1, its grant table, Xen's part".to_owned(), None, Mib(map.m1)),
        (format!("{clients} clients, Xen's part"), Some(Mib(copy.clients)), Mib(map.clients)),
        ("together".to_owned(), Some(Mib(copy.clients)), Mib(map.m1 + map.clients)),
    ] {
        let without = without.map_or("-".to_owned(), |pages| pages.to_string());
        writeln!(rows, "  {what:<36} {without:>12} {with:>12}")?;
    }
    writeln!(f, "  {:<36} {:>12} {:>12}", "MiB taken from Xen's free memory", "share=copy", "share=map")?;
    f.write_str(&rows)?;
    let net = report.saving.net();
    let percent = net * 100 / copy.clients.max(1);
    write!(f, "  net saving {} MiB ({percent} %); ", Mib(net))?;
    match report.break_even_clients {
        Some(number) => writeln!(f, "M1 pays from {number} such clients on\n"),
        None => writeln!(f, "M1 does not pay for such clients\n"),
    }
}

/// Each duration is measured on one clock: the client's, or M1's.
fn trace(fault: &Fault, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let m1 = fault.m1_replied.saturating_sub(fault.m1_received);
    let away = fault.resumed.saturating_sub(fault.ring);
    writeln!(
        f,
        "  one fault, page {}: trap → {} → on the ring → {} (M1 at work: {}) →",
        fault.page,
        micros(fault.ring),
        micros(away),
        micros(m1)
    )?;
    writeln!(
        f,
        "  answered → {} → mapped → {} → the program goes on: {} in all\n",
        micros(fault.mapped.saturating_sub(fault.resumed)),
        micros(fault.returned.saturating_sub(fault.mapped)),
        micros(fault.returned)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_shown_in_mib() {
        assert_eq!(Mib(256).to_string(), "1.00");
        assert_eq!(format!("{:>6}", Mib(-3)), " -0.01");
        assert_eq!(Mib(0).to_string(), "0.00");
        assert_eq!(pages(3112).to_string(), "12.15");
    }
}
