//! The disk of `store_disk=`: an empty store, which M1 finds open.

use std::boxed::Box;
use std::vec::Vec;

use mm_store::host::Tables;
use mm_store::{BLOCK, Geometry, Page, Recovery, format_block};
use xen_drivers::Frame;
use xen_drivers::blkfront::BlkFront;

use super::disk::WORDS;
use crate::overlays::{META, Opened};

/// Blocks of the disk.
const BLOCKS: u32 = 512;

fn geometry() -> Geometry {
    Geometry::for_disk(BLOCKS).expect("large enough")
}

fn pages() -> Vec<Page> {
    let mut pages = std::vec![[0; BLOCK]; BLOCKS as usize];
    for which in [0, 1] {
        format_block(geometry(), [7; 16], which, &mut pages[which as usize]);
    }
    pages
}

/// What is on it, in words.
pub(crate) fn formatted() -> Vec<[u32; WORDS]> {
    let words = |page: &Page| {
        let (chunks, _) = page.as_chunks::<4>();
        core::array::from_fn(|index| u32::from_le_bytes(chunks[index]))
    };
    pages().iter().map(words).collect()
}

/// The store on it, as [`crate::overlays::open`] finds it.
pub(crate) fn open(front: BlkFront, frame: &dyn Fn(usize) -> Frame, blocks: &[[u32; WORDS]]) -> Opened {
    let page = |words: &[u32; WORDS]| {
        let mut page = [0; BLOCK];
        for (bytes, word) in page.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        page
    };
    let disk: Vec<Page> = blocks.iter().map(page).collect();
    let tables = Box::leak(Box::new(Tables::new(&geometry())));
    let mut recovery = Recovery::new(tables.memory(), BLOCKS, 8);
    while let Some(reading) = recovery.next() {
        let first = reading.block as usize;
        recovery.done(Ok(&disk[first..first + reading.blocks as usize]));
    }
    Opened {
        front: Box::leak(Box::new(front)),
        store: Box::leak(Box::new(recovery.finish().expect("a store"))),
        page: Box::leak(Box::new([0; BLOCK])),
        meta_frames: [(); META].map(|()| frame(0)),
        blocks: u64::from(BLOCKS),
        recovery_ns: 5_000_000,
    }
}
