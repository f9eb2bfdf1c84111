//! `/status.json`: what M1 is doing and what is wrong, for scripts.

use core::fmt::{self, Write};

use mm_http::json;

use super::{Facts, PAGE, Saving};
use crate::volumes;

pub(super) fn render(facts: &Facts<'_>, out: &mut dyn Write) -> fmt::Result {
    let figures = facts.engine.figures();
    let saving = Saving::of(&figures, &facts.host);
    let (major, minor) = facts.host.version;
    json::object(out, |status| {
        status.string("version", &env!("CARGO_PKG_VERSION"))?;
        status.string("xen", &format_args!("{major}.{minor}"))?;
        status.boolean("ready", facts.ready)?;
        status.number("started", facts.started)?;
        status.number("now", facts.now)?;
        status.array("problems", |problems| {
            for problem in &facts.config.problems {
                problems.string(problem)?;
            }
            if facts.config.problems_dropped > 0 {
                problems.string(&format_args!("and {} more", facts.config.problems_dropped))?;
            }
            Ok(())
        })?;
        status.array("volumes", |list| {
            for (index, volume) in facts.volumes.iter().enumerate() {
                list.object(|entry| {
                    entry.string("name", &volume.name)?;
                    entry.string("group", &volume.group)?;
                    entry.string("device", &volume.device)?;
                    entry.number("bytes", volume.pages * PAGE)?;
                    entry.number("version", volume.version)?;
                    // Whether new clients get this one.
                    let current = volumes::current(facts.volumes, &volume.name) == Some(index);
                    entry.boolean("current", current)?;
                    entry.number("clients", u64::try_from(facts.clients_of(index)).unwrap_or(u64::MAX))?;
                    entry.string("state", &volume.state)
                })?;
            }
            Ok(())
        })?;
        status.array("snapshots", |snapshots| super::snapshots::status(facts, snapshots))?;
        status.object("memory", |memory| {
            memory.number("size", facts.pages_of_memory() * PAGE)?;
            memory.number("free", figures.pages.free * PAGE)?;
            memory.number("clean", figures.pages.clean * PAGE)?;
            memory.number("shared", figures.pages.shared * PAGE)?;
            memory.number("frozen", figures.pages.frozen * PAGE)?;
            memory.number("stale_pinned", figures.pages.stale_pinned * PAGE)?;
            memory.number("metadata", figures.pages.metadata * PAGE)
        })?;
        status.object("sharing", |sharing| {
            sharing.number("pages_shared", figures.pages_shared)?;
            sharing.number("pages_sharing", figures.pages_sharing)?;
            sharing.number("saved_bytes", saving.saved)?;
            sharing.number("general_profit_bytes", saving.profit())?;
            sharing.number("net_saving_bytes", saving.net())
        })?;
        status.array("clients", |clients| {
            for (id, client) in facts.engine.clients() {
                clients.object(|entry| {
                    entry.number("domid", facts.domain(id).0)?;
                    entry.boolean("leaving", client.leaving)?;
                    entry.number("devices", client.rings)?;
                    entry.number("mapped_bytes", u64::from(client.mapped) * PAGE)?;
                    entry.number("references", client.references)?;
                    entry.number("served", client.served)?;
                    entry.number("copies", client.copies)?;
                    entry.object("reported", |report| {
                        report.number("written_bytes", client.report.written * PAGE)?;
                        report.number("kernel_bytes", client.report.kernel * PAGE)?;
                        report.number("mapped_bytes", client.report.mapped * PAGE)?;
                        report.number("local_faults", client.report.local_faults)?;
                        report.number("cow_breaks", client.report.cow_breaks)?;
                        report.number("reserve_bytes", client.report.reserve.saturating_mul(PAGE))?;
                        report.number("populate_failed", client.report.populate_failed)
                    })
                })?;
            }
            Ok(())
        })?;
        status.array("refusals", |refusals| {
            for refusal in facts.refusals.iter() {
                refusals.object(|entry| {
                    entry.number("domid", refusal.domain.0)?;
                    entry.string("target", &refusal.target)?;
                    entry.string("reason", &refusal.reason)
                })?;
            }
            Ok(())
        })
    })?;
    out.write_char('\n')
}
