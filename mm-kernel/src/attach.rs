//! Clients come and go: what dom0 says about their devices, and what M1 does about it.

use mm_engine::{ClientId, ClientState, Refusal, SnapshotId, VolumeId};
use mm_store::{CreateRefused, Lifetime, OpenRefused, OverlayId};
use xen_drivers::Frame;
use xen_drivers::vbdback::{BlockOffer, DeviceId, Event, Info, MapOffer};
use xen_sys::DomId;

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

impl M1 {
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
                    if let Some(connected) = self.devices.get_mut(device.index()) {
                        log::info!(
                            "domain {}: connected to {}",
                            connected.domain.0,
                            self.volumes[connected.volume].name
                        );
                        connected.pending = true;
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
        if snapshot.is_some() && overlay.is_some() {
            return Err(Some(Reason::NotSupported));
        }
        let named = snapshot.map(|name| {
            self.volumes.iter().find(|volume| volume.name == target).ok_or(Some(Reason::UnknownVolume))?;
            self.snapshots.find(self.volumes, target, name).ok_or(Some(Reason::UnknownSnapshot))
        });
        let named = named.transpose()?;
        // A snapshot lies over one version of its volume.
        let volume = match named {
            Some(slot) => slot.volume,
            None => self.version_for(device, target, overlay)?,
        };
        let facts = &self.volumes[volume];
        let id = facts.id.ok_or(Some(Reason::VolumeUnusable))?;
        let page = self.infos[volume].ok_or(Some(Reason::VolumeUnusable))?;
        let (snapshot, page) = match named {
            None => (None, page),
            Some(slot) => {
                let page = self.snapshots.info(slot.id).ok_or(Some(Reason::SnapshotNotReady))?;
                (Some(slot.id), page)
            }
        };
        let offer = self.block.offer(facts, info, overlay.is_some()).ok_or(Some(Reason::TooLarge))?;
        let base = Base { identity: volumes::digest(&facts.identity, facts.pages), pages: facts.pages };
        let overlay = overlay.map(|name| self.overlay(device, name, base)).transpose()?;
        let accepted = self.accept_over(device, info, volume, id, snapshot, page, offer, overlay);
        if let (Err(_), Some(overlay), Some(overlays)) = (&accepted, overlay, &mut self.overlays)
            && self.block.overlay_of(device).is_none()
        {
            overlays.close(overlay);
        }
        accepted
    }

    /// The overlay of this name, which is made if there is none.
    fn overlay(&mut self, device: DeviceId, name: &str, base: Base) -> Result<OverlayId, Option<Reason>> {
        if let Some(overlay) = self.block.overlay_of(device) {
            return Ok(overlay);
        }
        let overlays = self.overlays.as_mut().ok_or(Some(Reason::NoStore))?;
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
        id: VolumeId,
        snapshot: Option<SnapshotId>,
        page: Frame,
        offer: BlockOffer,
        overlay: Option<OverlayId>,
    ) -> Result<(), Option<Reason>> {
        let client = self.client_of(info.domain)?;
        let ring = match snapshot {
            None => self.engine.attach(client, id),
            Some(snapshot) => self.engine.attach_snapshot(client, id, snapshot),
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
            let facts = &mut self.volumes[volume];
            facts.used = true;
            let pages = facts.pages;
            let (block, mut hands) = self.block_and_hands();
            block.add(device, info, volume, (id, pages), overlay, &mut hands);
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
    }
}
