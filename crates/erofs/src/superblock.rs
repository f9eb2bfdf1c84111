//! The superblock: 128 bytes at byte 1024 of the volume (`struct erofs_super_block`).

use core::convert::Infallible;

use crate::bytes::{len, u16_at, u32_at, u64_at, uuid_at};
use crate::{Damage, Error, Feature, Nid, PAGE, PAGE_SIZE};

/// Where the superblock starts in the first page.
const OFFSET: usize = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;

/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`.
const COMPAT_CHECKSUM: u32 = 0x1;

// `feature_incompat`. Of these, zero padding concerns compressed files only (of which none are read) and xattr
// prefixes the extended attributes (which are skipped), so both are harmless here.
const ZERO_PADDING: u32 = 0x01;
/// Compression configurations, big clusters.
const COMPRESSION: u32 = 0x02;
const CHUNKED_FILE: u32 = 0x04;
/// Either a device table or a second compression head.
const DEVICE_TABLE: u32 = 0x08;
/// Tail packing of compressed files; fragments and deduplication of compressed data.
const COMPRESSED_EXTRAS: u32 = 0x10 | 0x20;
const XATTR_PREFIXES: u32 = 0x40;
const WIDE_ADDRESSES: u32 = 0x80;
const HARMLESS: u32 = ZERO_PADDING | CHUNKED_FILE | XATTR_PREFIXES;

/// Size of the smallest inode, and the unit of inode numbers.
const INODE_SLOT: u64 = 32;

/// What the superblock says, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuperBlock {
    /// The root directory.
    pub root: Nid,
    /// Length of the volume in 4 KiB blocks.
    pub blocks: u64,
    /// Number of inodes, as the volume says.
    pub inodes: u64,
    /// When it was made, in seconds since 1970; the modification time of compact inodes.
    pub build_time: u64,
    /// Nanoseconds of the same.
    pub build_time_nsec: u32,
    /// The volume's UUID.
    pub uuid: [u8; 16],
    /// First byte of the metadata area; inode `n` is 32 `n` bytes behind it.
    meta: u64,
}

/// Which content a volume has: two volumes with the same identity are taken for the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The superblock's UUID.
    pub uuid: [u8; 16],
    /// Length in 4 KiB blocks.
    pub blocks: u64,
    /// When it was made, in seconds since 1970.
    pub build_time: u64,
}

impl Identity {
    /// UUID, block count and build time (little-endian) in the 32 bytes that the map protocol carries.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut out = [0; 32];
        let fields =
            self.uuid.into_iter().chain(self.blocks.to_le_bytes()).chain(self.build_time.to_le_bytes());
        for (to, from) in out.iter_mut().zip(fields) {
            *to = from;
        }
        out
    }
}

impl SuperBlock {
    /// Judges a volume's first page.
    ///
    /// # Errors
    /// `NotErofs`, `Unsupported` or `Damaged`; never `Source`.
    pub fn parse(page: &[u8; PAGE_SIZE]) -> Result<Self, Error<Infallible>> {
        let fields = page.get(OFFSET..).ok_or(Error::NotErofs)?;
        if u32_at(fields, 0) != Some(MAGIC) {
            return Err(Error::NotErofs);
        }
        // A number is always there: the rest of the page is longer than the superblock.
        Self::decode(fields).ok_or(Error::Damaged(Damage::Outside))?
    }

    fn decode(fields: &[u8]) -> Option<Result<Self, Error<Infallible>>> {
        let (block_bits, directory_bits) = (*fields.get(12)?, *fields.get(90)?);
        if block_bits != 12 {
            return Some(Err(Error::Unsupported(Feature::BlockSizeBits(block_bits))));
        }
        // The checksum covers as much as a block, so it comes after the block size and before all else.
        if u32_at(fields, 8)? & COMPAT_CHECKSUM != 0 && u32_at(fields, 4)? != checksum(fields) {
            return Some(Err(Error::Damaged(Damage::Checksum)));
        }
        if let Some(feature) = unsupported(u32_at(fields, 80)?) {
            return Some(Err(Error::Unsupported(feature)));
        }
        if directory_bits != 0 {
            return Some(Err(Error::Unsupported(Feature::BlockSizeBits(
                block_bits.saturating_add(directory_bits),
            ))));
        }
        if u16_at(fields, 86)? != 0 {
            return Some(Err(Error::Unsupported(Feature::Devices)));
        }
        let blocks = u64::from(u32_at(fields, 36)?);
        let meta = u64::from(u32_at(fields, 40)?).saturating_mul(PAGE);
        if blocks == 0 || meta >= blocks.saturating_mul(PAGE) {
            return Some(Err(Error::Damaged(Damage::Outside)));
        }
        Some(Ok(Self {
            root: Nid(u64::from(u16_at(fields, 14)?)),
            blocks,
            inodes: u64_at(fields, 16)?,
            build_time: u64_at(fields, 24)?,
            build_time_nsec: u32_at(fields, 32)?,
            uuid: uuid_at(fields, 48)?,
            meta,
        }))
    }

    /// Which content this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { uuid: self.uuid, blocks: self.blocks, build_time: self.build_time }
    }

    /// The volume's length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(PAGE)
    }

    /// Where an inode starts; `None` where that is outside of the volume.
    pub(crate) fn inode_position(&self, nid: Nid) -> Option<u64> {
        let position = nid.0.checked_mul(INODE_SLOT)?.checked_add(self.meta)?;
        (position < self.bytes()).then_some(position)
    }
}

/// The first feature of `incompatible` that this reader lacks.
fn unsupported(incompatible: u32) -> Option<Feature> {
    if incompatible & WIDE_ADDRESSES != 0 {
        Some(Feature::WideAddresses)
    } else if incompatible & (COMPRESSION | COMPRESSED_EXTRAS) != 0 {
        Some(Feature::Compression)
    } else if incompatible & DEVICE_TABLE != 0 {
        Some(Feature::Devices)
    } else {
        let unknown = incompatible & !HARMLESS;
        (unknown != 0).then_some(Feature::Unknown(unknown))
    }
}

/// CRC-32C (Castagnoli, reflected), starting from all ones and not inverted at the end, of the first page from the
/// superblock on with the checksum's own four bytes as zeros (`erofs_superblock_csum_verify`).
pub(crate) fn checksum(fields: &[u8]) -> u32 {
    let own = 4..8_u64;
    let mut crc = u32::MAX;
    for (at, byte) in fields.iter().enumerate() {
        crc ^= u32::from(if own.contains(&len(at)) { 0 } else { *byte });
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        }
    }
    crc
}
