//! Snapshots that are on the store's disk, and whose volumes come.

use mm_engine::{SnapshotId, SnapshotState};

use super::super::directory::{Header, header_block, number};
use super::super::{DiskImage, Persist};
use super::Read;
use crate::block::Image;
use crate::m1::M1;
use crate::volumes;

impl M1 {
    /// Snapshots whose volumes have come.
    pub(crate) fn snapshots_arrive(&mut self) {
        for place in 0..self.snapshots.places.len() {
            let Some(slot) = self.snapshots.places[place].as_ref() else { continue };
            let id = slot.id;
            if slot.persist == Persist::Stored
                && self.engine.snapshot(id).is_some_and(|figures| figures.state == SnapshotState::Away)
            {
                let _ = self.arrive(id);
            }
        }
    }

    /// `None`: not yet.
    fn arrive(&mut self, id: SnapshotId) -> Option<()> {
        // It was good when it was restored. Where it is not in memory now, it will be.
        let Read::Block(page) = self.read_directory(header_block(id.0)) else { return None };
        let header = Header::decode(&page)?;
        if number(header.last) >= self.engine.frozen_numbers() {
            return None;
        }
        let index = self.version_of(&header.volume, &header.base)?;
        let mut disks = heapless::Vec::new();
        for disk in &header.disks {
            let volume = self.version_of(&disk.volume, &disk.base)?;
            let image = disk.image.and_then(Image::from_words);
            let _ = disks.push(DiskImage { devid: disk.devid, volume, image });
        }
        let volume = self.volumes[index].id?;
        self.engine.arrive_snapshot(id, volume);
        let slot = self.snapshots.get_mut(id)?;
        (slot.volume, slot.disks) = (index, disks);
        log::info!("snapshot {}@{} can be cloned again", slot.over, slot.name);
        self.publish_snapshot(id);
        Some(())
    }

    /// The place of this version of a volume.
    fn version_of(&self, name: &str, base: &[u8; 16]) -> Option<usize> {
        self.volumes.iter().position(|volume| {
            volume.name == name
                && volume.is_usable()
                && volume.id.is_some()
                && volumes::digest(&volume.identity, volume.pages) == *base
        })
    }
}
