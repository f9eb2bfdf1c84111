//! Contents of regular files.

use crate::cache::Dirt;
use crate::inode::{Inode, Kind};
use crate::{BLOCK, Device, Error, Ext3, Ino, RUN};

/// Largest file, in bytes. The format goes to 4 TiB; sectors are counted in 32 bits, so 2 TiB less what the map takes.
pub const MAX_SIZE: u64 = 1 << 40;
/// Blocks read ahead of one that is asked for: what follows it on the disk, too.
const AHEAD: u32 = 8;
/// Blocks that one block of a file takes at most with its map.
const ONE: u32 = 4;

/// Block and the byte in it.
fn place(at: u64) -> Result<(u32, usize), Error> {
    let block = u32::try_from(at / BLOCK as u64).map_err(|_| Error::TooLarge)?;
    Ok((block, usize::try_from(at % BLOCK as u64).map_err(|_| Error::TooLarge)?))
}

impl<B> Ext3<B> {
    fn file<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<Inode, Error> {
        let inode = self.read_inode(device, ino)?;
        match inode.kind() {
            Kind::File => Ok(inode),
            Kind::Directory => Err(Error::IsDirectory),
            Kind::Link | Kind::Other => Err(Error::Invalid),
        }
    }

    /// Reads from a file; gives the bytes read, fewer at its end.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        offset: u64,
        to: &mut [u8],
    ) -> Result<usize, Error> {
        let inode = self.file(device, ino)?;
        let left = usize::try_from(inode.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = to.len().min(left);
        let mut done = 0;
        while done < wanted {
            let (block, within) = place(offset + done as u64)?;
            let length = (wanted - done).min(BLOCK - within);
            let Some(part) = to.get_mut(done..done + length) else { break };
            match self.map(device, &inode, block)? {
                Some(found) => {
                    self.look_ahead(device, &inode, block, found)?;
                    self.fetch(device, found, within, part)?;
                }
                None => part.fill(0),
            }
            done += length;
        }
        Ok(done)
    }

    /// Where a block is not in memory, reads it with those that follow it in the file and on the disk.
    fn look_ahead<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &Inode,
        at: u32,
        block: u32,
    ) -> Result<(), Error> {
        if self.cache.get(block).is_some() {
            return Ok(());
        }
        let last = u32::try_from(inode.size.div_ceil(BLOCK as u64)).unwrap_or(u32::MAX);
        let mut count = 1;
        while count < AHEAD
            && at + count < last
            && self.map(device, inode, at + count)? == Some(block + count)
            && self.cache.get(block + count).is_none()
        {
            count += 1;
        }
        if count > 1 && self.cache.get(block).is_none() {
            const { assert!(AHEAD as usize <= RUN) };
            self.cache.read_ahead(device, block, crate::index(count))?;
        }
        Ok(())
    }

    /// Writes to a file, which becomes longer where that is beyond its end; gives the bytes written, fewer where the disk is
    /// full.
    ///
    /// # Errors
    /// [`Error`], where nothing was written.
    pub fn write<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        offset: u64,
        from: &[u8],
    ) -> Result<usize, Error> {
        if offset.checked_add(from.len() as u64).is_none_or(|end| end > MAX_SIZE) {
            return Err(Error::TooLarge);
        }
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let length = (from.len() - done).min(BLOCK - place(at)?.1);
            let part = from.get(done..done + length).unwrap_or_default();
            match self.write_block(device, ino, at, part) {
                Ok(()) => done += length,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write_block<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        at: u64,
        from: &[u8],
    ) -> Result<(), Error> {
        let (block, within) = place(at)?;
        let inode = self.file(device, ino)?;
        let room = if self.map(device, &inode, block)?.is_some() { 0 } else { ONE };
        self.change(device, room, |fs, device| {
            let mut inode = fs.file(device, ino)?;
            let (found, fresh) = fs.map_or_make(device, ino, &mut inode, block, Dirt::Data)?;
            let entry = if !fresh && from.len() == BLOCK && fs.cache.get(found).is_none() {
                fs.cache.fresh(device, found)?
            } else {
                fs.cache.load(device, found)?
            };
            device.store(&mut entry.buffer, within, from);
            fs.cache.soil(found, Dirt::Data);
            let end = at + from.len() as u64;
            // An inode that says the same already need not be written again.
            if fresh || end > inode.size || inode.modified != fs.now {
                inode.size = inode.size.max(end);
                (inode.modified, inode.changed) = (fs.now, fs.now);
                fs.write_inode(device, ino, &inode)?;
            }
            Ok(())
        })
    }

    /// Sets a file's length. What lay beyond a shorter one reads as zeroes if it grows again.
    ///
    /// # Errors
    /// [`Error`].
    pub fn truncate<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        size: u64,
    ) -> Result<(), Error> {
        if size > MAX_SIZE {
            return Err(Error::TooLarge);
        }
        let shrinks = size < self.file(device, ino)?.size;
        let first = u32::try_from(size.div_ceil(BLOCK as u64)).map_err(|_| Error::TooLarge)?;
        self.change(device, 0, |fs, device| {
            let mut inode = fs.file(device, ino)?;
            inode.size = size;
            (inode.modified, inode.changed) = (fs.now, fs.now);
            if shrinks {
                fs.wipe(device, &inode, size, u64::from(first) * BLOCK as u64)?;
                if inode.links > 0 {
                    fs.add_orphan(device, ino, &mut inode)?;
                }
            }
            fs.write_inode(device, ino, &inode)
        })?;
        if shrinks {
            self.cut_all(device, ino, first)?;
        }
        Ok(())
    }

    /// Frees all blocks from `first` on, of an inode that is among the orphans; in as many transactions as it takes.
    pub(crate) fn cut_all<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        first: u32,
    ) -> Result<(), Error> {
        loop {
            let all = self.change(device, 0, |fs, device| {
                let mut inode = fs.read_inode(device, ino)?;
                let all = fs.cut(device, &mut inode, first)?;
                if all && inode.links > 0 {
                    fs.remove_orphan(device, ino, &mut inode)?;
                }
                fs.write_inode(device, ino, &inode)?;
                Ok(all)
            })?;
            if all {
                return Ok(());
            }
        }
    }

    /// Makes bytes within one block zero, if there is a block.
    fn wipe<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &Inode,
        start: u64,
        end: u64,
    ) -> Result<(), Error> {
        let (block, within) = place(start)?;
        let length = usize::try_from(end.saturating_sub(start)).unwrap_or(0).min(BLOCK - within);
        if length > 0
            && let Some(found) = self.map(device, inode, block)?
        {
            let entry = self.cache.load(device, found)?;
            device.store(&mut entry.buffer, within, [0; BLOCK].get(..length).unwrap_or_default());
            self.cache.soil(found, Dirt::Data);
            self.touched = true;
        }
        Ok(())
    }

    /// Makes the bytes from `start` to `end` zero and frees whole blocks among them. The length stays.
    ///
    /// # Errors
    /// [`Error`].
    pub fn punch<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        start: u64,
        end: u64,
    ) -> Result<(), Error> {
        let size = self.file(device, ino)?.size.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64);
        let end = end.min(size);
        if start >= end {
            return Ok(());
        }
        let (first, last) = (place(start + (BLOCK as u64 - 1))?.0, place(end)?.0);
        self.change(device, 0, |fs, device| {
            let mut inode = fs.file(device, ino)?;
            fs.wipe(device, &inode, start, end.min(u64::from(first) * BLOCK as u64))?;
            fs.wipe(device, &inode, start.max(u64::from(last) * BLOCK as u64), end)?;
            (inode.modified, inode.changed) = (fs.now, fs.now);
            fs.write_inode(device, ino, &inode)
        })?;
        let mut at = first;
        while let Some(next) = {
            let inode = self.file(device, ino)?;
            self.next_mapped(device, &inode, at, last)?
        } {
            self.change(device, 0, |fs, device| {
                let mut inode = fs.file(device, ino)?;
                fs.unmap(device, &mut inode, next)?;
                fs.write_inode(device, ino, &inode)
            })?;
            at = next + 1;
        }
        Ok(())
    }

    /// Gives every hole from `start` to `end` a block of zeroes, so that writing there does not want any. The file becomes as long
    /// as that: the format has no blocks behind a file's end.
    ///
    /// # Errors
    /// [`Error::NoSpace`], where some may have been given.
    pub fn reserve<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        start: u64,
        end: u64,
    ) -> Result<(), Error> {
        if end > MAX_SIZE {
            return Err(Error::TooLarge);
        }
        let (first, last) = (place(start)?.0, place(end + (BLOCK as u64 - 1))?.0);
        let wanted = last.saturating_sub(first);
        let inode = self.file(device, ino)?;
        if wanted > 0 && self.map(device, &inode, first)?.is_none() {
            // What can't fit is refused before the disk is filled with it.
            self.begin(device, 0)?;
            let free = self.usage(device)?.free_blocks;
            let there = u64::from(inode.sectors / 8);
            if u64::from(wanted) > free + there {
                return Err(Error::NoSpace);
            }
        }
        for at in first..last {
            let inode = self.file(device, ino)?;
            if self.map(device, &inode, at)?.is_none() {
                self.change(device, ONE, |fs, device| {
                    let mut inode = fs.file(device, ino)?;
                    fs.map_or_make(device, ino, &mut inode, at, Dirt::Data)?;
                    inode.size = inode.size.max(end.min((u64::from(at) + 1) * BLOCK as u64));
                    (inode.modified, inode.changed) = (fs.now, fs.now);
                    fs.write_inode(device, ino, &inode)
                })?;
            }
        }
        if end > self.file(device, ino)?.size { self.truncate(device, ino, end) } else { Ok(()) }
    }

    /// The first byte from `at` on that is data, or that is in a hole; the end of the file is a hole. `None` behind the end, or
    /// where no data follows.
    ///
    /// # Errors
    /// [`Error`].
    pub fn seek<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        at: u64,
        data: bool,
    ) -> Result<Option<u64>, Error> {
        let inode = self.file(device, ino)?;
        if at >= inode.size {
            return Ok(None);
        }
        let end = u32::try_from(inode.size.div_ceil(BLOCK as u64)).map_err(|_| Error::TooLarge)?;
        let mut block = place(at)?.0;
        if data {
            let next = self.next_mapped(device, &inode, block, end)?;
            return Ok(next.map(|next| at.max(u64::from(next) * BLOCK as u64)));
        }
        while block < end && self.map(device, &inode, block)?.is_some() {
            block += 1;
        }
        Ok(Some(at.max(u64::from(block) * BLOCK as u64).min(inode.size)))
    }
}
