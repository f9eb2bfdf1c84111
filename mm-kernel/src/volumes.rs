//! The volumes: configured disks, what became of them, and what identifies their content.
//!
//! A volume can have several disks, each of which can hold a *version* of it. The newest serves new clients; an older one serves those
//! who have it, and is retired when the last of them has gone ([`crate::versions`]).

use core::fmt;

use mm_engine::VolumeId;
use mm_proto::VolumeIdentity;

use crate::config::{Name, PLACES_MAX, VolumeConfig};

/// Bytes at the start of a volume that identify it: its first page.
const FIRST_PAGE: usize = mm_proto::PAGE_SIZE;
/// Where EROFS has its superblock, and what it begins with (`fs/erofs/erofs_fs.h`).
const EROFS_SUPERBLOCK: usize = 1024;
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2_u32.to_le_bytes();

/// Whether a volume is served, and if not, why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeState {
    /// Its disk was not heard of yet.
    Waiting,
    /// Clients may have it.
    Serving,
    /// M1 has no disk of that name.
    NoDisk,
    /// The disk is no whole number of 512-byte sectors, or holds no whole page.
    BadSize,
    /// Its first page could not be read.
    Unreadable,
    /// The engine has no room for it.
    NoRoom,
    /// The disk's backend is gone; what is cached is served.
    DiskGone,
    /// The disk has come back with another content; what is cached is served.
    OtherDisk,
    /// No disk is there, and none has to be: it is for a version to come.
    Vacant,
    /// An older version without clients, of which something is left.
    Retiring,
    /// The disk of an older version, which nobody needs any more.
    Retired,
}

impl fmt::Display for VolumeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting for its disk",
            Self::Serving => "serving",
            Self::NoDisk => "no such disk: is it in M1's disk= line?",
            Self::BadSize => "the disk holds no whole page",
            Self::Unreadable => "its first page cannot be read",
            Self::NoRoom => "no room for another volume",
            Self::DiskGone => "its disk is gone: only what is cached is served",
            Self::OtherDisk => "another disk is there now: only what is cached of the first is served",
            Self::Vacant => "free for the next version's disk",
            Self::Retiring => "an older version: its last pages are being let go of",
            Self::Retired => "an older version, retired: its disk can be detached",
        })
    }
}

/// One disk of a volume, and the version of the volume that is on it.
#[derive(Clone, Debug)]
pub struct VolumeFacts {
    /// What clients call the volume.
    pub name: Name,
    /// Whose clients may share with each other.
    pub group: Name,
    /// The disk.
    pub device: Name,
    /// Its length; 0 until it is known.
    pub pages: u64,
    /// Whether it is served.
    pub state: VolumeState,
    /// The engine's number of it.
    pub id: Option<VolumeId>,
    /// What identifies its content; zeros until it is known.
    pub identity: VolumeIdentity,
    /// Whether its pages are only copied.
    pub copy_only: bool,
    /// Which version of the volume it is, counted from 1; 0: none was here yet. Those of retired ones are not used again.
    pub version: u32,
    /// A client has had it.
    pub used: bool,
    /// The length of the disk that is there, which is none of this version: the next one's, when this one is gone.
    pub next: Option<u64>,
}

impl VolumeFacts {
    /// Its disk number `disk`, as configured, nothing known yet.
    #[must_use]
    pub fn new(config: &VolumeConfig, disk: usize) -> Self {
        Self {
            name: config.name.clone(),
            group: config.group.clone(),
            device: config.devices.get(disk).cloned().unwrap_or_default(),
            pages: 0,
            state: VolumeState::Waiting,
            id: None,
            identity: [0; 32],
            copy_only: config.share == crate::config::Share::Copy,
            version: 0,
            used: false,
            next: None,
        }
    }

    /// Whether clients can be attached to it: it is there, and not on its way out.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.id.is_some() && self.state != VolumeState::Retiring
    }
}

/// All of them, in the order of the configuration.
pub type Volumes = heapless::Vec<VolumeFacts, PLACES_MAX>;

/// The version of a volume that new clients get: the newest of those whose disk is there; without disks, the newest.
#[must_use]
pub fn current(volumes: &[VolumeFacts], name: &str) -> Option<usize> {
    let usable = (0..).zip(volumes).filter(|(_, volume)| volume.name == name && volume.is_usable());
    let newest = usable.max_by_key(|(_, volume)| (volume.state == VolumeState::Serving, volume.version));
    newest.map(|(index, _)| index)
}

/// Number for another version of a volume.
#[must_use]
pub fn next_version(volumes: &[VolumeFacts], name: &str) -> u32 {
    let versions = volumes.iter().filter(|volume| volume.name == name).map(|volume| volume.version);
    versions.max().unwrap_or(0).saturating_add(1)
}

/// Number of a volume's group: the first volume's that names the same one.
#[must_use]
pub fn group_number(volumes: &[VolumeFacts], group: &str) -> u16 {
    let first = volumes.iter().position(|volume| volume.group == group).unwrap_or(volumes.len());
    u16::try_from(first).unwrap_or(u16::MAX)
}

/// Identity of a volume with this first page and length: an EROFS image's magic, build time, block count and UUID; for
/// anything else a digest of the page, and the length.
#[must_use]
pub fn identity(first_page: &[u8; FIRST_PAGE], pages: u64) -> VolumeIdentity {
    let mut identity = [0; 32];
    let superblock = &first_page[EROFS_SUPERBLOCK..];
    if superblock.starts_with(&EROFS_MAGIC) {
        identity[..4].copy_from_slice(&EROFS_MAGIC);
        identity[4..8].copy_from_slice(&superblock[36..40]); // blocks
        identity[8..16].copy_from_slice(&superblock[24..32]); // build_time
        identity[16..32].copy_from_slice(&superblock[48..64]); // uuid
    } else {
        identity[..8].copy_from_slice(&pages.to_le_bytes());
        for (lane, out) in identity[8..].chunks_exact_mut(8).enumerate() {
            out.copy_from_slice(&fnv(first_page, lane).to_le_bytes());
        }
    }
    identity
}

/// What an overlay remembers its base by: all of the identity, and the length.
#[must_use]
pub fn digest(identity: &VolumeIdentity, pages: u64) -> [u8; 16] {
    let mut bytes = [0; 40];
    bytes[..32].copy_from_slice(identity);
    bytes[32..].copy_from_slice(&pages.to_le_bytes());
    let mut digest = [0; 16];
    for (lane, out) in digest.chunks_exact_mut(8).enumerate() {
        out.copy_from_slice(&fnv(&bytes, lane).to_le_bytes());
    }
    digest
}

/// What an overlay over a snapshot of such a base remembers it by.
#[must_use]
pub fn digest_over(base: [u8; 16], snapshot: [u8; 16]) -> [u8; 16] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&base);
    bytes[16..].copy_from_slice(&snapshot);
    let mut digest = [0; 16];
    for (lane, out) in digest.chunks_exact_mut(8).enumerate() {
        out.copy_from_slice(&fnv(&bytes, lane).to_le_bytes());
    }
    digest
}

/// FNV-1a of the page, started differently for each lane.
fn fnv(bytes: &[u8], lane: usize) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64 ^ (lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_erofs_image_is_known_by_its_superblock() {
        let mut page = [0; FIRST_PAGE];
        page[1024..1028].copy_from_slice(&EROFS_MAGIC);
        page[1024 + 48..1024 + 64].copy_from_slice(&[7; 16]);
        page[1024 + 36] = 9;
        let known = identity(&page, 5);
        assert_eq!((&known[..4], known[4], &known[16..]), (&EROFS_MAGIC[..], 9, &[7; 16][..]));
        page[2000] = 1;
        assert_eq!(identity(&page, 6), known, "nothing else counts");
        page[1024 + 48] = 8;
        assert_ne!(identity(&page, 5), known);
    }

    #[test]
    fn anything_else_is_known_by_its_first_page_and_length() {
        let mut page = [3; FIRST_PAGE];
        let known = identity(&page, 5);
        assert_ne!(identity(&page, 6), known);
        page[4095] = 4;
        assert_ne!(identity(&page, 5), known);
    }

    #[test]
    fn the_newest_version_with_a_disk_is_for_new_clients() {
        let config = crate::config::Config::parse("volume=a:1:2:3 volume=b:4");
        let mut volumes: std::vec::Vec<_> =
            (0..3).map(|disk| VolumeFacts::new(&config.volumes[0], disk)).collect();
        assert_eq!((current(&volumes, "a"), next_version(&volumes, "a")), (None, 1));
        for (number, volume) in (1..).zip(&mut volumes) {
            (volume.id, volume.state) = (Some(VolumeId(number)), VolumeState::Serving);
            volume.version = [2, 3, 1][usize::from(number) - 1];
        }
        assert_eq!((current(&volumes, "a"), next_version(&volumes, "a")), (Some(1), 4));
        volumes[1].state = VolumeState::DiskGone;
        assert_eq!(current(&volumes, "a"), Some(0));
        volumes[0].state = VolumeState::Retiring;
        volumes[2].state = VolumeState::OtherDisk;
        assert_eq!((current(&volumes, "a"), current(&volumes, "b")), (Some(1), None));
    }

    #[test]
    fn groups_are_numbered_by_their_first_volume() {
        let config = crate::config::Config::parse("volume=a:1,group=x volume=b:2 volume=c:3,group=x");
        let volumes: std::vec::Vec<_> =
            config.volumes.iter().map(|volume| VolumeFacts::new(volume, 0)).collect();
        let numbers: std::vec::Vec<_> = volumes.iter().map(|v| group_number(&volumes, &v.group)).collect();
        assert_eq!(numbers, [0, 1, 0]);
    }
}
