//! The info page: what M1 tells a client about itself and the volume, read-only, in 32-bit little-endian words.
//!
//! Words: 0 magic `M1mm`, 1 lowest version, 2 highest version, 3 flags (bit 0: this volume is only copied), 4–5 epoch,
//! 6–7 heartbeat, 8–9 pages of the volume, 10 largest window, 11 zero, 12–19 volume identity (32 bytes), 20 page that a clone begins
//! with, 21 page of what is hot after a thaw, 22 zero, 23–26 identity of the snapshot. Words from 20 on are zero where the device is
//! not attached to a snapshot, and were not there in version 1.
//! M1 writes the magic last. The heartbeat is advanced on every turn of M1's loop; it is the only word that changes.

use crate::{VERSION, VERSION_MIN};

/// "M1mm" in little-endian bytes.
const MAGIC: u32 = u32::from_le_bytes(*b"M1mm");

/// Identity of a volume's content: what makes two volumes the same to a client that reattaches. For EROFS, the
/// superblock's UUID, block count and build time; for anything else, a digest of its first page, and its size.
pub type VolumeIdentity = [u8; 32];

/// What the info page says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InfoPage {
    /// Lowest version that M1 speaks.
    pub version_min: u32,
    /// Highest version that M1 speaks.
    pub version_max: u32,
    /// The volume is only copied, never lent (`share=copy`).
    pub copy_only: bool,
    /// Differs each time that M1 starts: nanoseconds of the wall clock at its boot.
    pub epoch: u64,
    /// Turns of M1's loop, as of the last one.
    pub heartbeat: u64,
    /// Length of the volume in pages.
    pub pages: u64,
    /// Largest window in pages that M1 grants.
    pub window: u32,
    /// Which content this is.
    pub identity: VolumeIdentity,
    /// What this device was attached to besides the volume.
    pub snapshot: Option<SnapshotInfo>,
}

/// What the info page says of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Page that a clone begins with, in the frozen part.
    pub head: u32,
    /// Page of the frozen part that lists what earlier clones touched first; 0 where none has said so yet.
    pub hot: u32,
    /// Which snapshot: no two have the same, on whatever host.
    pub identity: [u8; 16],
}

/// Why a page is no info page that this crate can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InfoError {
    /// The first word is not the magic: not M1, or not ready.
    BadMagic,
    /// No version in common.
    NoCommonVersion {
        /// Lowest of the peer.
        min: u32,
        /// Highest of the peer.
        max: u32,
    },
}

impl InfoPage {
    /// Number of words that the page's content takes.
    pub const WORDS: usize = 27;
    /// The word that holds the low half of the heartbeat; the high half follows.
    pub const HEARTBEAT_WORD: usize = 6;

    /// Reads the page from a private copy of its first words.
    ///
    /// # Errors
    /// [`InfoError`] where it is no info page or the versions do not meet.
    pub fn decode(words: &[u32; Self::WORDS]) -> Result<Self, InfoError> {
        if words[0] != MAGIC {
            return Err(InfoError::BadMagic);
        }
        let (min, max) = (words[1], words[2]);
        if min > VERSION || max < VERSION_MIN {
            return Err(InfoError::NoCommonVersion { min, max });
        }
        let wide = |index: usize| u64::from(words[index]) | u64::from(words[index + 1]) << 32;
        let mut identity = [0; 32];
        for (bytes, word) in identity.chunks_exact_mut(4).zip(&words[12..20]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut snapshot = [0; 16];
        for (bytes, word) in snapshot.chunks_exact_mut(4).zip(&words[23..27]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let snapshot = SnapshotInfo { head: words[20], hot: words[21], identity: snapshot };
        Ok(Self {
            version_min: min,
            version_max: max,
            copy_only: words[3] & 1 == 1,
            epoch: wide(4),
            heartbeat: wide(Self::HEARTBEAT_WORD),
            pages: wide(8),
            window: words[10],
            identity,
            snapshot: (max >= 2 && snapshot.head != 0).then_some(snapshot),
        })
    }

    /// The words to write, word 0 last.
    #[must_use]
    pub fn encode(&self) -> [u32; Self::WORDS] {
        let mut words = [0; Self::WORDS];
        (words[0], words[1], words[2]) = (MAGIC, self.version_min, self.version_max);
        words[3] = u32::from(self.copy_only);
        for (index, value) in [(4, self.epoch), (6, self.heartbeat), (8, self.pages)] {
            words[index] = value as u32;
            words[index + 1] = (value >> 32) as u32;
        }
        words[10] = self.window;
        for (word, bytes) in words[12..20].iter_mut().zip(self.identity.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        if let Some(snapshot) = self.snapshot {
            (words[20], words[21]) = (snapshot.head, snapshot.hot);
            for (word, bytes) in words[23..27].iter_mut().zip(snapshot.identity.chunks_exact(4)) {
                *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
        }
        words
    }

    /// The version that a client of this crate uses with this M1.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version_max.min(VERSION)
    }
}
