//! The stages, in their order.

use std::fs;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use super::report::{Check, Report, Saving};
use super::runs::{self, Run};
use super::workload::Workload;
use crate::dom0::Dom0;
use crate::image::Image;
use crate::mm_guest::Fault;
use crate::stage::Stages;
use crate::unikernel;

/// Number of stages, those before [`run`] included.
pub const STAGES: u64 = 8;

/// Runs the demonstration on a booted machine. The last M1 and its clients go on running.
///
/// # Errors
/// Where something that has to be there for the rest does not come; what merely is not as it should be is a check.
pub fn run(
    dom0: &Dom0,
    workload: &Workload,
    images: &[Image],
    stages: &Stages,
    started: Instant,
) -> Result<Report> {
    let image = workload.volume.image.clone();
    let expected = thread::spawn(move || fs::read(image).map(|bytes| unikernel::digest([&bytes[..]])));
    let mut run = Run { dom0, workload, checks: Vec::new() };

    stages.next("share=copy: each client gets copies, which is what it costs without M1");
    let copies = runs::copies(&mut run)?;
    stages.next("window=1: every first touch of a page is a message to M1");
    let window_one = runs::window_one(&mut run)?;
    stages.next("share=map: the clients share pages that M1 lends");
    let shared = runs::shared(&mut run, &copies)?;
    stages.next("what M1 lends now, against the image");
    let seen = runs::digest(&mut run, &shared)?;

    let expected = expected.join().ok().context("the image's digest")??;
    run.check(
        "written pages are as before in M1",
        seen == expected,
        format!("digest of all {} pages {seen:016x}, on the host {expected:016x}", run.volume_pages()),
    );
    let saving = Saving { clients: run.clients(), copy: copies.taken, map: shared.taken };
    let net = saving.net_bytes();
    run.check(
        "the saving is real",
        net > 0,
        format!("{} KiB, M1 and Xen's grant memory charged", net / 1024),
    );
    Ok(Report {
        seed: workload.seed,
        packages: workload.packages.clone(),
        volume_bytes: workload.volume.summary.bytes,
        images: images.iter().map(|image| (image.name.clone(), image.bytes)).collect(),
        xen: shared.xen,
        m1_memory_mib: shared.memory,
        m1_memory_bytes: shared.states,
        grant_entries: shared.grant_entries,
        fault: shared.clients.iter().flat_map(|client| &client.ran).rev().find_map(|ran| whole(&ran.faults)),
        clients: shared.clients,
        saving,
        net_saving_bytes: net,
        break_even_clients: saving.break_even(),
        window_one,
        digests: (format!("{seen:016x}"), format!("{expected:016x}")),
        checks: run.checks,
        seconds: started.elapsed().as_secs_f64(),
        url: format!("http://127.0.0.1:{}", dom0.http_port()),
    })
}

/// The last fault whose times are all there.
fn whole(faults: &[Fault]) -> Option<Fault> {
    faults.iter().copied().rev().find(|fault| fault.ring > 0 && fault.m1_replied >= fault.m1_received)
}

impl Run<'_> {
    pub(super) fn clients(&self) -> u32 {
        u32::try_from(self.workload.clients.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn volume_pages(&self) -> u64 {
        self.workload.volume.summary.bytes / 4096
    }

    pub(super) fn check(&mut self, what: &str, good: bool, detail: impl Into<String>) {
        self.checks.push(Check { what: what.to_owned(), good, detail: detail.into() });
    }
}
