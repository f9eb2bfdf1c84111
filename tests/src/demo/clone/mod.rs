//! The story of clones: a program that has warmed up is frozen while it goes on, and many go on from that instant, each answers a
//! request as the first one would, and shares with all others what it has not written.
//!
//! `cargo demo --story clone` shows it, through `m1ctl` as an operator would.

mod report;
mod screen;
pub(crate) mod server;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub use report::{CloneReport, CloneRow};

use self::server::Server;
use super::Check;
use crate::dom0::Dom0;
use crate::image::Image;
use crate::m1::{M1, m1};
use crate::mm_guest;
use crate::stage::Stages;
use crate::volume::{Built, Volume};

/// Number of stages, those before [`CloneStory::run`] included.
pub const STAGES: u64 = 10;
/// Clones at most: the machine has memory for so many.
pub const CLONES_MAX: u32 = 32;

const ADDRESS: [u8; 4] = [10, 0, 2, 50];
/// How long memory may take to come to rest.
const REST: Duration = Duration::from_secs(60);
/// One command of the tool.
const TOOL: Duration = Duration::from_secs(240);
const PROGRAM: &str = "/srv/server.py";
/// A client's `memory=` in MiB, a ceiling.
const CEILING: u32 = 64;
const PAGE: i64 = 4096;

/// What the machine boots with.
pub struct CloneStory {
    volume: Built,
    clones: u32,
}

impl CloneStory {
    /// Makes the volume: Debian's Python and the program.
    ///
    /// # Errors
    /// Where a package cannot be had.
    pub fn prepare(clones: u32) -> Result<Self> {
        let packages = Volume::new().packages(["python3-minimal", "libpython3-stdlib"]);
        let volume = packages.content(PROGRAM, include_str!("server.py")).build()?;
        Ok(Self { volume, clones })
    }

    /// Boots the machine.
    ///
    /// # Errors
    /// Where it does not boot; with the logs.
    pub fn boot(&self, images: &[Image]) -> Result<Dom0> {
        let mut builder = Dom0::builder()
            .disk_read_only(&self.volume.image)
            .memory(1792 + 32 * self.clones)
            .xen_arguments(crate::grants::CONRING)
            .forward(ADDRESS, 80)
            .m1ctl()?;
        for image in images {
            builder = builder.image(image);
        }
        builder.boot()
    }

    /// Tells the story on the machine. M1 and the clones of the last generation go on running.
    ///
    /// # Errors
    /// Where something that has to be there for the rest does not come; what merely is not as it should be is a check.
    pub fn run(&self, dom0: &Dom0, stages: &Stages, started: Instant) -> Result<CloneReport> {
        let mut checks = Checks(Vec::new());
        stages.next("M1 starts");
        let config = m1(&["/dev/vda"], "volume=base:xvda").with("memory", 96);
        let m1 = dom0.start_m1("m1", ADDRESS, config)?;

        stages.next("a Python program starts cold, imports, builds its data, and answers");
        let empty = dom0.settled_xen_memory(REST)?;
        let cold_from = Instant::now();
        let config = mm_guest::client("m1", "base", "", "/usr/bin/python3", &["-B", PROGRAM])?;
        let source = Server::new(dom0, dom0.create("warm", &config.with("memory", CEILING).to_string())?);
        source.wait("warm ")?;
        let cold_answer = source.ask("first")?;
        let cold_seconds = cold_from.elapsed().as_secs_f64();
        let warm = dom0.settled_xen_memory(REST)?;
        let cold_bytes = warm.taken_since(&empty) * PAGE;

        stages.next("it is frozen while it goes on running");
        let frozen = json(dom0, "freeze warm morning")?;
        let after_freeze = dom0.settled_xen_memory(REST)?;
        let unaware = source.ask("second")?;
        checks.add(
            "it goes on unaware",
            unaware.count == cold_answer.count + 1 && unaware.generation == cold_answer.generation,
            format!("request {} after request {}", unaware.count, cold_answer.count),
        );

        stages.next("clones of it are started, and each is asked what it was asked");
        let (mut rows, mut bytes) = (Vec::new(), Vec::new());
        let mut before = after_freeze.clone();
        let mut servers = Vec::new();
        for number in 1..=self.clones {
            let name = format!("clone{number}");
            let from = Instant::now();
            let made = json(dom0, &format!("clone morning --name {name}"))?;
            let server = Server::named(dom0, &name)?;
            let answer = server.ask("second")?;
            let seconds = from.elapsed().as_secs_f64();
            let now = dom0.settled_xen_memory(REST)?;
            bytes.push(now.taken_since(&before) * PAGE);
            before = now;
            rows.push(CloneRow::new(&name, &made, answer, seconds, *bytes.last().unwrap_or(&0)));
            servers.push(server);
        }
        let same =
            rows.iter().filter(|row| (&row.answer, row.count) == (&unaware.text, unaware.count)).count();
        checks.add(
            "each answers what the first one answers",
            same == rows.len(),
            format!("{same} of {}: {} …", rows.len(), &unaware.text[..16.min(unaware.text.len())]),
        );
        let mut generations: Vec<&str> = rows.iter().map(|row| row.generation.as_str()).collect();
        generations.push(&unaware.generation);
        let mut random: Vec<&str> = rows.iter().map(|row| row.random.as_str()).collect();
        random.push(&unaware.random);
        let distinct = |list: &mut Vec<&str>| {
            list.sort_unstable();
            list.dedup();
            list.len()
        };
        let (generations, random) = (distinct(&mut generations), distinct(&mut random));
        checks.add(
            "generation ids and entropy are each one's own",
            generations == rows.len() + 1 && random == rows.len() + 1,
            format!("{generations} ids, {random} random numbers of {}", rows.len() + 1),
        );

        stages.next("Xen, M1 and the clones count what they share");
        let shared = self.count(dom0, &m1, &servers, &mut checks)?;

        stages.next("a clone is frozen and cloned in its turn");
        let second = json(dom0, "freeze clone1 noon")?;
        let made = json(dom0, "clone noon --name clone-of-clone")?;
        let deep = Server::named(dom0, "clone-of-clone")?;
        let answer = deep.ask("third")?;
        let expected = servers[0].ask("third")?;
        checks.add(
            "a clone of a clone goes on where its parent was",
            (&answer.text, answer.count) == (&expected.text, expected.count),
            format!(
                "request {}; {} pages captured, {} kept",
                answer.count, second["captured_pages"], second["kept_pages"]
            ),
        );
        ensure!(made["clones"].as_array().is_some_and(|list| list.len() == 1), "{made}");

        stages.next("what running domains need stays, and what nobody needs goes");
        let refused = dom0.run_with("m1ctl rm morning", &[], TOOL)?;
        checks.add(
            "a snapshot that clones need is not removed",
            refused.code == 1,
            refused.stderr_text().trim().to_owned(),
        );
        self.give_back(dom0, &m1, source, servers, deep, &mut checks)?;
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        Ok(CloneReport {
            cold_seconds,
            cold_bytes,
            frozen_pages: number(&frozen["captured_pages"]),
            standstill_us: number(&frozen["standstill_ns"]) / 1000,
            freeze_bytes: after_freeze.taken_since(&warm) * PAGE,
            kept_pages: number(&second["kept_pages"]),
            captured_again: number(&second["captured_pages"]),
            clones: rows,
            shared_pages: shared,
            checks: checks.0,
            seconds: started.elapsed().as_secs_f64(),
            url: format!("http://127.0.0.1:{}", m1.port()),
        })
    }

    /// Pages that each clone maps, by M1 and by Xen.
    fn count(
        &self,
        dom0: &Dom0,
        m1: &M1<'_>,
        servers: &[Server<'_>],
        checks: &mut Checks,
    ) -> Result<Vec<u64>> {
        let grants = dom0.grants()?;
        let metrics = m1.metrics()?;
        let (mut by_xen, mut by_m1) = (Vec::new(), Vec::new());
        for server in servers {
            by_xen.push(m1.pages_mapped(&grants, server.domid())?.len() as u64);
            let bytes = metrics.with("m1_client_mapped_bytes", &[("domid", &server.domid().to_string())]);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of pages")]
            by_m1.push((bytes.unwrap_or(0.0) / 4096.0) as u64);
        }
        let list = |pages: &[u64]| pages.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
        checks.add(
            "M1 and Xen count the same shared pages",
            by_xen == by_m1 && by_xen.iter().all(|pages| *pages > 0),
            format!("{} by Xen, {} by M1", list(&by_xen), list(&by_m1)),
        );
        Ok(by_xen)
    }

    fn give_back(
        &self,
        dom0: &Dom0,
        m1: &M1<'_>,
        source: Server<'_>,
        servers: Vec<Server<'_>>,
        deep: Server<'_>,
        checks: &mut Checks,
    ) -> Result<()> {
        source.destroy()?;
        servers.into_iter().try_for_each(Server::destroy)?;
        // The clone of the clone still shares pages that were frozen first.
        let output = dom0.run_with("m1ctl rm morning", &[], TOOL)?;
        let answer = deep.ask("fourth")?;
        checks.add(
            "a snapshot goes when only another's clones share its pages, and they stay whole",
            output.code == 0 && answer.count > 1,
            format!("request {}", answer.count),
        );
        deep.destroy()?;
        let output = dom0.run_with("m1ctl rm noon", &[], TOOL)?;
        ensure!(output.code == 0, "m1ctl rm noon: {}", output.stderr_text());
        let frozen = |metrics: &crate::metrics::Metrics| {
            metrics.with("m1_memory_bytes", &[("state", "frozen")]) == Some(0.0)
                && metrics.get("m1_clients") == 0.0
        };
        let metrics = m1.wait_metrics(REST, &["m1_memory_bytes", "m1_clients"], frozen);
        let bugs = m1.metrics()?.get("m1_engine_bugs");
        checks.add(
            "with the last snapshot every frozen page is free",
            metrics.is_ok() && bugs == 0.0,
            format!("{bugs} mistakes"),
        );
        Ok(())
    }
}

/// What `m1ctl --json` says.
fn json(dom0: &Dom0, arguments: &str) -> Result<Value> {
    let output = dom0.run_with(&format!("m1ctl --json {arguments}"), &[], TOOL)?;
    let (out, err) = (output.stdout_text(), output.stderr_text());
    ensure!(output.code == 0, "m1ctl {arguments} ends with {}: {out}{err}", output.code);
    serde_json::from_str(&out).with_context(|| format!("m1ctl {arguments}: {out}"))
}

/// What has to hold.
struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, what: &str, good: bool, detail: impl Into<String>) {
        self.0.push(Check { what: what.to_owned(), good, detail: detail.into() });
    }
}
