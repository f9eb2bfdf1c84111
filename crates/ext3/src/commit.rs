//! Transactions: what was changed goes to the journal, and from there where it belongs.
//!
//! The journal is used as two halves in turn; each transaction begins one and is the only one there. Committing number N:
//!
//! 1. Data goes where it belongs. Its blocks are not in use in the disk's last state, or it replaces data of the same file.
//! 2. The descriptor and copies of the changed metadata go into the half that N − 1 is not in.
//! 3. **Flush.** All that is durable now: data, the copies, and the metadata of N − 1, which was written where it belongs
//!    before.
//! 4. The commit block of N, and the journal's superblock, which says now that N begins the journal.
//! 5. **Flush.** N has happened.
//! 6. The metadata goes where it belongs; no flush, the next one covers it.
//!
//! A power cut before 5 is done leaves the journal's superblock at N − 1, whose half is whole and is replayed once more; or
//! at N without a commit block: nothing is replayed, and N − 1 is in its place since 3. Or both are there: N. The fields of the
//! superblock lie within one sector, and so does what makes a commit block valid.
//!
//! Replaying N once more is harmless because no block of it is used for anything else before N + 1 is committed (`freed.rs`).

use alloc::vec::Vec;

use crate::cache::Dirt;
use crate::{BLOCK, Device, Error, Ext3, RUN, State, put};

pub(crate) const MAGIC: u32 = 0xc03b_3998;
pub(crate) const DESCRIPTOR: u32 = 1;
pub(crate) const COMMIT: u32 = 2;
pub(crate) const ESCAPED: u16 = 1;
pub(crate) const SAME_UUID: u16 = 2;
pub(crate) const LAST: u16 = 8;
/// Most copies that one descriptor block names: a header, an identity of 16 bytes, and 8 bytes each.
const TAGS: usize = (BLOCK - 12 - 16) / 8;

/// A run of the journal: its first block there, on the disk, and how many.
pub(crate) type Piece = (u32, u32, u32);

/// The journal.
pub(crate) struct Log<B> {
    pub(crate) pieces: Vec<Piece>,
    /// First block that is used, and those in all.
    pub(crate) first: u32,
    pub(crate) length: u32,
    /// Number of the next transaction.
    pub(crate) sequence: u32,
    /// Which half it goes to.
    pub(crate) second_half: bool,
    /// The journal's superblock says that a transaction is there.
    pub(crate) in_use: bool,
    pub(crate) uuid: [u8; 16],
    /// Copies that one transaction has at most.
    pub(crate) copies: usize,
    /// The journal's superblock, and a block for whatever is made up.
    pub(crate) superblock: B,
    pub(crate) scratch: B,
}

impl<B> Log<B> {
    pub(crate) fn capacity(&self) -> usize {
        self.copies
    }

    /// Copies for a journal of this size and a cache of that one.
    pub(crate) fn copies_for(length: u32, first: u32, cache: usize) -> usize {
        let half = crate::index(length.saturating_sub(first) / 2);
        half.saturating_sub(2).min(TAGS).min(cache / 3)
    }

    /// Where a block of the journal is on the disk.
    pub(crate) fn block(&self, at: u32) -> Result<u32, Error> {
        let piece = self.pieces.iter().find(|(first, _, count)| at.wrapping_sub(*first) < *count);
        piece.map(|(first, block, _)| block + (at - first)).ok_or(Error::Corrupt)
    }

    /// Says on the disk where the journal begins: at which block, 0 for nowhere, and with which transaction.
    pub(crate) fn write_start<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        start: u32,
        sequence: u32,
    ) -> Result<(), Error> {
        let mut words = [0; 8];
        put(&mut words, 0, &sequence.to_be_bytes());
        put(&mut words, 4, &start.to_be_bytes());
        device.store(&mut self.superblock, 24, &words);
        let block = self.block(0)?;
        Ok(device.write(block, &[&self.superblock])?)
    }

    fn write_scratch<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        at: u32,
        content: &[u8; BLOCK],
    ) -> Result<(), Error> {
        device.store(&mut self.scratch, 0, content);
        let block = self.block(at)?;
        Ok(device.write(block, &[&self.scratch])?)
    }
}

fn header(kind: u32, sequence: u32) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block, 0, &MAGIC.to_be_bytes());
    put(&mut block, 4, &kind.to_be_bytes());
    put(&mut block, 8, &sequence.to_be_bytes());
    block
}

impl<B> Ext3<B> {
    /// Everything that was done before is durable afterwards: `fsync`, and what freezing calls.
    ///
    /// # Errors
    /// [`Error::Io`]: the disk failed, now or before; what was not durable may be lost.
    pub fn sync<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<(), Error> {
        match self.state {
            State::Writable => self.commit(device),
            State::ReadOnly => Ok(()),
            State::Failed => Err(Error::Io),
        }
    }

    /// Whether something has been changed that is not durable yet.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.cache.meta + self.cache.data > 0 || self.unflushed
    }

    /// Ends writing where the disk failed: what it holds then is its last committed state.
    fn or_fail<R>(&mut self, done: Result<R, Error>) -> Result<R, Error> {
        if done.is_err() {
            self.state = State::Failed;
        }
        done
    }

    /// Writes data where it belongs, at any time: the blocks were free in the disk's last state, or hold older data of the
    /// same file.
    pub(crate) fn write_data<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<(), Error> {
        if self.cache.data > 0 {
            self.unflushed = true;
            let written = self.cache.write_out(device, Dirt::Data);
            self.or_fail(written)?;
        }
        Ok(())
    }

    pub(crate) fn commit<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<(), Error> {
        let done = self.try_commit(device);
        self.or_fail(done)
    }

    fn try_commit<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<(), Error> {
        self.write_data(device)?;
        if self.cache.meta == 0 {
            if self.unflushed {
                device.flush()?;
                self.unflushed = false;
            }
            return Ok(());
        }
        let half = self.log.length.saturating_sub(self.log.first) / 2;
        let start = self.log.first + if self.log.second_half { half } else { 0 };
        let count = self.write_copies(device, start)?;
        device.flush()?;
        let sequence = self.log.sequence;
        self.log.write_scratch(device, start + 1 + count, &header(COMMIT, sequence))?;
        self.log.write_start(device, start, sequence)?;
        device.flush()?;
        self.log.in_use = true;
        self.log.sequence = sequence.wrapping_add(1);
        self.log.second_half = !self.log.second_half;
        self.unflushed = false;
        for (first, count) in self.freed.runs() {
            device.discard(*first, *count);
        }
        self.freed.clear();
        self.cache.write_out(device, Dirt::Meta)
    }

    /// The descriptor and the copies; gives how many.
    fn write_copies<D: Device<Buffer = B>>(&mut self, device: &mut D, start: u32) -> Result<u32, Error> {
        let mut descriptor = header(DESCRIPTOR, self.log.sequence);
        put(&mut descriptor, 20, &self.log.uuid);
        let (mut count, total) = (0_usize, self.cache.meta);
        if total > self.log.copies {
            return Err(Error::NoMemory);
        }
        // The first tag is followed by the identity; the run is what has been gathered of neighbours in the journal.
        let mut run: [usize; RUN] = [0; RUN];
        let (mut gathered, mut run_at) = (0, start + 1);
        let mut at = start;
        for index in 0..self.cache.entries.len() {
            let Some(entry) = self.cache.entries.get(index).filter(|entry| entry.dirt == Dirt::Meta) else {
                continue;
            };
            let mut head = [0; 4];
            device.fetch(&entry.buffer, 0, &mut head);
            let escaped = head == MAGIC.to_be_bytes();
            let flags = if escaped { ESCAPED } else { 0 }
                | if count > 0 { SAME_UUID } else { 0 }
                | if count + 1 == total { LAST } else { 0 };
            let tag = if count == 0 { 12 } else { 28 + 8 * count };
            put(&mut descriptor, tag, &entry.block.to_be_bytes());
            put(&mut descriptor, tag + 6, &flags.to_be_bytes());
            count += 1;
            at += 1;
            if escaped {
                let mut copy = [0; BLOCK];
                device.fetch(&entry.buffer, 4, copy.get_mut(4..).unwrap_or_default());
                self.log.write_scratch(device, at, &copy)?;
                continue;
            }
            let block = self.log.block(at)?;
            let follows = gathered > 0
                && gathered < RUN
                && u32::try_from(gathered).is_ok_and(|gathered| run_at + gathered == at)
                && self.log.block(run_at)? + (at - run_at) == block;
            if !follows {
                self.write_run(device, run_at, run.get(..gathered).unwrap_or_default())?;
                (gathered, run_at) = (0, at);
            }
            if let Some(place) = run.get_mut(gathered) {
                *place = index;
            }
            gathered += 1;
        }
        self.write_run(device, run_at, run.get(..gathered).unwrap_or_default())?;
        self.log.write_scratch(device, start, &descriptor)?;
        u32::try_from(count).map_err(|_| Error::Corrupt)
    }

    /// Writes these entries to the journal, from its block `at` on.
    fn write_run<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        at: u32,
        entries: &[usize],
    ) -> Result<(), Error> {
        let Some(last) = entries.last().and_then(|index| self.cache.entries.get(*index)) else {
            return Ok(());
        };
        let buffers: [&B; RUN] = core::array::from_fn(|place| {
            let entry = entries.get(place).and_then(|index| self.cache.entries.get(*index));
            &entry.unwrap_or(last).buffer
        });
        let block = self.log.block(at)?;
        Ok(device.write(block, buffers.get(..entries.len()).unwrap_or_default())?)
    }

    /// Leaves a disk that needs no recovery, and gives all memory back. What is open is closed.
    ///
    /// # Errors
    /// [`Error::Io`]: then the journal says what is to be done.
    pub fn unmount<D: Device<Buffer = B>>(mut self, device: &mut D) -> Result<(), Error> {
        let done = match self.state {
            State::Writable => self.leave(device),
            State::ReadOnly => Ok(()),
            State::Failed => Err(Error::Io),
        };
        self.close(device);
        done
    }

    /// Forgets everything without writing anything: the disk is as a power cut would leave it.
    pub fn close<D: Device<Buffer = B>>(mut self, device: &mut D) {
        self.cache.clear(device);
        device.release(self.log.superblock);
        device.release(self.log.scratch);
    }

    /// Gives memory back that holds nothing that is to be written.
    pub fn shrink<D: Device<Buffer = B>>(&mut self, device: &mut D) {
        self.cache.shrink(device);
    }

    fn leave<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<(), Error> {
        for (ino, _) in core::mem::take(&mut self.open) {
            if self.read_inode(device, ino)?.links == 0 {
                self.delete(device, ino)?;
            }
        }
        self.commit(device)?;
        device.flush()?;
        self.log.write_start(device, 0, self.log.sequence)?;
        device.flush()?;
        self.set_recover(device, false)
    }
}
