//! The runs that are compared: each has an M1 of its own on the same machine, and clients that run the same programs.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::clients::{self, Ran, Running};
use super::report::{Breakdown, Check, ClientReport, WindowOne};
use super::workload::Workload;
use crate::dom0::Dom0;
use crate::m1::{self, M1};
use crate::metrics::Metrics;
use crate::{stage, unikernel};

/// Where the M1 that is looked at from outside is.
const ADDRESS: [u8; 4] = [10, 0, 2, 50];
/// Where the ones before it are.
pub(super) const OTHER_ADDRESS: [u8; 4] = [10, 0, 2, 100];
/// `memory=` of M1s whose memory is not charged, in MiB.
const AMPLE: u32 = 96;
/// Pages that the unikernel touches one by one, and how far they are from each other.
const TOLD: (u64, u64) = (200, 17);
/// How long memory may take to come to rest, and domains to be gone.
const REST: Duration = Duration::from_secs(60);
/// How long a unikernel may take for the whole volume.
const DIGEST: Duration = Duration::from_secs(180);
/// A client's `memory=` in MiB, a ceiling.
const CEILING: u32 = 64;
/// Of a program that nobody has tried yet.
const CEILING_OTHER: u32 = 128;
/// Bytes of a page.
const PAGE: u64 = 4096;
/// References that a domain has at Xen's default of 64 frames.
const DEFAULT_GRANT_ENTRIES: f64 = 64.0 * 512.0;

/// The demonstration while it runs.
pub(super) struct Run<'a> {
    pub(super) dom0: &'a Dom0,
    pub(super) workload: &'a Workload,
    pub(super) checks: Vec<Check>,
}

/// The run with copies.
pub(super) struct Copies {
    pub(super) taken: Breakdown,
    /// Pages of each client's domain.
    domains: Vec<u64>,
    /// Bytes of the volume that M1 had read, and of its metadata: what an M1 for these clients needs.
    needed: u64,
}

/// The run with sharing.
pub(super) struct Shared<'a> {
    m1: M1<'a>,
    pub(super) memory: u32,
    pub(super) states: BTreeMap<String, u64>,
    pub(super) grant_entries: (u64, u64),
    pub(super) xen: String,
    pub(super) taken: Breakdown,
    pub(super) clients: Vec<ClientReport>,
}

/// Every client has its own copy of what it touches.
pub(super) fn copies(run: &mut Run<'_>) -> Result<Copies> {
    let before = run.dom0.settled_xen_memory(REST)?;
    let m1 = run.start_m1("m1-copies", OTHER_ADDRESS, AMPLE, "share=copy")?;
    let up = run.dom0.settled_xen_memory(REST)?;
    let clients = run.programs("m1-copies", "copies", run.last(), true)?;
    let after = run.dom0.settled_xen_memory(REST)?;
    let metrics = m1.metrics()?;
    run.check_outputs(
        "outputs with copies are Linux's",
        &clients.iter().map(|(_, ran)| ran).collect::<Vec<_>>(),
    );
    let mapped = metrics.sum("m1_client_mapped_bytes");
    run.check("with copies nothing is shared", mapped == 0.0, format!("{mapped} bytes of M1 are mapped"));
    let of = |state| metrics.with("m1_memory_bytes", &[("state", state)]).unwrap_or(0.0);
    let domains =
        clients.iter().map(|(client, _)| after.domains.get(client.guest.name()).copied().unwrap_or(0));
    let result = Copies {
        taken: Breakdown { m1: up.taken_since(&before), clients: after.taken_since(&up) },
        domains: domains.collect(),
        needed: whole(of("clean") + of("metadata")),
    };
    run.end(clients, m1)?;
    Ok(result)
}

/// Every first touch of a page is a message to M1, and M1 counts as many as there are pages.
pub(super) fn window_one(run: &mut Run<'_>) -> Result<WindowOne> {
    let m1 = run.start_m1("m1-window1", OTHER_ADDRESS, AMPLE, "window=1")?;
    let options = format!("pages={} stride={} hold=1", TOLD.0, TOLD.1);
    let config = m1::client("mm-unikernel", m1.name(), "base", &options);
    let one_by_one = run.dom0.create("one-by-one", &config.to_string())?;
    let clients = run.programs(m1.name(), "single", 0, true)?;
    let rounds = unikernel::wait_rounds(&one_by_one, 1, DIGEST)?;
    let metrics = m1.metrics()?;
    let all: Vec<&Ran> = clients.iter().map(|(_, ran)| ran).collect();
    run.check_outputs("outputs with window=1 are Linux's", &all);

    let domid = one_by_one.domid().to_string();
    let of_one = |name| metrics.with(name, &[("domid", &domid)]).map_or(0, whole);
    let result = WindowOne {
        served: whole(metrics.get("m1_faults_served_total")),
        references: whole(metrics.sum("m1_client_references")),
        asked: all.iter().map(|ran| ran.figures.asked).sum::<u64>()
            + rounds.iter().map(|round| round.asked).sum::<u64>(),
        told: TOLD.0,
        told_served: of_one("m1_client_served_total"),
    };
    let WindowOne { served, references, asked, told, told_served } = result;
    let returned = metrics.get("m1_releases_total") + metrics.get("m1_revocations_total");
    run.check(
        "window=1: as many faults served as distinct pages touched",
        served > 0 && served == references && served == asked && told_served == told && returned == 0.0,
        format!("{served} served, {references} pages, {asked} asked; one client told to touch {told}: {told_served}"),
    );
    one_by_one.destroy()?;
    run.end(clients, m1)?;
    Ok(result)
}

/// The clients share M1's pages.
pub(super) fn shared<'a>(run: &mut Run<'a>, copies: &Copies) -> Result<Shared<'a>> {
    // What the programs touched, with what M1 reads ahead of them, and a little to spare.
    let memory = u32::try_from(copies.needed.div_ceil(1 << 20) + 2)?;
    let before = run.dom0.settled_xen_memory(REST)?;
    let m1 = run.start_m1("m1", ADDRESS, memory, "share=map")?;
    let up = run.dom0.settled_xen_memory(REST)?;
    let mut earlier = Vec::new();
    for place in 0..run.last() {
        for (client, ran) in run.programs("m1", "client", place, false)? {
            client.guest.wait_end(REST)?;
            earlier.push(ran);
        }
    }
    let last = run.programs("m1", "client", run.last(), true)?;
    let after = run.dom0.settled_xen_memory(REST)?;
    let grants = run.dom0.grants()?;
    let metrics = m1.metrics()?;

    let mut clients = Vec::new();
    for (index, (client, ran)) in last.into_iter().enumerate() {
        let number = u32::try_from(index + 1)?;
        let domid = client.guest.domid();
        let of_client = |ran: &Ran| ran.client == number;
        let figures = ran.figures;
        clients.push(ClientReport {
            number,
            domid,
            r_own: figures.mapped,
            r_m1: bytes_of(&metrics, "m1_client_mapped_bytes", domid) / PAGE,
            r_xen: m1.pages_mapped(&grants, domid)?.len() as u64,
            written: figures.written,
            kernel: figures.kernel,
            xen: after.domains.get(client.guest.name()).copied().unwrap_or(0),
            xen_copy: copies.domains.get(index).copied().unwrap_or(0),
            ran: earlier.iter().filter(|ran| of_client(ran)).cloned().chain([ran]).collect(),
        });
    }
    let ran: Vec<&Ran> = clients.iter().flat_map(|client| &client.ran).collect();
    run.check_outputs("outputs are Linux's, each client's own changes included", &ran);
    let equal = clients.iter().all(|client| client.r_own == client.r_m1 && client.r_own == client.r_xen);
    let counts: Vec<String> =
        clients.iter().map(|client| format!("{} {} {}", client.r_own, client.r_m1, client.r_xen)).collect();
    let shares = clients.iter().all(|client| client.r_own > 0);
    run.check("R is the same for client, M1 and Xen", equal && shares, counts.join(", "));
    let wrote = clients.iter().all(|client| client.ran.iter().any(|ran| ran.figures.cow > 0));
    let breaks: Vec<String> = ran.iter().map(|ran| format!("{} {}", ran.domain, ran.figures.cow)).collect();
    run.check(
        "every client wrote to pages that it shared",
        wrote,
        format!("copy-on-write: {}", breaks.join(", ")),
    );
    let limit = metrics.get("m1_grant_entries_limit");
    let bugs = metrics.get("m1_engine_bugs")
        + metrics.get("m1_devices_closed_total")
        + metrics.get("m1_protocol_faults_total");
    run.check("nobody broke a rule", bugs == 0.0, format!("{bugs} mistakes or closed devices"));
    let used = metrics.sum("m1_grant_entries")
        - metrics.with("m1_grant_entries", &[("state", "free")]).unwrap_or(0.0);
    run.check(
        "at Xen's default limits",
        limit == DEFAULT_GRANT_ENTRIES,
        format!("{used} references of {limit} in use"),
    );
    let states = metrics.samples("m1_memory_bytes");
    Ok(Shared {
        memory,
        states: states.map(|sample| (sample.labels["state"].clone(), whole(sample.value))).collect(),
        grant_entries: (whole(used), whole(limit)),
        xen: metrics.samples("m1_build_info").next().map_or(String::new(), |info| info.labels["xen"].clone()),
        taken: Breakdown { m1: up.taken_since(&before), clients: after.taken_since(&up) },
        clients,
        m1,
    })
}

fn bytes_of(metrics: &Metrics, name: &str, domid: u16) -> u64 {
    whole(metrics.with(name, &[("domid", &domid.to_string())]).unwrap_or(0.0))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "metrics are numbers of things, or of their bytes"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

/// The digest of all pages of the volume as M1 lends them now to one more client, which keeps few of them mapped: M1 has room
/// for the others' only.
pub(super) fn digest(run: &mut Run<'_>, shared: &Shared<'_>) -> Result<u64> {
    let config = m1::client("mm-unikernel", shared.m1.name(), "base", "mapped=64");
    let reader = run.dom0.create("reader", &config.to_string())?;
    let rounds = unikernel::wait_rounds(&reader, 1, DIGEST)?;
    reader.wait_end(REST)?;
    ensure!(rounds[0].pages == run.volume_pages(), "the reader read {} pages only", rounds[0].pages);
    let metrics = shared.m1.metrics()?;
    let same = shared
        .clients
        .iter()
        .all(|client| bytes_of(&metrics, "m1_client_mapped_bytes", client.domid) == client.r_m1 * PAGE);
    run.check("clients keep what they share while others read", same, "R as before");
    Ok(rounds[0].digest)
}

impl<'a> Run<'a> {
    /// The place of the programs whose memory is looked at.
    fn last(&self) -> usize {
        self.workload.clients.first().map_or(0, |programs| programs.len().saturating_sub(1))
    }

    /// An M1 with the volume `base`; memory in MiB.
    fn start_m1(&self, name: &str, address: [u8; 4], memory: u32, options: &str) -> Result<M1<'a>> {
        let options = format!("volume=base:xvda clients={} {options}", (self.clients() + 2).max(16));
        let config = m1::m1(&["/dev/vda"], &options).with("memory", memory);
        let m1 = self.dom0.start_m1(name, address, config)?;
        let status = m1.status()?;
        ensure!(status["ready"] == true, "{name} is not ready: {status}\n{}", m1.log()?);
        stage::say(format!("{name} serves the volume with {memory} MiB"));
        Ok(m1)
    }

    /// Runs every client's program of this place in its list to its end. With `hold` the domains stay, with all their memory.
    fn programs(&self, m1: &str, tag: &str, place: usize, hold: bool) -> Result<Vec<(Running<'a>, Ran)>> {
        let ceiling = if self.last() > 0 { CEILING } else { CEILING_OTHER };
        let mut running = Vec::new();
        for (number, programs) in (1..).zip(&self.workload.clients) {
            let Some(program) = programs.get(place) else { continue };
            let name =
                if hold { format!("{tag}{number}") } else { format!("{tag}{number}-{}", program.name) };
            let options = if hold { "hold=1" } else { "" };
            running.push(clients::start(self.dom0, m1, &name, number, program, options, ceiling)?);
        }
        let program = self.workload.clients.first().and_then(|programs| programs.get(place));
        let name = program.map_or("nothing", |program| &program.name);
        stage::say(format!("{} clients run {name}", running.len()));
        for client in &running {
            client.wait_waiting(self.dom0)?;
        }
        // Now each has changed its pages, and none has looked at them again.
        for client in &running {
            client.go_on(self.dom0)?;
        }
        running
            .into_iter()
            .map(|client| Ok((client.finish(self.dom0)?, client)).map(|(ran, client)| (client, ran)))
            .collect()
    }

    fn check_outputs(&mut self, what: &str, ran: &[&Ran]) {
        let wrong: Vec<String> = ran
            .iter()
            .filter_map(|ran| Some(format!("{} ({}): {}", ran.domain, ran.program, ran.wrong.as_ref()?)))
            .collect();
        let detail = if wrong.is_empty() { format!("{} programs", ran.len()) } else { wrong.join("; ") };
        self.check(what, wrong.is_empty(), detail);
    }

    /// Destroys clients and their M1, and waits until Xen has forgotten them.
    fn end(&self, clients: Vec<(Running<'a>, Ran)>, m1: M1<'a>) -> Result<()> {
        for (client, _) in clients {
            client.guest.destroy()?;
        }
        m1.destroy()
    }
}
