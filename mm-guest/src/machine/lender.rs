//! Pages of the volume, and how they are had from M1.

use mm_proto::VolumeIdentity;

use super::Frames;
use crate::page::VolumePage;

/// Why a page of the volume cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeError {
    /// The base disk could not be read there, or the page lies beyond its end.
    Unreadable,
    /// M1 is gone: no answer, and no progress, for a bounded time.
    Gone,
    /// No frame for a copy.
    OutOfFrames,
}

/// How a page of the volume can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lent {
    /// A reference is held already, and M1 was not asked: [`map_shared`](super::AddressSpace::map_shared) will do.
    Held,
    /// M1 was asked, and has given a reference: the same.
    Granted,
    /// M1 lends no reference now: [`Lender::copy_volume`] will do.
    CopyOnly,
}

/// M1 as its client sees it: it lends pages of the volume, and wants them back.
pub trait Lender: Frames {
    /// Identity of the volume's content.
    fn volume_identity(&self) -> VolumeIdentity;
    /// Gets a reference to this page, from M1 where none is held; `wanted` pages from there would be of use. Waits, but
    /// not for ever.
    ///
    /// # Errors
    /// [`VolumeError`]: a bus error to the program.
    fn lend(&mut self, page: VolumePage, wanted: u32) -> Result<Lent, VolumeError>;
    /// Copies a page of the volume into a frame, by whatever way there is.
    ///
    /// # Errors
    /// [`VolumeError`], with the frame unless M1 may still write to it.
    fn copy_volume(
        &mut self,
        page: VolumePage,
        to: Self::Frame,
    ) -> Result<Self::Frame, (Option<Self::Frame>, VolumeError)>;
    /// Reads bytes of a page of the volume for the kernel itself.
    ///
    /// # Errors
    /// [`VolumeError`].
    fn read_volume(&mut self, page: VolumePage, offset: usize, to: &mut [u8]) -> Result<(), VolumeError>;
    /// A run of the volume that M1 wants back, first page and count. The kernel unmaps it and calls
    /// [`Lender::revoke_done`].
    fn revoked(&mut self) -> Option<(VolumePage, u64)>;
    /// The run is not mapped any more.
    fn revoke_done(&mut self, page: VolumePage, count: u64);
    /// Has M1 show these figures; they go with what is said next.
    fn report(&mut self, _figures: &crate::kernel::Figures) {}
}
