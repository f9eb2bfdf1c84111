//! An M1 on a booted machine, and domains that use it.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use m1_tests::m1::{client, m1};
//! let dom0 = m1_tests::Dom0::builder().image(&m1_tests::image::build("mm-kernel")?).disk_read_only("base.img").boot()?;
//! let m1 = dom0.start_m1("m1", [10, 0, 2, 50], m1(&["/dev/vda"], "volume=base:xvda"))?;
//! println!("{}", m1.metrics()?.get("m1_pages_sharing"));
//! dom0.create("alice", &client("mm-unikernel", m1.name(), "base", "hold=1").to_string())?;
//! # Ok(())
//! # }
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::dom0::Dom0;
use crate::grants::{Active, Grants};
use crate::guest::Guest;
use crate::http::{self, Response};
use crate::metrics::Metrics;
use crate::xl_config::XlConfig;

/// From `xl create` to the first answer; it takes two seconds on an emulated processor, and much longer on a busy host.
const BOOT: Duration = Duration::from_secs(90);

/// `xl-config/m1.cfg` with these disks, `xvda`, `xvdb` … in the order given (to be written if `rw:` stands before it), and these
/// options in `extra=`.
///
/// # Panics
/// If the tree has no such file.
#[must_use]
pub fn m1(disks: &[&str], options: &str) -> XlConfig {
    let disks = ('a'..='p')
        .zip(disks)
        .map(|(letter, target)| {
            (letter, target.strip_prefix("rw:").map_or(("r", *target), |target| ("rw", target)))
        })
        .map(|(letter, (access, target))| {
            format!("format=raw,vdev=xvd{letter},access={access},target={target}")
        });
    example("m1.cfg").with_list("disk", disks).with_text("extra", options)
}

/// `xl-config/client.cfg` for this image, with one volume of that M1 as `xvda`, and these options in `extra=`.
///
/// # Panics
/// If the tree has no such file.
#[must_use]
pub fn client(image: &str, backend: &str, volume: &str, options: &str) -> XlConfig {
    example("client.cfg")
        .with_text("kernel", format_args!("/srv/m1/{image}"))
        .with_list("disk", [disk("xvda", backend, volume)])
        .with_text("extra", options)
}

/// An entry of a client's `disk=`: a volume of that M1.
#[must_use]
pub fn disk(vdev: &str, backend: &str, volume: &str) -> String {
    format!("format=raw,vdev={vdev},access=r,backend={backend},target={volume}")
}

fn example(name: &str) -> XlConfig {
    XlConfig::of(name).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A running M1. It is not destroyed when dropped.
pub struct M1<'a> {
    dom0: &'a Dom0,
    guest: Guest<'a>,
    name: String,
    port: u16,
}

impl Dom0 {
    /// Creates an M1 with a fixed address (`ip=` is added to its options), which the machine was told to
    /// [`forward`](crate::Builder::forward), and waits until it says that it has the address and what became of each
    /// volume.
    pub fn start_m1(&self, name: &str, address: [u8; 4], config: XlConfig) -> Result<M1<'_>> {
        let [a, b, c, d] = address;
        let options = config.get("extra").unwrap_or("\"\"").trim_matches('"').to_owned();
        let config = config.with_text("extra", format_args!("{options} ip={a}.{b}.{c}.{d}/24,gw=10.0.2.2"));
        self.start_m1_as(name, address, config)
    }

    /// The same with the options as they are; `address` is where the M1 will be found.
    pub fn start_m1_as(&self, name: &str, address: [u8; 4], config: XlConfig) -> Result<M1<'_>> {
        let port = self
            .forwarded(address, 80)
            .with_context(|| format!("no port of the host leads to {address:?}"))?;
        let guest = self.create(name, &config.to_string())?;
        let m1 = M1 { dom0: self, guest, name: name.to_owned(), port };
        m1.guest.wait_log("network: address", BOOT)?;
        let deadline = Instant::now() + BOOT;
        // No volume waits for its disk any more.
        while m1.status()?["volumes"]
            .as_array()
            .context("no volumes")?
            .iter()
            .any(|volume| volume["state"] == "waiting for its disk")
        {
            ensure!(Instant::now() < deadline, "{name} waits for its disks:\n{}", m1.guest.log()?);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(m1)
    }
}

impl M1<'_> {
    /// The domain's name: what clients write behind `backend=`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The domain's number.
    pub fn domid(&self) -> u16 {
        self.guest.domid()
    }

    /// The domain.
    pub fn guest(&self) -> &Guest<'_> {
        &self.guest
    }

    /// The host's port that leads to it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its console.
    pub fn log(&self) -> Result<String> {
        self.guest.log()
    }

    /// GET.
    pub fn get(&self, path: &str) -> Result<Response> {
        http::get(self.port, path)
    }

    /// `/metrics`.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.page("/metrics")?)
    }

    /// `/status.json`.
    pub fn status(&self) -> Result<Value> {
        let text = self.page("/status.json")?;
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }

    fn page(&self, path: &str) -> Result<String> {
        let response = self.get(path)?;
        ensure!(response.status == 200, "{} answers {path} with {}", self.name, response.head);
        Ok(response.body)
    }

    /// Asks for `/metrics` until they are as `wanted` says; the error has the last ones that `show` names.
    pub fn wait_metrics(
        &self,
        limit: Duration,
        show: &[&str],
        wanted: impl Fn(&Metrics) -> bool,
    ) -> Result<Metrics> {
        let deadline = Instant::now() + limit;
        loop {
            let metrics = self.metrics()?;
            if wanted(&metrics) {
                return Ok(metrics);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} does not come to that within {} s:\n{}",
                    self.name,
                    limit.as_secs(),
                    Metrics::default().differences(&metrics, show)
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Pages of volumes that a client maps as Xen counts them: all that it maps of this M1 but ring and info pages.
    pub fn pages_mapped(&self, grants: &Grants, client: u16) -> Result<Vec<Active>> {
        let own = self.own_references(client)?;
        let pages = grants.mapped(self.domid(), client).filter(|entry| !own.contains(&entry.reference));
        Ok(pages.copied().collect())
    }

    /// References of the ring and info pages of a client's devices.
    fn own_references(&self, client: u16) -> Result<Vec<u32>> {
        let below = format!("/local/domain/{}/backend/vbd/{client}", self.domid());
        let script = format!(
            "for d in $(xenstore-list {below}); do xenstore-read {below}/$d/map-ring-ref {below}/$d/info-ref; done"
        );
        let text = self.dom0.sh(&script)?;
        text.lines()
            .map(|line| line.trim().parse().with_context(|| format!("no reference: {text}")))
            .collect()
    }

    /// Destroys it.
    pub fn destroy(self) -> Result<()> {
        self.guest.destroy()
    }
}
