//! Where pages come from.

use crate::PAGE_SIZE;

/// Gives the bytes of a volume's pages: a window of pages that M1 lends, a disk, a file in memory.
pub trait PageSource {
    /// Why a page could not be had.
    type Error;

    /// Fills `out` from page `page`, starting `offset` bytes into it. `offset + out.len()` is at most 4096. The reader
    /// makes many small reads, so a source should keep the pages that it fetched.
    ///
    /// # Errors
    /// The source's own; the reader hands it on as [`crate::Error::Source`] and does not try again.
    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> Result<(), Self::Error>;
}

impl<S: PageSource + ?Sized> PageSource for &S {
    type Error = S::Error;

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> Result<(), Self::Error> {
        (**self).read(page, offset, out)
    }
}

/// A volume that is in memory as a whole.
#[derive(Clone, Copy, Debug)]
pub struct SlicePages<'a>(pub &'a [u8]);

/// The slice ends before this page does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BeyondSlice {
    /// The page that was asked for.
    pub page: u64,
}

impl PageSource for SlicePages<'_> {
    type Error = BeyondSlice;

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> Result<(), BeyondSlice> {
        let bytes = usize::try_from(page)
            .ok()
            .and_then(|page| page.checked_mul(PAGE_SIZE)?.checked_add(offset))
            .and_then(|start| self.0.get(start..start.checked_add(out.len())?))
            .ok_or(BeyondSlice { page })?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}
