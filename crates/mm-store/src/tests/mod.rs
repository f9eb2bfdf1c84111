//! Unit and property tests, and power cuts. `disk` loses power, `model` knows what may be there then, `machine` runs histories.

mod bursts;
mod disk;
mod fails;
mod machine;
mod model;
pub(crate) mod mutation;
mod overlays;
mod power;
mod property;

use crate::host::Tables;
use crate::{Geometry, OpenError, Page, Recovery, Store, format_block};
use disk::Disk;

/// An xorshift generator (Marsaglia's, 64 bits): the same story in every run.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u32) -> u32 {
        u32::try_from((self.next() >> 32) % u64::from(end.max(1))).expect("below 2^32")
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }
}

/// Whether the longer forms are wanted: `cargo xtask test --full`.
pub(crate) fn full<T>(usual: T, full: T) -> T {
    if std::env::var_os("M1_TESTS_FULL").is_some_and(|value| value == "1") { full } else { usual }
}

pub(crate) const UUID: [u8; 16] = *b"sixteen bytes id";

/// A disk with an empty store.
fn formatted(geometry: Geometry) -> Disk {
    let mut disk = Disk::new(geometry.blocks());
    for which in [0, 1] {
        let mut page = [0; 4096];
        format_block(geometry, UUID, which, &mut page);
        disk.set(which, page);
    }
    disk
}

/// Opens the store on a disk, reading at most `run` blocks at once.
fn recover<'a>(disk: &Disk, tables: &'a mut Tables, run: u32) -> Result<Store<'a>, OpenError> {
    let mut recovery = Recovery::new(tables.memory(), disk.blocks(), run);
    while let Some(reading) = recovery.next() {
        assert!(reading.blocks >= 1 && reading.blocks <= run.max(2), "{reading:?}");
        let pages: Vec<Page> =
            (reading.block..reading.block + reading.blocks).map(|block| *disk.read(block)).collect();
        recovery.done(Ok(&pages));
    }
    let store = recovery.finish()?;
    let (figures, geometry) = (store.recovery, store.geometry);
    assert!(figures.blocks_read <= geometry.recovery_blocks(), "{figures:?}");
    assert!(figures.data_blocks_read <= geometry.recovery_data_blocks(), "{figures:?}");
    Ok(store)
}
