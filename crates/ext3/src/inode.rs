//! Inodes: what is kept of each, and where it lies.

use crate::superblock::DESCRIPTORS;
use crate::{Device, Error, Ext3, Ino, Time, index, le16, le32, put};

/// Bytes of an inode that this crate looks at.
const LOOKED_AT: usize = 152;
/// Bytes that inodes of 256 bytes and more have in use beyond the first 128: up to the time of birth.
const EXTRA: u16 = 32;
/// `EXT4_HUGE_FILE_FL`, `EXT4_EXTENTS_FL`, `EXT4_EA_INODE_FL`, `EXT4_INLINE_DATA_FL`, `EXT4_ENCRYPT_FL`: content lies otherwise than here.
const ELSEWHERE: u32 = 0x4_0000 | 0x8_0000 | 0x20_0000 | 0x1000_0000 | 0x800;
/// `EXT4_INDEX_FL`: the directory has a hash tree.
pub(crate) const HASHED: u32 = 0x1000;

const TYPE: u16 = 0o170_000;

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    File,
    Directory,
    Link,
    /// A device, pipe or socket, made by somebody else.
    Other,
}

/// What `stat` tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Type and permissions, as in `st_mode`.
    pub mode: u16,
    /// Names that it has; a directory counts its own, and the `..` of those in it.
    pub links: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// What it takes on the disk, in units of 512 bytes.
    pub sectors: u64,
    /// Of the last change of the content or the names in it.
    pub modified: Time,
    /// Of the last change of anything.
    pub changed: Time,
    /// Of reading: only set when asked for ([`Ext3::set_times`]).
    pub accessed: Time,
}

/// An inode, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Inode {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u16,
    pub(crate) size: u64,
    pub(crate) sectors: u32,
    pub(crate) flags: u32,
    pub(crate) blocks: [u32; 15],
    pub(crate) generation: u32,
    pub(crate) attributes: u32,
    pub(crate) accessed: Time,
    pub(crate) changed: Time,
    pub(crate) modified: Time,
    /// When it was deleted; of an orphan the next one.
    pub(crate) deleted: u32,
    /// Bytes in use beyond 128.
    extra: u16,
}

impl Inode {
    pub(crate) fn new(mode: u16, now: Time, generation: u32) -> Self {
        Self {
            mode,
            uid: 0,
            gid: 0,
            links: 0,
            size: 0,
            sectors: 0,
            flags: 0,
            blocks: [0; 15],
            generation,
            attributes: 0,
            accessed: now,
            changed: now,
            modified: now,
            deleted: 0,
            extra: EXTRA,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.mode & TYPE {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Directory,
            0o120_000 => Kind::Link,
            _ => Kind::Other,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.kind() == Kind::Directory
    }

    fn decode(bytes: &[u8; LOOKED_AT], inode_size: u32) -> Self {
        let extra = if inode_size > 128 { le16(bytes, 128) } else { 0 };
        // Low two bits: seconds beyond 32 bits. The rest: nanoseconds.
        let time = |at: usize, extra_at: usize| {
            let more = if usize::from(extra) + 128 >= extra_at + 4 { le32(bytes, extra_at) } else { 0 };
            Time {
                seconds: u64::from(le32(bytes, at)) | u64::from(more & 3) << 32,
                nanoseconds: (more >> 2).min(999_999_999),
            }
        };
        let mode = le16(bytes, 0);
        let high = if mode & TYPE == 0o100_000 { le32(bytes, 108) } else { 0 };
        Self {
            mode,
            uid: u32::from(le16(bytes, 2)) | u32::from(le16(bytes, 120)) << 16,
            gid: u32::from(le16(bytes, 24)) | u32::from(le16(bytes, 122)) << 16,
            links: le16(bytes, 26),
            size: u64::from(le32(bytes, 4)) | u64::from(high) << 32,
            sectors: le32(bytes, 28),
            flags: le32(bytes, 32),
            blocks: core::array::from_fn(|block| le32(bytes, 40 + 4 * block)),
            generation: le32(bytes, 100),
            attributes: le32(bytes, 104),
            accessed: time(8, 140),
            changed: time(12, 132),
            modified: time(16, 136),
            deleted: le32(bytes, 20),
            extra,
        }
    }

    /// Changes what this crate knows of an inode.
    fn encode(&self, bytes: &mut [u8; LOOKED_AT], inode_size: u32) {
        let [low, high] = [self.size & 0xffff_ffff, self.size >> 32]
            .map(|half| u32::try_from(half).unwrap_or(u32::MAX).to_le_bytes());
        let [uid, gid] = [self.uid, self.gid].map(u32::to_le_bytes);
        put(bytes, 0, &self.mode.to_le_bytes());
        put(bytes, 2, uid.get(..2).unwrap_or_default());
        put(bytes, 120, uid.get(2..).unwrap_or_default());
        put(bytes, 24, gid.get(..2).unwrap_or_default());
        put(bytes, 122, gid.get(2..).unwrap_or_default());
        put(bytes, 26, &self.links.to_le_bytes());
        put(bytes, 4, &low);
        if self.kind() == Kind::File {
            put(bytes, 108, &high);
        }
        put(bytes, 28, &self.sectors.to_le_bytes());
        put(bytes, 32, &self.flags.to_le_bytes());
        for (block, place) in self.blocks.iter().zip((40..).step_by(4)) {
            put(bytes, place, &block.to_le_bytes());
        }
        put(bytes, 100, &self.generation.to_le_bytes());
        put(bytes, 104, &self.attributes.to_le_bytes());
        put(bytes, 20, &self.deleted.to_le_bytes());
        if inode_size > 128 {
            put(bytes, 128, &self.extra.to_le_bytes());
        }
        for (time, at, extra_at) in
            [(self.accessed, 8, 140), (self.changed, 12, 132), (self.modified, 16, 136)]
        {
            let [low, high] = [time.seconds & 0xffff_ffff, time.seconds >> 32 & 3]
                .map(|half| u32::try_from(half).unwrap_or(0));
            put(bytes, at, &low.to_le_bytes());
            if inode_size > 128 && usize::from(self.extra) + 128 >= extra_at + 4 {
                put(bytes, extra_at, &(high | time.nanoseconds << 2).to_le_bytes());
            }
        }
    }
}

impl<B> Ext3<B> {
    /// Block of a group's descriptor, and where it lies there.
    pub(crate) fn descriptor(&self, group: u32) -> (u32, usize) {
        (1 + group / DESCRIPTORS, index(group % DESCRIPTORS) * 32)
    }

    /// Block of an inode, and where it lies there.
    fn place<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<(u32, usize), Error> {
        let number = ino.0.checked_sub(1).filter(|number| *number < self.geometry.inodes);
        let number = number.ok_or(Error::Corrupt)?;
        let (group, within) =
            (number / self.geometry.inodes_per_group, number % self.geometry.inodes_per_group);
        let (block, at) = self.descriptor(group);
        let table = self.word(device, block, at + 8)?;
        let in_block = 4096 / self.geometry.inode_size;
        let block = table.checked_add(within / in_block).ok_or(Error::Corrupt)?;
        self.check(block)?;
        Ok((block, index(within % in_block * self.geometry.inode_size)))
    }

    pub(crate) fn read_inode<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
    ) -> Result<Inode, Error> {
        let (block, at) = self.place(device, ino)?;
        let mut bytes = [0; LOOKED_AT];
        let length = LOOKED_AT.min(index(self.geometry.inode_size));
        self.fetch(device, block, at, bytes.get_mut(..length).unwrap_or_default())?;
        let inode = Inode::decode(&bytes, self.geometry.inode_size);
        let strange = inode.flags & ELSEWHERE != 0 && inode.kind() != Kind::Other;
        if strange || inode.extra > 4096 - 128 { Err(Error::Corrupt) } else { Ok(inode) }
    }

    pub(crate) fn write_inode<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        inode: &Inode,
    ) -> Result<(), Error> {
        let (block, at) = self.place(device, ino)?;
        let length = LOOKED_AT.min(index(self.geometry.inode_size));
        let mut bytes = [0; LOOKED_AT];
        self.fetch(device, block, at, bytes.get_mut(..length).unwrap_or_default())?;
        inode.encode(&mut bytes, self.geometry.inode_size);
        self.set(device, block, at, bytes.get(..length).unwrap_or_default())
    }

    /// Makes the place of a new inode zero, so that nothing of an earlier one is left.
    pub(crate) fn clear_inode<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
    ) -> Result<u32, Error> {
        let (block, at) = self.place(device, ino)?;
        let generation = self.word(device, block, at + 100)?;
        let size = index(self.geometry.inode_size);
        self.set(device, block, at, [0; 4096].get(..size).unwrap_or_default())?;
        Ok(generation)
    }

    /// What the inode is; [`Error::NotFound`] where none is in use.
    ///
    /// # Errors
    /// [`Error`].
    pub fn stat<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<Stat, Error> {
        let inode = self.read_inode(device, ino)?;
        if inode.mode == 0 || (inode.links == 0 && !self.is_open(ino)) {
            return Err(Error::NotFound);
        }
        Ok(Stat {
            ino,
            kind: inode.kind(),
            mode: inode.mode,
            links: inode.links,
            uid: inode.uid,
            gid: inode.gid,
            size: inode.size,
            sectors: u64::from(inode.sectors),
            modified: inode.modified,
            changed: inode.changed,
            accessed: inode.accessed,
        })
    }

    /// The time that changes are stamped with.
    pub fn set_now(&mut self, now: Time) {
        self.now = now;
    }

    /// Changes permissions: the low twelve bits of `mode`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn set_mode<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        mode: u16,
    ) -> Result<(), Error> {
        self.alter(device, ino, |inode| inode.mode = inode.mode & TYPE | mode & 0o7777)
    }

    /// Changes owner and group, where given.
    ///
    /// # Errors
    /// [`Error`].
    pub fn set_owner<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Error> {
        self.alter(device, ino, |inode| {
            inode.uid = uid.unwrap_or(inode.uid);
            inode.gid = gid.unwrap_or(inode.gid);
        })
    }

    /// Sets times, where given.
    ///
    /// # Errors
    /// [`Error`].
    pub fn set_times<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        accessed: Option<Time>,
        modified: Option<Time>,
    ) -> Result<(), Error> {
        self.alter(device, ino, |inode| {
            inode.accessed = accessed.unwrap_or(inode.accessed);
            inode.modified = modified.unwrap_or(inode.modified);
        })
    }

    fn alter<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        alter: impl FnOnce(&mut Inode),
    ) -> Result<(), Error> {
        self.change(device, 0, |fs, device| {
            let mut inode = fs.read_inode(device, ino)?;
            alter(&mut inode);
            inode.changed = fs.now;
            fs.write_inode(device, ino, &inode)
        })
    }
}
