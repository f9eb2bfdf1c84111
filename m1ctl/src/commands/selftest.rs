//! `m1ctl selftest`: an M1 and two clients on this host, with a disk of random bytes; do all read the same, and is it shared?

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::failure::{Failure, Result};
use crate::m1::{self, M1};
use crate::out::{self, mib, number};
use crate::xl;
use crate::xs::Store;
use crate::{cli, files};

/// Bytes of the disk.
const SIZE: usize = 4 << 20;
const LOOK: Duration = Duration::from_millis(100);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What is made goes again, however this ends.
struct Made {
    directory: PathBuf,
    domains: Vec<String>,
    device: Option<String>,
}

impl Drop for Made {
    fn drop(&mut self) {
        // Clients before their M1; one that is gone already is no trouble.
        for name in self.domains.iter().rev() {
            let _ = xl::run(&["destroy", name], xl::OTHERS);
        }
        if let Some(device) = &self.device {
            let _ = std::process::Command::new("losetup").args(["-d", device]).status();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What was found out.
struct Checks {
    json: bool,
    all: Vec<(String, bool)>,
}

impl Checks {
    fn check(&mut self, good: bool, what: String) {
        if !self.json {
            out::say(&format!("{:>6}  {what}\n", if good { "ok" } else { "FAIL" }));
        }
        self.all.push((what, good));
    }
}

pub(crate) fn run(arguments: &cli::SelfTest, limit: Duration, json: bool) -> Result<u8> {
    ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed))
        .map_err(|error| Failure::Host(format!("Ctrl-C: {error}")))?;
    let (kernel, client) = (arguments.images.join("mm-kernel"), arguments.images.join("mm-unikernel"));
    for image in [&kernel, &client] {
        if !image.is_file() {
            return Err(Failure::Host(format!("{}: not there; --images says where", image.display())));
        }
    }
    let mut checks = Checks { json, all: Vec::new() };
    let directory = files::run(&format!("selftest-{}", std::process::id()))?;
    let mut made = Made { directory, domains: Vec::new(), device: None };
    let outcome = work(arguments, &kernel, &client, Instant::now() + limit, &mut made, &mut checks);
    if !json {
        out::say("cleaning up\n");
    }
    drop(made);
    outcome?;
    let good = checks.all.iter().all(|(_, good)| *good);
    if json {
        let all: Vec<_> =
            checks.all.iter().map(|(what, good)| json!({ "what": what, "good": good })).collect();
        out::json(&json!({ "good": good, "checks": all }));
    } else {
        out::say(if good { "M1 works on this host\n" } else { "M1 does not work on this host\n" });
    }
    Ok(u8::from(!good))
}

fn work(
    arguments: &cli::SelfTest,
    kernel: &Path,
    client: &Path,
    until: Instant,
    made: &mut Made,
    checks: &mut Checks,
) -> Result<()> {
    let disk = match &arguments.disk {
        Some(disk) => disk.clone(),
        None => make_disk(made)?,
    };
    let (digest, bytes) = digest(Path::new(&disk))?;
    checks.check(true, format!("a disk of {} MiB: {disk}", mib(bytes)));
    let m1_name = format!("m1-selftest-{}", std::process::id());
    let body = format!(
        "kernel = \"{}\"\nmemory = 32\nmax_grant_version = 1\nextra = \"volume=base:xvda\"\n\
         disk = [\"format=raw,vdev=xvda,access=r,target={disk}\"]\n",
        kernel.display()
    );
    create(made, &m1_name, &body)?;
    let mut m1 = wait(until, "M1 does not serve its volume", || {
        let mut m1 = match M1::find(Store::open()?, &m1_name, Duration::from_secs(5)) {
            Ok(m1) => m1,
            Err(Failure::NotThere(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        match m1.json("status") {
            Ok(status) => Ok((status["volumes"][0]["state"] == "serving").then_some(m1)),
            // A slow host: it has its time.
            Err(Failure::NotThere(_)) => Ok(None),
            Err(error) => Err(error),
        }
    })?;
    checks.check(true, format!("M1 boots and serves it: domain {}", m1.domid));
    let mut domids = Vec::new();
    for (number, options) in ["hold=1", "hold=1 write=16"].into_iter().enumerate() {
        let name = format!("{m1_name}-{}", number + 1);
        let body = format!(
            "kernel = \"{}\"\nmemory = 16\nextra = \"{options}\"\n\
             disk = [\"format=raw,vdev=xvda,access=r,backend={m1_name},target=base\"]\n",
            client.display()
        );
        create(made, &name, &body)?;
        let (domid, _) =
            m1::domain(&mut m1.store, &name)?.ok_or_else(|| Failure::Host(format!("{name} is not there")))?;
        domids.push((name, domid, options));
    }
    let wanted = format!("{digest:016x}");
    for (name, domid, options) in &domids {
        let home = format!("/local/domain/{domid}/data");
        let result = wait(until, &format!("{name} does not come to an end"), || {
            m1.store.read(&format!("{home}/result"))
        })?;
        let found = m1.store.read(&format!("{home}/digest"))?.unwrap_or_default();
        let wrote = if options.contains("write") { " and wrote pages of its own" } else { "" };
        checks.check(
            result == "ok" && found == wanted,
            format!("{name} read the disk's bytes{wrote}: {result}, digest {found} of {wanted}"),
        );
    }
    let status = m1.json("status")?;
    let sharing = number(&status["sharing"]["pages_sharing"]);
    checks.check(sharing > 0, format!("they share pages: {sharing} mappings beyond the first of each"));
    let problems = status["problems"].as_array().map_or(0, Vec::len);
    checks.check(problems == 0, format!("M1 has {problems} problems"));
    let trace = m1.json(&format!("trace {}", domids[0].1))?;
    let answered = number(&trace["devices"][0]["answered"]);
    checks.check(answered > 0, format!("M1 answered {answered} requests of the first"));
    Ok(())
}

fn create(made: &mut Made, name: &str, body: &str) -> Result<()> {
    let path = made.directory.join(format!("{name}.cfg"));
    let text = format!("name = \"{name}\"\ntype = \"pv\"\nvcpus = 1\non_crash = \"destroy\"\n{body}");
    files::write(&path, text.as_bytes())?;
    // Before it is there: xl may fail and leave it half made.
    made.domains.push(name.to_owned());
    xl::run(&["create".as_ref(), "-e".as_ref(), "-q".as_ref(), path.as_os_str()], xl::CREATE).map(drop)
}

/// Looks until there is something, the time is over, or somebody pressed Ctrl-C.
fn wait<T>(until: Instant, late: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(Failure::TimedOut("interrupted".to_owned()));
        }
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= until {
            return Err(Failure::TimedOut(late.to_owned()));
        }
        std::thread::sleep(LOOK);
    }
}

/// A file of random bytes behind a loop device; xl takes plain files only with a device model that M1's hosts need not have.
fn make_disk(made: &mut Made) -> Result<String> {
    let path = made.directory.join("base.img");
    let mut bytes = vec![0; SIZE];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut file = fs::File::create(&path).map_err(|error| files::failed(&path, &error))?;
    file.write_all(&bytes)?;
    drop(file);
    // It may be there already, or built in.
    let _ = std::process::Command::new("modprobe").arg("loop").status();
    let losetup = |arguments: &[&str]| -> Result<String> {
        let output = std::process::Command::new("losetup").args(arguments).output();
        let output = output
            .map_err(|error| Failure::Host(format!("losetup: {error}; --disk names a block device")))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Failure::Host(format!("losetup: {why}; --disk names a block device")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // util-linux's and busybox's both know this form.
    let device = losetup(&["-f"])?;
    losetup(&["-r", &device, &path.to_string_lossy()])?;
    made.device = Some(device.clone());
    Ok(device)
}

/// FNV-1a of a disk's whole pages, as the client computes it (mm-unikernel), and how many bytes that are.
fn digest(path: &Path) -> Result<(u64, u64)> {
    let mut file = fs::File::open(path).map_err(|error| files::failed(path, &error))?;
    let (mut digest, mut bytes) = (0xcbf2_9ce4_8422_2325_u64, 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok((digest, bytes));
        }
        bytes += count as u64;
        for byte in &piece[..count] {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_digest_is_fnv_1a() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), b"foobar").expect("written");
        assert_eq!(super::digest(file.path()).expect("read"), (0x8594_4171_f739_67e8, 6));
    }
}
