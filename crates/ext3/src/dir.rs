//! Directories: lists of names in blocks. A hash tree beside them is not looked at.

use crate::cache::Dirt;
use crate::inode::{HASHED, Inode, Kind};
use crate::{BLOCK, Device, Error, Ext3, Ino, le16, le32, put};

/// Longest name, in bytes.
pub const NAME_MAX: usize = 255;
/// Blocks of a directory at most: 64 MiB of names. Reading all of it takes a bounded time.
const MAX_BLOCKS: u32 = 16384;
/// An entry without its name.
const HEAD: usize = 8;

/// A name in a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// What it names.
    pub ino: Ino,
    /// What the directory says that it is.
    pub kind: Kind,
    /// Where reading goes on behind it.
    pub next: u64,
    /// The name.
    pub name: &'a [u8],
}

/// Where a name was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) ino: Ino,
    block: u32,
    offset: usize,
    /// The entry before it in its block.
    before: Option<usize>,
}

/// An entry as it lies in its block.
struct Raw {
    offset: usize,
    length: usize,
    ino: u32,
    name: core::ops::Range<usize>,
    kind: u8,
}

/// The entry at `offset`, checked.
fn raw(block: &[u8; BLOCK], offset: usize) -> Result<Raw, Error> {
    let length = usize::from(le16(block, offset + 4));
    let name = usize::from(block.get(offset + 6).copied().unwrap_or(0));
    let end = offset + length;
    if length < HEAD || !length.is_multiple_of(4) || end > BLOCK || HEAD + name > length {
        return Err(Error::Corrupt);
    }
    let kind = block.get(offset + 7).copied().unwrap_or(0);
    Ok(Raw { offset, length, ino: le32(block, offset), name: offset + HEAD..offset + HEAD + name, kind })
}

/// `EXT4_FT_*`.
fn kind_of(code: u8) -> Kind {
    match code {
        1 => Kind::File,
        2 => Kind::Directory,
        7 => Kind::Link,
        _ => Kind::Other,
    }
}

pub(crate) fn code_of(inode: &Inode) -> u8 {
    match inode.mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => 0,
    }
}

fn needed(name: usize) -> usize {
    (HEAD + name).next_multiple_of(4)
}

impl<B> Ext3<B> {
    /// A directory's inode.
    pub(crate) fn directory<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
    ) -> Result<Inode, Error> {
        let inode = self.read_inode(device, dir)?;
        if !inode.is_directory() {
            return Err(Error::NotDirectory);
        }
        Ok(inode)
    }

    fn dir_blocks(inode: &Inode) -> Result<u32, Error> {
        let blocks = u32::try_from(inode.size / BLOCK as u64).map_err(|_| Error::Corrupt)?;
        if blocks > MAX_BLOCKS { Err(Error::Corrupt) } else { Ok(blocks) }
    }

    fn dir_block<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &Inode,
        at: u32,
        to: &mut [u8; BLOCK],
    ) -> Result<u32, Error> {
        let block = self.map(device, inode, at)?.ok_or(Error::Corrupt)?;
        self.fetch(device, block, 0, to)?;
        Ok(block)
    }

    pub(crate) fn find<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &Inode,
        name: &[u8],
    ) -> Result<Option<Found>, Error> {
        let mut bytes = [0; BLOCK];
        for at in 0..Self::dir_blocks(inode)? {
            let block = self.dir_block(device, inode, at, &mut bytes)?;
            let (mut offset, mut before) = (0, None);
            while offset < BLOCK {
                let entry = raw(&bytes, offset)?;
                if entry.ino != 0 && bytes.get(entry.name.clone()) == Some(name) {
                    return Ok(Some(Found { ino: Ino(entry.ino), block, offset, before }));
                }
                before = Some(offset);
                offset += entry.length;
            }
        }
        Ok(None)
    }

    /// The child of that name, which may be `.` or `..`.
    ///
    /// # Errors
    /// [`Error::NotFound`], and others.
    pub fn lookup<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        name: &[u8],
    ) -> Result<Ino, Error> {
        let inode = self.directory(device, dir)?;
        let found = self.find(device, &inode, name)?.ok_or(Error::NotFound)?;
        Ok(found.ino)
    }

    /// Gives the entries from `position` on (0 at first) to the sink, until it says false. A name that is neither added nor
    /// removed meanwhile comes exactly once.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read_dir<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        position: u64,
        sink: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<(), Error> {
        let inode = self.directory(device, dir)?;
        let mut bytes = [0; BLOCK];
        let first = u32::try_from(position / BLOCK as u64).unwrap_or(u32::MAX);
        for at in first..Self::dir_blocks(&inode)? {
            self.dir_block(device, &inode, at, &mut bytes)?;
            let start = u64::from(at) * BLOCK as u64;
            let mut offset = 0;
            while offset < BLOCK {
                let entry = raw(&bytes, offset)?;
                let next = start + (offset + entry.length) as u64;
                if entry.ino != 0 && start + offset as u64 >= position {
                    let name = bytes.get(entry.name).unwrap_or_default();
                    if !sink(&Entry { ino: Ino(entry.ino), kind: kind_of(entry.kind), next, name }) {
                        return Ok(());
                    }
                }
                offset += entry.length;
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
    ) -> Result<bool, Error> {
        let mut empty = true;
        self.read_dir(device, dir, 0, &mut |entry| {
            empty = matches!(entry.name, b"." | b"..");
            empty
        })?;
        Ok(empty)
    }

    /// Adds a name that the directory does not have. The caller writes the directory's inode.
    pub(crate) fn add_name<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        inode: &mut Inode,
        name: &[u8],
        (ino, code): (Ino, u8),
    ) -> Result<(), Error> {
        let length = u8::try_from(name.len()).map_err(|_| Error::NameTooLong)?;
        let mut head = [0; HEAD];
        put(&mut head, 0, &ino.0.to_le_bytes());
        put(&mut head, 6, &[length, code]);
        // A list that is changed is no hash tree any more.
        inode.flags &= !HASHED;
        (inode.modified, inode.changed) = (self.now, self.now);
        let mut bytes = [0; BLOCK];
        let blocks = Self::dir_blocks(inode)?;
        for at in 0..blocks {
            let block = self.dir_block(device, inode, at, &mut bytes)?;
            let mut offset = 0;
            while offset < BLOCK {
                let entry = raw(&bytes, offset)?;
                let taken = if entry.ino == 0 { 0 } else { needed(entry.name.len()) };
                if entry.length - taken.min(entry.length) >= needed(name.len()) {
                    let place = entry.offset + taken;
                    let room = u16::try_from(entry.length - taken).map_err(|_| Error::Corrupt)?;
                    put(&mut head, 4, &room.to_le_bytes());
                    if taken > 0 {
                        let short = u16::try_from(taken).map_err(|_| Error::Corrupt)?;
                        self.set(device, block, entry.offset + 4, &short.to_le_bytes())?;
                    }
                    self.set(device, block, place, &head)?;
                    return self.set(device, block, place + HEAD, name);
                }
                offset += entry.length;
            }
        }
        if blocks >= MAX_BLOCKS {
            return Err(Error::NoSpace);
        }
        let (block, _) = self.map_or_make(device, dir, inode, blocks, Dirt::Meta)?;
        inode.size += BLOCK as u64;
        put(&mut head, 4, &4096_u16.to_le_bytes());
        self.set(device, block, 0, &head)?;
        self.set(device, block, HEAD, name)
    }

    /// Takes a name out. The caller writes the directory's inode.
    pub(crate) fn remove_name<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &mut Inode,
        found: Found,
    ) -> Result<(), Error> {
        (inode.modified, inode.changed) = (self.now, self.now);
        inode.flags &= !HASHED;
        let Some(before) = found.before else {
            return self.set(device, found.block, found.offset, &[0; 4]);
        };
        let length = self.half(device, found.block, found.offset + 4)?;
        let more = self.half(device, found.block, before + 4)?.checked_add(length).ok_or(Error::Corrupt)?;
        self.set(device, found.block, before + 4, &more.to_le_bytes())
    }

    /// Lets a name stand for something else.
    pub(crate) fn set_name<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        found: Found,
        (ino, code): (Ino, u8),
    ) -> Result<(), Error> {
        self.set(device, found.block, found.offset, &ino.0.to_le_bytes())?;
        self.set(device, found.block, found.offset + 7, &[code])
    }

    /// The two names that every directory has, in a first block of its own.
    pub(crate) fn first_names<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        inode: &mut Inode,
        parent: Ino,
    ) -> Result<(), Error> {
        let (block, _) = self.map_or_make(device, dir, inode, 0, Dirt::Meta)?;
        inode.size = BLOCK as u64;
        let mut names = [0; 24];
        put(&mut names, 0, &dir.0.to_le_bytes());
        put(&mut names, 4, &[12, 0, 1, 2, b'.']);
        put(&mut names, 12, &parent.0.to_le_bytes());
        put(&mut names, 16, &4084_u16.to_le_bytes());
        put(&mut names, 18, &[2, 2, b'.', b'.']);
        self.set(device, block, 0, &names)
    }
}
