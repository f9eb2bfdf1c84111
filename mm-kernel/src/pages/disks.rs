//! The block service's part of `/metrics`.

use core::fmt;

use mm_http::prometheus::{Exposition, Kind, Value};

use super::{Facts, PAGE};
use crate::block::{ALL_BOUNDS, CLIENT_BOUNDS, GuestDisk, KINDS};
use crate::overlays::Overlays;

pub(super) fn render(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    cache(facts, out)?;
    totals(facts, out)?;
    clients(facts, out)?;
    let (rows, rows_all) = facts.block.hidden_rows();
    let mut family = out.family(
        "m1_block_zero_rows",
        "Rows by which blocks in memory are remembered as zeroes, by use.",
        Kind::Gauge,
    )?;
    family.sample(&[("state", &"used")], rows)?;
    family.sample(&[("state", &"free")], rows_all - rows)?;
    match facts.overlays {
        Some(overlays) => store(overlays, out),
        None => Ok(()),
    }
}

/// One cache serves both services: what each found in it.
fn cache(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let (block, faults) = (facts.block.totals(), &facts.engine.counters().faults);
    let mut family = out.family(
        "m1_cache_hits_total",
        "Pages and blocks that clients wanted and that were in memory, by service.",
        Kind::Counter,
    )?;
    family.sample(&[("service", &"map")], faults.found())?;
    family.sample(&[("service", &"block")], block.hits)?;
    let mut family =
        out.family("m1_cache_misses_total", "Those that had to be read, by service.", Kind::Counter)?;
    family.sample(&[("service", &"map")], faults.read())?;
    family.sample(&[("service", &"block")], block.misses)
}

/// What all stock frontends asked for, those included that have gone.
fn totals(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let totals = facts.block.totals();
    let connected = facts.block.disks().filter(|disk| disk.is_connected()).count();
    out.gauge("m1_block_frontends", "Stock frontends that are connected.", connected)?;
    let mut family = out.family(
        "m1_block_request_seconds",
        "From taking a stock frontend's request to its answer, by operation.",
        Kind::Histogram,
    )?;
    for (operation, times) in KINDS.iter().zip(&totals.times) {
        family.histogram(&[("operation", operation)], &ALL_BOUNDS, &times.counts, times.sum)?;
    }
    let mut family = out.family("m1_block_bytes_total", "Bytes that they asked for.", Kind::Counter)?;
    family.sample(&[("direction", &"read")], totals.read_bytes)?;
    family.sample(&[("direction", &"write")], totals.written_bytes)?;
    out.counter("m1_block_events_total", "Events sent to them: one can be for many answers.", totals.events)?;
    out.counter("m1_block_errors_total", "Requests answered with an error.", totals.errors)
}

/// The same by client, as long as its device is there.
fn clients(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let mut family =
        out.family("m1_client_block_requests_total", "Block requests, by operation.", Kind::Counter)?;
    for disk in facts.block.disks() {
        for (operation, count) in KINDS.iter().zip(disk.requests.by_kind) {
            family.sample(
                &[
                    ("domid", &disk.domain.0),
                    ("devid", &disk.devid),
                    ("volume", &facts.volumes[disk.volume].name),
                    ("operation", operation),
                ],
                count,
            )?;
        }
    }
    let mut family = out.family(
        "m1_client_block_request_seconds",
        "From taking a request to its answer, of operations that were asked for.",
        Kind::Histogram,
    )?;
    for GuestDisk { domain, devid, requests, .. } in facts.block.disks() {
        for (operation, times) in KINDS.iter().zip(&requests.times).filter(|(_, times)| times.count() > 0) {
            let labels: [(&str, &dyn fmt::Display); 3] =
                [("domid", &domain.0), ("devid", devid), ("operation", operation)];
            family.histogram(&labels, &CLIENT_BOUNDS, &times.counts, times.sum)?;
        }
    }
    let mut family = out.family("m1_client_block_bytes_total", "Bytes asked for.", Kind::Counter)?;
    for GuestDisk { domain, devid, requests, .. } in facts.block.disks() {
        for (direction, bytes) in [("read", requests.read_bytes), ("write", requests.written_bytes)] {
            family.sample(&[("domid", &domain.0), ("devid", devid), ("direction", &direction)], bytes)?;
        }
    }
    let mut family =
        out.family("m1_client_block_errors_total", "Requests answered with an error.", Kind::Counter)?;
    for GuestDisk { domain, devid, requests, .. } in facts.block.disks() {
        family.sample(&[("domid", &domain.0), ("devid", devid)], requests.errors)?;
    }
    let mut family = out.family(
        "m1_client_overlay_memory_bytes",
        "What was written over a volume and is only in memory.",
        Kind::Gauge,
    )?;
    for disk in facts.block.disks() {
        if let Some(bytes) = disk.memory_bytes() {
            family.sample(&[("domid", &disk.domain.0), ("devid", &disk.devid)], bytes)?;
        }
    }
    Ok(())
}

/// The store and the overlays in it.
fn store(overlays: &Overlays, out: &mut Exposition<'_>) -> fmt::Result {
    let store = &overlays.store;
    let figures = store.figures();
    out.gauge(
        "m1_store_failed",
        "Whether the store's disk has failed: nothing more is written.",
        figures.failed,
    )?;
    let mut family = out.family("m1_store_bytes", "Space of the store for data, by use.", Kind::Gauge)?;
    for (state, blocks) in [
        ("free", figures.free),
        ("writing", figures.writing),
        ("live", figures.live),
        ("pending", figures.pending),
    ] {
        family.sample(&[("state", &state)], u64::from(blocks) * PAGE)?;
    }
    out.gauge(
        "m1_store_recovery_seconds",
        "How long opening the store took.",
        Value::Nanoseconds(overlays.recovery_ns),
    )?;
    let recovery = figures.recovery;
    out.gauge(
        "m1_store_recovery_blocks_read",
        "Blocks read for that.",
        recovery.blocks_read + recovery.data_blocks_read,
    )?;
    out.gauge(
        "m1_store_recovery_lost_writes",
        "Writes that were never flushed and not there.",
        recovery.lost_writes,
    )?;
    out.gauge(
        "m1_store_unflushed_journal_blocks",
        "Journal blocks not known to be durable.",
        figures.unflushed,
    )?;
    out.counter("m1_store_writes_total", "Blocks written.", figures.writes)?;
    out.counter("m1_store_written_bytes_total", "Bytes of clients written.", figures.writes * PAGE)?;
    let flushed = overlays.flushed_writes().min(figures.writes);
    out.counter("m1_store_flushed_bytes_total", "Those that a flush has made durable.", flushed * PAGE)?;
    out.gauge(
        "m1_store_dirty_bytes",
        "Those that no flush has made durable yet.",
        (figures.writes - flushed) * PAGE,
    )?;
    out.counter("m1_store_journal_blocks_total", "Journal blocks written.", figures.journal_blocks)?;
    out.counter("m1_store_checkpoint_blocks_total", "Checkpoint blocks written.", figures.checkpoint_blocks)?;
    out.counter("m1_store_device_flushes_total", "Flushes of the disk.", figures.device_flushes)?;
    out.counter("m1_store_flushes_total", "Flushes of clients that were answered.", figures.flushes)?;
    out.counter("m1_store_rotten_blocks_total", "Blocks that were not what was written.", figures.rotten)?;
    out.gauge("m1_store_bugs", "Mistakes of the store itself that it survived: report them.", figures.bugs)?;
    out.gauge("m1_overlays", "Overlays in the store.", figures.overlays)?;
    let mut family = out.family("m1_overlay_bytes", "What an overlay holds.", Kind::Gauge)?;
    for overlay in store.overlays() {
        family.sample(&[("overlay", &overlay.name)], u64::from(overlay.mapped) * PAGE)?;
    }
    let mut family = out.family(
        "m1_overlay_quota_bytes",
        "Most that an overlay may hold, of those that have a quota.",
        Kind::Gauge,
    )?;
    for overlay in store.overlays() {
        if let Some(quota) = overlay.quota {
            family.sample(&[("overlay", &overlay.name)], u64::from(quota) * PAGE)?;
        }
    }
    let mut family = out.family("m1_overlay_open", "Whether a client has it.", Kind::Gauge)?;
    for overlay in store.overlays() {
        family.sample(&[("overlay", &overlay.name)], overlay.open)?;
    }
    Ok(())
}
