//! What a snapshot says of the program besides its pages, and the page that a clone begins with.
//!
//! The *head* is one page: 0–7 `M1FROZEN`, 8–11 [`ABI`], 12–15 bytes of the manifest, 16–19 their CRC-32C, 20–23 number of its pages,
//! 24–55 identity of the volume, 56–… the pages of the frozen part that hold it, four bytes each; little-endian. The *manifest* is
//! [`Manifest`] in postcard's encoding (its specification is at postcard.jamesmunns.com), over those pages one after another. M1 looks at neither.

use alloc::vec::Vec;
use core::ops::Range;

use mm_proto::{FROZEN_FIRST, VolumeIdentity};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use super::files::FrozenFiles;
use crate::fs::tmp::Tmp;
use crate::machine::{ProcessorTime, Registers};
use crate::page::PAGE_SIZE;
use crate::process::FrozenProcess;
use crate::vm::{FrozenMap, FrozenStore, Vma};

/// Which kernels can thaw it: raised whenever anything in here, or what it stands for, changes. A test holds the encoding.
pub(crate) const ABI: u32 = 1;

const MAGIC: [u8; 8] = *b"M1FROZEN";
/// Where the pages are listed.
const LIST: usize = 56;
/// Pages that a manifest can have.
pub(super) const PAGES: usize = (PAGE_SIZE as usize - LIST) / 4;

/// Everything that a program is, but for the content of its pages.
#[derive(PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) registers: Registers,
    /// FXSAVE image.
    pub(crate) fpu: Vec<u8>,
    /// Upper halves of the AVX registers.
    pub(crate) vectors: Option<Vec<u8>>,
    /// Clocks at that moment.
    pub(crate) monotonic: u64,
    pub(crate) realtime: u64,
    pub(crate) used: ProcessorTime,
    /// The end (monotonic) of the wait that the program is in, whose call is made again.
    pub(crate) deadline: Option<u64>,
    pub(crate) process: FrozenProcess,
    pub(crate) files: FrozenFiles,
    pub(crate) names: Vec<Vec<u8>>,
    pub(crate) tmp: Tmp,
    pub(crate) store: FrozenStore,
    pub(crate) vmas: Vec<Vma>,
    pub(crate) heap: Range<u64>,
    pub(crate) frozen: FrozenMap,
}

/// Why a snapshot cannot be thawed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ThawError {
    /// A page of it could not be had.
    Page(crate::machine::VolumeError),
    /// The page that it begins with is none.
    NoHead,
    /// It was made by a kernel of another kind.
    OtherKernel {
        /// What this kernel thaws.
        ours: u32,
        /// What it is.
        theirs: u32,
    },
    /// It belongs to another volume.
    OtherVolume,
    /// Its checksum is wrong.
    Damaged,
    /// It says what no kernel of this kind says.
    Senseless,
    /// No memory for it.
    Memory,
    /// A file that was open is not on the volume.
    File(crate::errno::Errno),
    /// It was made with AVX registers, and this domain has none.
    NoAvx,
}

impl core::fmt::Display for ThawError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Page(error) => write!(f, "a page of the snapshot cannot be had: {error:?}"),
            Self::NoHead => f.write_str("what the device is attached to is no snapshot of a program"),
            Self::OtherKernel { ours, theirs } => {
                write!(f, "the snapshot is of kernel ABI {theirs}, and this kernel thaws ABI {ours}")
            }
            Self::OtherVolume => f.write_str("the snapshot belongs to another volume"),
            Self::Damaged => f.write_str("the snapshot's checksum is wrong"),
            Self::Senseless => f.write_str("the snapshot makes no sense"),
            Self::Memory => f.write_str("not enough memory for the snapshot's tables"),
            Self::File(error) => write!(f, "a file that was open cannot be opened: {}", error.name()),
            Self::NoAvx => f.write_str("the snapshot has AVX registers, and this domain has none"),
        }
    }
}

/// Bytes that grow, fallibly.
struct Growing(Vec<u8>);

impl Flavor for Growing {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.try_reserve(bytes.len()).map_err(|_| postcard::Error::SerializeBufferFull)?;
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// The checksum.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISCSI).checksum(bytes)
}

impl Manifest {
    /// Its bytes. `None` where there is no memory for them, or they are more than a head can list.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let bytes = postcard::serialize_with_flavor(self, Growing(Vec::new())).ok()?;
        (bytes.len().div_ceil(PAGE_SIZE as usize) <= PAGES).then_some(bytes)
    }

    /// That of the snapshot that begins with this page; `page` reads pages of it.
    pub(super) fn read(
        head: u32,
        volume: &VolumeIdentity,
        mut page: impl FnMut(u32, &mut [u8; PAGE_SIZE as usize]) -> Result<(), ThawError>,
    ) -> Result<Self, ThawError> {
        let mut content = [0; PAGE_SIZE as usize];
        page(head, &mut content)?;
        let head = Head::decode(&content, volume)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(head.pages.len() * PAGE_SIZE as usize).map_err(|_| ThawError::Memory)?;
        for number in &head.pages {
            page(*number, &mut content)?;
            bytes.extend_from_slice(&content);
        }
        bytes.truncate(head.bytes as usize);
        if checksum(&bytes) != head.crc {
            return Err(ThawError::Damaged);
        }
        Self::decode(&bytes)
    }

    /// From bytes whose checksum is right.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ThawError> {
        postcard::from_bytes(bytes).map_err(|_| ThawError::Senseless)
    }
}

/// The page that a clone begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Head {
    pub(crate) bytes: u32,
    pub(crate) crc: u32,
    pub(crate) volume: VolumeIdentity,
    pub(crate) pages: Vec<u32>,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; PAGE_SIZE as usize] {
        let mut page = [0; PAGE_SIZE as usize];
        page[..8].copy_from_slice(&MAGIC);
        for (at, word) in [(8, ABI), (12, self.bytes), (16, self.crc), (20, self.pages.len() as u32)] {
            page[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        page[24..LIST].copy_from_slice(&self.volume);
        for (place, number) in page[LIST..].chunks_exact_mut(4).zip(&self.pages) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        page
    }

    pub(crate) fn decode(
        page: &[u8; PAGE_SIZE as usize],
        volume: &VolumeIdentity,
    ) -> Result<Self, ThawError> {
        let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        if page[..8] != MAGIC {
            return Err(ThawError::NoHead);
        }
        if word(8) != ABI {
            return Err(ThawError::OtherKernel { ours: ABI, theirs: word(8) });
        }
        if page[24..LIST] != volume[..] {
            return Err(ThawError::OtherVolume);
        }
        let count = word(20) as usize;
        if count > PAGES || count != (word(12) as usize).div_ceil(PAGE_SIZE as usize) {
            return Err(ThawError::Senseless);
        }
        let pages: Vec<u32> = (0..count).map(|index| word(LIST + 4 * index)).collect();
        if pages.iter().any(|page| u64::from(*page) < FROZEN_FIRST) {
            return Err(ThawError::Senseless);
        }
        Ok(Self { bytes: word(12), crc: word(16), volume: *volume, pages })
    }
}
