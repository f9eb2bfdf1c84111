//! Tables on a heap, for programs on the host: `m1-fsck`, tests, fuzz targets.

use std::vec;
use std::vec::Vec;

use crate::{Geometry, Memory, OverlayRow, Page, Row, TableSizes, ZeroRow};

/// Owns what [`Memory`] borrows.
pub struct Tables {
    rows: Vec<Row>,
    zeroes: Vec<ZeroRow>,
    buckets: Vec<u32>,
    free: Vec<u64>,
    overlays: Vec<OverlayRow>,
    journal: Vec<Page>,
}

impl Tables {
    /// Tables for a store of this geometry.
    #[must_use]
    pub fn new(geometry: &Geometry) -> Self {
        let sizes = TableSizes::new(geometry);
        Self {
            rows: vec![Row::default(); sizes.rows],
            zeroes: vec![ZeroRow::default(); sizes.zeroes],
            buckets: vec![0; sizes.buckets],
            free: vec![0; sizes.free],
            overlays: vec![OverlayRow::default(); sizes.overlays],
            journal: vec![[0; crate::BLOCK]; sizes.journal],
        }
    }

    /// For one store at a time.
    pub fn memory(&mut self) -> Memory<'_> {
        Memory {
            rows: &mut self.rows,
            zeroes: &mut self.zeroes,
            buckets: &mut self.buckets,
            free: &mut self.free,
            overlays: &mut self.overlays,
            journal: &mut self.journal,
        }
    }
}
