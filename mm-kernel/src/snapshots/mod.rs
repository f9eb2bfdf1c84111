//! Snapshots by name: what was ordered of whom, what clones are told, and what they touch first.
//!
//! The engine knows which pages a snapshot has (`mm_engine::SnapshotId`); this knows what it is called, over which volume it lies, and the
//! info page that clones of it get. dom0 orders a freeze ([`crate::m1::M1::freeze`]), the client does it over its map ring, and when it is
//! complete `target=VOLUME@NAME` is served.

mod directory;
mod exchange;
mod facts;
mod hot;
mod keep;
mod orders;

use heapless::String;
use mm_engine::{SNAPSHOTS, SnapshotId};
use mm_proto::{Bitmap, InfoPage, SnapshotInfo};
use xen_drivers::Frame;
use xen_sys::DomId;

use crate::block::Image;
use crate::config::{NAME_MAX, Name};
use crate::volumes::VolumeFacts;
use hot::Hot;
use keep::Keeper;

pub use exchange::{ExportRefused, ImportFailed, ImportRefused};
pub(crate) use exchange::{Imported, Next};
pub use facts::{Progress, SnapshotFacts};
pub use orders::{FreezeRefused, RemoveRefused, reason};

/// Disks of one client that a snapshot knows of.
const DISKS: usize = 8;

/// Which snapshot: no two have the same, on whatever host.
pub type Identity = [u8; 16];

/// One snapshot, from its order on.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// The engine's number of it: that of its place.
    pub(crate) id: SnapshotId,
    pub(crate) name: Name,
    /// The volume's name.
    pub(crate) over: Name,
    /// The place of the version of the volume that it lies over.
    pub(crate) volume: usize,
    /// Whose program it is.
    pub(crate) source: DomId,
    /// It came from another M1 since this one was started.
    pub(crate) imported: bool,
    pub(crate) identity: Identity,
    /// Clones can be attached: the info page is written.
    pub(crate) ready: bool,
    /// The disks that the client had, and what each had over its base.
    pub(crate) disks: heapless::Vec<DiskImage, DISKS>,
    /// Somebody was told how it ended.
    pub(crate) told: bool,
    /// Seconds since 1970 when it was ordered.
    pub(crate) ordered: u64,
    pub(crate) persist: Persist,
}

/// Whether a snapshot outlives M1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persist {
    /// It is in memory only.
    Memory,
    /// It is to go to the store's disk, or is on its way.
    Wanted,
    /// It is there.
    Stored,
    /// It could not be written there, and is in memory only.
    Failed,
    /// It is there, but which pages it has cannot be read: it can only be removed.
    Damaged,
}

/// A disk of a client that was frozen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskImage {
    /// The device's number.
    pub(crate) devid: u32,
    /// The place of the version of the volume that it lies over.
    pub(crate) volume: usize,
    /// What it had over that; none if nothing.
    pub(crate) image: Option<Image>,
}

/// All of them.
pub struct Snapshots {
    places: [Option<Slot>; SNAPSHOTS],
    /// Info pages, by place; as many snapshots as there are can be.
    infos: &'static [Option<Frame>],
    hot: Hot,
    pub(crate) keeper: Keeper,
    /// Snapshots whose instant it is.
    instants: heapless::Vec<SnapshotId, SNAPSHOTS>,
    /// What identities are made of, besides the time.
    seed: u64,
    made: u64,
}

impl Snapshots {
    /// None yet; room for as many as there are info pages.
    #[must_use]
    pub fn new(infos: &'static [Option<Frame>], seed: u64) -> Self {
        Self {
            places: [const { None }; SNAPSHOTS],
            infos,
            hot: Hot::new(),
            keeper: Keeper::new(),
            instants: heapless::Vec::new(),
            seed,
            made: 0,
        }
    }

    /// Those that there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.places.iter().flatten()
    }

    pub(crate) fn get(&self, id: SnapshotId) -> Option<&Slot> {
        self.places.get(usize::from(id.0))?.as_ref()
    }

    fn get_mut(&mut self, id: SnapshotId) -> Option<&mut Slot> {
        self.places.get_mut(usize::from(id.0))?.as_mut()
    }

    fn put(&mut self, slot: Slot) {
        if let Some(place) = self.places.get_mut(usize::from(slot.id.0)) {
            *place = Some(slot);
        }
    }

    /// The snapshot that has this identity.
    fn identified(&self, identity: &Identity) -> Option<&Slot> {
        self.iter().find(|slot| slot.identity == *identity)
    }

    /// The snapshot of this name over a volume, whichever version of it that is.
    pub(crate) fn find(&self, volume: &str, name: &str) -> Option<&Slot> {
        self.iter().find(|slot| slot.over == volume && slot.name == name)
    }

    /// The disk of a snapshot of this name that a clone's device gets: the one with the same number, if it is of that volume, else the
    /// first that is.
    pub(crate) fn find_disk(
        &self,
        volumes: &[VolumeFacts],
        volume: &str,
        name: &str,
        devid: u32,
    ) -> Option<(&Slot, DiskImage)> {
        let of = |disk: &&DiskImage| volumes.get(disk.volume).is_some_and(|facts| facts.name == volume);
        let named = self.iter().filter(|slot| slot.name == name);
        let mut found = named.filter_map(|slot| {
            let same = slot.disks.iter().filter(of).find(|disk| disk.devid == devid);
            Some((slot, *same.or_else(|| slot.disks.iter().find(of))?))
        });
        found.next()
    }

    /// Whether clones of a version of a volume can come, or are about to.
    pub(crate) fn needs(&self, volume: usize) -> bool {
        self.iter().any(|slot| {
            let has = slot.volume == volume || slot.disks.iter().any(|disk| disk.volume == volume);
            has && (slot.ready || !slot.told)
        })
    }

    /// A client that is being frozen stands still now.
    pub(crate) fn instant(&mut self, id: SnapshotId) {
        // There is room for all.
        let _ = self.instants.push(id);
    }

    /// The next snapshot whose instant it is, and whose client that is.
    pub(crate) fn take_instant(&mut self) -> Option<(SnapshotId, DomId)> {
        let id = self.instants.pop()?;
        Some((id, self.get(id)?.source))
    }

    /// The client has this disk. False where it has more than a snapshot knows of.
    pub(crate) fn add_disk(&mut self, id: SnapshotId, disk: DiskImage) -> bool {
        self.get_mut(id).is_some_and(|slot| slot.disks.push(disk).is_ok())
    }

    /// What one of its disks had over its base.
    pub(crate) fn set_image(&mut self, id: SnapshotId, devid: u32, image: Option<Image>) {
        let Some(slot) = self.get_mut(id) else { return };
        for disk in slot.disks.iter_mut().filter(|disk| disk.devid == devid) {
            disk.image = image;
        }
    }

    /// Info page of a snapshot that clones can be attached to.
    pub(crate) fn info(&self, id: SnapshotId) -> Option<Frame> {
        self.get(id).filter(|slot| slot.ready)?;
        self.infos.get(usize::from(id.0)).copied().flatten()
    }

    /// Shows clones that M1 lives.
    pub(crate) fn heartbeat(&self, low: u32, high: u32) {
        for info in self.iter().filter_map(|slot| self.info(slot.id)) {
            info.words.store(InfoPage::HEARTBEAT_WORD + 1, high);
            info.words.store(InfoPage::HEARTBEAT_WORD, low);
        }
    }

    /// A clone has touched these pages early.
    pub(crate) fn hot(&mut self, id: SnapshotId, page: u32, bitmap: &Bitmap, now: u64) {
        if self.get(id).is_some() {
            self.hot.add(id, page, bitmap, now);
        }
    }

    /// Writes the info page that clones get: the volume's, and what they begin with.
    fn publish(&mut self, id: SnapshotId, volume: InfoPage, head: u32, hot: u32) {
        let Some(slot) = self.places.get_mut(usize::from(id.0)).and_then(Option::as_mut) else { return };
        let Some(info) = self.infos.get(usize::from(id.0)).copied().flatten() else { return };
        let page = InfoPage { snapshot: Some(SnapshotInfo { head, hot, identity: slot.identity }), ..volume };
        // The magic, word 0, comes last: the page is an info page only when all of it is there.
        for (word, value) in page.encode().iter().enumerate().rev() {
            info.words.store(word, *value);
        }
        slot.ready = true;
    }

    /// A number that nobody can foretell and that is nowhere else.
    fn new_identity(&mut self, now_ns: u64) -> Identity {
        self.made += 1;
        let mut identity = [0; 16];
        for (lane, out) in (1_u64..).zip(identity.chunks_exact_mut(8)) {
            let mut x = self.seed ^ now_ns.rotate_left(17) ^ self.made << 48 ^ xen::clock::tsc();
            // The finalizer of the splitmix64 generator (public domain), once for each part.
            for part in [lane, now_ns, self.seed.rotate_left(32), self.made] {
                x = (x ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
                x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                x ^= x >> 31;
            }
            out.copy_from_slice(&x.to_le_bytes());
        }
        identity
    }

    /// The place is nobody's any more.
    fn clear(&mut self, id: SnapshotId) {
        if let Some(place) = self.places.get_mut(usize::from(id.0)) {
            *place = None;
        }
        self.hot.forget(id);
        if let Some(info) = self.infos.get(usize::from(id.0)).copied().flatten() {
            info.words.store(0, 0);
        }
    }
}

/// What a device's `target=` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target<'t> {
    pub(crate) volume: &'t str,
    pub(crate) snapshot: Option<&'t str>,
    pub(crate) overlay: Option<&'t str>,
}

impl<'t> Target<'t> {
    /// `VOLUME[@SNAPSHOT][+OVERLAY]`
    pub(crate) fn parse(text: &'t str) -> Self {
        let (text, overlay) = text.split_once('+').map_or((text, None), |(text, over)| (text, Some(over)));
        let (volume, snapshot) = text.split_once('@').map_or((text, None), |(name, at)| (name, Some(at)));
        Self { volume, snapshot, overlay }
    }
}

/// A snapshot's name: as a volume's.
fn legal(name: &str) -> Option<Name> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let legal = !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(good);
    String::try_from(name).ok().filter(|_| legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_up_to_three_parts() {
        let parts = |text| {
            let Target { volume, snapshot, overlay } = Target::parse(text);
            (volume, snapshot, overlay)
        };
        assert_eq!(parts("base"), ("base", None, None));
        assert_eq!(parts("base@warm"), ("base", Some("warm"), None));
        assert_eq!(parts("base+mine"), ("base", None, Some("mine")));
        assert_eq!(parts("base@warm+mine"), ("base", Some("warm"), Some("mine")));
        assert_eq!(parts("base+mine@warm"), ("base", None, Some("mine@warm")), "no name of an overlay");
        assert_eq!(parts("@"), ("", Some(""), None));
    }

    #[test]
    fn names_are_as_those_of_volumes() {
        assert!(legal("warm-1.b_C").is_some());
        for wrong in ["", "a@b", "a+b", "ä", "a b", "0123456789012345678901234567890123"] {
            assert_eq!(legal(wrong), None, "{wrong}");
        }
    }
}
