//! What the clients of the demonstration run, on which files, and what Linux makes of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use crate::paths;
use crate::programs::{self, Noise};
use crate::volume::{Built, Finished, Volume};

/// Bytes of random data that every client reads.
const DATA: usize = 12 << 20;
/// Lines of random words.
const LINES: usize = 4000;
/// Where they are in the volume.
const DIRECTORY: &str = "/srv/demo";

/// A program of a Debian package that a person named.
#[derive(Clone, Debug)]
pub struct Deb {
    /// The package.
    pub package: String,
    /// The program: a path, or a name to be looked for where programs are.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// A program as one client runs it.
#[derive(Clone, Debug)]
pub struct Program {
    /// A short name.
    pub name: String,
    /// Its path.
    pub path: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What Linux makes of it.
    pub expected: Finished,
    /// It prints this and waits for a line, until all clients have come so far.
    pub waits: Option<&'static str>,
}

/// The volume, and each client's programs: all but the last end, the last one's memory is looked at.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What the files were made from.
    pub seed: u64,
    /// The volume.
    pub volume: Built,
    /// For each client its programs, at least one.
    pub clients: Vec<Vec<Program>>,
    /// Packages of the volume.
    pub packages: Vec<String>,
}

/// Where files are that would be left behind if the process ended now.
static FILES: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Removes what [`Workload::prepare`] has made for the moment. For whoever ends the process from outside of it.
pub fn forget_files() {
    if let Ok(mut files) = FILES.try_lock()
        && let Some(path) = files.take()
    {
        let _ = fs::remove_dir_all(path);
    }
}

impl Workload {
    /// Makes fresh files, runs every program on the host, and builds the volume.
    ///
    /// # Errors
    /// Where a package cannot be had, or a program does not do on the host what it is to do in the clients.
    pub fn prepare(clients: u32, deb: Option<&Deb>) -> Result<Self> {
        let packages = match deb {
            Some(deb) => vec![deb.package.clone()],
            None => ["busybox-static", "python3-minimal", "libpython3-stdlib"].map(str::to_owned).to_vec(),
        };
        let mut volume = Volume::new().packages(&packages);
        let root = volume.root()?;
        let seed = programs::fresh_seed()?;
        let mut noise = Noise::new(seed);
        let inputs = [
            ("data.bin", noise.bytes(DATA)),
            ("lines", noise.lines(LINES, |noise| format!("{} {}", noise.word(), noise.below(1000)))),
            ("sums.awk", AWK.as_bytes().to_vec()),
            ("app.py", PYTHON.as_bytes().to_vec()),
        ];
        let files = tempfile::Builder::new().prefix("demo-").tempdir_in(paths::testbed()?)?;
        if let Ok(mut known) = FILES.lock() {
            *known = Some(files.path().to_owned());
        }
        for (name, content) in inputs {
            let guest = format!("{DIRECTORY}/{name}");
            let host = files.path().join(guest.trim_start_matches('/'));
            fs::create_dir_all(host.parent().context("a file has a directory")?)?;
            fs::write(&host, &content)?;
            volume = volume.content(&guest, content);
        }
        let host = Host { root: &root, files: files.path() };
        let clients = (1..=clients)
            .map(|number| match deb {
                Some(deb) => Ok(vec![host.deb(deb)?]),
                None => Ok(vec![host.busybox()?, host.python(number)?]),
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { seed, volume: volume.build()?, clients, packages })
    }
}

/// The host, where programs are run first.
struct Host<'a> {
    root: &'a Path,
    files: &'a Path,
}

impl Host<'_> {
    fn busybox(&self) -> Result<Program> {
        let arguments = ["awk", "-f", "/srv/demo/sums.awk", "/srv/demo/lines"].map(str::to_owned);
        self.program("busybox", "/usr/bin/busybox", arguments.to_vec(), None)
    }

    fn python(&self, client: u32) -> Result<Program> {
        let number = client.to_string();
        let arguments = ["/srv/demo/app.py", "/srv/demo/data.bin", &number].map(str::to_owned);
        self.program("python3", "/usr/bin/python3", arguments.to_vec(), Some("changed "))
    }

    fn deb(&self, deb: &Deb) -> Result<Program> {
        let path = self.find(&deb.program).with_context(|| {
            format!("the package {} and what it depends on have no program {}", deb.package, deb.program)
        })?;
        let name = deb.program.rsplit('/').next().unwrap_or(&deb.program);
        self.program(name, &path, deb.arguments.clone(), None)
    }

    fn find(&self, program: &str) -> Option<String> {
        let there = |path: &String| {
            let host = self.root.join(path.trim_start_matches('/'));
            host.symlink_metadata().is_ok_and(|kind| !kind.is_dir())
        };
        if program.contains('/') {
            return Some(program.to_owned()).filter(there);
        }
        ["/usr/bin", "/usr/sbin", "/usr/games"]
            .map(|place| format!("{place}/{program}"))
            .into_iter()
            .find(there)
    }

    fn program(
        &self,
        name: &str,
        path: &str,
        arguments: Vec<String>,
        waits: Option<&'static str>,
    ) -> Result<Program> {
        let expected = programs::expected(self.root, self.files, path, &arguments)?;
        let said = String::from_utf8_lossy(&expected.stderr);
        ensure!(
            !expected.stdout.is_empty(),
            "{path} prints nothing on the host, where files of the volume are found only as arguments: {said}"
        );
        ensure!(expected.code.is_some(), "{path} is ended by a signal on the host: {said}");
        let shows = |text: &str| String::from_utf8_lossy(&expected.stdout).contains(text);
        ensure!(waits.is_none_or(shows), "{path} does not do its work on the host: {said}");
        Ok(Program { name: name.to_owned(), path: path.to_owned(), arguments, expected, waits })
    }
}

/// Sums by first letter, in the letters' order.
const AWK: &str = r#"{ sum[substr($1, 1, 1)] += $2 }
END {
  letters = "abcdefghijklmnopqrstuvwxyz"
  for (i = 1; i <= 26; i++) { c = substr(letters, i, 1); if (c in sum) printf "%s %d %.3f\n", c, sum[c], sum[c] / NR }
}
"#;

/// Reads the data through a private mapping, changes every sixteenth page in its own way, and when it gets a line (at which all
/// clients have changed theirs) looks at everything again: at its own pages, and at the file. It leaves without taking its memory
/// apart, for that is looked at next.
const PYTHON: &str = r#"import hashlib, json, mmap, os, sys, zlib
path, client = sys.argv[1], int(sys.argv[2])
with open(path, "rb") as file:
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
print("read", hashlib.sha256(view).hexdigest())
pages = range(0, len(view) // mmap.PAGESIZE, 16)
for page in pages:
    start = page * mmap.PAGESIZE
    view[start:start + 64] = hashlib.sha512(view[start + 64:start + 128] + bytes([client])).digest()
before = hashlib.sha256(view).hexdigest()
print("changed", json.dumps({"client": client, "pages": len(pages), "sha256": before}), flush=True)
sys.stdin.readline()
after = hashlib.sha256(view).hexdigest()
crc = 0
with open(path, "rb") as file:
    while part := file.read(1 << 16):
        crc = zlib.crc32(part, crc)
print("again", after, "the same" if after == before else "DIFFERENT", "file %08x" % crc, flush=True)
os._exit(0)
"#;
