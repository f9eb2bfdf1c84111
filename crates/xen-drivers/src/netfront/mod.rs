//! An Ethernet card served by dom0's netback, for smoltcp.
//!
//! One queue, one page and one slot for each frame, no offload of any kind: `feature-no-csum-offload` makes dom0 finish the
//! checksums of what it sends itself. Pages are lent once for each connection; netback copies into them and out of them
//! (`request-rx-copy`, without which Linux's refuses). Every received frame is copied out of its page once, then looked at.
//!
//! When the backend goes, everything lent is taken back, and the card connects again if a backend comes. What a backend
//! keeps for longer than [`RECLAIM_NS`] makes the card [`Health::Dead`].

mod phy;
mod rx;
mod tx;
mod wire;

use xen::{Access, Port};
use xenstore::{Client, Message, XenbusState};

use crate::device::{DeviceEvent, EVENTS_A_TURN, FrontDevice, Side};
use crate::{Frame, Lent, Platform};
pub use phy::{RxToken, TxToken};
use rx::Rx;
use tx::Tx;

/// Bytes of the longest frame: 14 of header, 1500 of payload.
pub const FRAME_MAX: usize = 1514;
/// Slots of each ring, so the most pages of each kind that make sense.
pub const RING_SLOTS: usize = 256;
/// How long a backend that has gone may keep pages before the card is given up.
pub const RECLAIM_NS: u64 = 5_000_000_000;

const KEYS: &[(Side, &str)] = &[(Side::Front, "mac"), (Side::Front, "mtu")];

/// Where a card stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Looks for its backend, or waits for it (a vif script that fails leaves it here).
    Connecting,
    /// Frames go.
    Connected,
    /// The backend has gone; pages are being taken back.
    Reclaiming,
    /// The backend kept pages, or there was no reference or port for it. The card can't be used again.
    Dead,
}

/// What happened to frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Received and given to smoltcp.
    pub rx_frames: u64,
    /// Received in a form that was not asked for, or with an error, and dropped.
    pub rx_dropped: u64,
    /// Sent.
    pub tx_frames: u64,
    /// Not sent because no page was free.
    pub tx_dropped: u64,
    /// Times that the backend broke a ring's rules and was disconnected.
    pub faults: u64,
}

/// The backend broke the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Ring(xen_ring::RingFault),
    UnknownId(u16),
    OutOfPage { offset: u16, size: i16 },
}

/// A page of the card's, lent while it is connected.
#[derive(Debug)]
struct Buffer {
    frame: Frame,
    lent: Option<Lent>,
    /// The backend has a frame in it that is to be sent.
    busy: bool,
}

type Buffers = heapless::Vec<Buffer, RING_SLOTS>;

fn buffers(frames: &[Frame]) -> Buffers {
    frames.iter().take(RING_SLOTS).map(|frame| Buffer { frame: *frame, lent: None, busy: false }).collect()
}

/// A card.
#[derive(Debug)]
pub struct NetFront {
    platform: Platform,
    device: FrontDevice,
    tx: Tx,
    rx: Rx,
    port: Option<Port>,
    health: Health,
    reclaim_until: Option<u64>,
    mac: Option<[u8; 6]>,
    mtu: usize,
    counters: Counters,
}

impl NetFront {
    /// The card `device/vif/<id>`. The pages are the driver's from now on; of each kind at most [`RING_SLOTS`] are used.
    #[must_use]
    pub fn new(
        platform: Platform,
        id: u32,
        rings: [Frame; 2],
        tx_pages: &[Frame],
        rx_pages: &[Frame],
    ) -> Self {
        let [tx_ring, rx_ring] = rings;
        Self {
            platform,
            device: FrontDevice::new("vif", id, KEYS),
            tx: Tx::new(tx_ring, buffers(tx_pages)),
            rx: Rx::new(rx_ring, buffers(rx_pages)),
            port: None,
            health: Health::Connecting,
            reclaim_until: None,
            mac: None,
            mtu: FRAME_MAX - 14,
            counters: Counters::default(),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// The card's address, known from the first time that it is connected.
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.mac
    }

    /// The port whose events are this card's.
    #[must_use]
    pub fn port(&self) -> Option<Port> {
        self.port
    }

    /// What happened to frames so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes a xenstore message if it is this card's. Call [`Self::advance`] afterwards.
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

    /// Shows the backend what was sent and which pages are free again: after smoltcp's poll. Until then a flood of frames is
    /// bounded by the pages that the backend has.
    pub fn flush(&mut self) {
        if self.health != Health::Connected {
            return;
        }
        let notify = self.tx.publish() | self.rx.publish();
        if let Some(port) = self.port.filter(|_| notify) {
            let _ = self.platform.hypervisor.evtchn_send(port);
        }
    }

    /// Asks for an event at the next frame or the next page that comes free. `true`: there is something already.
    #[must_use = "sleeping without looking loses an event"]
    pub fn look_again(&mut self) -> bool {
        self.health == Health::Connected && (self.rx.final_check() | self.tx.final_check())
    }

    fn publish(&mut self) {
        let backend = self.device.backend_id();
        let lent = self.tx.lend(self.platform, backend).and_then(|tx| {
            let rx = self.rx.lend(self.platform, backend)?;
            Ok((tx, rx))
        });
        match (lent, self.platform.open_port(backend)) {
            (Ok((tx, rx)), Ok(port)) => {
                self.port = Some(port);
                self.device.write("tx-ring-ref", tx.0);
                self.device.write("rx-ring-ref", rx.0);
                self.device.write("event-channel", port.0);
                self.device.write("request-rx-copy", 1);
                self.device.write("feature-rx-notify", 1);
                self.device.write("feature-no-csum-offload", 1);
                self.device.write_state(XenbusState::Connected);
                // In the ring before the backend looks at it: it must never be without pages.
                let _ = self.rx.publish();
            }
            (lent, port) => {
                log::error!("{}: no reference or port to be had: {lent:?} {port:?}", self.device.name());
                self.port = port.ok();
                self.health = Health::Dead;
            }
        }
    }

    fn connected(&mut self) {
        self.mac = self.device.value(0).and_then(parse_mac);
        let mtu = self.device.value(1).and_then(|text| text.parse().ok());
        self.mtu = mtu.filter(|mtu| (576..=FRAME_MAX - 14).contains(mtu)).unwrap_or(FRAME_MAX - 14);
        if self.mac.is_none() {
            log::error!("{}: the toolstack wrote no mac", self.device.name());
        }
        self.health = Health::Connected;
        // The backend may have connected before it could be told of the pages.
        if let Some(port) = self.port {
            let _ = self.platform.hypervisor.evtchn_send(port);
        }
    }

    fn stop(&mut self) {
        if let Some(port) = self.port.take() {
            self.platform.close_port(port);
        }
        if self.health != Health::Reclaiming && self.health != Health::Dead {
            self.health = Health::Reclaiming;
            self.reclaim_until = None;
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.counters.faults += 1;
        log::warn!("{}: the backend broke the rules: {fault:?}", self.device.name());
        self.device.write_state(XenbusState::Closed);
        self.stop();
    }

    fn reclaim(&mut self, now_ns: u64) {
        let until = *self.reclaim_until.get_or_insert(now_ns.saturating_add(RECLAIM_NS));
        if self.tx.reclaim(self.platform) & self.rx.reclaim(self.platform) {
            self.health = Health::Connecting;
            self.device.closed();
        } else if now_ns >= until {
            log::error!("{}: the backend has gone and kept pages; giving up", self.device.name());
            self.health = Health::Dead;
        }
    }
}

/// Lends every buffer that is not lent yet, and the ring.
fn lend_all(
    platform: Platform,
    backend: xen::DomId,
    ring: &Frame,
    ring_lent: &mut Option<Lent>,
    buffers: &mut Buffers,
    access: Access,
) -> Result<xen::GrantRef, Option<xen::grant::PermitError>> {
    for buffer in buffers {
        buffer.busy = false;
        buffer.lent = Some(platform.lend(backend, buffer.frame.mfn, access)?);
    }
    let lent = platform.lend(backend, ring.mfn, Access::ReadWrite)?;
    Ok(ring_lent.insert(lent).reference())
}

/// `aa:bb:cc:dd:ee:ff`
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
