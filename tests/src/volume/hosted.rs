//! Programs of a root, run on the host by the root's own dynamic linker and libraries: no privilege, no container.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use object::LittleEndian;
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};

use super::merge::Root;

/// Where Debian puts amd64 libraries.
const LIBRARIES: [&str; 3] = ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"];
/// What the dynamic linker's name is among them.
const LINKER: &str = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

const ELF: &[u8] = b"\x7fELF";

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its exit status; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// A root whose programs are run on the host.
pub struct Hosted {
    root: Root,
}

impl Hosted {
    /// Takes a root as [`super::Volume::root`] gives it.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: Root::existing(root) }
    }

    fn is_elf(&self, program: &str) -> bool {
        let content = self.root.resolve(Path::new(program)).ok().and_then(|path| fs::read(path).ok());
        content.is_some_and(|content| content.starts_with(ELF))
    }

    /// A command for a program of the root, with an empty environment but for what points its own files out to it.
    /// Arguments that are paths are the host's.
    ///
    /// # Errors
    /// Where the root has no such program.
    pub fn command(&self, program: &str) -> Result<Command> {
        let path = self.root.resolve(Path::new(program))?;
        let content = fs::read(&path).with_context(|| format!("the volume has no program {program}"))?;
        if let Some(script) = content.strip_prefix(b"#!") {
            // As execve(2) has it: the interpreter, perhaps one argument, the script.
            let line = script.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line).trim().to_owned();
            let (interpreter, argument) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
            ensure!(self.is_elf(interpreter), "{program} is a script for {interpreter}, which is no program");
            let mut command = self.command(interpreter)?;
            command.args(Some(argument.trim()).filter(|argument| !argument.is_empty())).arg(&path);
            return Ok(command);
        }
        ensure!(content.starts_with(ELF), "{program} is neither an ELF program nor a script");
        let dynamic = has_interpreter(&content).with_context(|| format!("{program} is damaged"))?;
        let mut command = if dynamic {
            let mut command = Command::new(self.root.resolve(Path::new(LINKER))?);
            let libraries = LIBRARIES.map(|path| self.root.path().join(path).display().to_string());
            command.arg("--library-path").arg(libraries.join(":")).arg(&path);
            command
        } else {
            Command::new(&path)
        };
        let usr = self.root.path().join("usr");
        command
            .env_clear()
            .env("PYTHONHOME", &usr)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PERL5LIB", usr.join("lib/x86_64-linux-gnu/perl-base"))
            .env("OPENSSL_CONF", self.root.path().join("etc/ssl/openssl.cnf"));
        Ok(command)
    }
}

/// Whether an ELF file names a dynamic linker.
fn has_interpreter(content: &[u8]) -> Result<bool> {
    let file = ElfFile64::<LittleEndian>::parse(content)?;
    let headers = file.elf_header().program_headers(LittleEndian, content)?;
    Ok(headers.iter().any(|header| header.p_type(LittleEndian) == PT_INTERP))
}

/// Runs a command without input until it ends, or kills it after `limit`.
pub(crate) fn finish(mut command: Command, limit: Duration) -> Result<Finished> {
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
    let (stdout, stderr) = (gather(child.stdout.take()), gather(child.stderr.take()));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{shown} did not end in {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(5));
    };
    let joined = |thread: thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    Ok(Finished { code: status.code(), stdout: joined(stdout), stderr: joined(stderr) })
}

/// Reads a pipe to its end beside the caller.
fn gather<R: Read + Send + 'static>(pipe: Option<R>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks gives what came before; the exit status tells the rest.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}
