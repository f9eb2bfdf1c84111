//! Devices that M1 refused lately, and why: what an operator looks for when `xl create` gave up after its ten seconds.

use core::fmt;
use core::str::FromStr;

use heapless::{Deque, String};
use xen_sys::DomId;

use crate::config::NAME_MAX;

/// Refusals that are kept.
const KEPT: usize = 16;

/// Why a device is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// No volume has that name.
    UnknownVolume,
    /// The volume is configured and cannot be served.
    VolumeUnusable,
    /// The client's devices lead to volumes of two groups.
    OtherGroup,
    /// As many devices as `clients=` allows are served.
    TooManyDevices,
    /// No reference or event channel is left for its ring.
    NoRoom,
    /// What is written over a snapshot cannot be kept in this version.
    NotSupported,
    /// The volume has no snapshot of that name.
    UnknownSnapshot,
    /// The snapshot is being taken.
    SnapshotNotReady,
    /// There is no store disk, or it cannot be used.
    NoStore,
    /// The store's disk has failed.
    StoreFailed,
    /// What is behind the `+` is no name of an overlay.
    OverlayName,
    /// The store has no room for one more overlay.
    TooManyOverlays,
    /// Another device has the overlay.
    OverlayInUse,
    /// The overlay lies over another volume, or another version of it.
    OtherBase,
    /// The volume has more blocks than can be written over it in memory.
    TooLarge,
    /// The backend directory contradicts itself.
    Inconsistent,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownVolume => "no volume has this name",
            Self::VolumeUnusable => "the volume is configured and cannot be served",
            Self::OtherGroup => "the client has a volume of another group already",
            Self::TooManyDevices => "as many devices as clients= allows are served",
            Self::NoRoom => "no grant reference or event channel is left",
            Self::NotSupported => "an overlay (+) over a snapshot (@) is not supported yet",
            Self::UnknownSnapshot => "the volume has no snapshot (@) of this name",
            Self::SnapshotNotReady => "the snapshot (@) is not complete yet",
            Self::NoStore => "overlays (+) need a store: store_disk= names its disk",
            Self::StoreFailed => "the store's disk has failed",
            Self::OverlayName => "an overlay's name has 1 to 64 letters, digits, '.', '_' and '-'",
            Self::TooManyOverlays => "the store has no room for another overlay",
            Self::OverlayInUse => "another device has this overlay",
            Self::OtherBase => "this overlay lies over another volume, or another version",
            Self::TooLarge => "the volume is too large to be written over in memory",
            Self::Inconsistent => "the device's nodes contradict each other",
        })
    }
}

/// One refusal.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The client.
    pub domain: DomId,
    /// Its `target=`, cut.
    pub target: String<NAME_MAX>,
    /// Why.
    pub reason: Reason,
}

/// The last sixteen.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    kept: Deque<Refusal, KEPT>,
    total: u64,
}

impl Refusals {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { kept: Deque::new(), total: 0 }
    }

    /// Adds one; the oldest gives way.
    pub fn add(&mut self, domain: DomId, target: &str, reason: Reason) {
        let mut end = target.len().min(NAME_MAX);
        while !target.is_char_boundary(end) {
            end -= 1;
        }
        let target = String::from_str(target.get(..end).unwrap_or_default()).unwrap_or_default();
        if self.kept.is_full() {
            self.kept.pop_front();
        }
        // There is room: one was taken out.
        let _ = self.kept.push_back(Refusal { domain, target, reason });
        self.total += 1;
    }

    /// Those that are kept, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Refusal> {
        self.kept.iter()
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}
