//! A booted machine: Xen with a Linux dom0, in QEMU.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::channel::{Lost, Output, Session, Stream};
use crate::console::Console;
use crate::cpio::Archive;
use crate::qemu::{Disk, Forward, Machine, Qemu};
use crate::{initramfs, stage};

/// Scripts that can run at the same time.
const SESSIONS: usize = 4;
/// The longest a boot may take, slow hosts included.
const BOOT: Duration = Duration::from_secs(120);
/// The limit of a command that names none.
const COMMAND: Duration = Duration::from_secs(120);
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
pub struct Builder {
    files: Vec<(PathBuf, String)>,
    contents: Vec<(String, u32, Vec<u8>)>,
    disks: Vec<Disk>,
    guests: Vec<([u8; 4], u16)>,
    memory_mib: u32,
    dom0_memory_mib: u32,
    cpus: u32,
    counted: bool,
    xen_arguments: String,
    xenstored: Xenstored,
    terminal: bool,
    quiet: bool,
    show_log: bool,
}

impl Builder {
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
        let deadline = Instant::now() + BOOT;
        let base = initramfs::base()?;
        let mut initramfs = fs::read(&base.archive)?;
        initramfs.extend(self.layer()?);
        let mut forwards = Vec::new();
        for &(address, port) in &self.guests {
            forwards.push(Forward { host: free_port()?, address, port });
        }
        let machine = Machine {
            xen: base.xen,
            linux: base.linux,
            initramfs,
            memory_mib: self.memory_mib,
            cpus: self.cpus,
            counted: self.counted,
            kvm: false,
            xen_arguments: format!(
                "console=com1 com1=115200,8n1 loglvl=all guest_loglvl=all dom0_mem={0}M,max:{0}M{1}",
                self.dom0_memory_mib, self.xen_arguments
            ),
            linux_arguments: "console=hvc0 quiet".to_owned(),
            disks: self.disks.clone(),
            forwards: forwards.clone(),
            ports: (0..SESSIONS).flat_map(|n| [format!("m1.io.{n}"), format!("m1.err.{n}")]).collect(),
            terminal: self.terminal,
        };
        if !self.quiet {
            stage::say("starting Xen and dom0 in QEMU");
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
        let up = console.wait_for(deadline, |line| {
            line.contains("m1-testbed: stage ready") || line.contains("m1-testbed: FAILED")
        });
        qemu.booted();
        let mut dom0 = Dom0 {
            sessions: Mutex::new(sessions),
            returned: Condvar::new(),
            qemu: Mutex::new(qemu),
            console,
            terminal,
            forwards,
        };
        if let Err(error) = dom0.finish_boot(up, deadline) {
            bail!("dom0 does not come up: {error:#}\n{}", dom0.serial_tail(80));
        }
        Ok(dom0)
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

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A booted machine. Commands may be run from several threads. Dropping it kills QEMU.
pub struct Dom0 {
    sessions: Mutex<VecDeque<Session>>,
    returned: Condvar,
    qemu: Mutex<Qemu>,
    console: Console,
    terminal: Option<UnixStream>,
    forwards: Vec<Forward>,
}

impl Dom0 {
    /// A machine of 2 GiB with two processors, a dom0 of 512 MiB and oxenstored, for a start.
    pub fn builder() -> Builder {
        Builder {
            files: Vec::new(),
            contents: Vec::new(),
            disks: Vec::new(),
            guests: vec![(FIRST_GUEST, 80)],
            memory_mib: 2048,
            dom0_memory_mib: 512,
            cpus: 2,
            counted: false,
            xen_arguments: String::new(),
            xenstored: Xenstored::default(),
            terminal: false,
            quiet: false,
            show_log: false,
        }
    }

    fn finish_boot(&mut self, up: bool, deadline: Instant) -> Result<()> {
        if let Some(reason) = self.console.failure() {
            bail!(reason);
        }
        if !up {
            let mut qemu = self.qemu.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(!qemu.has_ended(), "QEMU ended. {}", qemu.complaint());
            bail!("it is not ready after {} s", BOOT.as_secs());
        }
        let sessions = self.sessions.get_mut().unwrap_or_else(PoisonError::into_inner);
        sessions.iter_mut().try_for_each(|session| session.wait_ready(deadline))
    }

    /// Runs a shell script in dom0, for at most two minutes. Any exit code is an answer; an error means that there
    /// was none.
    pub fn run(&self, script: &str) -> Result<Output> {
        self.run_with(script, &[], COMMAND)
    }

    /// Runs a shell script that has to succeed, and gives its standard output.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        ensure!(
            output.code == 0,
            "in dom0, `{script}` ended with {}:\n{}{}",
            output.code,
            output.stdout_text(),
            output.stderr_text()
        );
        Ok(output.stdout_text())
    }

    /// Runs a shell script with this standard input and time limit.
    pub fn run_with(&self, script: &str, input: &[u8], limit: Duration) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let code = self.stream(script, input, limit, &mut |stream, bytes| match stream {
            Stream::Out => stdout.extend_from_slice(bytes),
            Stream::Err => stderr.extend_from_slice(bytes),
        })?;
        Ok(Output { code, stdout, stderr })
    }

    /// Runs a shell script and hands its output to `sink` as it comes; gives the exit code.
    pub fn stream(
        &self,
        script: &str,
        input: &[u8],
        limit: Duration,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<i32> {
        let mut session = self.checkout(limit)?;
        match session.run(script, input, limit, sink) {
            Ok(code) => {
                self.give_back(session);
                Ok(code)
            }
            Err(Lost::TimedOut) => {
                self.give_back(session);
                bail!("in dom0, `{script}` did not end within {} s", limit.as_secs())
            }
            Err(Lost::Channel(error)) => Err(error.context(format!("in dom0, `{script}` got lost"))),
        }
    }

    fn checkout(&self, limit: Duration) -> Result<Session> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.returned.wait_timeout_while(sessions, limit, |sessions| sessions.is_empty());
        let mut sessions = waited.unwrap_or_else(PoisonError::into_inner).0;
        sessions.pop_front().context("all of dom0's agents are busy or lost")
    }

    fn give_back(&self, session: Session) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push_back(session);
        self.returned.notify_one();
    }

    /// Writes a file in dom0, with its directories.
    pub fn put(&self, guest: &str, mode: u32, content: &[u8]) -> Result<()> {
        let path = quote(guest);
        let script = format!("mkdir -p \"$(dirname {path})\" && cat >{path} && chmod {mode:o} {path}");
        let output = self.run_with(&script, content, COMMAND)?;
        ensure!(output.code == 0, "cannot write {guest} in dom0: {}", output.stderr_text());
        Ok(())
    }

    /// Reads a file of dom0.
    pub fn get(&self, guest: &str) -> Result<Vec<u8>> {
        let output = self.run(&format!("cat {}", quote(guest)))?;
        ensure!(output.code == 0, "cannot read {guest} in dom0: {}", output.stderr_text());
        Ok(output.stdout)
    }

    /// The host's port on 127.0.0.1 that leads to 10.0.2.50:80.
    pub fn http_port(&self) -> u16 {
        self.forwards[0].host
    }

    /// The host's port on 127.0.0.1 that leads to this address and port, if it was asked for.
    pub fn forwarded(&self, address: [u8; 4], port: u16) -> Option<u16> {
        self.forwards.iter().find(|f| f.address == address && f.port == port).map(|f| f.host)
    }

    /// The terminal that [`Builder::terminal`] asked for: a stream with a shell at its other end.
    pub fn take_terminal(&mut self) -> Option<UnixStream> {
        self.terminal.take()
    }

    /// Everything that came over the serial line: Xen's log and dom0's kernel log.
    pub fn serial_log(&self) -> String {
        self.console.text()
    }

    /// Waits until a line of the serial log contains `text`; false if it does not come in time.
    pub fn wait_serial(&self, text: &str, limit: Duration) -> bool {
        self.console.wait_for(Instant::now() + limit, |line| line.contains(text))
    }

    /// What a guest has written on its console, also after its end; empty if it wrote nothing.
    pub fn guest_log(&self, name: &str) -> Result<String> {
        let path = quote(&format!("/var/log/xen/console/guest-{name}.log"));
        Ok(self.sh(&format!("cat {path} 2>/dev/null || :"))?.replace('\r', ""))
    }

    fn serial_tail(&self, lines: usize) -> String {
        tail("Xen's serial log", &self.serial_log(), lines)
    }

    /// The logs that explain a failure, as far as they can still be had: Xen's, `xl dmesg`, and the guests' consoles.
    pub fn diagnostics(&self) -> String {
        let mut text = self.serial_tail(60);
        let ask = |script: &str| self.run_with(script, &[], Duration::from_secs(10));
        match ask("xl list; xl dmesg | tail -n 40") {
            Ok(output) => text.push_str(&tail("xl list, xl dmesg", &output.stdout_text(), 60)),
            Err(error) => {
                let _ = writeln!(text, "(dom0 does not answer: {error:#})");
                return text;
            }
        }
        let list = "cd /var/log/xen/console && for log in guest-*.log; do echo \"== $log\"; tail -n 60 \"$log\"; done";
        if let Ok(output) = ask(list) {
            text.push_str(&tail("guests' consoles", &output.stdout_text().replace('\r', ""), 400));
        }
        text
    }
}

fn tail(title: &str, text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    format!("--- {title} (last {} of {} lines)\n{}\n", all.len() - from, all.len(), all[from..].join("\n"))
}

/// A word for the shell.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
