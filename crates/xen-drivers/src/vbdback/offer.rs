//! What a device offers its client, and the nodes that say so (io/blkif.h, "Backend XenBus Nodes").
//!
//! Which node is written when is as Linux's xen-blkback has it: what a frontend needs to make its ring before state 2, everything
//! about the disk between the frontend's state 3 and our state 4. So a client of the map service alone costs no node of the latter.
//!
//! Nodes count against the quota that xenstored has for us (1000), so there are no more than the three without which no frontend connects, and
//! those of features. `physical-sector-size` is none of them: without it a frontend takes the sector's size, and blocks of 512 bytes are
//! served like others.

use xen::{GrantRef, Port};
use xen_sys::blkif::{PAGE_SECTORS, SECTOR, VDISK_READONLY};

use crate::blkback::{MAX_INDIRECT_SEGMENTS, MAX_RING_ORDER};

/// What a client that knows the map protocol maps and binds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapOffer {
    /// The map ring.
    pub ring: GrantRef,
    /// Its port.
    pub port: Port,
    /// The info page.
    pub info_page: GrantRef,
}

/// A disk for a stock frontend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockOffer {
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// It cannot be written.
    pub read_only: bool,
    /// What it can do.
    pub features: BlockFeatures,
}

/// What of the block interface is offered. What is not is answered with BLKIF_RSP_EOPNOTSUPP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockFeatures {
    /// `feature-flush-cache`.
    pub flush: bool,
    /// `feature-barrier`: the owner lets no write pass a barrier, in either direction.
    pub barrier: bool,
    /// `feature-discard`, in whole blocks of 4096 bytes; not if dom0 forbids it ([`super::Info::discard`]).
    pub discard: bool,
    /// `feature-max-indirect-segments`; at most [`MAX_INDIRECT_SEGMENTS`]. 0: none.
    pub indirect_segments: u16,
    /// `max-ring-page-order`: a ring has at most 2 to the power of it pages; at most [`MAX_RING_ORDER`].
    pub ring_order: u8,
}

impl BlockFeatures {
    /// Everything that there is.
    pub const ALL: Self = Self {
        flush: true,
        barrier: true,
        discard: true,
        indirect_segments: MAX_INDIRECT_SEGMENTS,
        ring_order: MAX_RING_ORDER,
    };
    /// What a disk that is only read needs.
    pub const READ: Self = Self { flush: false, barrier: false, discard: false, ..Self::ALL };
}

impl BlockOffer {
    /// The offer within what there is and makes sense.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let features = &mut self.features;
        features.indirect_segments = features.indirect_segments.min(MAX_INDIRECT_SEGMENTS);
        features.ring_order = features.ring_order.min(MAX_RING_ORDER);
        features.discard &= !self.read_only;
        self
    }
}

/// A node that we write.
pub(super) type Node = (&'static str, u64);

/// All of them, and `error`: changes of these are no news to us.
pub(super) const KEYS: [&str; 16] = [
    "map-ring-ref",
    "map-port",
    "info-ref",
    "feature-max-indirect-segments",
    "max-ring-page-order",
    "feature-flush-cache",
    "feature-barrier",
    "feature-discard",
    "discard-granularity",
    "discard-alignment",
    "discard-secure",
    "feature-persistent",
    "sectors",
    "info",
    "sector-size",
    "error",
];

/// What a device offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offer {
    pub(super) map: Option<MapOffer>,
    pub(super) block: Option<BlockOffer>,
}

impl Offer {
    pub(super) const NONE: Self = Self { map: None, block: None };

    /// The node at `index` of those that are written before state 2.
    pub(super) fn transport(&self, index: u8) -> Option<Node> {
        let map = self.map.map(|map| {
            [
                ("map-ring-ref", u64::from(map.ring.0)),
                ("map-port", u64::from(map.port.0)),
                ("info-ref", u64::from(map.info_page.0)),
            ]
        });
        let features = self.block.map(|block| block.features);
        // blkif.h: who knows no indirect requests must not write the node.
        let indirect = features.filter(|features| features.indirect_segments > 0);
        let indirect = indirect.map(|f| ("feature-max-indirect-segments", u64::from(f.indirect_segments)));
        let order = features.map(|features| ("max-ring-page-order", u64::from(features.ring_order)));
        map.into_iter().flatten().chain(indirect).chain(order).nth(usize::from(index))
    }

    /// The node at `index` of those that are written before state 4.
    pub(super) fn properties(&self, index: u8) -> Option<Node> {
        let BlockOffer { sectors, read_only, features } = self.block?;
        let extents = [
            ("discard-granularity", PAGE_SECTORS * SECTOR),
            ("discard-alignment", 0),
            // What is thrown away may lie on the disk below for long.
            ("discard-secure", 0),
        ];
        let disk = [
            ("feature-discard", u64::from(features.discard)),
            ("feature-flush-cache", u64::from(features.flush)),
            ("feature-barrier", u64::from(features.barrier)),
            // Data is copied: nothing of a frontend's pages is kept mapped.
            ("feature-persistent", 0),
            ("sectors", sectors),
            ("info", if read_only { u64::from(VDISK_READONLY) } else { 0 }),
            ("sector-size", SECTOR),
        ];
        let extents = extents.into_iter().filter(|_| features.discard);
        disk.into_iter().chain(extents).nth(usize::from(index))
    }
}
