//! What domains take on Xen: time until M1 serves, memory for each client, and M1's processor time when nobody asks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Row, Samples, faults};
use crate::m1::{M1, m1};
use crate::mm_guest::{self, End};
use crate::xl_config::XlConfig;
use crate::{Dom0, Guest, grants, image, linux_guest};

/// Boots of M1 that are timed; the stock domain takes long, and is booted once.
const BOOTS: u8 = 3;
/// The longest of anything here.
const LIMIT: Duration = Duration::from_secs(120);
/// Where the timed domains are, and the M1s that lend and copy.
const TIMED: u8 = 100;
const STOCK: u8 = 110;
const LENDING: u8 = 120;
const COPYING: u8 = 121;
/// Clients of each, and pages of the file that each reads.
const CLIENTS: u8 = 3;
const READ: usize = 1024;

/// Boots a machine, and measures; an idle M1 is watched for so many seconds.
pub fn domains(idle_seconds: u64) -> Result<Vec<Row>> {
    let stock = linux_guest(&format!(
        "ip link set lo up\nip addr add 10.0.2.{STOCK}/24 dev eth0\nip link set eth0 up\n\
         mkdir /www; echo yes >/www/ready; httpd -h /www\nsleep 1000\n"
    ))?;
    let mut builder = Dom0::builder()
        .image(&image::build("mm-kernel")?)
        .image(&image::build("mm-guest")?)
        .file(&stock.kernel, "/srv/vmlinuz")
        .content("/srv/initramfs", 0o644, stock.initramfs)
        .disk_read_only(faults::volume()?)
        .xen_arguments(grants::CONRING);
    for last in (TIMED..TIMED + BOOTS).chain([STOCK, LENDING, COPYING]) {
        builder = builder.forward([10, 0, 2, last], 80);
    }
    let dom0 = builder.boot()?;
    measure(&dom0, idle_seconds).inspect_err(|_| eprintln!("{}", dom0.diagnostics()))
}

fn measure(dom0: &Dom0, idle_seconds: u64) -> Result<Vec<Row>> {
    let mut rows = boots(dom0)?;
    let (mut lending, m1) = memory(dom0, LENDING, "map")?;
    rows.append(&mut lending);
    let idle = idle(dom0, &m1, idle_seconds);
    rows.push(idle.unwrap_or_else(|why| Row::not_measured("idle M1's processor time", "%", why)));
    m1.destroy()?;
    let (mut copying, m1) = memory(dom0, COPYING, "copy")?;
    rows.append(&mut copying);
    m1.destroy()?;
    Ok(rows)
}

/// `xl-config/m1.cfg` at this address, over the one disk.
fn m1_config(options: &str) -> XlConfig {
    m1(&["/dev/vda"], options).with("memory", 64)
}

/// From `xl create` to the first answer of `/ready`.
fn boots(dom0: &Dom0) -> Result<Vec<Row>> {
    let mut times = Vec::new();
    let mut creations = Vec::new();
    for last in TIMED..TIMED + BOOTS {
        let options = format!("volume=base:xvda ip=10.0.2.{last}/24,gw=10.0.2.2");
        let (created, ready) = time_boot(dom0, "timed", last, &m1_config(&options))?;
        creations.push(created);
        times.push(ready);
    }
    let config = XlConfig::parse(
        "type = \"pv\"\nkernel = \"/srv/vmlinuz\"\nramdisk = \"/srv/initramfs\"\nmemory = 160\n\
         extra = \"console=hvc0 quiet\"\n",
    )?;
    let (stock_created, stock) = time_boot(dom0, "stock", STOCK, &config)?;
    let samples = |times| Samples::of(times).context("no boot");
    let (times, creations) = (samples(times)?, samples(creations)?);
    Ok(vec![
        Row::samples("M1: xl create to /ready", times, "s")
            .note(format!("of which xl create {:.2} s", creations.median)),
        Row::value("stock Linux: xl create to the same page", stock, "s").note(format!(
            "{:.1} × M1's; Debian's kernel with busybox's httpd in its initramfs; xl create {stock_created:.2} s",
            stock / times.median
        )),
    ])
}

/// Seconds by dom0's clock until `xl create` is done, and until the page is there.
fn time_boot(dom0: &Dom0, name: &str, last: u8, config: &XlConfig) -> Result<(f64, f64)> {
    let path = format!("/run/{name}.cfg");
    let mac = format!("00:16:3e:00:00:{last:02x}");
    let config = config.clone().with_list("vif", [format!("mac={mac},bridge=xenbr0")]);
    dom0.put(&path, 0o644, format!("name = \"{name}\"\n{config}\n").as_bytes())?;
    // Each question is one of its own, and dom0 knows the address beforehand: a lost packet is sent again only after a
    // second. wget ends with an error for every status but 200.
    let script = format!(
        "now() {{ cut -d' ' -f1 /proc/uptime; }}; there=/run/{name}-{last}; \
         arp -i xenbr0 -s 10.0.2.{last} {mac} || exit 1; \
         now; xl create {path} >&2 || exit 1; now; \
         until [ -e $there ]; do \
         (timeout 2 wget -q -O /dev/null http://10.0.2.{last}/ready 2>/dev/null && touch $there) & usleep 100000; done; now; \
         wait; xl destroy {name}"
    );
    let output = dom0.run_with(&script, &[], LIMIT)?;
    ensure!(output.code == 0, "{name} does not boot: {}", output.stderr_text());
    let text = output.stdout_text();
    let times: Vec<f64> = text
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| format!("no times: {text}"))?;
    let [start, created, ready] = times[..] else { anyhow::bail!("no times: {text}") };
    Ok((created - start, ready - start))
}

/// Xen's memory that an M1 and its clients take, each of which has read the same file.
fn memory<'a>(dom0: &'a Dom0, last: u8, share: &str) -> Result<(Vec<Row>, M1<'a>)> {
    let before = dom0.settled_xen_memory(LIMIT)?;
    let options = format!("volume=base:xvda,share={share}");
    let m1 = dom0.start_m1(&format!("m1-{share}"), [10, 0, 2, last], m1_config(&options))?;
    let mut last = dom0.settled_xen_memory(LIMIT)?;
    let mut rows = vec![kib(format!("M1 with share={share}"), last.taken_since(&before))];
    let mut clients: Vec<Guest<'_>> = Vec::new();
    let mut taken = Vec::new();
    for number in 0..CLIENTS {
        let words = [faults::DATA.to_owned(), "walk".to_owned(), READ.to_string()];
        let config = mm_guest::client(m1.name(), "base", "hold=1", faults::PROGRAM, &words)?;
        let name = format!("{share}-{number}");
        let guest = dom0.create(&name, &config.with("memory", 32).to_string())?;
        let log = mm_guest::wait_end(dom0, &guest, LIMIT)?;
        ensure!(log.end == Some(End::Exited(0)), "{name} failed: {log:?}");
        let now = dom0.settled_xen_memory(LIMIT)?;
        taken.push(now.taken_since(&last));
        clients.push(guest);
        last = now;
    }
    for (number, pages) in taken.into_iter().enumerate() {
        let what = format!("client {} with share={share}", number + 1);
        rows.push(kib(what, pages).note(format!("has read {} KiB of one file", READ * 4)));
    }
    clients.into_iter().try_for_each(Guest::destroy)?;
    Ok((rows, m1))
}

fn kib(what: String, pages: i64) -> Row {
    #[expect(clippy::cast_precision_loss, reason = "a machine of some gigabytes")]
    Row::value(what, (pages * 4) as f64, "KiB of Xen's")
}

/// The share of a processor that M1 takes while nobody asks anything, as xentop counts it.
fn idle(dom0: &Dom0, m1: &M1<'_>, seconds: u64) -> Result<Row> {
    let limit = LIMIT + Duration::from_secs(seconds);
    let script = format!("TERM=dumb xentop -b -f -i 2 -d {seconds}");
    let output = dom0.run_with(&script, &[], limit)?;
    let text = output.stdout_text();
    let percent = second_percent(&text, m1.name())
        .with_context(|| format!("xentop says: {text} {}", output.stderr_text()))?;
    Ok(Row::value(format!("idle M1's processor time over {seconds} s"), percent, "%")
        .budget(0.1)
        .note("xentop shows one digit behind the point"))
}

/// The column `CPU(%)` of a domain in the second of xentop's tables; the first counts from the domain's start.
fn second_percent(text: &str, name: &str) -> Option<f64> {
    let mut lines =
        text.lines().map(str::split_ascii_whitespace).filter(|line| line.clone().next() == Some(name));
    lines.nth(1)?.nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_table_of_xentop_is_read() {
        let table = |percent: &str| {
            format!(
                "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)\n  Domain-0 -----r         31   40.2     524288   25.0\n    \
                 m1-map --b---          1    {percent}      65536    3.1\n"
            )
        };
        let text = table("9.0") + &table("0.1");
        assert_eq!(second_percent(&text, "m1-map"), Some(0.1));
        assert_eq!(second_percent(&text, "m1"), None);
        assert_eq!(second_percent(&table("9.0"), "m1-map"), None);
    }
}
