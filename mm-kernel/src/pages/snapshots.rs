//! What is shown of snapshots: `/metrics` and `/status.json`.

use core::fmt::{self, Display};

use mm_engine::{Histogram, SnapshotState};
use mm_http::json;
use mm_http::prometheus::{Exposition, Kind};

use super::{Facts, PAGE};
use crate::snapshots::{Persist, SnapshotFacts};

/// Which of a snapshot's states that is, in one word.
fn state(facts: &SnapshotFacts<'_>) -> &'static str {
    match facts.state {
        SnapshotState::Ready if facts.ready => "ready",
        SnapshotState::Away => "away",
        SnapshotState::Ready | SnapshotState::Taking => "taking",
        SnapshotState::Ordered => "ordered",
        SnapshotState::Failed(_) => "failed",
        SnapshotState::Free | SnapshotState::Leaving => "leaving",
    }
}

/// Bytes in hexadecimal.
pub(crate) struct Hex<'b>(pub(crate) &'b [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(super) fn metrics(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let (figures, counters) = (facts.engine.figures(), facts.engine.counters());
    let all = || facts.snapshots.facts(facts.engine);
    let ready = all().filter(|snapshot| snapshot.ready).count() as u64;
    out.gauge("m1_snapshots", "Snapshots that clones can be made of.", ready)?;
    out.counter("m1_freezes_total", "Snapshots that were completed.", counters.freezes)?;
    out.counter("m1_freezes_failed_total", "Freezes of which nothing came.", counters.freezes_failed)?;
    let mut family = out.family(
        "m1_frozen_bytes",
        "Pages of snapshots, each counted once: in one snapshot alone, or in several.",
        Kind::Gauge,
    )?;
    family.sample(&[("kind", &"unique")], figures.frozen_unique * PAGE)?;
    family.sample(&[("kind", &"shared")], figures.frozen.saturating_sub(figures.frozen_unique) * PAGE)?;
    type Figure = fn(&SnapshotFacts<'_>) -> u64;
    let families: [(&str, &str, Kind, Figure); 3] = [
        ("m1_snapshot_bytes", "Pages of each snapshot, shared ones too.", Kind::Gauge, |snapshot| {
            snapshot.pages * PAGE
        }),
        ("m1_snapshot_clones", "Devices that are attached to each snapshot.", Kind::Gauge, |snapshot| {
            u64::from(snapshot.clones)
        }),
        ("m1_snapshot_thaws_total", "Programs that went on from each snapshot.", Kind::Counter, |snapshot| {
            snapshot.thawed
        }),
    ];
    for (name, help, kind, figure) in families {
        let mut family = out.family(name, help, kind)?;
        for snapshot in all() {
            let labels: [(&str, &dyn Display); 2] =
                [("volume", &snapshot.volume), ("snapshot", &snapshot.name)];
            family.sample(&labels, figure(&snapshot))?;
        }
    }
    out.counter("m1_clones_total", "Devices that were attached to a snapshot.", counters.clones)?;
    let mut bounds = [0; Histogram::BUCKETS - 1];
    for (index, bound) in bounds.iter_mut().enumerate() {
        *bound = Histogram::bound(index).unwrap_or(u64::MAX);
    }
    for (name, help, times) in [
        (
            "m1_freeze_standstill_seconds",
            "How long programs stood still for a snapshot, client-reported.",
            facts.engine.standstills(),
        ),
        (
            "m1_thaw_seconds",
            "From a clone's first instruction to its program's, client-reported.",
            facts.engine.thaws(),
        ),
    ] {
        out.family(name, help, Kind::Histogram)?.histogram(&[], &bounds, &times.counts, times.sum)?;
    }
    out.counter(
        "m1_prefetch_pages_total",
        "Pages that clones mapped ahead after a thaw, client-reported.",
        counters.ahead,
    )?;
    out.counter(
        "m1_prefetch_hits_total",
        "Pages among them that were touched, client-reported; the rest was waste.",
        counters.ahead_used,
    )
}

pub(crate) fn status(facts: &Facts<'_>, out: &mut json::Array<'_>) -> fmt::Result {
    for snapshot in facts.snapshots.facts(facts.engine) {
        out.object(|entry| {
            entry.string("name", &snapshot.name)?;
            entry.string("volume", &snapshot.volume)?;
            entry.string("state", &state(&snapshot))?;
            if let SnapshotState::Failed(why) = snapshot.state {
                entry.string("reason", &crate::snapshots::reason(why))?;
            }
            entry.string("identity", &Hex(&snapshot.identity))?;
            entry.number("source_domid", snapshot.source.0)?;
            entry.number("ordered", snapshot.ordered)?;
            entry.number("bytes", snapshot.pages * PAGE)?;
            entry.number("unique_bytes", snapshot.unique * PAGE)?;
            entry.number("captured_pages", snapshot.captured)?;
            entry.number("deduplicated_pages", snapshot.deduplicated)?;
            entry.number("kept_pages", snapshot.kept)?;
            entry.number("clones", snapshot.clones)?;
            entry.number("thawed", snapshot.thawed)?;
            entry.number("standstill_ns", snapshot.standstill)?;
            entry.string(
                "kept",
                &match snapshot.persist {
                    Persist::Memory => "memory",
                    Persist::Wanted => "storing",
                    Persist::Stored => "stored",
                    Persist::Failed => "not stored",
                    Persist::Damaged => "damaged",
                },
            )?;
            entry.boolean("hot", snapshot.hot)
        })?;
    }
    Ok(())
}
