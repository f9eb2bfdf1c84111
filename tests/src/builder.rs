//! What to boot, and booting it.

use std::collections::VecDeque;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::channel::Session;
use crate::console::Console;
use crate::cpio::Archive;
use crate::dom0::Dom0;
use crate::image::Image;
use crate::qemu::{Accelerator, Disk, Forward, Machine};
use crate::{accelerator, host, initramfs, stage, tool};

/// Scripts that can run at the same time.
const SESSIONS: usize = 4;
/// The longest a boot may take, slow hosts included.
pub(crate) const BOOT: Duration = Duration::from_secs(120);
/// Where the first guest that asks DHCP is, and where the host's port leads.
const FIRST_GUEST: [u8; 4] = [10, 0, 2, 50];

/// Which of Xen's two xenstore daemons dom0 runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xenstored {
    /// The one in OCaml, Debian's default, with Debian's configuration.
    #[default]
    Oxenstored,
    /// The one in C.
    Xenstored,
}

/// What to boot. See [`Dom0::builder`].
#[derive(Clone)]
pub struct Builder {
    files: Vec<(PathBuf, String)>,
    images: Vec<Image>,
    contents: Vec<(String, u32, Vec<u8>)>,
    disks: Vec<Disk>,
    guests: Vec<([u8; 4], u16)>,
    memory_mib: u32,
    dom0_memory_mib: u32,
    cpus: u32,
    hvm: bool,
    counted: bool,
    xen_arguments: String,
    xenstored: Xenstored,
    terminal: bool,
    quiet: bool,
    show_log: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            files: Vec::new(),
            images: Vec::new(),
            contents: Vec::new(),
            disks: Vec::new(),
            guests: vec![(FIRST_GUEST, 80)],
            memory_mib: 2048,
            dom0_memory_mib: 512,
            cpus: 2,
            hvm: false,
            counted: false,
            xen_arguments: String::new(),
            xenstored: Xenstored::default(),
            terminal: false,
            quiet: false,
            show_log: false,
        }
    }
}

/// Xen saves and restores FPU registers at every switch. Left to its lazy way, registers of programs in dom0 were now and then
/// not theirs on QEMU 7.2's emulated processor (7 of 260,000 looks with one guest that uses SSE beside them, none with this),
/// and `xl` or `sed` died of it.
const EAGER_FPU: &str = "spec-ctrl=eager-fpu";

impl Builder {
    /// Puts a bootable image at `/srv/m1/NAME` in dom0, and names the functions of its backtraces when logs are shown.
    pub fn image(mut self, image: &Image) -> Self {
        self.files.push((image.path.clone(), format!("/srv/m1/{}", image.name)));
        self.images.push(image.clone());
        self
    }

    /// Puts `m1ctl` into dom0, where the shell finds it.
    pub fn m1ctl(self) -> Result<Self> {
        Ok(self.file(tool::m1ctl()?, "/usr/sbin/m1ctl"))
    }

    /// Puts a file of the host (or a directory with all below it) into dom0.
    pub fn file(mut self, host: impl Into<PathBuf>, guest: impl Into<String>) -> Self {
        self.files.push((host.into(), guest.into()));
        self
    }

    /// Puts a file with these permission bits and this content into dom0.
    pub fn content(mut self, guest: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.contents.push((guest.into(), mode, content.into()));
        self
    }

    /// Adds a raw disk image that may be written: `/dev/vda`, `/dev/vdb` … in the order given.
    pub fn disk(mut self, image: impl Into<PathBuf>) -> Self {
        self.disks.push(Disk { image: image.into(), read_only: false });
        self
    }

    /// Adds a raw disk image that cannot be written.
    pub fn disk_read_only(mut self, image: impl Into<PathBuf>) -> Self {
        self.disks.push(Disk { image: image.into(), read_only: true });
        self
    }

    /// Adds a free port of the host's loopback that leads to this address and TCP port on dom0's bridge. The first
    /// one, to 10.0.2.50:80, is always there. Slirp's DHCP hands out 10.0.2.50, .51 … in the order of asking.
    pub fn forward(mut self, address: [u8; 4], port: u16) -> Self {
        self.guests.push((address, port));
        self
    }

    /// The machine's memory in MiB (2048 unless told), of which dom0 takes its part.
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// dom0's memory in MiB (512 unless told).
    pub fn dom0_memory(mut self, mib: u32) -> Self {
        self.dom0_memory_mib = mib;
        self
    }

    /// Processors of the machine (2 unless told).
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// Gives an emulated processor what Xen needs for HVM and PVH guests; the host's own has it or not.
    pub fn hvm(mut self) -> Self {
        self.hvm = true;
        self
    }

    /// Makes time follow the number of instructions executed, on one processor: slow, but measurements repeat.
    pub fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// More arguments for Xen.
    pub fn xen_arguments(mut self, arguments: impl AsRef<str>) -> Self {
        self.xen_arguments = format!("{} {}", self.xen_arguments, arguments.as_ref());
        self
    }

    /// Chooses the xenstore daemon.
    pub fn xenstored(mut self, xenstored: Xenstored) -> Self {
        self.xenstored = xenstored;
        self
    }

    /// Gives the machine a terminal with a prompt; see [`Dom0::take_terminal`].
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    /// Says nothing on standard error while booting.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Copies the serial line (Xen's and dom0's log) to standard error as it comes.
    pub fn show_log(mut self) -> Self {
        self.show_log = true;
        self
    }

    /// Boots, and returns when dom0's tools are up and commands can be run. A failure carries the logs.
    pub fn boot(self) -> Result<Dom0> {
        host::require(&["qemu-system-x86_64", "setpriv", "dpkg-deb"])?;
        let base = initramfs::base()?;
        if !self.counted && accelerator::kvm_may_work() {
            match self.boot_on(&base, Accelerator::Kvm) {
                Ok(dom0) => return Ok(dom0),
                Err(error) => accelerator::kvm_does_not_work(&error)?,
            }
        }
        let accelerator = if self.counted { Accelerator::Counted } else { Accelerator::Emulation };
        // Seen under emulation, and not explained: dom0's kernel stands still in its own boot, before anything of ours runs.
        self.boot_on(&base, accelerator).or_else(|error| {
            eprintln!("{error:#}");
            stage::say("dom0 did not come up: once more");
            self.boot_on(&base, accelerator)
        })
    }

    fn boot_on(&self, base: &initramfs::Base, accelerator: Accelerator) -> Result<Dom0> {
        let deadline = Instant::now() + BOOT;
        let mut initramfs = fs::read(&base.archive)?;
        initramfs.extend(self.layer()?);
        let forwards = free_ports(&self.guests)?;
        let machine = Machine {
            xen: base.xen.clone(),
            linux: base.linux.clone(),
            initramfs,
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            hvm: self.hvm,
            accelerator,
            xen_arguments: format!(
                "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all {EAGER_FPU} dom0_mem={0}M,max:{0}M{1}",
                self.dom0_memory_mib, self.xen_arguments
            ),
            linux_arguments: "console=hvc0 quiet".to_owned(),
            disks: self.disks.clone(),
            forwards: forwards.clone(),
            ports: (0..SESSIONS).flat_map(|n| [format!("m1.io.{n}"), format!("m1.err.{n}")]).collect(),
            terminal: self.terminal,
        };
        if !self.quiet {
            stage::say(format!("starting Xen and dom0 in QEMU ({accelerator})"));
        }
        let (mut qemu, mut streams) = machine.start()?;
        let console = Console::default();
        if let Some(log) = qemu.take_log() {
            console.follow(log, !self.quiet && !self.show_log, self.show_log);
        }
        let terminal = if self.terminal { streams.pop() } else { None };
        let mut sessions = VecDeque::new();
        let mut streams = streams.into_iter();
        while let (Some(io), Some(err)) = (streams.next(), streams.next()) {
            sessions.push_back(Session::new(io, err));
        }
        Dom0::when_up(qemu, console, sessions, terminal, forwards, self.images.clone(), deadline)
    }

    /// The archive of what this run adds.
    fn layer(&self) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        let xenstored = match self.xenstored {
            Xenstored::Oxenstored => "oxenstored",
            Xenstored::Xenstored => "xenstored",
        };
        let terminal = if self.terminal { "yes" } else { "no" };
        let settings = format!(
            "XENSTORED={xenstored}\nSESSIONS={SESSIONS}\nTERMINAL={terminal}\nADDRESS=10.0.2.15/24\n"
        );
        archive.file("etc/m1-testbed/settings", 0o644, settings.as_bytes());
        for (host, guest) in &self.files {
            add_tree(&mut archive, host, guest)?;
        }
        for (guest, mode, content) in &self.contents {
            archive.file(guest, *mode, content);
        }
        Ok(archive.finish())
    }
}

fn add_tree(archive: &mut Archive, host: &Path, guest: &str) -> Result<()> {
    if !fs::metadata(host).with_context(|| format!("no file {}", host.display()))?.is_dir() {
        return initramfs::copy(archive, guest, host);
    }
    archive.directory(guest);
    for entry in fs::read_dir(host)? {
        let entry = entry?;
        let name = entry.file_name();
        let below = format!("{}/{}", guest.trim_end_matches('/'), name.to_string_lossy());
        if entry.file_type()?.is_symlink() {
            archive.symlink(&below, &fs::read_link(entry.path())?.to_string_lossy());
        } else {
            add_tree(archive, &entry.path(), &below)?;
        }
    }
    Ok(())
}

/// A free port of the host for each guest's port. All are held until all are chosen, so no two are equal.
fn free_ports(guests: &[([u8; 4], u16)]) -> Result<Vec<Forward>> {
    let held = guests
        .iter()
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()
        .context("no free port")?;
    guests
        .iter()
        .zip(&held)
        .map(|(&(address, port), listener)| {
            Ok(Forward { host: listener.local_addr()?.port(), address, port })
        })
        .collect()
}
