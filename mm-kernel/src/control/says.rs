//! Verbs that only tell.

use mm_http::{HttpStats, Page, Pages, json};
use xen_sys::DomId;

use super::reply::{Answer, Refused};
use super::verbs::{Words, bulk, number};
use crate::m1::M1;
use crate::pages::PAGE;

/// What `/status.json` says.
pub(super) fn status(m1: &mut M1, _: &mut Words<'_>) -> Answer {
    let now = m1.clock.now_ns();
    let (mut facts, _, control) = m1.facts(now);
    bulk(control.window.fill(|out| facts.render(Page::Status, &HttpStats::default(), out)))
}

/// The overlays of the store.
pub(super) fn overlays(m1: &mut M1, _: &mut Words<'_>) -> Answer {
    let store = &m1.overlays.as_deref().ok_or(Refused::NoStore)?.store;
    bulk(m1.control.window.fill(|out| {
        json::object(out, |answer| {
            answer.array("overlays", |list| {
                for overlay in store.overlays() {
                    list.object(|entry| {
                        entry.string("name", &overlay.name)?;
                        entry.number("base_bytes", u64::from(overlay.pages) * PAGE)?;
                        entry.number("bytes", u64::from(overlay.mapped) * PAGE)?;
                        match overlay.quota {
                            Some(blocks) => entry.number("quota_bytes", u64::from(blocks) * PAGE)?,
                            None => entry.null("quota_bytes")?,
                        }
                        entry.number("rotten_blocks", overlay.rotten)?;
                        entry.boolean("in_use", overlay.open)
                    })?;
                }
                Ok(())
            })
        })
    }))
}

/// The last requests of a domain's devices.
pub(super) fn trace(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let domain = DomId(number(arguments, "trace DOMID")?);
    let (devices, volumes) = (&m1.devices, &m1.volumes);
    if !devices.iter().any(|device| device.domain == domain) {
        return Err(Refused::NoDomain);
    }
    let now = m1.clock.now_ns();
    bulk(m1.control.window.fill(|out| {
        json::object(out, |answer| {
            answer.number("domid", domain.0)?;
            answer.number("now_us", now / 1000)?;
            answer.array("devices", |list| {
                for device in devices.iter().filter(|device| device.domain == domain) {
                    let index = device.id.index();
                    list.object(|entry| {
                        entry.string("volume", &volumes[device.volume].name)?;
                        entry.number("answered", devices.trace.written(index))?;
                        entry.array("requests", |requests| {
                            for record in devices.trace.of(index) {
                                requests.object(|entry| {
                                    entry.string("operation", &record.operation)?;
                                    entry.number("page", record.page)?;
                                    entry.string("result", &record.status)?;
                                    entry.number("received_us", record.received_us)?;
                                    entry.number("took_ns", record.took_ns)
                                })?;
                            }
                            Ok(())
                        })
                    })?;
                }
                Ok(())
            })
        })
    }))
}
