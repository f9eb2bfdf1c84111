//! A disk served by dom0's blkback: whole pages, up to 32 requests at once, nothing waits.
//!
//! M1 reads its base volumes with it. Requests carry the caller's token; what a page holds is the caller's business.
//!
//! With a pool of pages ([`PoolPage`]), and a backend that knows persistent grants, the pool's pages are lent and the caller's are
//! not: a backend maps each of them once, and never has a page of the store. Else the caller's own pages are lent for each
//! request. A request of more than [`PLAIN_PAGES`] is an indirect one on the ring where there is a pool and the backend knows
//! those, and else goes in parts that are over together.
//!
//! Ends: when the backend goes, every outstanding request comes back once, as [`Failure::BackendGone`]; pages of the caller's that the
//! backend still has mapped are waited for, for [`RECLAIM_NS`], and then reported as quarantined. If the ring page or the pool's cannot
//! be had back, the disk is [`Health::Dead`] for good.

mod pool;
mod requests;
pub(crate) mod wire;

use pool::Pool;
pub use pool::PoolPage;
use requests::Slot;
use xen::{Access, Port};
use xen_ring::Front;
use xenstore::{Client, Message, XenbusState};

use crate::device::{DeviceEvent, EVENTS_A_TURN, FrontDevice, MOST_KEYS, Side};
use crate::{Frame, Lent, Platform};
use wire::SEGMENTS;

/// Pages of one request at most.
pub const MAX_PAGES: usize = 16;
/// Pages of one request that is one on the ring whatever the backend knows; more may be two.
pub const PLAIN_PAGES: usize = SEGMENTS;
/// Requests at once.
pub const MAX_REQUESTS: usize = 32;
/// Pages of a pool that is used: for one request, and for what an indirect one says of its pages.
pub const MIN_POOL: usize = MAX_PAGES + 1;
/// Parts of one request at most.
const PARTS: usize = MAX_PAGES.div_ceil(SEGMENTS);
/// How long a backend that has gone may keep pages before they are given up for good.
pub const RECLAIM_NS: u64 = 5_000_000_000;

/// VDISK_READONLY in `info`.
const VDISK_READONLY: u32 = 4;

const KEYS: &[(Side, &str)] = &[
    (Side::Back, "sectors"),
    (Side::Back, "info"),
    (Side::Back, "sector-size"),
    (Side::Back, "feature-flush-cache"),
    (Side::Back, "params"),
    (Side::Back, "feature-discard"),
    (Side::Back, "feature-persistent"),
    (Side::Back, "feature-max-indirect-segments"),
];
const _: () = assert!(KEYS.len() <= MOST_KEYS);

type Ring = Front<{ wire::REQ }, { wire::RSP }>;
const _: () = assert!(Ring::SLOTS as usize == MAX_REQUESTS);

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// From the disk into the pages.
    Read,
    /// From the pages to the disk.
    Write,
    /// Everything that was written is durable afterwards. No pages.
    Flush,
}

impl Operation {
    fn code(self) -> u8 {
        match self {
            Self::Read => wire::op::READ,
            Self::Write => wire::op::WRITE,
            Self::Flush => wire::op::FLUSH_DISKCACHE,
        }
    }
}

/// Why a request was not taken. Nothing was lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitError {
    /// All slots or grant references are in use: try again after a completion.
    Full,
    /// There is no backend now.
    NotConnected,
    /// No pages, too many, or beyond the end of the disk.
    OutOfRange,
    /// A write to a disk that is read-only, or a flush that the backend does not know.
    Unsupported,
    /// A page may not be lent: the caller's own mistake.
    Unshareable,
}

/// Why a request failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The disk could not do it.
    Disk,
    /// The backend does not know the operation.
    Unsupported,
    /// The backend ended before it answered. A write may or may not have reached the disk.
    BackendGone,
}

/// A request is over.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// What it was submitted with.
    pub token: u64,
    /// How it went.
    pub outcome: Result<(), Failure>,
    /// The backend still has pages of it mapped: none of them may be used again, or believed.
    pub quarantined: bool,
}

/// Where a disk stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Looks for its backend, or waits for it.
    Connecting,
    /// Takes requests.
    Connected,
    /// The backend has gone; pages are being taken back.
    Reclaiming,
    /// The backend kept pages, or there was no reference or port for it. This disk can't be used again.
    Dead,
}

/// What the backend says about the disk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Geometry {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// The disk's own sectors, in bytes: for information.
    pub sector_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Flushes are known.
    pub flush: bool,
    /// Discards are known.
    pub discard: bool,
}

/// A disk.
#[derive(Debug)]
pub struct BlkFront {
    platform: Platform,
    device: FrontDevice,
    ring_page: Frame,
    ring_lent: Option<Lent>,
    ring: Option<Ring>,
    port: Option<Port>,
    health: Health,
    reclaim_until: Option<u64>,
    geometry: Geometry,
    pool: Pool,
    /// The pool is used with this backend, and indirect requests.
    persistent: bool,
    indirect: bool,
    slots: [Slot; MAX_REQUESTS],
    /// Requests in `slots` whose backend has gone.
    orphans: usize,
    faults: u64,
}

impl BlkFront {
    /// The disk `device/vbd/<devid>`; `ring_page` and `pool` are the driver's from now on. A pool of fewer than [`MIN_POOL`] is not
    /// used.
    #[must_use]
    pub fn new(platform: Platform, devid: u32, ring_page: Frame, pool: &'static mut [PoolPage]) -> Self {
        Self {
            platform,
            device: FrontDevice::new("vbd", devid, KEYS),
            ring_page,
            ring_lent: None,
            ring: None,
            port: None,
            health: Health::Connecting,
            reclaim_until: None,
            geometry: Geometry::default(),
            pool: Pool::new(pool, MIN_POOL),
            persistent: false,
            indirect: false,
            slots: [const { Slot::FREE }; MAX_REQUESTS],
            orphans: 0,
            faults: 0,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// What the backend said when it connected; zeros before.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What dom0 calls the thing behind the disk (`params`), cut at 32 bytes; for people.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.device.value(4)
    }

    /// The port whose events are this disk's.
    #[must_use]
    pub fn port(&self) -> Option<Port> {
        self.port
    }

    /// Requests without a completion.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.slots.iter().enumerate().filter(|(index, slot)| slot.begins(*index)).count()
    }

    /// Times that the backend broke the ring's rules and was disconnected.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Takes a xenstore message if it is this disk's. Call [`Self::advance`] afterwards.
    pub fn on_message(&mut self, message: &Message<'_>) -> bool {
        self.device.on_message(message)
    }

    /// Looks at xenstore again; cheap, for a timer of some seconds.
    pub fn recheck(&mut self) {
        self.device.recheck();
    }

    /// Moves connecting and ending on: on every turn of the loop, and at least once a second. `now_ns` only goes up.
    pub fn advance(&mut self, client: &mut Client, now_ns: u64) {
        for _ in 0..EVENTS_A_TURN {
            match self.device.advance(client) {
                Some(DeviceEvent::Publish) => self.publish(),
                Some(DeviceEvent::Connected) => self.connected(),
                Some(DeviceEvent::Stop) => self.stop(),
                None => break,
            }
        }
        if self.health == Health::Reclaiming {
            self.reclaim(now_ns);
        }
    }

    fn publish(&mut self) {
        let backend = self.device.backend_id();
        self.ring = Some(Front::init(self.ring_page.words));
        let lent = self.platform.lend(backend, self.ring_page.mfn, Access::ReadWrite);
        let port = self.platform.open_port(backend);
        match (lent, port) {
            (Ok(lent), Ok(port)) => {
                self.device.write("ring-ref", lent.reference().0);
                self.device.write("event-channel", port.0);
                self.device.write("protocol", "x86_64-abi");
                if !self.pool.is_empty() {
                    self.device.write("feature-persistent", 1);
                }
                self.device.write_state(XenbusState::Initialised);
                self.ring_lent = Some(lent);
                self.port = Some(port);
            }
            (lent, port) => {
                log::error!("{}: no ring or port to be had: {lent:?} {port:?}", self.device.name());
                self.ring_lent = lent.ok();
                self.port = port.ok();
                self.health = Health::Dead;
            }
        }
    }

    fn connected(&mut self) {
        fn number<T: core::str::FromStr>(text: Option<&str>) -> Option<T> {
            xenstore::number(text?.as_bytes())
        }
        let Some(sectors) = number(self.device.value(0)) else {
            log::error!("{}: the backend does not say how large the disk is", self.device.name());
            return;
        };
        self.geometry = Geometry {
            sectors,
            sector_size: number(self.device.value(2)).unwrap_or(512),
            read_only: number::<u32>(self.device.value(1)).is_some_and(|info| info & VDISK_READONLY != 0),
            flush: number::<u32>(self.device.value(3)).is_some_and(|flag| flag != 0),
            discard: number::<u32>(self.device.value(5)).is_some_and(|flag| flag != 0),
        };
        self.persistent =
            !self.pool.is_empty() && number::<u32>(self.device.value(6)).is_some_and(|flag| flag != 0);
        self.indirect = self.persistent
            && number::<usize>(self.device.value(7)).is_some_and(|segments| segments >= MAX_PAGES);
        if self.persistent {
            self.pool.lend(self.platform, self.device.backend_id());
        }
        self.device.write_state(XenbusState::Connected);
        self.health = Health::Connected;
    }

    fn stop(&mut self) {
        if let Some(port) = self.port.take() {
            self.platform.close_port(port);
        }
        for slot in &mut self.slots {
            self.orphans += usize::from(slot.abandon());
        }
        if self.health != Health::Reclaiming && self.health != Health::Dead {
            self.health = Health::Reclaiming;
            self.reclaim_until = None;
        }
    }

    fn reclaim(&mut self, now_ns: u64) {
        let until = *self.reclaim_until.get_or_insert(now_ns.saturating_add(RECLAIM_NS));
        let ring_back = self.platform.reclaim(&mut self.ring_lent);
        let pool_back = self.pool.reclaim(self.platform);
        let pages_back = self.slots.iter().all(|slot| slot.is_free());
        if ring_back {
            self.ring = None;
        }
        if ring_back && pool_back && pages_back {
            self.health = Health::Connecting;
            self.device.closed();
        } else if now_ns >= until {
            log::error!("{}: the backend has gone and kept pages; giving them up", self.device.name());
            self.health = Health::Dead;
        }
    }
}
