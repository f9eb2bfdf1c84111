//! The entries for fuzz targets: any bytes as a disk, opened and looked at.

use std::vec::Vec;

use crate::host::Tables;
use crate::{
    BLOCK, Base, Command, Found, Geometry, Lifetime, Page, Recovery, Verdict, WriteRefused, crc32c, format,
    format_block, probe,
};

/// Data blocks for which tables are made; larger stores are not looked at.
const MOST: u32 = 1 << 16;

/// Makes all checksums of metadata blocks right, so that what is behind them is reached.
pub fn mend_checksums(image: &mut [u8]) {
    for page in image.as_chunks_mut::<BLOCK>().0 {
        format::mend(page);
    }
}

/// Opens the store on `image`, whose last bytes are left out if they are no block, and looks at all that it shows.
/// Gives how many overlays it has; nothing where it is refused.
///
/// # Panics
/// Where a promise is broken: more is read than said, blocks outside of the disk are named, a count is wrong.
pub fn exercise(image: &[u8]) -> Option<usize> {
    let pages: &[Page] = image.as_chunks().0;
    let [a, b, ..] = pages else { return None };
    let geometry = probe([a, b]).ok()?;
    let blocks = u32::try_from(pages.len()).unwrap_or(u32::MAX);
    if geometry.data > MOST || geometry.zeroes > MOST {
        return None;
    }
    let mut tables = Tables::new(&geometry);
    let mut recovery = Recovery::new(tables.memory(), blocks, 16);
    let (mut readings, mut read) = (0_u64, Vec::new());
    while let Some(reading) = recovery.next() {
        readings += 1;
        // One for each block of metadata, and one for each record that may be in the journal.
        let most = geometry.recovery_blocks() + u64::from(geometry.journal) * 201;
        assert!(
            readings <= most && reading.blocks >= 1 && reading.blocks <= 16,
            "{reading:?} is number {readings}"
        );
        read.clear();
        let run = reading.block..reading.block + reading.blocks;
        assert!(run.end <= blocks, "{reading:?} is outside of the disk");
        read.extend(run.filter_map(|block| pages.get(block as usize)));
        recovery.done(Ok(&read));
    }
    let mut store = recovery.finish().ok()?;
    let figures = store.figures();
    assert!(figures.free + figures.live == geometry.data && figures.bugs == 0, "{figures:?}");
    assert!(store.live().count() == figures.live as usize, "{figures:?}");
    let overlays: Vec<_> =
        store.overlays().map(|overlay| (overlay.id, overlay.pages, overlay.mapped)).collect();
    assert!(overlays.iter().map(|overlay| overlay.2).sum::<u32>() == figures.live, "{figures:?}");
    for (id, pages_of, _) in &overlays {
        for block in [0, 1, 63, 64, 4096, pages_of / 2, pages_of.saturating_sub(1)] {
            match store.lookup(*id, block) {
                Ok(found @ Found::At { disk, .. }) => {
                    let sum = pages.get(disk.0 as usize).map(|page| crc32c(page));
                    let verdict = store.verdict(*id, block, found, sum.unwrap_or(0));
                    assert!(sum.is_some() && verdict != Verdict::Stale, "{found:?}");
                }
                Ok(_) => assert!(block < *pages_of),
                Err(error) => assert!(error == WriteRefused::Range && block >= *pages_of, "{error:?}"),
            }
        }
    }
    Some(overlays.len())
}

/// A small good image, cut off while something was under way: different ones for different seeds, the same for the same.
#[must_use]
pub fn image(seed: u64) -> Vec<u8> {
    let geometry = Geometry { journal: 16, data: 64, overlays: 4, zeroes: 8 };
    let mut image = std::vec![0; geometry.blocks() as usize * BLOCK];
    let put = |image: &mut Vec<u8>, block: u32, page: &Page| {
        if let Some(place) = image.as_chunks_mut().0.get_mut(block as usize) {
            *place = *page;
        }
    };
    let mut page = [0; BLOCK];
    format_block(geometry, [3; 16], 1, &mut page);
    put(&mut image, 1, &page);
    let mut tables = Tables::new(&geometry);
    let mut recovery = Recovery::new(tables.memory(), geometry.blocks(), 2);
    while let Some(reading) = recovery.next() {
        let run: Vec<Page> = image
            .as_chunks()
            .0
            .iter()
            .skip(reading.block as usize)
            .take(reading.blocks as usize)
            .copied()
            .collect();
        recovery.done(Ok(&run));
    }
    let Ok(mut store) = recovery.finish() else { return image };
    // A linear congruential generator (Knuth's constants): which steps, and where.
    let mut state = seed;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 33).unwrap_or(0)
    };
    let base = Base { identity: [1; 16], pages: 5000 };
    for step in 0..120 + seed % 64 {
        while let Some(command) = store.poll(&mut page) {
            match command {
                Command::Write { ticket, block } => {
                    put(&mut image, block.0, &page);
                    store.completed(ticket, Ok(()));
                }
                Command::Flush { ticket } => store.completed(ticket, Ok(())),
            }
        }
        let overlay = store.overlays().nth(random() as usize % 3).map(|overlay| overlay.id);
        match (overlay, random() % 16) {
            (Some(overlay), 0) if step > 60 => drop(store.delete(overlay)),
            (Some(overlay), 1 | 2) => drop(store.zero(overlay, random() % 4000, 1 + random() % 1000)),
            (_, 3) => drop(store.flush(step)),
            (Some(overlay), 4..) => {
                let Ok(place) = store.begin_write(overlay, random() % 40) else { continue };
                page.fill(random().to_le_bytes()[0]);
                put(&mut image, place.disk.0, &page);
                let _ = store.written(place, crc32c(&page), Ok(()));
            }
            _ => {
                let name = if random() % 2 == 0 { "a" } else { "b" };
                let _ = store.create(name, base, Some(30), Lifetime::Persistent);
            }
        }
        while store.flushed().is_some() {}
    }
    image
}
