//! `/metrics`: Prometheus text. Names of sharing follow Linux' KSM and its exporter.

use core::fmt::{self, Write};

use mm_engine::{Faults, Histogram, Refusals as Causes};
use mm_http::HttpStats;
use mm_http::prometheus::{Exposition, Kind};

use super::{Facts, PAGE, Saving, XEN_BYTES_PER_GRANT_FRAME, XEN_BYTES_PER_MAPPING};
use crate::volumes;

pub(super) fn render(facts: &Facts<'_>, http: &HttpStats, out: &mut dyn Write) -> fmt::Result {
    let mut out = Exposition::new(out);
    let out = &mut out;
    about(facts, out)?;
    sharing(facts, out)?;
    faults(facts, out)?;
    limits(facts, out)?;
    clients(facts, out)?;
    volumes(facts, out)?;
    super::snapshots::metrics(facts, out)?;
    super::disks::render(facts, out)?;
    http.write_metrics(out)
}

fn about(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let (major, minor) = facts.host.version;
    out.family("m1_build_info", "Version of M1 and of the Xen that it runs on.", Kind::Gauge)?.sample(
        &[("version", &env!("CARGO_PKG_VERSION")), ("xen", &format_args!("{major}.{minor}"))],
        1_u64,
    )?;
    out.gauge("m1_start_time_seconds", "Start of M1, seconds since 1970.", facts.started)?;
    out.gauge("m1_ready", "Whether M1 serves at least one volume.", facts.ready)?;
    out.counter("m1_loop_turns_total", "Turns of the serve loop: the heartbeat.", facts.turns)?;
    out.gauge("m1_config_problems", "Options that were wrong or missing.", facts.config.problems.len())?;
    out.counter(
        "m1_console_dropped_bytes_total",
        "Console output that nobody read.",
        facts.host.console_dropped,
    )?;
    out.gauge(
        "m1_engine_bugs",
        "Mistakes of M1 itself that it survived: report them.",
        facts.engine.figures().bugs,
    )
}

fn sharing(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let figures = facts.engine.figures();
    let saving = Saving::of(&figures, &facts.host);
    let states = figures.pages;
    let mut family = out.family(
        "m1_memory_bytes",
        "M1's memory by use; the states are all there are and their sum is m1_memory_size_bytes.",
        Kind::Gauge,
    )?;
    for (state, pages) in [
        ("free", states.free),
        ("clean", states.clean),
        ("shared", states.shared),
        ("frozen", states.frozen),
        ("dirty", states.dirty),
        ("stale_pinned", states.stale_pinned),
        ("metadata", states.metadata),
    ] {
        family.sample(&[("state", &state)], pages * PAGE)?;
    }
    out.gauge("m1_memory_size_bytes", "All of M1's memory.", states.total() * PAGE)?;
    out.gauge(
        "m1_pages_shared",
        "Pages of M1 that clients map (as KSM's pages_shared).",
        figures.pages_shared,
    )?;
    out.gauge(
        "m1_pages_sharing",
        "Mappings of them beyond the first of each: pages saved (as KSM's pages_sharing).",
        figures.pages_sharing,
    )?;
    out.gauge("m1_saved_bytes", "Memory that clients would need in addition without M1.", saving.saved)?;
    out.gauge(
        "m1_general_profit_bytes",
        "Saved, less M1's metadata and Xen's grant memory (as KSM's general_profit).",
        saving.profit(),
    )?;
    out.gauge(
        "m1_net_saving_bytes",
        "The profit, less M1's memory that is free or cached only.",
        saving.net(),
    )?;
    let frames = u64::from(facts.host.grant_frames) * XEN_BYTES_PER_GRANT_FRAME;
    let mappings = (figures.pages_shared + figures.pages_sharing) * XEN_BYTES_PER_MAPPING;
    let mut family = out.family(
        "m1_xen_memory_bytes",
        "Memory of Xen's: M1's grant table with its active entries, and the clients' mappings.",
        Kind::Gauge,
    )?;
    family.sample(&[("kind", &"grant_table")], frames)?;
    family.sample(&[("kind", &"mappings")], mappings)
}

fn faults(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let counters = facts.engine.counters();
    let mut family =
        out.family("m1_faults_total", "Faults that came to M1, by kind and result.", Kind::Counter)?;
    for (kind, kind_name) in Faults::KINDS {
        for (result, result_name) in Faults::RESULTS {
            let count = counters.faults.get(kind, result);
            family.sample(&[("kind", &kind_name), ("result", &result_name)], count)?;
        }
    }
    out.counter(
        "m1_faults_served_total",
        "Faults served through the event channel.",
        counters.faults.served(),
    )?;
    let mut family =
        out.family("m1_copy_instead_total", "Faults answered with: copy instead.", Kind::Counter)?;
    for (cause, name) in Causes::CAUSES {
        family.sample(&[("cause", &name)], counters.refusals.get(cause))?;
    }
    let mut bounds = [0; Histogram::BUCKETS - 1];
    for (index, bound) in bounds.iter_mut().enumerate() {
        *bound = Histogram::bound(index).unwrap_or(u64::MAX);
    }
    let times = facts.engine.service_times();
    out.family("m1_service_seconds", "From taking a request to putting its answer.", Kind::Histogram)?
        .histogram(&[], &bounds, &times.counts, times.sum)?;
    for (name, help, value) in [
        ("m1_requests_total", "Requests taken from map rings.", counters.requests),
        ("m1_windows_total", "Windows of references opened.", counters.windows),
        ("m1_window_grants_total", "Grant entries written.", counters.permits),
        ("m1_grants_revoked_total", "Grant entries taken back.", counters.revokes),
        ("m1_revocations_total", "Windows that clients were asked to drop.", counters.revocations),
        ("m1_revocations_acknowledged_total", "Windows that they dropped when asked.", counters.acknowledged),
        ("m1_releases_total", "Windows that clients gave back by themselves.", counters.releases),
        ("m1_copies_total", "Pages copied into frames of clients.", counters.copies),
        ("m1_evictions_total", "Pages evicted from the store.", counters.evictions),
        ("m1_block_reads_total", "Reads of volumes begun.", counters.reads),
        ("m1_block_read_pages_total", "Pages read from volumes.", counters.pages_read),
        (
            "m1_block_read_ahead_pages_total",
            "Pages among them that nobody had asked for yet.",
            counters.pages_ahead,
        ),
        ("m1_block_read_errors_total", "Reads of volumes that failed.", counters.read_errors),
        ("m1_starved_total", "Requests that waited for a free page.", counters.starved),
        ("m1_protocol_faults_total", "Requests that broke the protocol.", counters.client_faults),
        ("m1_ring_faults_total", "Rings with impossible indices.", facts.ring_faults),
        ("m1_devices_closed_total", "Devices closed for what they did.", facts.closed),
        ("m1_devices_refused_total", "Devices that were never served.", facts.refusals.total()),
        ("m1_devices_attached_total", "Devices that were served.", counters.attached),
        (
            "m1_devices_forged_total",
            "Frontends that named M1, of devices that dom0 did not make; nothing was done about them.",
            facts.strangers,
        ),
        ("m1_control_requests_total", "Requests on the control channel.", facts.control.answered),
        ("m1_control_failures_total", "Of those, answered with an error.", facts.control.failed),
        (
            "m1_control_refused_total",
            "Of those, in a node that others than domain 0 could write.",
            facts.control.refused,
        ),
    ] {
        out.counter(name, help, value)?;
    }
    Ok(())
}

fn limits(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let (figures, host) = (facts.engine.figures(), &facts.host);
    let mut stale = 0;
    for (_, client) in facts.engine.clients() {
        stale += u64::from(client.stale_pinned);
    }
    let used = figures.references - figures.references_free - stale;
    let mut family =
        out.family("m1_grant_entries", "References for pages of volumes, by use.", Kind::Gauge)?;
    family.sample(&[("state", &"used")], used)?;
    family.sample(&[("state", &"stale_pinned")], stale)?;
    family.sample(&[("state", &"free")], figures.references_free)?;
    out.gauge(
        "m1_grant_entries_own",
        "References for M1's own rings and buffers.",
        u64::from(host.own_references),
    )?;
    out.gauge("m1_grant_entries_permitted", "References that permit a page now.", figures.permitted)?;
    let limit = u64::from(host.grant_frames_max) * 512;
    out.gauge("m1_grant_entries_limit", "References that Xen lets M1 have.", limit)?;
    out.gauge("m1_grant_frames", "Frames of the grant table.", u64::from(host.grant_frames))?;
    out.gauge("m1_event_channels", "Event channels in use.", u64::from(host.ports))?;
    out.gauge("m1_event_channels_limit", "Event channels that M1 can have.", u64::from(host.ports_max))
}

fn clients(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let figures = facts.engine.figures();
    out.gauge("m1_clients", "Client domains.", figures.clients)?;
    out.gauge("m1_devices", "Devices that are served.", figures.rings)?;
    // One family after the other: all samples of a family stand together.
    type Figure = fn(&mm_engine::ClientFigures) -> u64;
    let families: [(&str, &str, Kind, Figure); 11] = [
        (
            "m1_client_mapped_bytes",
            "R: pages of M1 that the client maps, counted in M1's grant entries.",
            Kind::Gauge,
            |client| u64::from(client.mapped) * PAGE,
        ),
        ("m1_client_written_bytes", "W: private memory, client-reported.", Kind::Gauge, |client| {
            client.report.written * PAGE
        }),
        ("m1_client_kernel_bytes", "KAS: kernel memory, client-reported.", Kind::Gauge, |client| {
            client.report.kernel * PAGE
        }),
        ("m1_client_references", "References that the client holds.", Kind::Gauge, |client| {
            u64::from(client.references)
        }),
        (
            "m1_client_stale_pinned",
            "Pages that it should have let go and still maps.",
            Kind::Gauge,
            |client| u64::from(client.stale_pinned),
        ),
        ("m1_client_served_total", "Faults served through the event channel.", Kind::Counter, |client| {
            client.served
        }),
        ("m1_client_copies_total", "Pages copied to the client.", Kind::Counter, |client| client.copies),
        (
            "m1_client_local_faults_total",
            "Faults that it served from references it held, client-reported.",
            Kind::Counter,
            |client| client.report.local_faults,
        ),
        ("m1_client_cow_breaks_total", "Copy-on-write breaks, client-reported.", Kind::Counter, |client| {
            client.report.cow_breaks
        }),
        (
            "m1_client_reserve_bytes",
            "Memory that the client keeps for bad times, client-reported.",
            Kind::Gauge,
            |client| client.report.reserve.saturating_mul(PAGE),
        ),
        (
            "m1_client_populate_failed_total",
            "Pages that Xen did not give the client, client-reported.",
            Kind::Counter,
            |client| client.report.populate_failed,
        ),
    ];
    for (name, help, kind, figure) in families {
        let mut family = out.family(name, help, kind)?;
        for (id, client) in facts.engine.clients() {
            family.sample(&[("domid", &facts.domain(id).0)], figure(&client))?;
        }
    }
    Ok(())
}

fn volumes(facts: &Facts<'_>, out: &mut Exposition<'_>) -> fmt::Result {
    let mut family =
        out.family("m1_volume_bytes", "Size of each volume; 0 where it cannot be served.", Kind::Gauge)?;
    // A volume of several disks is one: its newest version.
    for (index, volume) in facts.volumes.iter().enumerate() {
        let name = &volume.name;
        let first = facts.volumes.iter().position(|other| other.name == *name) == Some(index);
        if first {
            let current = volumes::current(facts.volumes, name).and_then(|index| facts.volumes.get(index));
            let labels: [(&str, &dyn fmt::Display); 2] = [("volume", name), ("group", &volume.group)];
            family.sample(&labels, current.map_or(0, |version| version.pages * PAGE))?;
        }
    }
    let mut family = out.family(
        "m1_volume_version_clients",
        "Devices that have a version of a volume, of those that are there.",
        Kind::Gauge,
    )?;
    for (index, volume) in facts.volumes.iter().enumerate().filter(|(_, volume)| volume.id.is_some()) {
        let labels: [(&str, &dyn fmt::Display); 3] =
            [("volume", &volume.name), ("version", &volume.version), ("device", &volume.device)];
        family.sample(&labels, facts.clients_of(index))?;
    }
    Ok(())
}
