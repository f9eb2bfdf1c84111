//! Blocks and inodes that are free: bitmaps, and the counters beside them.

use crate::superblock::{FREE_BLOCKS, FREE_INODES};
use crate::{Device, Error, Ext3, Ino, index};

/// Words of a group's descriptor.
const BLOCK_BITMAP: usize = 0;
const INODE_BITMAP: usize = 4;
const GROUP_FREE_BLOCKS: usize = 12;
const GROUP_FREE_INODES: usize = 14;
const GROUP_DIRECTORIES: usize = 16;

/// Bytes of a bitmap that are looked at together.
const PART: u32 = 64;

impl<B> Ext3<B> {
    fn bitmap<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        group: u32,
        which: usize,
    ) -> Result<u32, Error> {
        let (block, at) = self.descriptor(group);
        let bitmap = self.word(device, block, at + which)?;
        self.check(bitmap)?;
        Ok(bitmap)
    }

    fn group_count<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        group: u32,
        which: usize,
        change: i16,
    ) -> Result<u16, Error> {
        let (block, at) = self.descriptor(group);
        let now = self.half(device, block, at + which)?;
        if change != 0 {
            let next = now.checked_add_signed(change).ok_or(Error::Corrupt)?;
            self.set(device, block, at + which, &next.to_le_bytes())?;
        }
        Ok(now)
    }

    /// The first clear bit from `from` on for which `good`.
    fn clear_bit<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        bitmap: u32,
        from: u32,
        bits: u32,
        good: impl Fn(&Self, u32) -> bool,
    ) -> Result<Option<u32>, Error> {
        let mut part = from / (8 * PART);
        while part * 8 * PART < bits {
            let mut bytes = [0; PART as usize];
            self.fetch(device, bitmap, index(part * PART), &mut bytes)?;
            for (byte, at) in bytes.iter().zip((part * PART * 8..).step_by(8)) {
                if *byte == 0xff {
                    continue;
                }
                let clear = (0..8).filter(|bit| byte >> bit & 1 == 0).map(|bit| at + bit);
                let found = clear.into_iter().find(|bit| (from..bits).contains(bit) && good(self, *bit));
                if found.is_some() {
                    return Ok(found);
                }
            }
            part += 1;
        }
        Ok(None)
    }

    /// Turns a bit over; it must have been otherwise.
    fn turn<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        bitmap: u32,
        bit: u32,
        on: bool,
    ) -> Result<(), Error> {
        let (at, mask) = (index(bit / 8), 1 << (bit % 8));
        let mut byte = [0];
        self.fetch(device, bitmap, at, &mut byte)?;
        let [was] = byte;
        if (was & mask != 0) == on {
            return Err(Error::Corrupt);
        }
        self.set(device, bitmap, at, &[was ^ mask])
    }

    /// Takes a free block, if it can be near `goal`. [`Ext3::begin`] made sure that there is one.
    pub(crate) fn allocate_block<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        goal: u32,
    ) -> Result<u32, Error> {
        let per_group = self.geometry.blocks_per_group;
        let goal = if goal < self.geometry.blocks { goal } else { 0 };
        let first = goal / per_group;
        // The goal's group is looked at once more at the end, from its beginning.
        for turn in 0..=self.geometry.groups {
            let group = (first + turn) % self.geometry.groups;
            let from = if turn == 0 { goal % per_group } else { 0 };
            if self.group_count(device, group, GROUP_FREE_BLOCKS, 0)? == 0 {
                continue;
            }
            let start = group * per_group;
            let bits = per_group.min(self.geometry.blocks - start);
            let bitmap = self.bitmap(device, group, BLOCK_BITMAP)?;
            let good = |fs: &Self, bit: u32| start + bit > 0 && !fs.freed.contains(start + bit);
            if let Some(bit) = self.clear_bit(device, bitmap, from, bits, good)? {
                self.turn(device, bitmap, bit, true)?;
                self.group_count(device, group, GROUP_FREE_BLOCKS, -1)?;
                self.count(device, FREE_BLOCKS, -1)?;
                return Ok(start + bit);
            }
        }
        Err(Error::Corrupt)
    }

    /// Frees a block that is in use.
    pub(crate) fn free_block<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        block: u32,
    ) -> Result<(), Error> {
        self.check(block)?;
        let (group, bit) = (block / self.geometry.blocks_per_group, block % self.geometry.blocks_per_group);
        let bitmap = self.bitmap(device, group, BLOCK_BITMAP)?;
        self.turn(device, bitmap, bit, false)?;
        self.group_count(device, group, GROUP_FREE_BLOCKS, 1)?;
        self.count(device, FREE_BLOCKS, 1)?;
        self.cache.forget(device, block);
        self.freed.add(block)
    }

    /// Takes a free inode, if it can be in the group of `near`. [`Error::NoSpace`] where there is none, and nothing was changed.
    pub(crate) fn allocate_inode<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        near: Ino,
        directory: bool,
    ) -> Result<Ino, Error> {
        let per_group = self.geometry.inodes_per_group;
        let first = near.0.saturating_sub(1) / per_group;
        for turn in 0..self.geometry.groups {
            let group = (first + turn) % self.geometry.groups;
            if self.group_count(device, group, GROUP_FREE_INODES, 0)? == 0 {
                continue;
            }
            let bitmap = self.bitmap(device, group, INODE_BITMAP)?;
            let start = group * per_group;
            // Bit b is inode start + b + 1.
            let from = (self.geometry.first_inode - 1).saturating_sub(start);
            if let Some(bit) = self.clear_bit(device, bitmap, from, per_group, |_, _| true)? {
                self.turn(device, bitmap, bit, true)?;
                self.group_count(device, group, GROUP_FREE_INODES, -1)?;
                if directory {
                    self.group_count(device, group, GROUP_DIRECTORIES, 1)?;
                }
                self.count(device, FREE_INODES, -1)?;
                return Ok(Ino(start + bit + 1));
            }
        }
        Err(Error::NoSpace)
    }

    pub(crate) fn free_inode<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        directory: bool,
    ) -> Result<(), Error> {
        let number =
            ino.0.checked_sub(1).filter(|_| ino.0 >= self.geometry.first_inode).ok_or(Error::Corrupt)?;
        let (group, bit) = (number / self.geometry.inodes_per_group, number % self.geometry.inodes_per_group);
        let bitmap = self.bitmap(device, group, INODE_BITMAP)?;
        self.turn(device, bitmap, bit, false)?;
        self.group_count(device, group, GROUP_FREE_INODES, 1)?;
        if directory {
            self.group_count(device, group, GROUP_DIRECTORIES, -1)?;
        }
        self.count(device, FREE_INODES, 1)
    }

    /// How much is free.
    ///
    /// # Errors
    /// [`Error`].
    pub fn usage<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<crate::Usage, Error> {
        Ok(crate::Usage {
            blocks: u64::from(self.geometry.blocks),
            free_blocks: u64::from(self.word(device, 0, FREE_BLOCKS)?),
            inodes: u64::from(self.geometry.inodes),
            free_inodes: u64::from(self.word(device, 0, FREE_INODES)?),
        })
    }
}
