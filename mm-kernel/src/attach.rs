//! Clients come and go: what dom0 says about their devices, and what M1 does about it.

use mm_engine::{ClientId, ClientState, Refusal, SnapshotId};
use mm_store::{CreateRefused, Lifetime, OpenRefused, OverlayId};
use xen_drivers::Frame;
use xen_drivers::vbdback::{BlockOffer, DeviceId, Event, Info, MapOffer};
use xen_sys::DomId;

use crate::block::{Below, Image};
use crate::m1::M1;
use crate::refusals::Reason;
use crate::snapshots::Target;
use crate::volumes;

/// Events taken in one turn.
const EVENTS: usize = 64;

/// What an overlay lies over.
struct Base {
    identity: [u8; 16],
    pages: u64,
}

/// A device over a snapshot.
#[derive(Clone, Copy)]
struct OverSnapshot {
    snapshot: SnapshotId,
    /// The place of the version of the volume.
    volume: usize,
    /// Where it is the volume that the snapshot lies over: the info page.
    page: Option<Frame>,
    identity: [u8; 16],
    image: Option<Image>,
}

impl M1 {
    /// The instants that have come: what clients have written to their disks belongs to their snapshots.
    pub(crate) fn instants_turn(&mut self, now: u64) {
        // As many as there can be snapshots.
        while let Some((snapshot, domain)) = self.snapshots.take_instant() {
            let (block, mut hands) = self.block_and_hands();
            block.freeze(domain, snapshot, &mut hands, now);
        }
    }

    /// Moves all devices on, and does what follows.
    pub(crate) fn backend_turn(&mut self, now: u64) {
        for _ in 0..EVENTS {
            let Some(event) = self.backend.next_event() else { break };
            match event {
                Event::Offered { device, info } => self.decide(device, &info),
                Event::BlockRing { device, ring, disk } => match self.block.open(device.index(), &ring, disk)
                {
                    Ok(()) => self.backend.block_ready(device),
                    Err(error) => {
                        log::error!("domain {}: its block ring is refused: {error}", ring.domain.0);
                        let mut text: heapless::String<64> = heapless::String::new();
                        // Cut to what fits: the whole reason is on the console.
                        let _ = core::fmt::Write::write_fmt(&mut text, format_args!("{error}"));
                        self.backend.block_failed(device, &text);
                    }
                },
                Event::Connected(device) => {
                    if let Some(connected) = self.devices.get(device.index()) {
                        log::info!(
                            "domain {}: connected to {}",
                            connected.domain.0,
                            self.volumes[connected.volume].name
                        );
                        self.devices.pending.insert(device.index());
                    }
                }
                Event::Closing(device) => {
                    self.release(device.index());
                    self.backend.closed(device);
                }
                Event::Gone(device) => {
                    self.release(device.index());
                    let (block, mut hands) = self.block_and_hands();
                    block.remove(device.index(), &mut hands);
                    self.undecided.retain(|waiting| *waiting != device);
                    self.versions_turn();
                }
                Event::Unusable { info, why, .. } => {
                    log::error!("domain {}: device {} is not served: {why}", info.domain.0, info.devid);
                    self.refusals.add(info.domain, info.params.as_str(), Reason::Inconsistent);
                }
                Event::TableFull { domain, devid } => {
                    log::error!("domain {}: device {devid}: {}", domain.0, Reason::TooManyDevices);
                    self.refusals.add(domain, "", Reason::TooManyDevices);
                }
            }
        }
        for index in (0..self.undecided.len()).rev() {
            let device = self.undecided.swap_remove(index);
            if let Some(info) = self.backend.info(device).copied() {
                self.decide(device, &info);
            }
        }
        self.backend.advance(&mut self.xenstore.client, now);
    }

    /// Accepts a device, refuses it, or waits until its volume is known.
    fn decide(&mut self, device: DeviceId, info: &Info) {
        match self.accept(device, info) {
            Ok(()) => {}
            Err(None) => {
                if self.undecided.push(device).is_err() {
                    self.refuse(device, info, Reason::NoRoom);
                }
            }
            Err(Some(reason)) => self.refuse(device, info, reason),
        }
    }

    /// `Err(None)`: not known yet.
    fn accept(&mut self, device: DeviceId, info: &Info) -> Result<(), Option<Reason>> {
        let Target { volume: target, snapshot, overlay } = Target::parse(info.params.as_str());
        let over = snapshot.map(|name| self.over_snapshot(target, name, info.devid)).transpose()?;
        // A snapshot lies over one version of its volume.
        let volume = match over {
            Some(over) => over.volume,
            None => self.version_for(device, target, overlay)?,
        };
        let facts = &self.volumes[volume];
        let id = facts.id.ok_or(Some(Reason::VolumeUnusable))?;
        let page = over.and_then(|over| over.page).or(self.infos[volume]);
        let page = page.ok_or(Some(Reason::VolumeUnusable))?;
        let snapshot = over.filter(|over| over.page.is_some()).map(|over| over.snapshot);
        let offer = self.block.offer(facts, info, overlay.is_some()).ok_or(Some(Reason::TooLarge))?;
        let identity = volumes::digest(&facts.identity, facts.pages);
        let identity = over.map_or(identity, |over| volumes::digest_over(identity, over.identity));
        let base = Base { identity, pages: facts.pages };
        let below = Below {
            base: id,
            pages: facts.pages,
            snapshot: over.map(|over| over.snapshot),
            image: over.and_then(|over| over.image),
        };
        let overlay = overlay.map(|name| self.overlay(device, name, base)).transpose()?;
        let accepted = self.accept_over(device, info, volume, below, snapshot, page, offer, overlay);
        if let (Err(_), Some(overlay), Some(overlays)) = (&accepted, overlay, &mut self.overlays)
            && self.block.overlay_of(device).is_none()
        {
            overlays.close(overlay);
        }
        accepted
    }

    /// What `VOLUME@NAME` is for this device: the snapshot's own volume, or a disk that the client had besides.
    fn over_snapshot(&self, volume: &str, name: &str, devid: u32) -> Result<OverSnapshot, Option<Reason>> {
        self.volumes.iter().find(|facts| facts.name == volume).ok_or(Some(Reason::UnknownVolume))?;
        let own = self.snapshots.find(volume, name);
        let disk = self.snapshots.find_disk(self.volumes, volume, name, devid);
        // Names are one's own over each volume: another client's disk of the same name is not this one's.
        let disk = disk.filter(|(slot, _)| own.is_none_or(|own| own.id == slot.id));
        let slot = own.or(disk.map(|(slot, _)| slot)).ok_or(Some(Reason::UnknownSnapshot))?;
        if !slot.ready {
            return Err(Some(Reason::SnapshotNotReady));
        }
        let over = own.map_or_else(|| disk.map_or(slot.volume, |(_, disk)| disk.volume), |own| own.volume);
        Ok(OverSnapshot {
            snapshot: slot.id,
            volume: over,
            page: own.and_then(|own| self.snapshots.info(own.id)),
            identity: slot.identity,
            image: disk.filter(|(_, disk)| disk.volume == over).and_then(|(_, disk)| disk.image),
        })
    }

    /// The overlay of this name, which is made if there is none.
    fn overlay(&mut self, device: DeviceId, name: &str, base: Base) -> Result<OverlayId, Option<Reason>> {
        if let Some(overlay) = self.block.overlay_of(device) {
            return Ok(overlay);
        }
        let overlays = self.overlays.as_mut().ok_or(Some(Reason::NoStore))?;
        if name == crate::overlays::FROZEN {
            return Err(Some(Reason::OverlayName));
        }
        let pages = u32::try_from(base.pages).map_err(|_| Some(Reason::TooLarge))?;
        let base = mm_store::Base { identity: base.identity, pages };
        if overlays.store.find(name).is_none() {
            match overlays.store.create(name, base, overlays.quota, Lifetime::Persistent) {
                Ok(_) => log::info!("store: overlay {name} is made"),
                // The store is not ready to be written yet.
                Err(CreateRefused::Busy) => return Err(None),
                Err(CreateRefused::Name) => return Err(Some(Reason::OverlayName)),
                Err(CreateRefused::TooMany) => return Err(Some(Reason::TooManyOverlays)),
                Err(CreateRefused::Exists | CreateRefused::ReadOnly) => {
                    return Err(Some(Reason::StoreFailed));
                }
            }
        }
        overlays.store.open(name, base).map_err(|refused| {
            Some(match refused {
                OpenRefused::InUse => Reason::OverlayInUse,
                OpenRefused::OtherBase => Reason::OtherBase,
                OpenRefused::Unknown => Reason::StoreFailed,
            })
        })
    }

    #[expect(clippy::too_many_arguments, reason = "what was found out of one device")]
    fn accept_over(
        &mut self,
        device: DeviceId,
        info: &Info,
        volume: usize,
        below: Below,
        snapshot: Option<SnapshotId>,
        page: Frame,
        offer: BlockOffer,
        overlay: Option<OverlayId>,
    ) -> Result<(), Option<Reason>> {
        let client = self.client_of(info.domain)?;
        let ring = match snapshot {
            None => self.engine.attach(client, below.base),
            Some(snapshot) => self.engine.attach_snapshot(client, below.base, snapshot),
        };
        let ring = ring.map_err(|refusal| {
            Some(match refusal {
                Refusal::NoSnapshot => Reason::SnapshotNotReady,
                Refusal::OtherGroup => Reason::OtherGroup,
                Refusal::NoVolume => Reason::VolumeUnusable,
                _ => Reason::TooManyDevices,
            })
        });
        let ring = match ring {
            Ok(ring) => ring,
            Err(reason) => {
                self.bury(client, info.domain);
                return Err(reason);
            }
        };
        if let Err(reason) = self.devices.add(device, info.domain, client, ring, volume, page) {
            self.engine.detach(ring, &mut self.lending);
            self.bury(client, info.domain);
            return Err(Some(reason));
        }
        if let Some((ring, port, info_page)) = self.devices.published(device.index()) {
            self.volumes[volume].used = true;
            let (block, mut hands) = self.block_and_hands();
            block.add(device, info, volume, below, overlay, &mut hands);
            self.backend.accept(device, Some(MapOffer { ring, port, info_page }), Some(offer));
        }
        Ok(())
    }

    fn refuse(&mut self, device: DeviceId, info: &Info, reason: Reason) {
        log::error!("domain {}: target={} is refused: {reason}", info.domain.0, info.params.as_str());
        self.refusals.add(info.domain, info.params.as_str(), reason);
        let mut text: heapless::String<64> = heapless::String::new();
        // Cut to what fits: the whole reason is on the console.
        let _ = core::fmt::Write::write_fmt(&mut text, format_args!("{reason}"));
        self.backend.refuse(device, &text);
    }

    /// The engine's number of a domain: the one that it has, or a new one.
    fn client_of(&mut self, domain: DomId) -> Result<ClientId, Option<Reason>> {
        let known = (0_u16..).zip(self.lending.domains.iter()).find(|(number, known)| {
            **known == domain && self.engine.client_state(ClientId(*number)) != ClientState::Free
        });
        if let Some((number, _)) = known {
            return Ok(ClientId(number));
        }
        let client = self.engine.admit().map_err(|_| Some(Reason::TooManyDevices))?;
        if let Some(place) = self.lending.domains.get_mut(usize::from(client.0)) {
            *place = domain;
        }
        Ok(client)
    }

    /// Takes a device down, if it is up. What was written over its volume stays until it is gone: its client may come back, as a boot
    /// loader's kernel does.
    fn release(&mut self, index: usize) {
        self.block.disconnect(index);
        let domain = self.devices.get(index).map(|device| device.domain);
        if let (Some((client, ring)), Some(domain)) = (self.devices.remove(index), domain) {
            if let Some(ring) = ring {
                self.engine.detach(ring, &mut self.lending);
            }
            self.bury(client, domain);
            log::info!("domain {}: a device has left", domain.0);
        }
    }

    /// A domain without devices is no client any more.
    fn bury(&mut self, client: ClientId, domain: DomId) {
        if !self.devices.iter().any(|device| device.domain == domain) {
            self.engine.disconnect(client, &mut self.lending);
        }
    }

    /// A device that broke the rules: nothing is read from its ring any more, what it does not map is taken back at once, and
    /// it is told so.
    pub(crate) fn close_device(&mut self, index: usize) {
        let Some(device) = self.devices.get_mut(index) else { return };
        let Some(ring) = device.ring.take() else { return };
        let (domain, id) = (device.domain, device.id);
        self.closed += 1;
        log::warn!("domain {}: its device is closed", domain.0);
        self.engine.detach(ring, &mut self.lending);
        self.backend.abandon(id);
        self.look = true;
    }
}
