//! The block service's part of `/metrics`.

use core::fmt;

use mm_http::prometheus::{Exposition, Kind};

use super::Facts;
use crate::block::GuestDisk;

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
    Ok(())
}
