//! The superblock: which checkpoint counts, and where the journal goes on from it.

use super::{Bad, SUPERBLOCK, check, seal, uuid};
use crate::bytes::{put_u32, put_u64, u32_at, u64_at};
use crate::error::{OpenError, Part};
use crate::geometry::Geometry;
use crate::{BLOCK, Page};

/// Features that a reader must know to read the store; bits that are not 0 here are refused.
const INCOMPATIBLE: u64 = 0;

/// Blocks 0 and 1 hold one each: generation g is written to block g mod 2, so a torn write leaves the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Superblock {
    pub(crate) uuid: [u8; 16],
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    /// First journal block to be replayed onto this checkpoint.
    pub(crate) start: u64,
    /// Last journal block that was durable when this was written.
    pub(crate) durable: u64,
    pub(crate) geometry: Geometry,
    /// Blocks of each kind that the checkpoint has: overlays, zeroes, rows.
    pub(crate) pages: [u32; 3],
}

impl Superblock {
    pub(crate) fn write(&self, page: &mut Page) {
        page.fill(0);
        put_u64(page, 32, self.generation);
        put_u64(page, 40, self.epoch);
        put_u64(page, 48, self.start);
        put_u64(page, 56, self.durable);
        let Geometry { journal, data, overlays, zeroes } = self.geometry;
        let [overlay_pages, zero_pages, row_pages] = self.pages;
        let words = [4096, journal, data, overlays, zeroes, overlay_pages, zero_pages, row_pages];
        for (at, word) in (64..).step_by(4).zip(words) {
            put_u32(page, at, word);
        }
        put_u64(page, 96, INCOMPATIBLE);
        seal(page, &SUPERBLOCK, &self.uuid);
    }

    pub(crate) fn read(page: &Page) -> Result<Self, Bad> {
        check(page, &SUPERBLOCK, None)?;
        let [journal, data, overlays, zeroes] = [68, 72, 76, 80].map(|at| u32_at(page, at));
        let superblock = Self {
            uuid: uuid(page),
            generation: u64_at(page, 32),
            epoch: u64_at(page, 40),
            start: u64_at(page, 48),
            durable: u64_at(page, 56),
            geometry: Geometry { journal, data, overlays, zeroes },
            pages: [84, 88, 92].map(|at| u32_at(page, at)),
        };
        let Self { geometry, pages: [overlay_pages, zero_pages, row_pages], .. } = superblock;
        // A store that counts to 2⁶² has been damaged: 2⁶² blocks take longer to write than disks last.
        let counts = [superblock.generation, superblock.epoch, superblock.start, superblock.durable];
        let sound = geometry.is_sound()
            && u32_at(page, 64) as usize == BLOCK
            && u64_at(page, 96) == INCOMPATIBLE
            && overlay_pages <= geometry.overlay_pages()
            && zero_pages <= geometry.zero_pages()
            && row_pages <= geometry.row_pages()
            && counts.iter().all(|count| *count < 1 << 62)
            && superblock.start > 0
            && superblock.durable + 1 >= superblock.start
            && superblock.durable - (superblock.start - 1) <= u64::from(geometry.journal);
        if sound { Ok(superblock) } else { Err(Bad::Content) }
    }

    /// The newer good one of the two copies.
    pub(crate) fn choose(copies: [&Page; 2]) -> Result<Self, OpenError> {
        let newest = |a: Self, b: Self| if a.generation >= b.generation { a } else { b };
        match copies.map(Self::read) {
            [Ok(a), Ok(b)] => Ok(newest(a, b)),
            // Written by a newer program; which copy is newer cannot be told.
            [Err(Bad::Version(found)), _] | [_, Err(Bad::Version(found))] => {
                Err(OpenError::Version { found })
            }
            [Ok(one), _] | [_, Ok(one)] => Ok(one),
            [Err(Bad::Foreign), Err(Bad::Foreign)] => Err(OpenError::NoStore),
            _ => Err(OpenError::Damaged { block: 0, part: Part::Superblock }),
        }
    }
}

/// The geometry of the store on a disk, from its first two blocks: how large the tables have to be.
///
/// # Errors
/// As opening it.
pub fn probe(copies: [&Page; 2]) -> Result<Geometry, OpenError> {
    Superblock::choose(copies).map(|superblock| superblock.geometry)
}

/// What block `which` (0 or 1) of an empty store with this geometry and identity holds. Both are written, the disk is
/// flushed, and the store is there; nothing else of the disk needs to be cleared.
pub fn format_block(geometry: Geometry, uuid: [u8; 16], which: u32, page: &mut Page) {
    page.fill(0);
    if which == 1 {
        Superblock { uuid, generation: 1, epoch: 1, start: 1, durable: 0, geometry, pages: [0; 3] }
            .write(page);
    }
}
