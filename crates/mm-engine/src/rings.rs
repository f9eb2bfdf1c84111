//! Clients, their rings, and the requests that wait.

use mm_proto::RING_SLOTS;

use crate::snapshots::NONE;
use crate::stats::ClientReport;
use crate::table::NIL;
use crate::windows::{GRANULE_ORDER, List, MAX_ORDER};

/// Rows of the request table for each ring: as many as a ring has slots.
pub(crate) const SLOTS: u32 = RING_SLOTS;
const _: () = assert!(SLOTS == 16);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum RingState {
    #[default]
    Free,
    /// Attached; nothing but `Hello` is in order.
    Silent,
    /// Greeted.
    Open,
    /// Detached; its windows are being taken back.
    Closing,
}

/// One ring's row.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct RingEntry {
    pub(crate) state: RingState,
    pub(crate) client: u16,
    pub(crate) volume: u16,
    /// Largest window agreed upon.
    pub(crate) max_order: u8,
    /// Window that a page asked for next would get, while access is sequential.
    pub(crate) growth: u8,
    /// Version of the protocol that was agreed upon; 0 before.
    pub(crate) version: u8,
    /// The snapshot whose frozen pages it reaches.
    pub(crate) snapshot: u8,
    /// The snapshot that its client is to become, or is becoming.
    pub(crate) freeze: u8,
    /// The page that would continue the last answer.
    pub(crate) expected: u32,
    /// The last hint of how many pages it would use.
    pub(crate) wanted: u32,
    /// Bit for each row of the request table in use.
    pub(crate) slots: u16,
    pub(crate) listen: Option<u32>,
    pub(crate) windows: List,
    /// Windows of each order; where there were ever 65,535, it stays so until the ring has no window left.
    pub(crate) by_order: [u16; MAX_ORDER as usize + 1],
    /// Next free ring; next closing ring.
    pub(crate) next: u32,
    /// Next ring of the same client.
    pub(crate) sibling: u32,
}

impl Default for RingEntry {
    fn default() -> Self {
        Self {
            state: RingState::Free,
            client: 0,
            volume: 0,
            max_order: 0,
            growth: GRANULE_ORDER,
            version: 0,
            snapshot: NONE,
            freeze: NONE,
            expected: NIL,
            wanted: 1,
            slots: 0,
            listen: None,
            windows: List::default(),
            by_order: [0; MAX_ORDER as usize + 1],
            next: NIL,
            sibling: NIL,
        }
    }
}

impl RingEntry {
    /// The orders of which it may have windows.
    pub(crate) fn orders(&self) -> impl Iterator<Item = u8> {
        (0..).zip(self.by_order).filter(|(_, windows)| *windows > 0).map(|(order, _)| order)
    }

    /// It has one more window of this order.
    pub(crate) fn opened(&mut self, order: u8) {
        if let Some(windows) = self.by_order.get_mut(usize::from(order)) {
            *windows = windows.saturating_add(1);
        }
    }

    /// It has one window less, and the list of its windows knows already.
    pub(crate) fn closed(&mut self, order: u8) {
        if self.windows.oldest == NIL {
            self.by_order = Default::default();
        } else if let Some(windows) = self.by_order.get_mut(usize::from(order))
            && *windows < u16::MAX
        {
            *windows = windows.saturating_sub(1);
        }
    }
}

/// Where a client is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ClientState {
    /// The number is nobody's: what it stood for is over, completely.
    #[default]
    Free,
    /// Admitted.
    Here,
    /// Disconnected, but not everything could be taken back from it yet.
    Leaving,
}

/// One client's row.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct ClientEntry {
    pub(crate) state: ClientState,
    pub(crate) group: Option<u16>,
    pub(crate) rings: u32,
    /// One of its rings; the others follow as siblings.
    pub(crate) first_ring: u32,
    /// Next free client.
    pub(crate) next: u32,
    /// References that it holds, whether or not they permit anything.
    pub(crate) references: u32,
    /// Entries that permit it a frame.
    pub(crate) permitted: u32,
    /// Of those, entries of stale windows.
    pub(crate) stale: u32,
    /// Stale windows.
    pub(crate) stale_windows: u32,
    /// R: entries of live windows that it maps, as of the last whole scan; and of the scan under way.
    pub(crate) mapped: u32,
    pub(crate) mapped_next: u32,
    pub(crate) faults: u32,
    pub(crate) served: u64,
    pub(crate) copies: u64,
    pub(crate) report: ClientReport,
}

impl Default for ClientEntry {
    fn default() -> Self {
        Self {
            state: ClientState::Free,
            group: None,
            rings: 0,
            first_ring: NIL,
            next: NIL,
            references: 0,
            permitted: 0,
            stale: 0,
            stale_windows: 0,
            mapped: 0,
            mapped_next: 0,
            report: ClientReport::default(),
            served: 0,
            copies: 0,
            faults: 0,
        }
    }
}

/// What a waiting request asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ask {
    /// References; the window that was planned.
    Grant { order: u8 },
    /// A copy into the client's frame of this reference.
    Copy { reference: u32 },
    /// Copies of the client's frames for a snapshot. The frames follow each other from the request's on.
    Capture { snapshot: u8 },
}

/// One waiting request's row.
#[derive(Clone, Copy, Debug)]
pub struct RequestEntry {
    pub(crate) id: u32,
    pub(crate) next: u32,
    pub(crate) page: u32,
    /// The frame that it holds.
    pub(crate) frame: u32,
    pub(crate) received: u64,
    pub(crate) ask: Ask,
    /// The outcome of a copy is awaited.
    pub(crate) copying: bool,
    /// A block read was needed.
    pub(crate) missed: bool,
}

impl Default for RequestEntry {
    fn default() -> Self {
        Self {
            id: 0,
            next: NIL,
            page: 0,
            frame: NIL,
            received: 0,
            ask: Ask::Grant { order: 0 },
            copying: false,
            missed: false,
        }
    }
}
