//! What is refused, and why. One small type for each operation; none of them is a mistake of this crate's.

use crate::sizes::TableSizes;

/// The disk did not do what it was asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoFailed;

/// A part of the store on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Both superblocks.
    Superblock,
    /// A block of the checkpoint that counts.
    Checkpoint,
    /// A journal block that was flushed.
    Journal,
}

/// Why a store is not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The disk holds none: format it.
    NoStore,
    /// A format that this program does not know.
    Version {
        /// Its number.
        found: u32,
    },
    /// The disk is smaller than the store that was made on it.
    DiskTooSmall {
        /// Blocks that the store takes.
        needed: u32,
    },
    /// The tables are too small for this store.
    TablesTooSmall {
        /// Sizes that suffice.
        needed: TableSizes,
    },
    /// A metadata block is rotten, or makes no sense. No cut of power does this.
    Damaged {
        /// Where.
        block: u32,
        /// What.
        part: Part,
    },
    /// The disk could not be read.
    Read {
        /// Where.
        block: u32,
    },
}

/// Why a write or a discard is not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteRefused {
    /// No such overlay.
    Unknown,
    /// Outside of the overlay.
    Range,
    /// The store is full: an error for this client.
    Full,
    /// The overlay's quota is spent: an error for this client.
    Quota,
    /// Not now: try again after [`Store::poll`](crate::Store::poll) and completions.
    Busy,
    /// The disk has failed; nothing is written any more.
    ReadOnly,
}

/// Why an overlay is not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateRefused {
    /// Not 1 to 64 letters, digits, `.`, `_` and `-`.
    Name,
    /// There is one of this name.
    Exists,
    /// No row for one more.
    TooMany,
    /// Not now, as [`WriteRefused::Busy`].
    Busy,
    /// The disk has failed.
    ReadOnly,
}

/// Why an overlay is not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenRefused {
    /// No such overlay.
    Unknown,
    /// It is open.
    InUse,
    /// It belongs to another base volume, or another version of it.
    OtherBase,
}

/// Why an overlay is not deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteRefused {
    /// No such overlay.
    Unknown,
    /// It is open.
    InUse,
    /// Not now, as [`WriteRefused::Busy`].
    Busy,
    /// The disk has failed.
    ReadOnly,
}

/// Why a flush is not taken: too many wait. Try again after the next is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlushRefused;
