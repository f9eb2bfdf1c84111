//! A disk with a volatile cache that loses power.

use std::rc::Rc;

use super::Random;
use crate::Page;

/// Bytes that are written together or not at all.
const SECTOR: usize = 512;

/// A write that is not known to be on the medium.
#[derive(Clone)]
struct Cached {
    id: u64,
    block: u32,
    content: Rc<Page>,
    done: bool,
}

/// What is on the medium, and the writes since the last flush in their order.
#[derive(Clone)]
pub(super) struct Disk {
    medium: Vec<Rc<Page>>,
    cache: Vec<Cached>,
    next: u64,
    /// Writes to this block and above lose power differently from those below, sometimes.
    pub(super) data: u32,
}

impl Disk {
    pub(super) fn new(blocks: u32) -> Self {
        let nothing = Rc::new([0; 4096]);
        Self { medium: vec![nothing; blocks as usize], cache: Vec::new(), next: 0, data: 0 }
    }

    pub(super) fn blocks(&self) -> u32 {
        u32::try_from(self.medium.len()).expect("small")
    }

    pub(super) fn set(&mut self, block: u32, page: Page) {
        self.medium[block as usize] = Rc::new(page);
    }

    pub(super) fn read(&self, block: u32) -> &Page {
        let cached = self.cache.iter().rev().find(|write| write.block == block);
        cached.map_or(&self.medium[block as usize], |write| &write.content)
    }

    /// Begins a write; from now on it may reach the medium.
    pub(super) fn write(&mut self, block: u32, page: Page) -> u64 {
        assert!(block < self.blocks());
        self.next += 1;
        self.cache.push(Cached { id: self.next, block, content: Rc::new(page), done: false });
        self.next
    }

    pub(super) fn finish(&mut self, id: u64) {
        if let Some(write) = self.cache.iter_mut().find(|write| write.id == id) {
            write.done = true;
        }
    }

    /// Begins a flush: gives the writes that it covers.
    pub(super) fn flush(&self) -> Vec<u64> {
        self.cache.iter().filter(|write| write.done).map(|write| write.id).collect()
    }

    pub(super) fn flushed(&mut self, covered: &[u64]) {
        let (medium, cache) = (&mut self.medium, &mut self.cache);
        cache.retain(|write| {
            let covered = covered.contains(&write.id);
            if covered {
                medium[write.block as usize] = write.content.clone();
            }
            !covered
        });
    }

    /// Who wrote is gone, and the disk is not: writes under way are done, or never came.
    pub(super) fn abandoned(&self, random: &mut Random) -> Self {
        let mut disk = self.clone();
        disk.cache.retain(|write| write.done || random.once_in(2));
        disk.cache.iter_mut().for_each(|write| write.done = true);
        disk
    }

    /// The disk after a cut of power: every write that was not flushed is there, lost, or there in some of its sectors.
    pub(super) fn cut(&self, random: &mut Random) -> Self {
        let mut image = Self { cache: Vec::new(), ..self.clone() };
        let (mode, last) = (random.below(8), self.cache.len());
        for (index, write) in self.cache.iter().enumerate() {
            let (whole, lost) = match mode {
                0 => (true, false),
                1 => (false, true),
                // Only data, or only metadata, reached the medium.
                2 => (write.block >= self.data, write.block < self.data),
                3 => (write.block < self.data, write.block >= self.data),
                // The last writes are lost or torn.
                4 => (index + 2 < last, index + 1 < last && random.once_in(2)),
                _ => (random.once_in(3), random.once_in(2)),
            };
            if whole {
                image.medium[write.block as usize] = write.content.clone();
            } else if !lost {
                let place = Rc::make_mut(&mut image.medium[write.block as usize]);
                for (old, new) in place.chunks_mut(SECTOR).zip(write.content.chunks(SECTOR)) {
                    if random.once_in(2) {
                        old.copy_from_slice(new);
                    }
                }
            }
        }
        image
    }
}
