//! Versions of a volume come and go while it is served.
//!
//! A disk of a volume's that is attached becomes its newest version, which new clients get. Whoever has an older one keeps it as long as
//! its device is there, also over a reconnection. When the last of them has gone the older version is *retired*: the engine forgets
//! its pages, and its disk can be detached. Then that disk's place is free for another version.

use mm_engine::VolumeId;
use xen_drivers::vbdback::DeviceId;

use crate::m1::M1;
use crate::refusals::Reason;
use crate::volumes::{self, VolumeState};

impl M1 {
    /// The version of the volume of this name that a device gets: the one that it has; else the one that its overlay lies over, if that is
    /// there; else the newest. `Err(None)`: not known yet.
    pub(crate) fn version_for(
        &self,
        device: DeviceId,
        name: &str,
        overlay: Option<&str>,
    ) -> Result<usize, Option<Reason>> {
        let mut places = self.volumes.iter().filter(|volume| volume.name == name).peekable();
        if places.peek().is_none() {
            return Err(Some(Reason::UnknownVolume));
        }
        if let Some(index) = self.block.volume_of(device)
            && self.volumes[index].name == name
        {
            return Ok(index);
        }
        // One whose disk was there at boot may be the newest.
        if places.any(|volume| volume.state == VolumeState::Waiting) {
            return Err(None);
        }
        let under = overlay.and_then(|overlay| self.base_of(name, overlay));
        under.or_else(|| volumes::current(self.volumes, name)).ok_or(Some(Reason::VolumeUnusable))
    }

    /// The version that an overlay lies over.
    fn base_of(&self, name: &str, overlay: &str) -> Option<usize> {
        let base = self.overlays.as_ref()?.base_of(overlay)?;
        self.volumes.iter().position(|volume| {
            volume.name == name
                && volume.is_usable()
                && volumes::digest(&volume.identity, volume.pages) == base
        })
    }

    /// Whether somebody has the version at this place.
    fn is_used(&self, index: usize) -> bool {
        self.devices.iter().any(|device| device.volume == index)
            || self.block.disks().any(|disk| disk.volume == index)
            || self.snapshots.needs(index)
    }

    /// Retires versions that nobody needs, and lets others take their places. Now and then, and when somebody has left.
    pub(crate) fn versions_turn(&mut self) {
        for index in 0..self.volumes.len() {
            let volume = &self.volumes[index];
            match (volume.state, volume.id) {
                (VolumeState::Retiring, Some(id)) => self.retire_further(index, id),
                (VolumeState::Retired, _) if !self.disk_is_there(index) => {
                    self.volumes[index].state = VolumeState::Vacant;
                }
                (_, Some(id)) if self.can_go(index) && !self.is_used(index) => {
                    let volume = &mut self.volumes[index];
                    volume.state = VolumeState::Retiring;
                    log::info!(
                        "volume {}: version {} has no clients and is retired",
                        volume.name,
                        volume.version
                    );
                    self.retire_further(index, id);
                }
                _ => {}
            }
        }
    }

    /// Whether a version without clients is not needed: a newer one is there, and it has had clients or has lost its disk; or another disk is
    /// in its place.
    fn can_go(&self, index: usize) -> bool {
        let volume = &self.volumes[index];
        let lost = volume.state == VolumeState::DiskGone;
        let superseded = volumes::current(self.volumes, &volume.name) != Some(index);
        volume.state == VolumeState::OtherDisk || superseded && (volume.used || lost)
    }

    fn retire_further(&mut self, index: usize, id: VolumeId) {
        self.engine.retire_volume(id);
        if self.engine.has_volume(id) {
            return;
        }
        let there = self.disk_is_there(index);
        let volume = &mut self.volumes[index];
        (volume.id, volume.used) = (None, false);
        volume.state = if there { VolumeState::Retired } else { VolumeState::Vacant };
        log::info!(
            "volume {}: version {} is gone; {}: {}",
            volume.name,
            volume.version,
            volume.device,
            volume.state
        );
        if let Some(pages) = volume.next.take()
            && there
            && let Some(disk) = &mut self.disks[index]
        {
            disk.adopt();
            self.open_volume(index, pages);
        }
    }

    fn disk_is_there(&mut self, index: usize) -> bool {
        self.disks[index].as_mut().is_some_and(|disk| disk.is_there())
    }
}
