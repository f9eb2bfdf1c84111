//! One run of QEMU: its command line, its process, and the certainty that it ends with us.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A disk of the machine: `/dev/vda`, `/dev/vdb` … in dom0, in the order given.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) image: PathBuf,
    pub(crate) read_only: bool,
}

/// A port of the host's loopback that leads to an address on dom0's bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward {
    pub(crate) host: u16,
    pub(crate) address: [u8; 4],
    pub(crate) port: u16,
}

/// The emulated processor. With SMAP, Linux crashes as a PV dom0 (QEMU 7.2 reads the stack of an `iretq` as the
/// supervisor). SVM is for PVH guests only; without it Xen has one path less through emulation.
const PROCESSOR: &str = "max,-smap,-svm";
/// The same with SVM and nested paging, which QEMU emulates too. Without RDTSCP: QEMU 7.2 reports a guest's as RDTSC, and Xen, which looks
/// at the instruction, takes that for an attempt on itself and lets the guest fault.
const PROCESSOR_HVM: &str = "max,-smap,-rdtscp";

/// What executes the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU, a thread for each processor.
    Emulation,
    /// QEMU on one processor, with time that follows the count of instructions.
    Counted,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Accelerator::Kvm => "KVM",
            Accelerator::Emulation => "emulated",
            Accelerator::Counted => "emulated, instructions counted",
        })
    }
}

/// What to start.
pub(crate) struct Machine {
    pub(crate) xen: PathBuf,
    pub(crate) linux: PathBuf,
    pub(crate) initramfs: Vec<u8>,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    /// Whether an emulated processor has what Xen needs for guests other than PV.
    pub(crate) hvm: bool,
    pub(crate) accelerator: Accelerator,
    pub(crate) xen_arguments: String,
    pub(crate) linux_arguments: String,
    pub(crate) disks: Vec<Disk>,
    pub(crate) forwards: Vec<Forward>,
    /// Names of virtio-serial ports, each of which becomes a stream.
    pub(crate) ports: Vec<String>,
    /// Whether to have a virtio console (`/dev/hvc1` in dom0) as well, as the last stream.
    pub(crate) terminal: bool,
}

/// The running QEMU. Dropping it kills it.
pub(crate) struct Qemu {
    child: Child,
    directory: Option<TempDir>,
    /// Ends the thread that the process was started from.
    _keep: mpsc::Sender<()>,
}

impl Machine {
    /// Starts QEMU; gives its process and the streams of the ports (and the terminal), in order.
    pub(crate) fn start(&self) -> Result<(Qemu, Vec<UnixStream>)> {
        // QEMU's multiboot loader cuts names at blanks and commas, so it gets short ones, relative to a directory.
        forget_abandoned();
        let directory =
            tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        let at = directory.path();
        symlink(&self.xen, at.join("xen"))?;
        symlink(&self.linux, at.join("linux"))?;
        fs::write(at.join("initramfs"), &self.initramfs)?;
        for (number, disk) in self.disks.iter().enumerate() {
            let image = fs::canonicalize(&disk.image);
            symlink(
                image.with_context(|| format!("no disk {}", disk.image.display()))?,
                at.join(format!("disk{number}")),
            )?;
        }
        let streams = self.ports.len() + usize::from(self.terminal);
        let listeners = (0..streams)
            .map(|number| UnixListener::bind(at.join(format!("port{number}"))))
            .collect::<Result<Vec<_>, _>>()
            .context("cannot make the sockets for dom0's ports")?;
        let mut command = self.command(at);
        command.current_dir(at);
        let (child, keep) = spawn_bound(command)?;
        let mut qemu = Qemu { child, directory: Some(directory), _keep: keep };
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut connected = Vec::with_capacity(streams);
        for listener in &listeners {
            connected.push(qemu.accept(listener, deadline)?);
        }
        Ok((qemu, connected))
    }

    fn command(&self, at: &Path) -> Command {
        // setpriv has the kernel kill QEMU when the thread that started it ends, even by SIGKILL.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64", "-nodefaults", "-no-user-config"]);
        command.args([
            "-display",
            "none",
            "-no-reboot",
            "-chardev",
            "stdio,id=log,signal=off",
            "-serial",
            "chardev:log",
        ]);
        let processor = if self.hvm { PROCESSOR_HVM } else { PROCESSOR };
        let cpus = match self.accelerator {
            Accelerator::Kvm => {
                command.args(["-accel", "kvm", "-cpu", "host"]);
                self.cpus
            }
            Accelerator::Emulation => {
                command.args(["-accel", "tcg,thread=multi", "-cpu", processor]);
                self.cpus
            }
            Accelerator::Counted => {
                command.args(["-accel", "tcg", "-cpu", processor, "-icount", "shift=0"]);
                1
            }
        };
        command.arg("-smp").arg(cpus.to_string());
        command.arg("-m").arg(self.memory_mib.to_string());
        command.args(["-kernel", "xen", "-append", &self.xen_arguments]);
        command.arg("-initrd").arg(format!("linux {},initramfs", self.linux_arguments.replace(',', ",,")));

        // The first domU that asks slirp's DHCP server gets the address that the first forward leads to. Guests reach
        // nothing outside of the machine.
        let mut network = "user,id=net,restrict=on,dhcpstart=10.0.2.50".to_owned();
        for forward in &self.forwards {
            let [a, b, c, d] = forward.address;
            network.push_str(&format!(
                ",hostfwd=tcp:127.0.0.1:{}-{a}.{b}.{c}.{d}:{}",
                forward.host, forward.port
            ));
        }
        command.args(["-netdev", &network, "-device", "e1000,netdev=net,romfile="]);
        for (number, disk) in self.disks.iter().enumerate() {
            let read_only = if disk.read_only { "on" } else { "off" };
            command.arg("-drive").arg(format!(
                "file={}/disk{number},if=none,id=disk{number},format=raw,read-only={read_only}",
                at.display()
            ));
            command.arg("-device").arg(format!("virtio-blk-pci,drive=disk{number},serial=disk{number}"));
        }
        command.args(["-device", "virtio-serial-pci,max_ports=31"]);
        let terminal = self.terminal.then_some(("virtconsole", "m1.terminal"));
        let ports = self.ports.iter().map(|name| ("virtserialport", name.as_str())).chain(terminal);
        for (number, (device, name)) in ports.enumerate() {
            command.arg("-chardev").arg(format!("socket,id=port{number},path=port{number}"));
            command.arg("-device").arg(format!("{device},chardev=port{number},name={name}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for us; we end QEMU.
        command.process_group(0);
        command
    }
}

/// Begins the names of the directories that QEMU boots from; the process's id follows.
const PREFIX: &str = "m1-testbed-";

/// Removes the directories of processes that were killed while they booted.
fn forget_abandoned() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        let old = entry.metadata().and_then(|data| data.modified()).is_ok_and(|time| {
            time.elapsed().is_ok_and(|age| age > Duration::from_secs(600)) // longer than any boot
        });
        if owner.is_some_and(|owner| old && !Path::new(&format!("/proc/{owner}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Starts a command from a thread that lives until the sender is dropped: the death signal that setpriv asks for is
/// bound to the starting thread, and a test's thread ends long before its process.
fn spawn_bound(mut command: Command) -> Result<(Child, mpsc::Sender<()>)> {
    let (keep, kept) = mpsc::channel::<()>();
    let (give, take) = mpsc::channel();
    std::thread::Builder::new().name("qemu".into()).spawn(move || {
        let _ = give.send(command.spawn());
        let _ = kept.recv();
    })?;
    let child = take.recv()?.context("cannot start QEMU (setpriv and qemu-system-x86_64 are needed)")?;
    Ok((child, keep))
}

impl Qemu {
    /// The serial line.
    pub(crate) fn take_log(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Whether the process has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What QEMU itself complained about; call it when the process has ended.
    pub(crate) fn complaint(&mut self) -> String {
        let mut text = String::new();
        if self.has_ended()
            && let Some(mut stderr) = self.child.stderr.take()
        {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut text);
        }
        text
    }

    /// The files that QEMU started from are of no more use once the machine runs: what it needs it holds open.
    pub(crate) fn booted(&mut self) {
        self.directory = None;
    }

    fn accept(&mut self, listener: &UnixListener, deadline: Instant) -> Result<UnixStream> {
        listener.set_nonblocking(true)?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if self.has_ended() {
                bail!("QEMU ended at once:\n{}", self.complaint().trim());
            }
            if Instant::now() > deadline {
                bail!("QEMU does not connect its ports");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
