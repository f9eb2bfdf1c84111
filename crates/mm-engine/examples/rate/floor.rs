//! What a fault costs whatever the code: memory.
//!
//! A fault and the release that goes with it must change rows of several tables, and cannot know the next place before it has
//! seen the last. The floor does nothing else: it changes so many lines, at random places of tables of the same sizes, each
//! place depending on what was read at the one before. What is above it is the engine's own work.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mm_engine::{ClientEntry, FrameEntry, RequestEntry, RingEntry, TableSizes, WindowEntry};

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// A table, and at how many places of it how many lines in a row are changed.
struct Part {
    lines: Vec<[u64; LINE / 8]>,
    /// Adjacent lines at each place.
    run: usize,
}

pub(super) struct Floor {
    parts: Vec<Part>,
    /// Parts in the order in which a fault comes to them.
    places: Vec<usize>,
    at: u64,
}

impl Floor {
    /// For 16 pages that are lent and 16 that are given back, as `grant` does.
    pub(super) fn new(sizes: &TableSizes) -> Self {
        let lines = |bytes: usize| bytes.div_ceil(LINE);
        let sixteen = |row: usize| lines(16 * row);
        let rows = [
            (sizes.requests * size_of::<RequestEntry>(), 1),
            (sizes.rings * size_of::<RingEntry>(), lines(size_of::<RingEntry>())),
            (sizes.clients * size_of::<ClientEntry>(), 1),
            (sizes.window_buckets * 4, 1),
            (sizes.windows * size_of::<WindowEntry>(), 1),
            (sizes.frame_buckets * 4, 1),
            (sizes.frames * size_of::<FrameEntry>(), sixteen(size_of::<FrameEntry>())),
            (sizes.lender_buckets * 4, 1),
            // The grant table itself.
            (sizes.references * 8, sixteen(8)),
        ];
        let parts = rows.map(|(bytes, run)| Part { lines: vec![[1; LINE / 8]; lines(bytes).max(run)], run });
        let [request, ring, client, buckets, window, names, frames, lenders, grants] =
            [0, 1, 2, 3, 4, 5, 6, 7, 8];
        // Lent: the window's own row, its neighbours in the lists of its ring and of those who lend the same pages.
        let lend = [request, ring, client, buckets, window, window, names, frames, lenders, window, grants];
        // Given back: the same lists again, and that of free rows.
        let give = [buckets, window, window, names, frames, window, grants, window];
        Self { parts: parts.into(), places: [lend.as_slice(), &give].concat(), at: 88 }
    }

    /// Places, and lines at them.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.places.len(), self.places.iter().map(|part| self.parts[*part].run).sum())
    }

    fn fault(&mut self) {
        for part in &self.places {
            let Part { lines, run } = &mut self.parts[*part];
            // The high half of a product with the number of places is a place (Lemire's reduction).
            self.at = (self.at ^ (self.at >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let places = (lines.len() - *run + 1) as u64;
            let place = usize::try_from(((self.at >> 32) * places) >> 32).unwrap();
            for line in &mut lines[place..place + *run] {
                line[0] = line[0].wrapping_add(1);
            }
            self.at = self.at.wrapping_add(lines[place][0]);
        }
    }

    /// Nanoseconds of one, in a slice of so many seconds.
    pub(super) fn slice(&mut self, seconds: f64) -> f64 {
        let begin = Instant::now();
        let mut faults = 0_u32;
        while begin.elapsed() < Duration::from_secs_f64(seconds) {
            for _ in 0..64 {
                self.fault();
            }
            faults += 64;
        }
        black_box(self.at);
        1e9 * begin.elapsed().as_secs_f64() / f64::from(faults)
    }
}
