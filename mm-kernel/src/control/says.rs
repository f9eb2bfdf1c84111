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

/// What bounds M1.
pub(super) fn limits(m1: &mut M1, _: &mut Words<'_>) -> Answer {
    let now = m1.clock.now_ns();
    let (facts, _, control) = m1.facts(now);
    let (figures, host) = (facts.engine.figures(), facts.host);
    bulk(control.window.fill(|out| {
        json::object(out, |answer| {
            answer.number("grant_frames", host.grant_frames)?;
            answer.number("grant_frames_max", host.grant_frames_max)?;
            answer.number("references", figures.references)?;
            answer.number("references_free", figures.references_free)?;
            answer.number("event_channels", host.ports)?;
            answer.number("event_channels_max", host.ports_max)?;
            answer.number("devices", figures.rings)?;
            answer.number("devices_max", facts.config.clients)?;
            answer.number("memory_size", figures.pages.total() * PAGE)?;
            answer.number("memory_free", figures.pages.free * PAGE)?;
            answer.number("memory_clean", figures.pages.clean * PAGE)
        })
    }))
}

/// What a domain said of its thaw.
pub(super) fn times(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let domain = DomId(number(arguments, "times DOMID")?);
    let devices = &m1.devices;
    if !devices.iter().any(|device| device.domain == domain) {
        return Err(Refused::NoDomain);
    }
    bulk(m1.control.window.fill(|out| {
        json::object(out, |answer| {
            answer.number("domid", domain.0)?;
            answer.array("devices", |list| {
                for device in devices.iter().filter(|device| device.domain == domain) {
                    let thaw = devices.trace.thaw(device.id.index());
                    list.object(|entry| match thaw {
                        Some(thaw) => {
                            entry.number("thaw_ns", thaw.duration)?;
                            entry.number("connected_ns", thaw.connected)
                        }
                        None => entry.null("thaw_ns"),
                    })?;
                }
                Ok(())
            })
        })
    }))
}
