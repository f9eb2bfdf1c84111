//! `m1ctl export` and `import`: a snapshot goes to another M1 in a file.
//!
//! Pages get numbers of the M1 that they come to. What names pages by number, the manifest of the client's kernel and the head, is therefore written anew
//! here, with that kernel's own code, before it follows as pages itself: docs/decisions/0008. So is what M1 wrote of the client's disks.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use mm_guest::{Moving, ThawError};
use serde_json::{Value, json};

use super::bar;
use super::snapshots::{self, Name};
use crate::disk_pages::DiskPages;
use crate::failure::{Failure, Result};
use crate::m1::{Answer, M1};
use crate::out::{self, mib, text};
use crate::snapshot_file::{Disk, Header, Index, Page, Reader, Writer};

/// M1 reads from its disk, or writes to it: asked again so often.
const LOOK: Duration = Duration::from_millis(100);

/// `export SNAPSHOT FILE`
pub(crate) fn export(m1: &mut M1, wanted: &str, path: &Path, limit: Duration, json: bool) -> Result<()> {
    let until = Instant::now() + limit;
    let name = snapshots::find(&m1.json("snapshots")?, wanted)?;
    let told = m1.json(&format!("export {} {}", name.volume, name.snapshot))?;
    let identity = text(&told["identity"]).to_owned();
    let header = header(&told).ok_or_else(|| Failure::Host(format!("M1 says of {name}: {told}")))?;
    let pages = header.pages;
    let mut file = Writer::create(path, header)?;
    let bar = bar(json, &format!("exporting {name}"));
    bar.set_length(pages.into());
    let mut next = Some(0);
    while let Some(from) = next {
        if Instant::now() >= until {
            return Err(Failure::TimedOut(format!("{name} is not exported after {} s", limit.as_secs())));
        }
        match m1.export_pages(&identity, from)? {
            Some(shown) => {
                for (number, page) in &shown.pages {
                    file.add(*number, page)?;
                }
                next = shown.next;
            }
            None => std::thread::sleep(LOOK),
        }
        bar.set_position(file.len() as u64);
    }
    file.finish()?;
    bar.finish_and_clear();
    if json {
        out::json(&json!({
            "volume": name.volume, "snapshot": name.snapshot, "identity": identity,
            "pages": pages, "file": path.display().to_string(),
        }));
    } else {
        out::say(&format!("{name}: {} MiB in {}\n", mib(u64::from(pages) * 4096), path.display()));
    }
    Ok(())
}

/// What M1 says of a snapshot, for its file.
fn header(told: &Value) -> Option<Header> {
    Some(Header {
        identity: bytes(told["identity"].as_str()?)?,
        over: bytes(told["volume_identity"].as_str()?)?,
        head: told["head"].as_u64()?.try_into().ok()?,
        pages: told["pages"].as_u64()?.try_into().ok()?,
        ordered: told["ordered"].as_u64()?,
        name: told["name"].as_str()?.to_owned(),
        volume: told["volume"].as_str()?.to_owned(),
        disks: told["disks"].as_array()?.iter().map(disk).collect::<Option<_>>()?,
    })
}

/// What M1 says of a disk.
fn disk(told: &Value) -> Option<Disk> {
    let word = |key: &str| told["index"][key].as_u64()?.try_into().ok();
    let index = match &told["index"] {
        Value::Null => None,
        _ => Some(Index { root: word("root")?, levels: word("levels")?, count: word("count")? }),
    };
    Some(Disk {
        devid: told["devid"].as_u64()?.try_into().ok()?,
        over: bytes(told["volume_identity"].as_str()?)?,
        blocks: told["blocks"].as_u64()?,
        index,
    })
}

/// From hexadecimal.
fn bytes<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    let pairs: Option<Vec<u8>> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect();
    pairs?.try_into().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is to be imported.
pub(crate) struct Order<'o> {
    pub(crate) path: &'o Path,
    /// `[VOLUME@]SNAPSHOT`; what the file says, if nothing is said.
    pub(crate) name: Option<&'o str>,
    pub(crate) persist: bool,
    pub(crate) limit: Duration,
    pub(crate) json: bool,
}

/// `import FILE [NAME]`
pub(crate) fn import(m1: &mut M1, order: &Order<'_>) -> Result<()> {
    let file = Reader::open(order.path)?;
    let name = named(order.name, &file.header);
    // All that can be known to be wrong with the file is known before M1 is asked for anything.
    let moving = moving(&file)?;
    let mut pages = moving.pages().map_err(|why| senseless(order.path, why))?;
    for page in &pages {
        file.page(*page)?;
    }
    let read = |disk: &Disk| {
        disk.index.as_ref().map(|index| DiskPages::read(index, |number| file.page(number))).transpose()
    };
    let disks = file.header.disks.iter().map(read).collect::<Result<Vec<_>>>()?;
    pages.extend(disks.iter().flatten().flat_map(DiskPages::pages));
    pages.sort_unstable();
    pages.dedup();
    let own: usize = disks.iter().flatten().map(DiskPages::own_pages).sum();
    let all = pages.len() + moving.own_pages() + own;
    let how = if order.persist { " persist" } else { "" };
    let over = hex(&file.header.over);
    let identity = m1.ask(&format!("import {} {} {over} {all}{how}", name.volume, name.snapshot))?;
    let bar = bar(order.json, &format!("importing {name}"));
    bar.set_length(pages.len() as u64);
    let mut import = Import { m1, identity, until: Instant::now() + order.limit, limit: order.limit, bar };
    let done = import.all(&file, moving, &disks, &pages).inspect_err(|_| {
        // M1 gives it up of its own accord where this does not reach it.
        let cancel = format!("import-cancel {}", import.identity);
        let _ = import.m1.ask(&cancel);
    })?;
    import.bar.finish_and_clear();
    let figures =
        done.split_once(' ').and_then(|(pages, known)| Some((pages.parse().ok()?, known.parse().ok()?)));
    let (pages, known): (u64, u64) =
        figures.ok_or_else(|| Failure::Host(format!("M1 says of an import: {done:?}")))?;
    if order.json {
        out::json(&json!({
            "volume": name.volume, "snapshot": name.snapshot, "identity": import.identity,
            "from": hex(&file.header.identity), "pages": pages, "known_pages": known,
        }));
    } else {
        let (size, new) = (mib(pages * 4096), mib((pages - known.min(pages)) * 4096));
        out::say(&format!("{name}: {size} MiB, of which {new} are new; clone it with --config\n"));
    }
    Ok(())
}

/// What the snapshot is to be called.
fn named(wanted: Option<&str>, header: &Header) -> Name {
    let (volume, snapshot) = match wanted {
        None => (header.volume.as_str(), header.name.as_str()),
        Some(wanted) => wanted.split_once('@').unwrap_or((&header.volume, wanted)),
    };
    Name { volume: volume.to_owned(), snapshot: snapshot.to_owned() }
}

fn senseless(path: &Path, why: ThawError) -> Failure {
    let why = match why {
        ThawError::OtherKernel { ours, theirs } => {
            format!("it was frozen by a kernel of ABI {theirs}, and this m1ctl knows ABI {ours}")
        }
        why => why.to_string(),
    };
    Failure::Refused(format!("{}: {why}", path.display()))
}

fn moving(file: &Reader) -> Result<Moving> {
    let mut failed = None;
    let read = Moving::read(file.header.head, &file.header.over, |number| match file.page(number) {
        Ok(page) => Some(page),
        Err(failure) => {
            failed = Some(failure);
            None
        }
    });
    read.map_err(|why| failed.unwrap_or_else(|| senseless(file.path(), why)))
}

/// The request that says what disk a client had.
fn import_disk(identity: &str, disk: &Disk, index: Option<Index>) -> String {
    let Disk { devid, over, blocks, .. } = disk;
    let index = index.map(|Index { root, levels, count }| format!(" {root} {levels} {count}"));
    format!("import-disk {identity} {devid} {} {blocks}{}", hex(over), index.unwrap_or_default())
}

/// An import that M1 has begun.
struct Import<'m> {
    m1: &'m mut M1,
    identity: String,
    until: Instant,
    limit: Duration,
    bar: ProgressBar,
}

impl Import<'_> {
    fn all(
        &mut self,
        file: &Reader,
        mut moving: Moving,
        disks: &[Option<DiskPages>],
        pages: &[u32],
    ) -> Result<String> {
        let mut numbers = BTreeMap::new();
        // Whether all volumes are there is known before the pages go.
        for disk in &file.header.disks {
            self.m1.ask(&import_disk(&self.identity, disk, None))?;
        }
        let room = self.m1.page_room()?;
        for some in pages.chunks(room) {
            let bytes = some.iter().map(|page| file.page(*page)).collect::<Result<Vec<Page>>>()?;
            numbers.extend(some.iter().copied().zip(self.send(&bytes)?));
            self.bar.set_position(numbers.len() as u64);
        }
        for (disk, pages) in file.header.disks.iter().zip(disks) {
            let (Some(pages), Some(index)) = (pages, disk.index) else { continue };
            let root = pages.send(&numbers, |pages| self.send(pages))?;
            self.m1.ask(&import_disk(&self.identity, disk, Some(Index { root, ..index })))?;
        }
        let long =
            || Failure::Refused("its manifest does not fit with the numbers of its pages there".to_owned());
        let manifest = moving.manifest(&numbers).ok_or_else(long)?;
        let own = self.send(&manifest)?;
        let head = moving.head(&own).ok_or_else(long)?;
        let head = self.send(&[head])?.first().copied().unwrap_or(0);
        let mut answer = self.m1.begin(&format!("import-end {} {head}", self.identity))?;
        loop {
            match answer {
                Answer::Done(text) => return Ok(text),
                // It is on its way to the store's disk.
                Answer::Running(_) => std::thread::sleep(LOOK),
            }
            self.in_time()?;
            answer = self.m1.begin(&format!("import-progress {}", self.identity))?;
        }
    }

    /// Gives pages to M1; gives the numbers that they have there.
    fn send(&mut self, pages: &[Page]) -> Result<Vec<u32>> {
        let mut numbers = Vec::new();
        while numbers.len() < pages.len() {
            self.in_time()?;
            numbers.extend(self.m1.import_pages(&self.identity, &pages[numbers.len()..])?);
        }
        Ok(numbers)
    }

    fn in_time(&self) -> Result<()> {
        if Instant::now() < self.until {
            return Ok(());
        }
        Err(Failure::TimedOut(format!("it is not imported after {} s", self.limit.as_secs())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_called_as_the_file_says_or_otherwise() {
        let header = Header {
            identity: [1; 16],
            over: [2; 32],
            head: 1 << 31,
            pages: 1,
            ordered: 0,
            name: "warm".to_owned(),
            volume: "base".to_owned(),
            disks: Vec::new(),
        };
        for (wanted, name) in [(None, "base@warm"), (Some("two"), "base@two"), (Some("b@c"), "b@c")] {
            assert_eq!(named(wanted, &header).to_string(), name);
        }
    }

    #[test]
    fn hexadecimal_there_and_back() {
        assert_eq!(bytes(&hex(&[0, 15, 255])), Some([0, 15, 255]));
        for wrong in ["", "0", "zz0000", "000", "ää"] {
            assert_eq!(bytes::<3>(wrong), None, "{wrong}");
        }
    }
}
