//! A disk in memory that counts buffers, fails on demand, and remembers what was not flushed.

use crate::{BLOCK, Device, IoFailed, RUN};

pub(super) type Bytes = Box<[u8; BLOCK]>;

/// What reached the disk, in order.
#[derive(Clone)]
pub(super) enum Event {
    Write(u32, Bytes),
    Flush,
    /// A flush that a mutant leaves out.
    Nothing,
}

#[derive(Default)]
pub(super) struct Disk {
    pub(super) image: Vec<u8>,
    pub(super) read_only: bool,
    /// Buffers given out, and how many there are.
    pub(super) buffers: usize,
    pub(super) limit: usize,
    /// Calls that succeed before one fails, if one is to.
    pub(super) failing_writes: Option<u32>,
    pub(super) failing_reads: Option<u32>,
    /// Everything that happened, if it is of interest.
    pub(super) history: Option<Vec<Event>>,
    pub(super) discarded: u64,
    pub(super) writes: u64,
    pub(super) flushes: u64,
}

impl Disk {
    pub(super) fn new(image: Vec<u8>) -> Self {
        Self { image, limit: 100_000, ..Self::default() }
    }
}

fn due(left: &mut Option<u32>) -> Result<(), IoFailed> {
    match left {
        Some(0) => Err(IoFailed),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

impl Device for Disk {
    type Buffer = Bytes;

    fn blocks(&self) -> u64 {
        (self.image.len() / BLOCK) as u64
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn allocate(&mut self) -> Option<Bytes> {
        if self.buffers >= self.limit {
            return None;
        }
        self.buffers += 1;
        Some(Box::new([0xa5; BLOCK]))
    }

    fn release(&mut self, _buffer: Bytes) {
        self.buffers -= 1;
    }

    fn fetch(&self, buffer: &Bytes, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&buffer[offset..offset + to.len()]);
    }

    fn store(&mut self, buffer: &mut Bytes, offset: usize, from: &[u8]) {
        buffer[offset..offset + from.len()].copy_from_slice(from);
    }

    fn read(&mut self, first: u32, to: &mut [Bytes]) -> Result<(), IoFailed> {
        assert!((1..=RUN).contains(&to.len()));
        due(&mut self.failing_reads)?;
        for (at, buffer) in (first as usize..).zip(to) {
            buffer.copy_from_slice(&self.image[at * BLOCK..(at + 1) * BLOCK]);
        }
        Ok(())
    }

    fn write(&mut self, first: u32, from: &[&Bytes]) -> Result<(), IoFailed> {
        assert!((1..=RUN).contains(&from.len()) && !self.read_only);
        due(&mut self.failing_writes)?;
        self.writes += 1;
        for (at, buffer) in (first..).zip(from) {
            let place = at as usize * BLOCK;
            self.image[place..place + BLOCK].copy_from_slice(&buffer[..]);
            if let Some(history) = &mut self.history {
                history.push(Event::Write(at, (*buffer).clone()));
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IoFailed> {
        due(&mut self.failing_writes)?;
        self.flushes += 1;
        if let Some(history) = &mut self.history {
            history.push(Event::Flush);
        }
        Ok(())
    }

    fn discard(&mut self, first: u32, count: u32) {
        self.discarded += u64::from(count);
        // What was discarded may read as anything: a use of it would show.
        let bytes = Box::new([0xdd; BLOCK]);
        for at in first..first + count {
            let place = at as usize * BLOCK;
            self.image[place..place + BLOCK].fill(0xdd);
            if let Some(history) = &mut self.history {
                history.push(Event::Write(at, bytes.clone()));
            }
        }
    }
}
