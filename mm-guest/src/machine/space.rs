//! What the program has mapped, and how it is changed.

use super::Frames;
use crate::page::{UserPage, VolumePage};

/// What a page-table entry lets the program do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Prot {
    None,
    Read,
    ReadWrite,
    ReadExec,
    ReadWriteExec,
}

/// The page at this address is absent or does not allow the access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotThere {
    /// First such address.
    pub address: u64,
}

/// One page to be mapped from a held reference, read-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedMap {
    /// Where; absent now.
    pub page: UserPage,
    /// Which; its reference is held.
    pub volume: VolumePage,
    /// Whether instructions are fetched from it.
    pub exec: bool,
}

/// A shared page and where it is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedPage {
    /// Where.
    pub page: UserPage,
    /// Which.
    pub volume: VolumePage,
}

/// The program's page tables, and its memory through them.
pub trait AddressSpace: Frames {
    /// Maps a private frame at an absent page.
    ///
    /// # Errors
    /// Gives the frame back where there is no memory for tables.
    fn map_private(&mut self, page: UserPage, frame: Self::Frame, prot: Prot) -> Result<(), Self::Frame>;
    /// Maps a page of the volume, and in the same batch those around it that are held. Bit `i` of `around` stands for page
    /// `i` of the aligned block of 64 that `want.page` lies in; each shows as far from `want.volume` as it lies from
    /// `want.page`. Gives the set of those mapped. Where the page itself is not among them, its reference is dropped and
    /// the next [`lend`](super::Lender::lend) asks again.
    fn map_shared(&mut self, want: SharedMap, around: u64) -> u64;
    /// Maps up to 64 pages whose references are held, each at an absent page; gives the set of those that were, in their order.
    fn map_ahead(&mut self, maps: &[SharedMap]) -> u64;
    /// Puts a private frame in the place of a shared page: the end of a copy-on-write.
    ///
    /// # Errors
    /// Gives the frame back where the hypervisor refused; nothing is mapped there then.
    fn replace_shared(&mut self, page: SharedPage, frame: Self::Frame, prot: Prot)
    -> Result<(), Self::Frame>;
    /// Unmaps private pages, at most 64, and releases their frames.
    fn unmap(&mut self, pages: &[UserPage]);
    /// Unmaps shared pages, at most 64.
    fn unmap_shared(&mut self, pages: &[SharedPage]);
    /// Unmaps one private page and gives its frame.
    fn take(&mut self, page: UserPage) -> Option<Self::Frame>;
    /// Changes what present private pages allow.
    fn protect(&mut self, pages: &[UserPage], prot: Prot);
    /// Lets the program no longer write to these private pages; what else they allow stays.
    fn write_protect(&mut self, pages: &mut dyn Iterator<Item = UserPage>);
    /// Whether the program has touched a page since [`AddressSpace::map_ahead`] mapped it.
    fn touched(&self, page: UserPage) -> bool;
    /// Copies a mapped page into a frame.
    fn copy_page(&mut self, from: UserPage, to: &Self::Frame);
    /// Reads the program's memory; never faults.
    ///
    /// # Errors
    /// The first address that is not mapped readable.
    fn read_user(&self, address: u64, to: &mut [u8]) -> Result<(), NotThere>;
    /// Writes the program's memory; never faults.
    ///
    /// # Errors
    /// The first address that is not mapped writable.
    fn write_user(&mut self, address: u64, from: &[u8]) -> Result<(), NotThere>;
}
