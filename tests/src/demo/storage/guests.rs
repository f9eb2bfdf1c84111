//! Stock guests, each with an overlay of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::GuestReport;
use crate::m1::M1;
use crate::metrics::Metrics;
use crate::xl_config::XlConfig;
use crate::{Dom0, Guest};

/// A guest's boot and work, on an emulated processor that others use too.
pub(super) const LIMIT: Duration = Duration::from_secs(240);

/// A guest that was started.
pub(super) struct Booted<'a> {
    guest: Guest<'a>,
    name: String,
    started: Instant,
}

/// Starts a guest whose root is the base with an overlay of the guest's name over it.
pub(super) fn boot<'a>(dom0: &'a Dom0, m1: &M1<'_>, name: &str) -> Result<Booted<'a>> {
    let config = XlConfig::of("linux-pv.cfg")?
        .with("memory", 160)
        .with_list(
            "disk",
            [format!("format=raw,vdev=xvda,access=rw,backend={},target=debian+{name}", m1.name())],
        )
        .saying(&format!("quiet job=diary guest={name}"))
        // Looks at the clock are Xen's work otherwise, where the machine is emulated.
        .with_text("tsc_mode", "native")
        .with_text("on_reboot", "destroy");
    let domain = format!("{name}-{}", m1.name());
    let guest = dom0.create(&domain, &config.to_string())?;
    Ok(Booted { guest, name: name.to_owned(), started: Instant::now() })
}

impl Booted<'_> {
    /// Waits until it says this at the beginning of a line, and gives the word behind.
    pub(super) fn wait(&self, word: &str, m1: &M1<'_>) -> Result<String> {
        let log = self.guest.wait_log(word, LIMIT);
        let log = log.with_context(|| m1.log().unwrap_or_default())?;
        Ok(said(&log, word).unwrap_or_default())
    }

    /// What it has asked M1 for so far.
    pub(super) fn report(&self, metrics: &Metrics) -> Result<GuestReport> {
        let log = self.guest.log()?;
        let domid = self.guest.domid().to_string();
        let mut report = GuestReport { name: self.name.clone(), ..GuestReport::default() };
        report.system = line(&log, "init: ").unwrap_or_default();
        let of = |direction: &str| -> u64 {
            let samples = metrics.samples("m1_client_block_bytes_total").filter(|sample| {
                sample.labels.get("domid") == Some(&domid)
                    && sample.labels.get("direction").is_some_and(|found| found == direction)
            });
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes")]
            let bytes = samples.map(|sample| sample.value).sum::<f64>() as u64;
            bytes
        };
        (report.read, report.written) = (of("read"), of("write"));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes")]
        let overlay = metrics.with("m1_overlay_bytes", &[("overlay", &self.name)]).unwrap_or_default() as u64;
        report.overlay = overlay;
        Ok(report)
    }

    /// Waits for its end, and tells what it found.
    pub(super) fn finish(self, report: &mut GuestReport, m1: &M1<'_>) -> Result<()> {
        let ended = self.guest.wait_end(LIMIT);
        let log = self.guest.log()?;
        ended.with_context(|| format!("{log}\n{}", m1.log().unwrap_or_default()))?;
        report.found = said(&log, "job: found ").unwrap_or_default();
        report.noted = said(&log, "job: noted ").unwrap_or_default();
        report.names = said(&log, "job: names ").unwrap_or_default();
        report.clean = log.contains("init: e2fsck ended with 0");
        report.seconds = self.started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Ends it as a cut of power does.
    pub(super) fn destroy(self) -> Result<()> {
        self.guest.destroy()
    }
}

/// The rest of the first line that begins so.
fn line(log: &str, word: &str) -> Option<String> {
    log.lines().find_map(|line| line.strip_prefix(word)).map(|rest| rest.trim().to_owned())
}

/// The first word of it.
fn said(log: &str, word: &str) -> Option<String> {
    line(log, word)?.split_whitespace().next().map(str::to_owned)
}
