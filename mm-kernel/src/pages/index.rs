//! `/`: the same for people.

use core::fmt::{self, Display, Write};

use mm_http::html::Document;

use super::{Facts, PAGE, Saving};
use crate::volumes::VolumeFacts;

/// Bytes in MiB with two digits.
struct Mib(i64);

impl Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = self.0.unsigned_abs() * 100 / (1 << 20);
        let sign = if self.0 < 0 && hundredths > 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:02} MiB", hundredths / 100, hundredths % 100)
    }
}

fn mib(bytes: u64) -> Mib {
    Mib(super::signed(bytes))
}

pub(super) fn render(facts: &Facts<'_>, out: &mut dyn Write) -> fmt::Result {
    let figures = facts.engine.figures();
    let saving = Saving::of(&figures, &facts.host);
    let mut page = Document::begin(out, &"M1")?;
    page.paragraph(&format_args!(
        "M1 {} on Xen {}.{}. {}",
        env!("CARGO_PKG_VERSION"),
        facts.host.version.0,
        facts.host.version.1,
        if facts.ready { "Serving." } else { "No volume can be served." }
    ))?;
    for problem in &facts.config.problems {
        page.paragraph(problem)?;
    }
    page.heading(&"Sharing")?;
    page.table(&["", "now"], |table| {
        table.row(&[&"pages of M1 that clients map", &figures.pages_shared])?;
        table.row(&[&"mappings beyond the first", &figures.pages_sharing])?;
        table.row(&[&"saved", &mib(saving.saved)])?;
        table.row(&[&"less M1's metadata", &mib(saving.metadata)])?;
        table.row(&[&"less Xen's grant memory", &mib(saving.xen)])?;
        table.row(&[&"profit", &Mib(saving.profit())])?;
        table.row(&[&"less M1's free and cached pages: net", &Mib(saving.net())])
    })?;
    page.heading(&"Clients")?;
    page.table(&["domain", "R", "W (reported)", "kernel (reported)", "served", "copied"], |table| {
        for (id, client) in facts.engine.clients() {
            table.row(&[
                &facts.domain(id).0,
                &mib(u64::from(client.mapped) * PAGE),
                &mib(client.report.written * PAGE),
                &mib(client.report.kernel * PAGE),
                &client.served,
                &client.copies,
            ])?;
        }
        Ok(())
    })?;
    page.heading(&"Volumes")?;
    page.table(&["name", "group", "disk", "version", "size", "clients", "state"], |table| {
        for (index, volume) in facts.volumes.iter().enumerate() {
            let (size, clients) = (mib(volume.pages * PAGE), facts.clients_of(index));
            let VolumeFacts { name, group, device, version, state, .. } = volume;
            table.row(&[name, group, device, version, &size, &clients, state])?;
        }
        Ok(())
    })?;
    page.links(&[("/metrics", "metrics"), ("/status.json", "status.json")])?;
    page.end()
}
