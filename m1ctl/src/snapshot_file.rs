//! A snapshot in a file: docs/EXCHANGE.md has the format. Nothing in one is believed before it was checked.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mm_proto::{FROZEN_FIRST, VolumeIdentity, disk_index};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};

use crate::failure::{Failure, Result};
use crate::files::failed;

const MAGIC: [u8; 8] = *b"M1EXPORT";
const VERSION: u32 = 2;
/// Without disks, and otherwise the same: where this version says how many there are, that one has 0.
const VERSION_MIN: u32 = 1;
const BLOCK: usize = 4096;
/// Bytes of a page's row in the table.
const ROW: usize = 8;
/// Bytes of the longest name.
const NAME: usize = 32;
/// Where the header has the disks, how many bytes each has, and how many there can be.
const DISKS_AT: usize = 160;
const DISK: usize = 64;
const DISKS: usize = 8;

/// A page's bytes.
pub(crate) type Page = [u8; BLOCK];

/// The checksum: CRC-32C.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    mm_store::crc32c(bytes)
}

/// What a file says of its snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Of the snapshot in the M1 that it comes from.
    pub(crate) identity: [u8; 16],
    /// Of the volume that it lies over.
    pub(crate) over: VolumeIdentity,
    /// The page that a clone begins with.
    pub(crate) head: u32,
    pub(crate) pages: u32,
    /// Seconds since 1970 when it was ordered.
    pub(crate) ordered: u64,
    pub(crate) name: String,
    pub(crate) volume: String,
    /// The disks that its client had.
    pub(crate) disks: Vec<Disk>,
}

/// A disk of the client of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Disk {
    /// Number of the virtual device.
    pub(crate) devid: u32,
    /// The volume that it lies over, and how many blocks that has.
    pub(crate) over: VolumeIdentity,
    pub(crate) blocks: u64,
    /// What it had over that; none if nothing.
    pub(crate) index: Option<Index>,
}

/// Where the index of what a disk had over its volume begins ([`mm_proto::disk_index`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Index {
    /// The page of the highest level.
    pub(crate) root: u32,
    pub(crate) levels: u32,
    /// Blocks that it has, those of zeroes apart.
    pub(crate) count: u32,
}

impl Disk {
    fn encode(&self, row: &mut [u8]) {
        row[..4].copy_from_slice(&self.devid.to_le_bytes());
        let Index { root, levels, count } = self.index.unwrap_or(Index { root: 0, levels: 0, count: 0 });
        for (at, word) in [(4, root), (8, levels), (12, count)] {
            row[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        row[16..24].copy_from_slice(&self.blocks.to_le_bytes());
        row[24..56].copy_from_slice(&self.over);
    }

    /// `None` where it makes no sense.
    fn decode(block: &Page, at: usize) -> Option<Self> {
        let [devid, root, levels, count] = [0, 4, 8, 12].map(|word| get(block, at + word));
        let index = (root != 0).then_some(Index { root, levels, count });
        let blocks = get_long(block, at + 16);
        let mut over = [0; 32];
        over.copy_from_slice(&block[at + 24..at + 56]);
        let needed = u32::try_from(blocks).ok().and_then(disk_index::levels)?;
        let fits = index.is_none_or(|index| index.levels as usize == needed);
        fits.then_some(Self { devid, over, blocks, index })
    }
}

impl Header {
    fn encode(&self, table: u32) -> Page {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&MAGIC);
        put(&mut block, 12, VERSION);
        block[16..32].copy_from_slice(&self.identity);
        block[32..64].copy_from_slice(&self.over);
        put(&mut block, 64, self.head);
        put(&mut block, 68, self.pages);
        put(&mut block, 72, table);
        block[80..88].copy_from_slice(&self.ordered.to_le_bytes());
        for (at, name) in [(88, &self.name), (124, &self.volume)] {
            let bytes = &name.as_bytes()[..name.len().min(NAME)];
            put(&mut block, at, u32::try_from(bytes.len()).unwrap_or(0));
            block[at + 4..at + 4 + bytes.len()].copy_from_slice(bytes);
        }
        let disks = &self.disks[..self.disks.len().min(DISKS)];
        put(&mut block, DISKS_AT, u32::try_from(disks.len()).unwrap_or(0));
        for (row, disk) in block[DISKS_AT + 8..].chunks_exact_mut(DISK).zip(disks) {
            disk.encode(row);
        }
        let sum = checksum(&block);
        put(&mut block, 8, sum);
        block
    }

    /// With the table's checksum, or why it is none.
    fn decode(block: &Page) -> std::result::Result<(Self, u32), &'static str> {
        let mut bare = *block;
        put(&mut bare, 8, 0);
        if block[..8] != MAGIC {
            return Err("it is no exported snapshot");
        }
        if !(VERSION_MIN..=VERSION).contains(&get(block, 12)) {
            return Err("it has another version of the format");
        }
        if get(block, 8) != checksum(&bare) {
            return Err("its header is damaged");
        }
        let text = |at: usize| {
            let length = usize::try_from(get(block, at)).ok().filter(|length| (1..=NAME).contains(length))?;
            let name = std::str::from_utf8(&block[at + 4..at + 4 + length]).ok()?;
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            name.bytes().all(legal).then(|| name.to_owned())
        };
        let mut header = Self {
            identity: [0; 16],
            over: [0; 32],
            head: get(block, 64),
            pages: get(block, 68),
            ordered: get_long(block, 80),
            name: text(88).ok_or("its name is none")?,
            volume: text(124).ok_or("its volume's name is none")?,
            disks: Vec::new(),
        };
        let disks = get(block, DISKS_AT) as usize;
        if disks > DISKS {
            return Err("it has more disks than a client can have");
        }
        let rows = (0..disks).map(|row| Disk::decode(block, DISKS_AT + 8 + row * DISK));
        header.disks = rows.collect::<Option<_>>().ok_or("its disks make no sense")?;
        header.identity.copy_from_slice(&block[16..32]);
        header.over.copy_from_slice(&block[32..64]);
        Ok((header, get(block, 72)))
    }

    /// Bytes of the table, in whole blocks.
    fn table_bytes(&self) -> u64 {
        (u64::from(self.pages) * ROW as u64).next_multiple_of(BLOCK as u64)
    }

    /// Where a page is, by its place in the table.
    fn offset(&self, place: usize) -> u64 {
        BLOCK as u64 + self.table_bytes() + place as u64 * BLOCK as u64
    }
}

fn put(block: &mut [u8], at: usize, word: u32) {
    block[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

fn get(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn get_long(block: &[u8], at: usize) -> u64 {
    u64::from(get(block, at)) | u64::from(get(block, at + 4)) << 32
}

/// A file whose header and table are good.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    file: File,
    pub(crate) header: Header,
    /// Numbers and checksums of its pages, ascending.
    rows: Vec<(u32, u32)>,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let unreadable = |error: std::io::Error| failed(path, &error);
        let refused = |why: &str| Failure::Refused(format!("{}: {why}", path.display()));
        let file = File::open(path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        let mut block = [0; BLOCK];
        if bytes < BLOCK as u64 {
            return Err(refused("it is no exported snapshot"));
        }
        file.read_exact_at(&mut block, 0).map_err(unreadable)?;
        let (header, sum) = Header::decode(&block).map_err(refused)?;
        // What is said of its length is true: no more is asked of memory than there is of the file.
        let count = usize::try_from(header.pages).unwrap_or(usize::MAX);
        if header.pages == 0 || header.offset(count) != bytes {
            return Err(refused("it is cut short, or longer than it says"));
        }
        let mut table = vec![0; usize::try_from(header.table_bytes()).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut table, BLOCK as u64).map_err(unreadable)?;
        if checksum(&table) != sum {
            return Err(refused("its table is damaged"));
        }
        let rows: Vec<(u32, u32)> =
            table.chunks_exact(ROW).take(count).map(|row| (get(row, 0), get(row, 4))).collect();
        let ascending = rows.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let frozen = rows.iter().all(|(number, _)| u64::from(*number) >= FROZEN_FIRST);
        let reader = Self { path: path.to_owned(), file, header, rows };
        if !ascending || !frozen || reader.place(reader.header.head).is_none() {
            return Err(refused("its table makes no sense"));
        }
        Ok(reader)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn place(&self, number: u32) -> Option<usize> {
        self.rows.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// The bytes of the page that has this number.
    pub(crate) fn page(&self, number: u32) -> Result<Page> {
        let refused = |why: String| Failure::Refused(format!("{}: {why}", self.path.display()));
        let place = self.place(number).ok_or_else(|| refused(format!("it lacks page {number:#x}")))?;
        let mut page = [0; BLOCK];
        let offset = self.header.offset(place);
        self.file.read_exact_at(&mut page, offset).map_err(|error| failed(&self.path, &error))?;
        if checksum(&page) != self.rows[place].1 {
            return Err(refused(format!("page {number:#x} is damaged")));
        }
        Ok(page)
    }
}

/// A file that is being written. It has its name when it is whole; before, and where it is dropped, there is none.
pub(crate) struct Writer {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    header: Header,
    rows: Vec<(u32, u32)>,
}

impl Writer {
    /// Begins a file, which must not be there.
    pub(crate) fn create(path: &Path, header: Header) -> Result<Self> {
        if path.exists() {
            return Err(Failure::Host(format!("{}: it is there already", path.display())));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let free = |file: &File| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let busy = || Failure::Host(format!("{}: another export writes it", partial.display()));
        // What lies there is of an export that was killed, or of one that goes on. What a program had in memory is nobody else's business: it is
        // not written to.
        let mut options = File::options();
        let there = options.read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&partial);
        if there.is_ok_and(|there| !free(&there)) {
            return Err(busy());
        }
        let _ = std::fs::remove_file(&partial);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&partial).map_err(|error| failed(&partial, &error))?;
        if !free(&file) {
            return Err(busy());
        }
        Ok(Self { path: path.to_owned(), partial, file, header, rows: Vec::new() })
    }

    /// Pages that are there.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Adds a page. They come in ascending order.
    pub(crate) fn add(&mut self, number: u32, page: &Page) -> Result<()> {
        if self.rows.last().is_some_and(|(last, _)| *last >= number) || u64::from(number) < FROZEN_FIRST {
            return Err(Failure::Host(format!("M1 gave page {number:#x} out of order")));
        }
        let offset = self.header.offset(self.rows.len());
        self.file.write_all_at(page, offset).map_err(|error| failed(&self.partial, &error))?;
        self.rows.push((number, checksum(page)));
        Ok(())
    }

    /// All pages are there.
    pub(crate) fn finish(self) -> Result<()> {
        if self.rows.len() != usize::try_from(self.header.pages).unwrap_or(usize::MAX) {
            let (there, said) = (self.rows.len(), self.header.pages);
            return Err(Failure::Host(format!("M1 gave {there} pages of {said}")));
        }
        let mut table = vec![0; usize::try_from(self.header.table_bytes()).unwrap_or(0)];
        for (place, (number, sum)) in table.chunks_exact_mut(ROW).zip(&self.rows) {
            put(place, 0, *number);
            put(place, 4, *sum);
        }
        let write = || -> std::io::Result<()> {
            self.file.write_all_at(&table, BLOCK as u64)?;
            self.file.write_all_at(&self.header.encode(checksum(&table)), 0)?;
            self.file.sync_all()?;
            Ok(renameat_with(CWD, &self.partial, CWD, &self.path, RenameFlags::NOREPLACE)?)
        };
        write().map_err(|error| failed(&self.path, &error))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Where it is whole it has another name by now.
        let _ = std::fs::remove_file(&self.partial);
    }
}
