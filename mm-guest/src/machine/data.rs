//! The disk behind `/data`.

use super::Frames;

/// The disk behind `/data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataDisk {
    /// Blocks of 4096 bytes.
    pub blocks: u64,
    /// Writes are refused.
    pub read_only: bool,
}

/// The disk failed, or its backend is gone: an input/output error to the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskFailed;

/// Most blocks of one call of [`BlockDevice::disk_read`] and [`BlockDevice::disk_write`].
pub const DISK_RUN: usize = 32;

/// The disk behind `/data`, in blocks of 4096 bytes.
pub trait BlockDevice: Frames {
    /// The disk behind `/data`, if the domain has one.
    fn data_disk(&self) -> Option<DataDisk>;
    /// Reads blocks of it from `first` on, 1 to [`DISK_RUN`], into frames. Waits, but not for ever.
    ///
    /// # Errors
    /// [`DiskFailed`].
    fn disk_read(&mut self, first: u64, to: &[Self::Frame]) -> Result<(), DiskFailed>;
    /// Writes blocks of it from `first` on, 1 to [`DISK_RUN`]. Waits, but not for ever.
    ///
    /// # Errors
    /// [`DiskFailed`]; some may have been written.
    fn disk_write(&mut self, first: u64, from: &[&Self::Frame]) -> Result<(), DiskFailed>;
    /// Makes durable what was written. On a disk that knows no flush it is so already.
    ///
    /// # Errors
    /// [`DiskFailed`].
    fn disk_flush(&mut self) -> Result<(), DiskFailed>;
    /// Says that blocks hold nothing any more, where the disk wants to know.
    fn disk_discard(&mut self, first: u64, count: u64);
}
