//! A private apt: the host's Debian 12 sources and keys, but its own lists, its own cache and an empty
//! list of installed packages. So an ordinary user can ask what a package needs and download it, apt checks
//! signatures and checksums, and what the host has installed makes no difference.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::stage;

/// The suites that the testbed is made of. Third-party sources are none of our business.
const SUITES: [&str; 3] = ["bookworm", "bookworm-updates", "bookworm-security"];
/// Package lists older than this are fetched again before something new is resolved.
const LISTS_LAST: Duration = Duration::from_secs(12 * 3600);

/// What [`Follow::Libraries`] follows, by the beginning of the name.
const FOLLOWED: [&str; 3] = ["lib", "zlib", "linux-image-"];

/// One version of one package, as the signed package list describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, with the epoch.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Bytes of the package file.
    pub size: u64,
    /// SHA-256 of the package file, in lower-case hex.
    pub sha256: String,
}

impl Package {
    /// The name that `apt-get download` gives to the file.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

/// How far to go from the packages asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// To the libraries they need (packages named `lib…`), and through metapackages for the kernel.
    Libraries,
    /// To everything they depend on.
    Everything,
}

/// The private apt, in a directory of its own.
pub struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// Sets up the state in `directory` if it is not there. The caller holds the lock on it.
    pub fn open(directory: &Path) -> Result<Self> {
        for sub in ["lists/partial", "cache/archives/partial", "sources.d"] {
            fs::create_dir_all(directory.join(sub))?;
        }
        let apt = Apt { directory: directory.to_path_buf() };
        fs::write(apt.path("status"), "")?;
        fs::write(apt.path("apt.conf"), apt.configuration())?;
        apt.copy_sources(Path::new("/etc/apt"))?;
        Ok(apt)
    }

    fn path(&self, sub: &str) -> PathBuf {
        self.directory.join(sub)
    }

    fn configuration(&self) -> String {
        let directory = self.directory.display();
        format!(
            "Dir::State \"{directory}\";\nDir::State::lists \"{directory}/lists\";\n\
             Dir::State::status \"{directory}/status\";\nDir::Cache \"{directory}/cache\";\n\
             Dir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{directory}/sources.d\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAcquire::http::Timeout \"30\";\n\
             APT::Architecture \"amd64\";\nAPT::Install-Recommends \"false\";\nAPT::Sandbox::User \"\";\n\
             Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
             Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled \"false\";\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.path("apt.conf")).env("LC_ALL", "C");
        command
    }

    /// Copies those of the host's sources that are of Debian 12 itself.
    fn copy_sources(&self, etc: &Path) -> Result<()> {
        let (mut stanzas, mut lines) = (String::new(), String::new());
        let mut files = vec![etc.join("sources.list")];
        if let Ok(parts) = fs::read_dir(etc.join("sources.list.d")) {
            files.extend(parts.flatten().map(|part| part.path()));
        }
        files.sort();
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            match file.extension().and_then(|e| e.to_str()) {
                Some("sources") => text.split("\n\n").filter(|s| stanza_is_ours(s)).for_each(|s| {
                    stanzas.push_str(s.trim());
                    stanzas.push_str("\n\n");
                }),
                Some("list") => text.lines().filter(|l| line_is_ours(l)).for_each(|l| {
                    lines.push_str(l);
                    lines.push('\n');
                }),
                _ => {}
            }
        }
        ensure!(
            !(stanzas.is_empty() && lines.is_empty()),
            "{} names no source of Debian 12 (bookworm); the testbed is made of its packages, so add one there",
            etc.display()
        );
        fs::write(self.path("sources.d/testbed.sources"), stanzas)?;
        fs::write(self.path("sources.d/testbed.list"), lines)?;
        Ok(())
    }

    /// Fetches the package lists unless they are recent.
    pub fn update(&self) -> Result<()> {
        let stamp = self.path("updated");
        let recent = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < LISTS_LAST));
        if recent {
            return Ok(());
        }
        stage::say("fetching Debian's package lists (about 9 MB)");
        output(self.command("apt-get").args(["update", "-qq", "-o", "APT::Update::Error-Mode=any"]))?;
        fs::write(stamp, "")?;
        Ok(())
    }

    /// The packages that `wanted` stands for, with what they need according to `follow`.
    pub fn resolve(&self, wanted: &[&str], follow: Follow) -> Result<Vec<Package>> {
        // apt's own resolver chooses between alternatives; what it chose is then filtered.
        let chosen = output(self.command("apt-get").args(["install", "-qq", "--print-uris"]).args(wanted))?;
        let mut versions: Vec<String> = Vec::new();
        for line in chosen.lines().filter(|line| line.starts_with('\'')) {
            let file = line.split(' ').nth(1).with_context(|| format!("apt-get said {line:?}"))?;
            let mut parts = file.split('_');
            let (Some(name), Some(version)) = (parts.next(), parts.next()) else {
                bail!("apt-get names a file {file:?}");
            };
            versions.push(format!("{name}={}", version.replace("%3a", ":")));
        }
        let shown = output(self.command("apt-cache").arg("show").args(&versions))?;
        let mut all: Vec<(Package, Vec<String>)> = Vec::new();
        for stanza in shown.split("\n\n").filter(|s| !s.trim().is_empty()) {
            let (package, needs) = parse_stanza(stanza)?;
            if !all.iter().any(|(known, _)| known.name == package.name) {
                all.push((package, needs));
            }
        }
        if follow == Follow::Everything {
            return Ok(all.into_iter().map(|(package, _)| package).collect());
        }
        let mut kept: Vec<Package> = Vec::new();
        let mut queue: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        while let Some(name) = queue.pop() {
            if kept.iter().any(|package| package.name == name) {
                continue;
            }
            let Some((package, needs)) = all.iter().find(|(package, _)| package.name == name) else {
                continue;
            };
            kept.push(package.clone());
            let followed = |need: &&String| FOLLOWED.iter().any(|prefix| need.starts_with(prefix));
            queue.extend(needs.iter().filter(followed).cloned());
        }
        kept.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(kept)
    }

    /// Downloads into `directory`; apt checks each file against the signed list.
    pub fn download(&self, packages: &[Package], directory: &Path) -> Result<()> {
        let total = packages.iter().map(|package| package.size).sum();
        stage::say(format!("downloading {} packages, {}", packages.len(), stage::megabytes(total)));
        let bar = stage::bytes_bar(total);
        let before = bytes_in(directory);
        let mut command = self.command("apt-get");
        command.args(["download", "-qq"]).current_dir(directory);
        command.args(packages.iter().map(|package| format!("{}={}", package.name, package.version)));
        let child = std::thread::spawn(move || output(&mut command));
        while !child.is_finished() {
            bar.set_position(bytes_in(directory).saturating_sub(before));
            std::thread::sleep(Duration::from_millis(100));
        }
        bar.finish_and_clear();
        child.join().map_err(|_| anyhow::anyhow!("the download's thread died"))??;
        Ok(())
    }
}

fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

fn stanza_is_ours(stanza: &str) -> bool {
    let field = |name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.split_whitespace())
    };
    field("Types:").is_some_and(|mut types| types.any(|t| t == "deb"))
        && field("Components:").is_some_and(|mut components| components.any(|c| c == "main"))
        && field("Enabled:").is_none_or(|mut on| on.next() != Some("no"))
        && field("Suites:").is_some_and(|mut suites| suites.all(|suite| SUITES.contains(&suite)))
}

fn line_is_ours(line: &str) -> bool {
    let without_options = match (line.find('['), line.find(']')) {
        (Some(open), Some(close)) if open < close => format!("{} {}", &line[..open], &line[close + 1..]),
        _ => line.to_owned(),
    };
    let mut words = without_options.split_whitespace();
    words.next() == Some("deb")
        && words.next().is_some()
        && words.next().is_some_and(|suite| SUITES.contains(&suite))
        && words.any(|component| component == "main")
}

/// A package and the names of what it depends on, from a stanza of a package list.
fn parse_stanza(stanza: &str) -> Result<(Package, Vec<String>)> {
    let field = |name: &str| {
        let value = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.with_context(|| format!("a package's description lacks {name}:\n{stanza}"))
    };
    let package = Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        architecture: field("Architecture")?.to_owned(),
        size: field("Size")?.parse()?,
        sha256: field("SHA256")?.to_owned(),
    };
    let mut needs = Vec::new();
    for relation in ["Pre-Depends", "Depends"] {
        let Ok(list) = field(relation) else { continue };
        for alternative in list.split([',', '|']) {
            let name = alternative.split_whitespace().next().unwrap_or_default();
            needs.push(name.split(':').next().unwrap_or_default().to_owned());
        }
    }
    Ok((package, needs))
}

/// Runs a command to its end and returns its standard output; a failure carries its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{:?}", command.get_program());
    let done = command.output().with_context(|| format!("cannot run {shown}"))?;
    ensure!(
        done.status.success(),
        "{shown} failed ({}):\n{}",
        done.status,
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_releases_own_sources_are_used() {
        let ours = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main contrib";
        assert!(stanza_is_ours(ours));
        assert!(!stanza_is_ours(&ours.replace("bookworm-updates", "nodistro")));
        assert!(!stanza_is_ours(&ours.replace("Types: deb", "Types: deb-src")));
        assert!(!stanza_is_ours(&format!("{ours}\nEnabled: no")));
        assert!(line_is_ours("deb [signed-by=/k.gpg arch=amd64] http://mirror.test/debian bookworm main"));
        assert!(!line_is_ours("deb http://mirror.test/x bookworm-tools main"));
        assert!(!line_is_ours("# deb http://mirror.test/debian bookworm main"));
    }

    #[test]
    fn a_stanza_gives_the_package_and_what_it_needs() {
        let stanza = "Package: a\nVersion: 1:2\nArchitecture: amd64\nDepends: libc6 (>= 2.36), x | liby:any\n\
                      Size: 7\nSHA256: 00ff";
        let (package, needs) = parse_stanza(stanza).expect("a good stanza");
        assert_eq!(package.file_name(), "a_1%3a2_amd64.deb");
        assert_eq!(needs, ["libc6", "x", "liby"]);
        assert!(parse_stanza("Package: a").is_err());
    }
}
