//! Frozen pages on the store's disk: blocks of an overlay of M1's own, one for each page number, with a directory behind them.

use mm_engine::{Read, VolumeId};
use mm_proto::FROZEN_FIRST;
use mm_store::{Base, CreateRefused, Found, IoFailed, Lifetime, OverlayId, Place, WriteRefused};

use super::{FROZEN, KEEPER, Overlays, Run};

/// The first block that is no page: the directory.
pub(crate) const DIRECTORY: u32 = 1 << 31;
/// What the overlay lies over: nothing.
const BASE: Base = Base { identity: *b"M1 snapshots   1", pages: u32::MAX };

impl Overlays {
    /// Takes the overlay of frozen pages, if there is one; makes it, if `create`. `Ok(None)`: there is none.
    ///
    /// # Errors
    /// `Busy`: later. Anything else: there is no store to keep pages on.
    pub(crate) fn open_frozen(
        &mut self,
        volume: VolumeId,
        create: bool,
    ) -> Result<Option<OverlayId>, CreateRefused> {
        if let Some((_, overlay)) = self.frozen {
            return Ok(Some(overlay));
        }
        if self.store.find(FROZEN).is_none() {
            if !create {
                return Ok(None);
            }
            self.store.create(FROZEN, BASE, None, Lifetime::Persistent)?;
        }
        let overlay = self.store.open(FROZEN, BASE).map_err(|refused| {
            log::error!("store: the overlay of snapshots cannot be used: {refused:?}");
            CreateRefused::Exists
        })?;
        self.frozen = Some((volume, overlay));
        Ok(Some(overlay))
    }

    /// The frozen page whose block this is; none for a block of the directory, or of another overlay.
    pub(super) fn frozen_page(&self, place: &Place) -> Option<u64> {
        let ours = self.frozen.is_some_and(|(_, overlay)| place.overlay == overlay);
        (ours && place.block < DIRECTORY).then_some(FROZEN_FIRST + u64::from(place.block))
    }

    /// Where on the disk a read of the engine's begins.
    pub(super) fn first_block(&self, read: &Read) -> Option<u32> {
        match self.frozen {
            Some((volume, _)) if volume == read.volume => {
                self.frozen_block(u32::try_from(read.page.checked_sub(FROZEN_FIRST)?).ok()?)
            }
            _ => u32::try_from(read.page).ok(),
        }
    }

    /// Whether reads of this volume are ours.
    pub(crate) fn reads_from(&self, volume: VolumeId) -> bool {
        self.volume == volume || self.frozen.is_some_and(|(frozen, _)| frozen == volume)
    }

    /// Where on the disk this block of the overlay of frozen pages is.
    pub(crate) fn frozen_block(&self, block: u32) -> Option<u32> {
        let (_, overlay) = self.frozen?;
        match self.store.lookup(overlay, block) {
            Ok(Found::At { disk, .. }) => Some(disk.0),
            _ => None,
        }
    }

    /// A place for a block of it.
    pub(crate) fn begin_frozen(&mut self, block: u32) -> Result<Place, WriteRefused> {
        let (_, overlay) = self.frozen.ok_or(WriteRefused::Unknown)?;
        self.store.begin_write(overlay, block)
    }

    /// The place is not written after all.
    pub(crate) fn give_up_frozen(&mut self, place: Place) {
        let _ = self.store.written(place, 0, Err(IoFailed));
    }

    /// The block is gone: with the next flush, and after all that went before it.
    pub(crate) fn remove_frozen(&mut self, block: u32) -> Result<(), WriteRefused> {
        let Some((_, overlay)) = self.frozen else { return Ok(()) };
        self.store.zero(overlay, block, 1).map(|_| ())
    }

    /// Writes blocks of it; `Finished` of [`KEEPER`] follows.
    #[expect(clippy::result_large_err, reason = "the caller gives back what it has begun")]
    pub(crate) fn write_frozen(&mut self, block: super::Block) -> Result<(), Run> {
        let mut blocks = heapless::Vec::new();
        // There is room for one.
        let _ = blocks.push(block);
        self.write(Run { asker: KEEPER, blocks })
    }

    /// Blocks of frozen pages that are on the disk, from this block of the disk on.
    pub(crate) fn frozen_live(&self, from: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let overlay = self.frozen.map(|(_, overlay)| overlay);
        self.store
            .live()
            .filter(move |live| {
                Some(live.overlay) == overlay && live.disk.0 >= from && live.block < DIRECTORY
            })
            .map(|live| (live.disk.0, live.block))
    }
}
