//! What can be wrong, as values: with the source, with the volume's format, with its bytes, with the caller's path.

use core::convert::Infallible;
use core::fmt;

/// Why a call on a volume failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error<E> {
    /// A page could not be had.
    Source(E),
    /// No EROFS superblock at byte 1024: another filesystem, or none.
    NotErofs,
    /// Needs something that this reader does not have; the volume may be good.
    Unsupported(Feature),
    /// The volume contradicts itself.
    Damaged(Damage),
    /// A directory was needed.
    NotDirectory,
    /// A symbolic link was needed.
    NotLink,
    /// The caller's buffer is too small for a link's target.
    BufferTooSmall,
}

/// What a volume needs and this reader lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// Blocks of 2 to this power bytes; only 4096 is read.
    BlockSizeBits(u8),
    /// Compressed files.
    Compression,
    /// Data on further devices.
    Devices,
    /// Block addresses of 48 bits.
    WideAddresses,
    /// Incompatible features unknown to this reader, as bits of `feature_incompat`.
    Unknown(u32),
    /// An inode's format word or chunk format has bits unknown to this reader.
    InodeFormat(u16),
}

/// How a volume contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Damage {
    /// The superblock's checksum is wrong.
    Checksum,
    /// A structure or a page lies outside of the volume.
    Outside,
    /// An inode's type, size or inline tail is impossible.
    Inode,
    /// A directory block's entries or names are impossible.
    Directory,
    /// A file's chunk lies on a device that the volume does not have.
    Chunk,
}

/// Why a path leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathError<E> {
    /// The volume failed on the way.
    Volume(Error<E>),
    /// A component does not exist, or the path or a link's target is empty.
    NotFound,
    /// A component that is not the last one is no directory, or the path ends in `/` and names none.
    NotDirectory,
    /// More than [`crate::LINKS_MAX`] symbolic links on the way.
    TooManyLinks,
    /// Longer than [`crate::PATH_MAX`] with the links' targets put in, or a component longer than a name can be.
    TooLong,
}

impl<E> From<Error<E>> for PathError<E> {
    fn from(error: Error<E>) -> Self {
        match error {
            Error::NotDirectory => Self::NotDirectory,
            other => Self::Volume(other),
        }
    }
}

impl<E> Error<E> {
    /// The superblock is judged without a source, so its errors hold none.
    pub(crate) fn from_superblock(error: Error<Infallible>) -> Self {
        match error {
            Error::Source(never) => match never {},
            Error::NotErofs => Self::NotErofs,
            Error::Unsupported(feature) => Self::Unsupported(feature),
            Error::Damaged(damage) => Self::Damaged(damage),
            Error::NotDirectory => Self::NotDirectory,
            Error::NotLink => Self::NotLink,
            Error::BufferTooSmall => Self::BufferTooSmall,
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlockSizeBits(bits) => write!(f, "blocks of 2^{bits} bytes (make it with 4096)"),
            Self::Compression => f.write_str("compression (make it without -z)"),
            Self::Devices => f.write_str("data on further devices"),
            Self::WideAddresses => f.write_str("48-bit block addresses"),
            Self::Unknown(bits) => write!(f, "unknown incompatible features {bits:#x}"),
            Self::InodeFormat(bits) => write!(f, "unknown inode format {bits:#x}"),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checksum => "the superblock's checksum is wrong",
            Self::Outside => "something lies outside of the volume",
            Self::Inode => "an inode is impossible",
            Self::Directory => "a directory block is impossible",
            Self::Chunk => "a chunk lies on a device that is not there",
        })
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => write!(f, "cannot read the volume: {error}"),
            Self::NotErofs => f.write_str("not an EROFS volume"),
            Self::Unsupported(feature) => write!(f, "EROFS volume needs {feature}"),
            Self::Damaged(damage) => write!(f, "EROFS volume is damaged: {damage}"),
            Self::NotDirectory => f.write_str("not a directory"),
            Self::NotLink => f.write_str("not a symbolic link"),
            Self::BufferTooSmall => f.write_str("buffer too small"),
        }
    }
}
