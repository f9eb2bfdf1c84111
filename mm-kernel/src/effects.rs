//! The one place where the engine's decisions are carried out.

use mm_engine::{Capture, Copied, Effect, Effects, Engine};
use mm_proto::CAPTURE_MAX;
use xen::grant::{Direction, PageCopy};
use xen::{Clock, Hypervisor};
use xen_sys::GrantRef;

use crate::devices::Devices;
use crate::disks::Disk;
use crate::lending::Lending;
use crate::overlays::Overlays;
use crate::snapshots::Snapshots;
use crate::volumes::VolumeFacts;

/// What effects are carried out on.
pub struct Hands<'m> {
    /// For times, and for what copies lead to.
    pub engine: &'m mut Engine<'static>,
    /// Pages and domains.
    pub lending: &'m mut Lending,
    /// Rings.
    pub devices: &'m mut Devices,
    /// Disks, in the order of the volumes.
    pub disks: &'m mut [Option<&'static mut Disk>],
    /// What clients keep, where there is a disk for it.
    pub overlays: Option<&'m mut Overlays>,
    /// The volumes.
    pub volumes: &'m [VolumeFacts],
    /// Frozen clients.
    pub snapshots: &'m mut Snapshots,
    /// Time.
    pub clock: Clock,
    /// Xen.
    pub hypervisor: &'static (dyn Hypervisor + Sync),
}

impl Hands<'_> {
    /// Carries out all effects in order. A copy's outcome leads to replies, and to no further copies. True where a copy has
    /// ended: somebody who waited for its frame can go on.
    pub fn perform(&mut self, effects: &Effects) -> bool {
        let mut copied_any = false;
        for effect in effects.iter() {
            match effect {
                Effect::Reply { ring, response } => self.reply(*ring, *response),
                Effect::Read(read) => self.read(read.clone()),
                Effect::Copy(copy) => {
                    copied_any = true;
                    let copied = self.copy(copy);
                    let mut follow = Effects::new();
                    if let Err(bug) = self.engine.copy_done(copy.request, copied, &mut follow) {
                        log::error!("bug: {bug:?}");
                    }
                    self.replies(&follow);
                }
                Effect::Capture(capture) => {
                    copied_any = true;
                    self.capture(capture);
                }
                Effect::Hot { snapshot, page, bitmap } => {
                    self.snapshots.hot(*snapshot, *page, bitmap, self.clock.now_ns());
                }
                Effect::Instant(snapshot) => self.snapshots.instant(*snapshot),
            }
        }
        copied_any
    }

    fn replies(&mut self, effects: &Effects) {
        for effect in effects.iter() {
            if let Effect::Reply { ring, response } = effect {
                self.reply(*ring, *response);
            }
        }
    }

    fn reply(&mut self, ring: mm_engine::RingId, mut response: mm_proto::Response) {
        let Some(index) = self.devices.of_ring(ring) else { return };
        self.engine.stamp(&mut response, self.clock.now_ns());
        self.devices.trace.replied(index, &response);
        let Some(device) = self.devices.get_mut(index) else { return };
        // There is a place for each request that was taken: full is a bug of ours, and this client asks again.
        if device.back.push_response(&response.encode()).is_err() {
            log::error!("bug: no place for a response on ring {}", ring.0);
        }
        self.devices.pending.insert(index);
        self.devices.answered.insert(index);
    }

    fn read(&mut self, read: mm_engine::Read) {
        let store = self.overlays.as_deref_mut().filter(|overlays| overlays.reads_from(read.volume));
        if let Some(overlays) = store {
            if let Err(read) = overlays.read(read) {
                log::error!("bug: no room for a read of block {} of the store", read.page);
                if let Err(bug) = self.engine.read_done(&read, Err(mm_engine::ReadFailed)) {
                    log::error!("bug: {bug:?}");
                }
            }
            return;
        }
        let volume = self.volumes.iter().position(|volume| volume.id == Some(read.volume));
        let disk = volume.and_then(|index| self.disks.get_mut(index)).and_then(Option::as_mut);
        let refused = match disk {
            Some(disk) => disk.read(read).err(),
            None => Some(read),
        };
        if let Some(read) = refused {
            log::error!("bug: no room for a read of page {}", read.page);
            if let Err(bug) = self.engine.read_done(&read, Err(mm_engine::ReadFailed)) {
                log::error!("bug: {bug:?}");
            }
        }
    }

    /// Copies frames of a client's, all in one hypercall; each has an outcome of its own.
    fn capture(&mut self, capture: &Capture) {
        let peer = self.lending.domain(capture.client);
        let mut copies: heapless::Vec<PageCopy, CAPTURE_MAX> = heapless::Vec::new();
        for (frame, reference) in &capture.pages {
            let Some((_, mfn)) = self.lending.frame(*frame) else { continue };
            // As many as a capture has.
            let _ = copies.push(PageCopy::page(mfn, peer, GrantRef(*reference), Direction::FromPeer));
        }
        if let Err(error) = self.lending.table.copy(self.hypervisor, &mut copies) {
            log::warn!("Xen refused a grant copy: {error:?}");
            for copy in &mut copies {
                copy.status = xen::GrantStatus::GENERAL_ERROR;
            }
        }
        let mut outcomes: heapless::Vec<Copied, CAPTURE_MAX> = heapless::Vec::new();
        for copy in &copies {
            if !copy.status.is_okay() {
                log::debug!("copy from domain {}: status {:?}", peer.0, copy.status);
            }
            let copied = if copy.status.is_okay() { Copied::Done } else { Copied::BadReference };
            let _ = outcomes.push(copied);
        }
        let mut follow = Effects::new();
        let now = self.clock.now_ns();
        if let Err(bug) = self.engine.captured(now, capture.request, &outcomes, self.lending, &mut follow) {
            log::error!("bug: {bug:?}");
        }
        self.replies(&follow);
    }

    fn copy(&mut self, copy: &mm_engine::Copy) -> Copied {
        let Some((_, mfn)) = self.lending.frame(copy.frame) else { return Copied::BadReference };
        let peer = self.lending.domain(copy.client);
        let mut copies = [PageCopy::page(mfn, peer, GrantRef(copy.reference), Direction::ToPeer)];
        match self.lending.table.copy(self.hypervisor, &mut copies) {
            Ok(()) if copies[0].status.is_okay() => Copied::Done,
            Ok(()) => {
                log::debug!("copy to domain {}: status {:?}", peer.0, copies[0].status);
                Copied::BadReference
            }
            Err(error) => {
                log::warn!("Xen refused a grant copy: {error:?}");
                Copied::BadReference
            }
        }
    }
}
