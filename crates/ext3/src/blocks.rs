//! Words of blocks, and the bounds within which one change is made.

use crate::cache::Dirt;
use crate::{BLOCK, Device, Error, Ext3, State, le16, le32, superblock};

/// Blocks that one change touches at most: an inode, its directory and another one with their parents, four bitmaps with
/// their descriptors, four levels of a map, the superblock.
pub(crate) const CHANGE: usize = 32;

impl<B> Ext3<B> {
    /// Whether a block may lie there; block 0 is the superblock's.
    pub(crate) fn check(&self, block: u32) -> Result<(), Error> {
        if block > 0 && block < self.geometry.blocks { Ok(()) } else { Err(Error::Corrupt) }
    }

    /// Copies bytes of a block.
    pub(crate) fn fetch<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        block: u32,
        offset: usize,
        to: &mut [u8],
    ) -> Result<(), Error> {
        if block >= self.geometry.blocks || offset + to.len() > BLOCK {
            return Err(Error::Corrupt);
        }
        let entry = self.cache.load(device, block)?;
        device.fetch(&entry.buffer, offset, to);
        Ok(())
    }

    pub(crate) fn word<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        block: u32,
        offset: usize,
    ) -> Result<u32, Error> {
        let mut bytes = [0; 4];
        self.fetch(device, block, offset, &mut bytes)?;
        Ok(le32(&bytes, 0))
    }

    pub(crate) fn half<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        block: u32,
        offset: usize,
    ) -> Result<u16, Error> {
        let mut bytes = [0; 2];
        self.fetch(device, block, offset, &mut bytes)?;
        Ok(le16(&bytes, 0))
    }

    /// Changes bytes of a block of metadata.
    pub(crate) fn set<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        block: u32,
        offset: usize,
        from: &[u8],
    ) -> Result<(), Error> {
        if block >= self.geometry.blocks || offset + from.len() > BLOCK {
            return Err(Error::Corrupt);
        }
        let entry = self.cache.load(device, block)?;
        device.store(&mut entry.buffer, offset, from);
        self.cache.soil(block, Dirt::Meta);
        self.touched = true;
        Ok(())
    }

    /// Adds to a word of the superblock.
    pub(crate) fn count<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        at: usize,
        change: i32,
    ) -> Result<(), Error> {
        let now = self.word(device, 0, at)?.checked_add_signed(change).ok_or(Error::Corrupt)?;
        self.set(device, 0, at, &now.to_le_bytes())
    }

    /// Makes room for a change that adds up to `blocks` blocks to the disk; nothing of it is done yet.
    pub(crate) fn begin<D: Device<Buffer = B>>(&mut self, device: &mut D, blocks: u32) -> Result<(), Error> {
        match self.state {
            State::Writable => {}
            State::ReadOnly => return Err(Error::ReadOnly),
            State::Failed => return Err(Error::Io),
        }
        if self.is_tight() {
            self.commit(device)?;
        }
        if self.cache.reserve(device, CHANGE).is_err() {
            self.write_data(device)?;
            if self.cache.reserve(device, CHANGE).is_err() {
                self.commit(device)?;
                self.cache.reserve(device, CHANGE)?;
            }
        }
        if blocks > 0 && self.room(device)? < blocks {
            if self.freed.total() > 0 {
                self.commit(device)?;
            }
            if self.room(device)? < blocks {
                return Err(Error::NoSpace);
            }
        }
        self.touched = false;
        Ok(())
    }

    /// Whether the transaction under way has no room for another change.
    pub(crate) fn is_tight(&self) -> bool {
        self.cache.meta + CHANGE > self.log.capacity() || self.freed.is_full(CHANGE)
    }

    /// Blocks that can be allocated now.
    fn room<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<u32, Error> {
        Ok(self.word(device, 0, superblock::FREE_BLOCKS)?.saturating_sub(self.freed.total()))
    }

    /// One change, all of it or none. One that fails half way ends all writing: the disk keeps its last state.
    pub(crate) fn change<D: Device<Buffer = B>, R>(
        &mut self,
        device: &mut D,
        blocks: u32,
        work: impl FnOnce(&mut Self, &mut D) -> Result<R, Error>,
    ) -> Result<R, Error> {
        self.begin(device, blocks)?;
        let done = work(self, device);
        if done.is_err() && self.touched {
            self.state = State::Failed;
        }
        done
    }
}
