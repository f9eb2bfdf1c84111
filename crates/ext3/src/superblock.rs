//! The superblock: constants of the filesystem, and whether it is one that this crate may write.

use crate::{BLOCK, le16, le32};

/// Where the superblock lies within block 0, and words of it.
pub(crate) const AT: usize = 1024;
pub(crate) const FREE_BLOCKS: usize = AT + 12;
pub(crate) const FREE_INODES: usize = AT + 16;
pub(crate) const FEATURE_INCOMPAT: usize = AT + 96;
pub(crate) const LAST_ORPHAN: usize = AT + 232;

/// `needs_recovery`.
pub(crate) const RECOVER: u32 = 4;
const FILETYPE: u32 = 2;
const HAS_JOURNAL: u32 = 4;
/// filetype, needs_recovery, flex_bg.
const INCOMPAT: u32 = FILETYPE | RECOVER | 0x200;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize.
const RO_COMPAT: u32 = 1 | 2 | 8 | 0x20 | 0x40;
pub(crate) const DESCRIPTORS: u32 = 128;

/// A feature that the filesystem has, or lacks, and that this crate needs otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsupported(
    /// What `mkfs` and `dumpe2fs` call it, or a few words.
    pub &'static str,
);

const INCOMPAT_NAMES: [(u32, &str); 13] = [
    (0x1, "compression"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x400, "ea_inode"),
    (0x1000, "dirdata"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
const RO_COMPAT_NAMES: [(u32, &str); 9] = [
    (0x10, "uninit_bg"),
    (0x80, "has_snapshot"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];

/// What does not change while it is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    pub(crate) blocks: u32,
    pub(crate) inodes: u32,
    pub(crate) groups: u32,
    pub(crate) blocks_per_group: u32,
    pub(crate) inodes_per_group: u32,
    /// Bytes of an inode: a power of two from 128 to 4096.
    pub(crate) inode_size: u32,
    /// First inode that is not reserved.
    pub(crate) first_inode: u32,
    pub(crate) journal_inode: u32,
    pub(crate) needs_recovery: bool,
    pub(crate) has_errors: bool,
}

/// Why block 0 is not the start of such a filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bad {
    NotExt,
    Unsupported(&'static str),
    Damaged,
}

impl Geometry {
    /// Reads block 0.
    pub(crate) fn parse(block: &[u8; BLOCK], device_blocks: u64) -> Result<Self, Bad> {
        let word = |at: usize| le32(block, AT + at);
        if le16(block, AT + 56) != 0xef53 {
            return Err(Bad::NotExt);
        }
        let (compat, incompat, ro_compat) = (word(92), word(96), word(100));
        if word(76) < 1 {
            return Err(Bad::Unsupported("revision 0"));
        }
        if word(24) != 2 {
            return Err(Bad::Unsupported("a block size other than 4096 bytes"));
        }
        named(incompat & !INCOMPAT, &INCOMPAT_NAMES)?;
        named(ro_compat & !RO_COMPAT, &RO_COMPAT_NAMES)?;
        if compat & HAS_JOURNAL == 0 {
            return Err(Bad::Unsupported("no journal"));
        }
        if incompat & FILETYPE == 0 {
            return Err(Bad::Unsupported("no filetype"));
        }
        let geometry = Self {
            blocks: word(4),
            inodes: word(0),
            groups: word(4).div_ceil(word(32).max(1)),
            blocks_per_group: word(32),
            inodes_per_group: word(40),
            inode_size: u32::from(le16(block, AT + 88)),
            first_inode: word(84),
            journal_inode: word(224),
            needs_recovery: incompat & RECOVER != 0,
            has_errors: le16(block, AT + 58) & 2 != 0,
        };
        let Self {
            blocks, inodes, groups, blocks_per_group, inodes_per_group, inode_size, first_inode, ..
        } = geometry;
        let bits = |count: u32| count > 0 && count <= 8 * 4096 && count.is_multiple_of(8);
        let sound = word(20) == 0
            && blocks > 64
            && u64::from(blocks) <= device_blocks
            && bits(blocks_per_group)
            && bits(inodes_per_group)
            && groups.checked_mul(inodes_per_group) == Some(inodes)
            && groups.div_ceil(DESCRIPTORS) < blocks
            && inode_size.is_power_of_two()
            && (128..=4096).contains(&inode_size)
            && (11..inodes).contains(&first_inode);
        if sound { Ok(geometry) } else { Err(Bad::Damaged) }
    }
}

fn named(unknown: u32, names: &[(u32, &'static str)]) -> Result<(), Bad> {
    if unknown == 0 {
        return Ok(());
    }
    let known = names.iter().find(|(bit, _)| unknown & bit != 0);
    Err(Bad::Unsupported(known.map_or("a feature that nobody has named", |(_, name)| name)))
}
