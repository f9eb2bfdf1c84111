//! `m1-fsck check`.

use std::path::Path;

use anyhow::Result;
use mm_store::{BLOCK, Live, Page, Store, crc32c};

use crate::image::Image;
use crate::{CLEAN, ERRORS_LEFT};

/// Rotten blocks that are named; the rest is counted.
const NAMED: u64 = 100;
/// Blocks read at once, where they follow one another.
const RUN: usize = 256;

pub(crate) fn run(path: &Path) -> Result<u8> {
    let image = Image::open(path)?;
    let mut tables = image.tables()?;
    let store = image.store(&mut tables)?;
    let figures = store.figures();
    let recovery = figures.recovery;
    println!(
        "{} overlays; {} of {} data blocks in use; journal: {} blocks, {} records replayed, {} writes were never flushed and are not there",
        figures.overlays,
        figures.live,
        figures.geometry.data,
        recovery.journal_blocks,
        recovery.records,
        recovery.lost_writes
    );
    let rotten = scrub(&image, &store);
    if rotten == 0 {
        println!("{}: clean", path.display());
        return Ok(CLEAN);
    }
    println!("{}: {rotten} rotten blocks", path.display());
    Ok(ERRORS_LEFT)
}

/// Reads all that is mapped. Gives how many blocks are not what was written.
fn scrub(image: &Image, store: &Store<'_>) -> u64 {
    let mut pages = vec![[0; BLOCK]; RUN];
    let mut rotten = 0;
    let mut live = store.live().peekable();
    let mut run: Vec<Live> = Vec::with_capacity(RUN);
    while let Some(first) = live.next() {
        run.clear();
        run.push(first);
        while run.len() < RUN
            && let Some(next) =
                live.next_if(|next| run.last().is_some_and(|last| next.disk.0 == last.disk.0 + 1))
        {
            run.push(next);
        }
        let pages = &mut pages[..run.len()];
        let read = image.read(first.disk.0, pages).is_ok();
        for (block, page) in run.iter().zip(pages) {
            if (read || image.read(block.disk.0, std::slice::from_mut(page)).is_ok()) && good(block, page) {
                continue;
            }
            rotten += 1;
            if rotten <= NAMED {
                let name = store.overlays().find(|overlay| overlay.id == block.overlay);
                let name = name.map_or("?", |overlay| overlay.name);
                println!("rotten: overlay {name} block {} (disk block {})", block.block, block.disk.0);
            }
        }
    }
    rotten
}

fn good(block: &Live, page: &Page) -> bool {
    crc32c(page) == block.crc
}
