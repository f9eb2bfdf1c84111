//! What is said about a device, and to whom.

use xen::DomId;
use xenstore::Refusal;

use super::BlockOffer;
use super::ring_keys::{BadRing, BlockRingInfo};
use crate::Text;

/// Names a device. A device that comes back under the same number has another name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceId {
    pub(super) index: u16,
    pub(super) generation: u16,
}

impl DeviceId {
    /// Its place in the table, for a table of the owner's own.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.index)
    }
}

/// What dom0 says about a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// The client, as dom0 named it.
    pub domain: DomId,
    /// Number of the virtual device: 51712 is `xvda`.
    pub devid: u32,
    /// `target=` of the client's configuration.
    pub params: Text<128>,
    /// `access=r`.
    pub read_only: bool,
    /// `discard`: dom0 lets the client throw blocks away (it does unless the configuration says `no-discard`).
    pub discard: bool,
}

/// Why a device is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unusable {
    /// `frontend-id` is not the directory's client.
    NotTheClient,
    /// `frontend` is not the client's directory of that device.
    NotTheFrontend,
    /// `params` is not text, or longer than 128 bytes.
    Params,
    /// Our nodes could not be written; with [`Refusal::Quota`]: too many disks (raise `quota-maxentity`). The device is closed
    /// if it was accepted.
    Xenstore(Refusal),
    /// What the client says of its ring makes no sense. The device is closed.
    Ring(BadRing),
}

impl core::fmt::Display for Unusable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotTheClient => f.write_str("frontend-id is not the client whose directory it is"),
            Self::NotTheFrontend => f.write_str("frontend is not the client's own directory"),
            Self::Params => f.write_str("target= is longer than 128 bytes, or not text"),
            Self::Xenstore(refusal) => write!(f, "cannot publish it: {refusal}"),
            Self::Ring(bad) => write!(f, "{bad}"),
        }
    }
}

/// What the owner hears.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// dom0 has made a device: accept or refuse it.
    Offered {
        /// Its name from now on.
        device: DeviceId,
        /// What it is.
        info: Info,
    },
    /// A stock frontend has published its ring: map it (`blkback::BlockRing::open`), then
    /// [`block_ready`](super::VbdBackend::block_ready) or [`block_failed`](super::VbdBackend::block_failed).
    BlockRing {
        /// Its name.
        device: DeviceId,
        /// Where the ring is.
        ring: BlockRingInfo,
        /// What was offered.
        disk: BlockOffer,
    },
    /// The client has connected.
    Connected(DeviceId),
    /// The client is leaving, has left, or was abandoned: take everything back, then call
    /// [`closed`](super::VbdBackend::closed).
    Closing(DeviceId),
    /// The device is gone; its name means nothing any more.
    Gone(DeviceId),
    /// A device cannot be served.
    Unusable {
        /// Its name.
        device: DeviceId,
        /// What is known of it.
        info: Info,
        /// Why.
        why: Unusable,
    },
    /// The table is full: this device is not served until another goes.
    TableFull {
        /// The client.
        domain: DomId,
        /// Its device.
        devid: u32,
    },
}
