//! The devices of clients: a map ring, its info page and its port for each, from acceptance to the last grant taken back.

use mm_engine::{ClientId, RingId};
use xen::{Access, Port};
use xen_drivers::vbdback::DeviceId;
use xen_drivers::{Frame, Lent, Platform};
use xen_ring::Back;
use xen_sys::{DomId, GrantRef};

use crate::flags::Flags;
use crate::refusals::Reason;
use crate::trace::{RECORDS, Record, Row, Trace};

/// The map ring's M1 end.
pub type MapRing = Back<{ mm_proto::SLOT_WORDS }, { mm_proto::SLOT_WORDS }>;
const _: () = assert!(MapRing::SLOTS == mm_proto::RING_SLOTS);

/// A device that is served, or offered and not yet connected.
pub struct Device {
    /// The backend's name of it.
    pub id: DeviceId,
    /// The client.
    pub domain: DomId,
    /// The engine's number of it.
    pub client: ClientId,
    /// The engine's number of this ring; none once the device was closed for what it did.
    pub ring: Option<RingId>,
    /// The volume's place in the configuration.
    pub volume: usize,
    /// Our end.
    pub back: MapRing,
    /// Our port.
    pub port: Port,
    page: Frame,
    ring_lent: Lent,
    info: Frame,
    info_lent: Lent,
}

/// Pages that a client still maps after its device has gone. They come back when it lets go or dies.
pub(crate) struct Stuck {
    domain: DomId,
    page: Frame,
    ring: Option<Lent>,
    info: Option<(Frame, Lent)>,
}

/// All of them.
pub struct Devices {
    platform: Platform,
    places: &'static mut [Option<Device>],
    /// Which place a port belongs to, and which one of the engine's rings.
    by_port: &'static mut [u16],
    by_ring: &'static mut [u16],
    free: &'static mut [Option<Frame>],
    stuck: &'static mut [Option<Stuck>],
    /// Their last requests.
    pub(crate) trace: Trace,
    /// Those on whose rings there may be requests.
    pub(crate) pending: Flags,
    /// Those that have responses which their clients have not been shown.
    pub(crate) answered: Flags,
}

/// Memory for `count` devices.
pub struct DeviceMemory {
    pub(crate) places: &'static mut [Option<Device>],
    pub(crate) by_port: &'static mut [u16],
    pub(crate) by_ring: &'static mut [u16],
    pub(crate) free: &'static mut [Option<Frame>],
    pub(crate) stuck: &'static mut [Option<Stuck>],
    pub(crate) trace: Trace,
}

/// No device.
pub(crate) const NOBODY: u16 = u16::MAX;

impl DeviceMemory {
    /// Takes it at boot; nothing if there is not as much.
    #[must_use]
    pub fn new(memory: &mut xen_rt::BootMemory, count: usize) -> Option<Self> {
        let pages = memory.pages(count)?;
        // A domain of a few MiB remembers less.
        let records = if memory.free_pages() > 4096 { RECORDS } else { RECORDS / 8 };
        Some(Self {
            places: memory.slice_with(count, |_| None)?,
            by_port: memory.slice(xen_sys::event::PORTS as usize, NOBODY)?,
            by_ring: memory.slice(count, NOBODY)?,
            free: memory.slice_with(count, |index| {
                pages.get(index).map(|words| Frame { words, mfn: xen_rt::mfn_of(words) })
            })?,
            stuck: memory.slice_with(count, |_| None)?,
            trace: Trace::new(
                memory.slice(count, Row::default())?,
                memory.slice(count * records, Record::default())?,
            ),
        })
    }
}

impl Devices {
    /// None yet.
    #[must_use]
    pub fn new(platform: Platform, memory: DeviceMemory) -> Self {
        let DeviceMemory { places, by_port, by_ring, free, stuck, trace } = memory;
        let (pending, answered) = (Flags::NONE, Flags::NONE);
        Self { platform, places, by_port, by_ring, free, stuck, trace, pending, answered }
    }

    /// Makes ring, port and grants for a device of `domain`, at the place that its name says.
    ///
    /// # Errors
    /// [`Reason`]; nothing is held then.
    pub fn add(
        &mut self,
        id: DeviceId,
        domain: DomId,
        client: ClientId,
        ring: RingId,
        volume: usize,
        info: Frame,
    ) -> Result<(), Reason> {
        let index = id.index();
        if self.places.get(index).is_none_or(Option::is_some) {
            return Err(Reason::TooManyDevices);
        }
        let free = self.free.iter().position(Option::is_some).ok_or(Reason::NoRoom)?;
        let page = self.free[free].ok_or(Reason::NoRoom)?;
        let platform = self.platform;
        let ring_lent = platform.lend(domain, page.mfn, Access::ReadWrite).map_err(|_| Reason::NoRoom)?;
        let info_lent = match platform.lend(domain, info.mfn, Access::ReadOnly) {
            Ok(lent) => lent,
            Err(_) => {
                // Nobody has heard of it yet: it comes back.
                let _ = platform.take_back(ring_lent);
                return Err(Reason::NoRoom);
            }
        };
        let Ok(port) = platform.hypervisor.evtchn_alloc_unbound(domain) else {
            let _ = platform.take_back(ring_lent);
            let _ = platform.take_back(info_lent);
            return Err(Reason::NoRoom);
        };
        platform.events.clear(port);
        platform.events.unmask(port);
        self.free[free] = None;
        let number = u16::try_from(index).unwrap_or(NOBODY);
        let places = [self.by_port.get_mut(port.0 as usize), self.by_ring.get_mut(usize::from(ring.0))];
        for place in places.into_iter().flatten() {
            *place = number;
        }
        let back = MapRing::init(page.words);
        self.trace.clear(index);
        self.places[index] = Some(Device {
            id,
            domain,
            client,
            ring: Some(ring),
            volume,
            back,
            port,
            page,
            ring_lent,
            info,
            info_lent,
        });
        Ok(())
    }

    /// What the client's nodes say: map-ring-ref, map-port, info-ref.
    #[must_use]
    pub fn published(&self, index: usize) -> Option<(GrantRef, Port, GrantRef)> {
        let device = self.get(index)?;
        Some((device.ring_lent.reference(), device.port, device.info_lent.reference()))
    }

    /// A device.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Device> {
        self.places.get(index)?.as_ref()
    }

    /// A device.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Device> {
        self.places.get_mut(index)?.as_mut()
    }

    /// The device of one of the engine's rings.
    #[must_use]
    pub fn of_ring(&self, ring: RingId) -> Option<usize> {
        let index = usize::from(*self.by_ring.get(usize::from(ring.0))?);
        self.get(index).is_some_and(|device| device.ring == Some(ring)).then_some(index)
    }

    /// All that are there.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.places.iter().flatten()
    }

    /// Number of places.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// An event came on `port`: whether it is a device's.
    pub fn raise(&mut self, port: Port) -> bool {
        let Some(index) = self.by_port.get(port.0 as usize).filter(|index| **index != NOBODY) else {
            return false;
        };
        if self.get(usize::from(*index)).is_none() {
            return false;
        }
        self.pending.insert(usize::from(*index));
        true
    }

    /// Takes a device down: its port is closed, and its pages come back now or when the client lets go of them.
    /// Returns what the engine called it.
    pub fn remove(&mut self, index: usize) -> Option<(ClientId, Option<RingId>)> {
        let device = self.places.get_mut(index)?.take()?;
        if let Some(place) = self.by_port.get_mut(device.port.0 as usize) {
            *place = NOBODY;
        }
        self.platform.events.mask(device.port);
        if let Err(error) = self.platform.hypervisor.evtchn_close(device.port) {
            log::warn!("port {} would not close: {error:?}", device.port.0);
        }
        let ring = self.platform.take_back(device.ring_lent).err();
        let info = self.platform.take_back(device.info_lent).err().map(|lent| (device.info, lent));
        self.settle(Stuck { domain: device.domain, page: device.page, ring, info });
        Some((device.client, device.ring))
    }

    /// Tries again to take pages back. True while some are still out.
    pub fn sweep(&mut self) -> bool {
        for index in 0..self.stuck.len() {
            if let Some(stuck) = self.stuck[index].take() {
                let ring = stuck.ring.and_then(|lent| self.platform.take_back(lent).err());
                let info = stuck
                    .info
                    .and_then(|(frame, lent)| self.platform.take_back(lent).err().map(|lent| (frame, lent)));
                self.settle(Stuck { ring, info, ..stuck });
            }
        }
        self.stuck.iter().any(Option::is_some)
    }

    /// Domains whose devices have gone, and that still map this info page.
    pub(crate) fn holding(&self, info: Frame) -> impl Iterator<Item = DomId> {
        let holds = move |stuck: &&Stuck| stuck.info.as_ref().is_some_and(|(frame, _)| frame.mfn == info.mfn);
        self.stuck.iter().flatten().filter(holds).map(|stuck| stuck.domain)
    }

    /// Ring pages that clients still hold.
    #[must_use]
    pub fn stuck(&self) -> usize {
        self.stuck.iter().flatten().count()
    }

    fn settle(&mut self, stuck: Stuck) {
        if stuck.ring.is_none() && stuck.info.is_none() {
            stuck.page.words.zero();
            // There are as many places as pages.
            if let Some(place) = self.free.iter_mut().find(|place| place.is_none()) {
                *place = Some(stuck.page);
            }
        } else if let Some(place) = self.stuck.iter_mut().find(|place| place.is_none()) {
            *place = Some(stuck);
        }
    }
}
