//! Blocks in memory: clean, data to be written where it belongs, or metadata of the transaction under way.

use alloc::vec::Vec;

use crate::{BLOCK, Device, Error, RUN};

/// How much memory the filesystem may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Blocks in memory, each a buffer of the device's and 32 bytes; at least 128. A third of them at most waits to be written
    /// as metadata.
    pub blocks: usize,
}

/// What is to become of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dirt {
    Clean,
    /// Content of a file: goes where it belongs at any time.
    Data,
    /// Goes through the journal.
    Meta,
}

pub(crate) struct Cached<B> {
    pub(crate) block: u32,
    pub(crate) dirt: Dirt,
    used: bool,
    pub(crate) buffer: B,
}

/// The blocks, ascending by number.
pub(crate) struct Cache<B> {
    pub(crate) entries: Vec<Cached<B>>,
    /// Buffers kept for the change under way, so that it can't fail half way for want of memory.
    spare: Vec<B>,
    pub(crate) limit: usize,
    hand: usize,
    /// Entries that are dirty.
    pub(crate) meta: usize,
    pub(crate) data: usize,
}

impl<B> Cache<B> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            entries: Vec::new(),
            spare: Vec::new(),
            limit: limits.blocks.max(128),
            hand: 0,
            meta: 0,
            data: 0,
        }
    }

    fn position(&self, block: u32) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&block, |entry| entry.block)
    }

    pub(crate) fn get(&self, block: u32) -> Option<&Cached<B>> {
        self.entries.get(self.position(block).ok()?)
    }

    /// A buffer from the device, or that of a block that is clean and was not used lately.
    fn take<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Option<B> {
        if self.entries.len() + self.spare.len() < self.limit
            && let Some(buffer) = device.allocate()
        {
            return Some(buffer);
        }
        // A clock: at most two rounds.
        for _ in 0..2 * self.entries.len() {
            self.hand = if self.hand + 1 < self.entries.len() { self.hand + 1 } else { 0 };
            let Some(entry) = self.entries.get_mut(self.hand) else { break };
            if entry.dirt == Dirt::Clean && !core::mem::take(&mut entry.used) {
                return Some(self.entries.remove(self.hand).buffer);
            }
        }
        None
    }

    /// Makes sure that `count` blocks can come into memory whatever happens.
    pub(crate) fn reserve<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        count: usize,
    ) -> Result<(), Error> {
        self.entries.try_reserve(count)?;
        self.spare.try_reserve(count)?;
        while self.spare.len() < count {
            let buffer = self.take(device).ok_or(Error::NoMemory)?;
            self.spare.push(buffer);
        }
        Ok(())
    }

    /// A buffer for one more block: spare ones last.
    fn buffer<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<B, Error> {
        self.entries.try_reserve(1)?;
        self.take(device).or_else(|| self.spare.pop()).ok_or(Error::NoMemory)
    }

    fn insert(&mut self, block: u32, dirt: Dirt, buffer: B) -> Option<B> {
        match self.position(block) {
            Ok(_) => Some(buffer),
            Err(at) => {
                self.entries.insert(at, Cached { block, dirt, used: true, buffer });
                None
            }
        }
    }

    /// Brings a block into memory.
    pub(crate) fn load<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        block: u32,
    ) -> Result<&mut Cached<B>, Error> {
        if self.position(block).is_err() {
            let buffer = self.buffer(device)?;
            let mut buffers = [buffer];
            let read = device.read(block, &mut buffers);
            let [buffer] = buffers;
            match read {
                Ok(()) => drop(self.insert(block, Dirt::Clean, buffer)),
                Err(failed) => {
                    self.put_back(device, buffer);
                    return Err(failed.into());
                }
            }
        }
        self.touch(block)
    }

    fn touch(&mut self, block: u32) -> Result<&mut Cached<B>, Error> {
        let at = self.position(block).map_err(|_| Error::NoMemory)?;
        let entry = self.entries.get_mut(at).ok_or(Error::NoMemory)?;
        entry.used = true;
        Ok(entry)
    }

    /// A block in memory whose old content is of no interest: zeroes.
    pub(crate) fn fresh<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        block: u32,
    ) -> Result<&mut Cached<B>, Error> {
        if self.position(block).is_err() {
            let buffer = self.buffer(device)?;
            drop(self.insert(block, Dirt::Clean, buffer));
        }
        let entry = self.touch(block)?;
        device.store(&mut entry.buffer, 0, &[0; BLOCK]);
        self.touch(block)
    }

    /// Brings a run of blocks into memory with one read, as far as buffers are to be had cheaply. None of them is here.
    pub(crate) fn read_ahead<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        first: u32,
        count: usize,
    ) -> Result<(), Error> {
        let mut buffers = Vec::new();
        buffers.try_reserve_exact(count.min(RUN))?;
        self.entries.try_reserve(count.min(RUN))?;
        while buffers.len() < count.min(RUN)
            && let Some(buffer) = self.take(device)
        {
            buffers.push(buffer);
        }
        if buffers.is_empty() {
            return Ok(());
        }
        let read = device.read(first, &mut buffers);
        for (block, buffer) in (first..).zip(buffers) {
            let left = if read.is_ok() { self.insert(block, Dirt::Clean, buffer) } else { Some(buffer) };
            if let Some(buffer) = left {
                device.release(buffer);
            }
        }
        Ok(read?)
    }

    fn put_back<D: Device<Buffer = B>>(&mut self, device: &mut D, buffer: B) {
        if self.spare.try_reserve(1).is_ok() {
            self.spare.push(buffer);
        } else {
            device.release(buffer);
        }
    }

    /// Marks a block that is in memory. Metadata stays metadata.
    pub(crate) fn soil(&mut self, block: u32, dirt: Dirt) {
        let Ok(at) = self.position(block) else { return };
        let Some(entry) = self.entries.get_mut(at) else { return };
        match (entry.dirt, dirt) {
            (Dirt::Clean, Dirt::Data) => self.data += 1,
            (Dirt::Clean, Dirt::Meta) => self.meta += 1,
            (Dirt::Data, Dirt::Meta) => {
                self.data -= 1;
                self.meta += 1;
            }
            _ => return,
        }
        entry.dirt = dirt;
    }

    /// A block was freed: nobody wants its content.
    pub(crate) fn forget<D: Device<Buffer = B>>(&mut self, device: &mut D, block: u32) {
        let Ok(at) = self.position(block) else { return };
        let entry = self.entries.remove(at);
        match entry.dirt {
            Dirt::Clean => {}
            Dirt::Data => self.data -= 1,
            Dirt::Meta => self.meta -= 1,
        }
        self.put_back(device, entry.buffer);
    }

    /// Writes all blocks of one kind where they belong; they are clean then.
    pub(crate) fn write_out<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dirt: Dirt,
    ) -> Result<(), Error> {
        let mut at = 0;
        while let Some(first) = self.entries.get(at) {
            if first.dirt != dirt {
                at += 1;
                continue;
            }
            let start = first.block;
            let run = self.entries.get(at..).unwrap_or_default().iter().zip(start..);
            let count = run
                .take(RUN)
                .take_while(|(entry, block)| entry.block == *block && entry.dirt == dirt)
                .count();
            let run = self.entries.get_mut(at..at + count).unwrap_or_default();
            if let Some(last) = run.last() {
                let buffers: [&B; RUN] = core::array::from_fn(|index| &run.get(index).unwrap_or(last).buffer);
                device.write(start, buffers.get(..count).unwrap_or_default())?;
            }
            for entry in run {
                entry.dirt = Dirt::Clean;
            }
            match dirt {
                Dirt::Clean => {}
                Dirt::Data => self.data -= count,
                Dirt::Meta => self.meta -= count,
            }
            at += count.max(1);
        }
        Ok(())
    }

    /// Gives every buffer back.
    pub(crate) fn clear<D: Device<Buffer = B>>(&mut self, device: &mut D) {
        for entry in self.entries.drain(..) {
            device.release(entry.buffer);
        }
        for buffer in self.spare.drain(..) {
            device.release(buffer);
        }
        (self.meta, self.data) = (0, 0);
    }

    /// Gives clean buffers back that nobody holds: memory is short elsewhere.
    pub(crate) fn shrink<D: Device<Buffer = B>>(&mut self, device: &mut D) {
        for buffer in self.spare.drain(..) {
            device.release(buffer);
        }
        let mut kept = Vec::new();
        if kept.try_reserve_exact(self.meta + self.data).is_err() {
            return;
        }
        for entry in self.entries.drain(..) {
            if entry.dirt == Dirt::Clean {
                device.release(entry.buffer);
            } else {
                kept.push(entry);
            }
        }
        self.entries = kept;
    }
}
