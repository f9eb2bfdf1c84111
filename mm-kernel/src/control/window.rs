//! Pages that dom0 maps, for what is too long for a xenstore node.

use core::fmt::{self, Write};

use xen::Access;
use xen_drivers::{Frame, Platform};
use xen_ring::PAGE_SIZE;
use xen_sys::DomId;

/// Pages granted to dom0.
pub(crate) const WINDOW_PAGES: usize = 16;
/// Bytes of the longest answer: so many, and so many more for each client that M1 can have.
pub(crate) const TEXT_BYTES: usize = 64 << 10;
pub(crate) const TEXT_BYTES_PER_CLIENT: usize = 512;

/// The pages, and the answer that is shown through them.
pub(crate) struct Window {
    pages: heapless::Vec<Frame, WINDOW_PAGES>,
    /// Their references as the node has them.
    references: heapless::String<{ WINDOW_PAGES * 8 }>,
    text: &'static mut [u8],
    len: usize,
}

impl Window {
    /// Grants the pages to dom0, for as long as M1 is there. Where references are short there are fewer pages, and more turns.
    pub(crate) fn new(platform: Platform, frames: &[Frame], text: &'static mut [u8]) -> Self {
        let mut window =
            Self { pages: heapless::Vec::new(), references: heapless::String::new(), text, len: 0 };
        for frame in frames.iter().take(WINDOW_PAGES) {
            let Ok(lent) = platform.lend(DomId(0), frame.mfn, Access::ReadWrite) else { break };
            let blank = if window.pages.is_empty() { "" } else { " " };
            // References have at most seven digits, pages are as many as there is room for.
            let _ = write!(window.references, "{blank}{}", lent.reference().0);
            let _ = window.pages.push(*frame);
        }
        window
    }

    /// What the node says.
    pub(super) fn references(&self) -> &str {
        &self.references
    }

    /// Pages of snapshots that go through it at a time: the first page is a table of them.
    pub(super) fn page_room(&self) -> usize {
        self.pages.len().saturating_sub(1).min(PAGE_SIZE / 8)
    }

    /// A page that dom0 has put there, and the checksum that it says it has: read once.
    pub(super) fn page(&self, index: usize) -> Option<(u32, [u8; PAGE_SIZE])> {
        let (table, page) = (self.pages.first()?, self.pages.get(index + 1)?);
        let mut bytes = [0; PAGE_SIZE];
        page.words.read(0, &mut bytes).then(|| (table.words.load(2 * index + 1), bytes))
    }

    /// Says what a page's number is.
    pub(super) fn set_number(&mut self, index: usize, number: u32) {
        if let Some(table) = self.pages.first() {
            table.words.store(2 * index, number);
        }
    }

    /// Shows a page.
    pub(super) fn put_page(&mut self, index: usize, number: u32, sum: u32, bytes: &[u8; PAGE_SIZE]) {
        self.len = 0;
        if let (Some(table), Some(page)) = (self.pages.first(), self.pages.get(index + 1)) {
            let _ = page.words.write(0, bytes);
            table.words.store(2 * index, number);
            table.words.store(2 * index + 1, sum);
        }
    }

    /// Writes an answer and shows its beginning; gives its length, or nothing where there is no room for it.
    pub(super) fn fill(&mut self, write: impl FnOnce(&mut dyn Write) -> fmt::Result) -> Option<usize> {
        let mut text = Cut { text: self.text, len: 0 };
        let fits = write(&mut text).is_ok();
        self.len = if fits { text.len } else { 0 };
        self.show(0);
        fits.then_some(self.len)
    }

    /// Shows the answer from `offset` on; gives how many bytes are shown.
    pub(super) fn show(&mut self, offset: usize) -> usize {
        let rest = self.text.get(offset..self.len).unwrap_or_default();
        let mut shown = 0;
        for (page, bytes) in self.pages.iter().zip(rest.chunks(PAGE_SIZE)) {
            let whole = page.words.write(0, bytes);
            debug_assert!(whole, "at most a page");
            shown += bytes.len();
        }
        shown
    }
}

/// A text with an end.
struct Cut<'t> {
    text: &'t mut [u8],
    len: usize,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let end = self.len + more.len();
        let place = self.text.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(more.as_bytes());
        self.len = end;
        Ok(())
    }
}
