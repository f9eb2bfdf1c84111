//! `/data`: ext3 on a disk of the domain's own, writable, and there again after the next start.
//!
//! The filesystem keeps blocks in frames of the machine, so that they count as what they are, and gives them up where the program
//! needs them more. What was written is on the disk after `fsync`, at the program's end, and within seconds in any case.

use alloc::vec::Vec;

use ext3::{Device, Ext3, Ino, IoFailed, Kind, Limits, MountError, ROOT, Stat, Time};

use super::{Attributes, DirEntry, DirSink};
use crate::errno::Errno;
use crate::machine::{DISK_RUN, Machine};
use crate::vm::{Backing, Memory};

/// `st_dev`: that of `xvdb`.
pub(crate) const DATA_DEVICE: u64 = 0xca10;
/// How long a change may stay in memory, in nanoseconds, if the program makes calls or sleeps.
const WRITE_BACK_NS: u64 = 5_000_000_000;
/// Least and most blocks that the filesystem keeps in memory, and its share of the domain's.
const CACHE: core::ops::RangeInclusive<u64> = 128..=1024;
const CACHE_SHARE: u64 = 16;

/// An inode's number in a snapshot's manifest.
pub(crate) mod ino {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(ino: &ext3::Ino, to: S) -> Result<S::Ok, S::Error> {
        ino.0.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ext3::Ino, D::Error> {
        u32::deserialize(from).map(ext3::Ino)
    }
}

/// The machine, as the filesystem sees it.
pub(crate) struct Disk<'a, M>(&'a mut M);

fn failed<E>(_: E) -> IoFailed {
    IoFailed
}

const _: () = assert!(ext3::RUN <= DISK_RUN && ext3::BLOCK == 4096);

impl<M: Machine> Device for Disk<'_, M> {
    type Buffer = M::Frame;

    fn blocks(&self) -> u64 {
        self.0.data_disk().map_or(0, |disk| disk.blocks)
    }

    fn is_read_only(&self) -> bool {
        self.0.data_disk().is_none_or(|disk| disk.read_only)
    }

    fn allocate(&mut self) -> Option<M::Frame> {
        self.0.allocate_unfilled().ok()
    }

    fn release(&mut self, buffer: M::Frame) {
        self.0.release(buffer);
    }

    fn fetch(&self, buffer: &M::Frame, offset: usize, to: &mut [u8]) {
        self.0.read_frame(buffer, offset, to);
    }

    fn store(&mut self, buffer: &mut M::Frame, offset: usize, from: &[u8]) {
        self.0.write_frame(buffer, offset, from);
    }

    fn read(&mut self, first: u32, to: &mut [M::Frame]) -> Result<(), IoFailed> {
        self.0.disk_read(u64::from(first), to).map_err(failed)
    }

    fn write(&mut self, first: u32, from: &[&M::Frame]) -> Result<(), IoFailed> {
        self.0.disk_write(u64::from(first), from).map_err(failed)
    }

    fn flush(&mut self) -> Result<(), IoFailed> {
        self.0.disk_flush().map_err(failed)
    }

    fn discard(&mut self, first: u32, count: u32) {
        self.0.disk_discard(u64::from(first), u64::from(count));
    }
}

/// What a program is told.
pub(crate) fn errno(error: ext3::Error) -> Errno {
    use ext3::Error;
    match error {
        Error::Io | Error::Corrupt => Errno::IO,
        Error::NoSpace => Errno::NOSPC,
        Error::NoMemory => Errno::NOMEM,
        Error::NotFound => Errno::NOENT,
        Error::Exists => Errno::EXIST,
        Error::NotDirectory => Errno::NOTDIR,
        Error::IsDirectory => Errno::ISDIR,
        Error::NotEmpty => Errno::NOTEMPTY,
        Error::TooManyLinks => Errno::MLINK,
        Error::NameTooLong => Errno::NAMETOOLONG,
        Error::TooLarge => Errno::FBIG,
        Error::ReadOnly => Errno::ROFS,
        Error::Invalid => Errno::INVAL,
    }
}

/// Nanoseconds since 1970 as the filesystem has them.
pub(crate) fn time(now: u64) -> Time {
    Time { seconds: now / 1_000_000_000, nanoseconds: (now % 1_000_000_000) as u32 }
}

/// `/data`, mounted.
pub(crate) struct Data<F> {
    fs: Ext3<F>,
    /// Since when there are changes in memory only (monotonic).
    dirty_since: Option<u64>,
    /// Files that mappings show, each once: they stay open.
    mapped: Vec<Ino>,
}

impl<M: Machine> Memory<M> {
    /// Mounts the filesystem of the disk that the machine has, if it has one. Inodes that were open without a name are kept until
    /// [`Memory::free_data_orphans`]: at a thaw they are opened again by number in between ([`Memory::retain_data`]).
    pub(crate) fn mount_data(&mut self) -> Result<(), MountError> {
        if self.machine.data_disk().is_none() {
            return Ok(());
        }
        let share = self.machine.frames().ceiling / CACHE_SHARE;
        let limits = Limits { blocks: share.clamp(*CACHE.start(), *CACHE.end()) as usize };
        let now = time(self.machine.realtime());
        let mut fs = Ext3::mount(&mut Disk(&mut self.machine), limits)?;
        fs.set_now(now);
        self.data = Some(Data { fs, dirty_since: None, mapped: Vec::new() });
        Ok(())
    }

    /// Frees what was open without a name when the disk was left, and is not open now.
    pub(crate) fn free_data_orphans(&mut self) -> Result<(), Errno> {
        if self.data.is_none() {
            return Ok(());
        }
        self.with_data(|fs, disk| fs.free_orphans(disk))
    }

    /// Does something with the filesystem.
    pub(crate) fn with_data<R>(
        &mut self,
        work: impl FnOnce(&mut Ext3<M::Frame>, &mut Disk<'_, M>) -> Result<R, ext3::Error>,
    ) -> Result<R, Errno> {
        let data = self.data.as_mut().ok_or(Errno::IO)?;
        work(&mut data.fs, &mut Disk(&mut self.machine)).map_err(errno)
    }

    /// Sets the time that changes are stamped with, in nanoseconds since 1970.
    pub(crate) fn set_data_now(&mut self, now: u64) {
        if let Some(data) = &mut self.data {
            data.fs.set_now(time(now));
        }
    }

    /// Writes out what has been in memory for long enough. A failure is told to whoever asks next: the filesystem remembers it.
    pub(crate) fn write_back_data(&mut self) {
        let Some(data) = self.data.as_mut().filter(|data| data.fs.is_dirty()) else { return };
        let now = self.machine.monotonic();
        if now.saturating_sub(*data.dirty_since.get_or_insert(now)) >= WRITE_BACK_NS {
            let _ = self.sync_data();
        }
    }

    /// Everything written is on the disk afterwards, or it is an error. Without a disk there is nothing to do.
    pub(crate) fn sync_data(&mut self) -> Result<(), Errno> {
        let Some(data) = &mut self.data else { return Ok(()) };
        data.dirty_since = None;
        self.with_data(|fs, disk| fs.sync(disk))
    }

    /// Gives frames back that hold nothing but copies of the disk. False where there were none.
    pub(crate) fn shrink_data(&mut self) -> bool {
        let Some(data) = &mut self.data else { return false };
        data.fs.shrink(&mut Disk(&mut self.machine));
        true
    }

    /// A description or a directory that is current has the file open.
    pub(crate) fn retain_data(&mut self, ino: Ino) -> Result<(), Errno> {
        self.with_data(|fs, disk| fs.retain(disk, ino))
    }

    pub(crate) fn release_data(&mut self, ino: Ino) {
        // One that could not be freed is freed at the next mount.
        let _ = self.with_data(|fs, disk| fs.release(disk, ino));
    }

    /// A mapping is to show the file.
    pub(crate) fn retain_mapped(&mut self, ino: Ino) -> Result<(), Errno> {
        let data = self.data.as_mut().ok_or(Errno::IO)?;
        if !data.mapped.contains(&ino) {
            data.mapped.try_reserve(1)?;
            data.mapped.push(ino);
            self.retain_data(ino).inspect_err(|_| {
                let _ = self.data.as_mut().and_then(|data| data.mapped.pop());
            })?;
        }
        Ok(())
    }

    /// What mappings show that are there already: at a thaw.
    pub(crate) fn retain_all_mapped(&mut self) -> Result<(), Errno> {
        let mut at = 0;
        while let Some(vma) = self.vmas.at_or_above(at).copied() {
            at = vma.end;
            if let Backing::Data { file, .. } = vma.backing {
                self.retain_mapped(file)?;
            }
        }
        Ok(())
    }

    /// After mappings have gone: files that none shows any more.
    pub(crate) fn reap_data(&mut self) {
        let mut at = 0;
        while let Some(ino) = self.data.as_ref().and_then(|data| data.mapped.get(at).copied()) {
            if self.shows_data(ino) {
                at += 1;
                continue;
            }
            if let Some(data) = &mut self.data {
                data.mapped.swap_remove(at);
            }
            self.release_data(ino);
        }
    }

    /// Ends it: the disk needs no recovery afterwards.
    pub(crate) fn unmount_data(&mut self) -> Result<(), Errno> {
        let Some(data) = self.data.take() else { return Ok(()) };
        data.fs.unmount(&mut Disk(&mut self.machine)).map_err(errno)
    }

    pub(crate) fn data_attributes(&mut self, ino: Ino) -> Result<Attributes, Errno> {
        Ok(attributes(&self.with_data(|fs, disk| fs.stat(disk, ino))?))
    }

    /// The directory that holds this one; `None` for the root.
    pub(crate) fn data_parent(&mut self, dir: Ino) -> Result<Option<Ino>, Errno> {
        if dir == ROOT {
            return Ok(None);
        }
        self.with_data(|fs, disk| fs.lookup(disk, dir, b"..")).map(Some)
    }

    pub(crate) fn read_data_dir(
        &mut self,
        dir: Ino,
        position: u64,
        sink: &mut DirSink<'_>,
    ) -> Result<(), Errno> {
        self.with_data(|fs, disk| {
            fs.read_dir(disk, dir, position, &mut |entry| {
                let kind = match entry.kind {
                    Kind::Directory => 4,
                    Kind::File => 8,
                    Kind::Link => 10,
                    Kind::Other => 0,
                };
                sink(&DirEntry { inode: u64::from(entry.ino.0), next: entry.next, kind, name: entry.name })
            })
        })
    }
}

fn attributes(stat: &Stat) -> Attributes {
    let time = |time: Time| (time.seconds, time.nanoseconds);
    Attributes {
        device: DATA_DEVICE,
        inode: u64::from(stat.ino.0),
        mode: u32::from(stat.mode),
        links: u32::from(stat.links),
        uid: stat.uid,
        gid: stat.gid,
        special: 0,
        size: stat.size,
        blocks: stat.sectors,
        accessed: time(stat.accessed),
        modified: time(stat.modified),
        changed: time(stat.changed),
    }
}
