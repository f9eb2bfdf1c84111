//! The block service's part of `/metrics`.

use core::fmt;

use mm_http::prometheus::{Exposition, Kind, Value};

use super::{Facts, PAGE};
use crate::block::GuestDisk;
use crate::overlays::Overlays;

pub(super) fn render(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let counters = facts.engine.counters();
    out.counter(
        "m1_block_cache_hits_total",
        "Blocks for stock frontends that were in memory.",
        counters.hits,
    )?;
    out.counter("m1_block_cache_misses_total", "Blocks for them that had to be read.", counters.misses)?;
    let connected = facts.block.disks().filter(|disk| disk.is_connected()).count();
    out.gauge("m1_block_frontends", "Stock frontends that are connected.", connected)?;
    let mut family =
        out.family("m1_block_requests_total", "Requests of stock frontends, by operation.", Kind::Counter)?;
    for disk in facts.block.disks() {
        for (operation, count) in ["read", "write", "flush", "discard"].into_iter().zip(disk.requests.by_kind)
        {
            family.sample(
                &[
                    ("domid", &disk.domain.0),
                    ("devid", &disk.devid),
                    ("volume", &facts.volumes[disk.volume].name),
                    ("operation", &operation),
                ],
                count,
            )?;
        }
    }
    let mut family = out.family("m1_block_bytes_total", "Bytes that they asked for.", Kind::Counter)?;
    for disk in facts.block.disks() {
        for (direction, bytes) in [("read", disk.requests.read_bytes), ("write", disk.requests.written_bytes)]
        {
            let GuestDisk { domain, devid, .. } = disk;
            family.sample(&[("domid", &domain.0), ("devid", devid), ("direction", &direction)], bytes)?;
        }
    }
    let mut family =
        out.family("m1_block_errors_total", "Requests answered with an error.", Kind::Counter)?;
    for GuestDisk { domain, devid, requests, .. } in facts.block.disks() {
        family.sample(&[("domid", &domain.0), ("devid", devid)], requests.errors)?;
    }
    match facts.overlays {
        Some(overlays) => store(overlays, out),
        None => Ok(()),
    }
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
    let mut family = out.family("m1_overlay_open", "Whether a client has it.", Kind::Gauge)?;
    for overlay in store.overlays() {
        family.sample(&[("overlay", &overlay.name)], overlay.open)?;
    }
    Ok(())
}
