//! Which entries permit something, and from a page to the entries that permit it.
//!
//! A granule's row has a bit for each of its entries. Granules that permit pages of the same granule of a volume are in one
//! ring of rows (with others of the same hash bucket), so a page that is lent to many costs a bit for each of them, and the
//! frame knows only how many they are.

use crate::store::low;
use crate::table::{NIL, scramble};
use crate::windows::{Kind, Windows};

/// The bits that are set, lowest first.
pub(crate) fn ones(mut bits: u16) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let offset = (bits != 0).then(|| bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(offset)
    })
}

impl Windows<'_> {
    /// Pages of a granule.
    pub(crate) fn span(&self) -> u32 {
        1 << self.granule
    }

    /// The window of a granule that is in use.
    pub(crate) fn head(&self, granule: u32) -> u32 {
        let row = self.table.at(granule);
        if row.kind == Kind::Body { row.page } else { granule }
    }

    /// The granules of a window.
    pub(crate) fn granules(&self, window: u32) -> core::ops::Range<u32> {
        let order = self.table.at(window).order;
        window..window.saturating_add(1 << order.saturating_sub(self.granule))
    }

    /// The page of a window that a granule of it begins with.
    pub(crate) fn first_page(&self, window: u32, granule: u32) -> u32 {
        let before = granule.saturating_sub(window) << self.granule;
        self.table.at(window).page.saturating_add(before)
    }

    /// The granule and bit of a page of a window, counted from its first.
    pub(crate) fn place(&self, window: u32, offset: u32) -> (u32, u16) {
        let bit = 1u16.checked_shl(offset & (self.span() - 1)).unwrap_or(0);
        (window.saturating_add(offset >> self.granule), bit)
    }

    /// Whether the entry for this page of the window permits a frame.
    pub(crate) fn is_set(&self, window: u32, offset: u32) -> bool {
        let (granule, bit) = self.place(window, offset);
        self.table.at(granule).bits & bit != 0
    }

    /// Entries of the window that permit a frame.
    pub(crate) fn permitted(&self, window: u32) -> u32 {
        self.granules(window).map(|granule| self.table.at(granule).bits.count_ones()).sum()
    }

    fn lender_bucket(&self, volume: u16, page: u32) -> u32 {
        let key = u64::from(volume) << 32 | u64::from(page >> self.granule);
        low(scramble(!self.seed, key)) & self.lenders.len().wrapping_sub(1)
    }

    /// These entries of a granule, whose first page this is, now permit frames.
    pub(crate) fn set(&mut self, granule: u32, volume: u16, page: u32, bits: u16) {
        let before = self.table.at(granule).bits;
        self.table.at_mut(granule).bits = before | bits;
        if before != 0 || bits == 0 {
            return;
        }
        let bucket = self.lender_bucket(volume, page);
        let next = core::mem::replace(self.lenders.at_mut(bucket), granule);
        let last = if next == NIL { granule } else { self.table.at(next).last };
        let row = self.table.at_mut(granule);
        (row.next, row.last) = (if next == NIL { granule } else { next }, last);
        self.table.at_mut(last).next = granule;
        if next != NIL {
            self.table.at_mut(next).last = granule;
        }
    }

    /// These entries of a granule were cleared.
    pub(crate) fn unset(&mut self, granule: u32, volume: u16, page: u32, bits: u16) {
        let row = self.table.at_mut(granule);
        let before = row.bits;
        row.bits = before & !bits;
        if before == 0 || row.bits != 0 {
            return;
        }
        let (next, last) = (row.next, row.last);
        (row.next, row.last) = (NIL, NIL);
        let bucket = self.lender_bucket(volume, page);
        if next == granule {
            *self.lenders.at_mut(bucket) = NIL;
            return;
        }
        self.table.at_mut(last).next = next;
        self.table.at_mut(next).last = last;
        if *self.lenders.at(bucket) == granule {
            *self.lenders.at_mut(bucket) = next;
        }
    }

    /// Entries that permit the page, among the next `budget` granules of its bucket: window and place in it.
    pub(crate) fn permitting(
        &self,
        volume: u16,
        page: u32,
        budget: usize,
    ) -> impl Iterator<Item = (u32, u32)> + '_ {
        let first = *self.lenders.at(self.lender_bucket(volume, page));
        let mut at = first;
        let around = core::iter::from_fn(move || {
            let granule = (at != NIL).then_some(at)?;
            let next = self.table.at(granule).next;
            at = if next == first { NIL } else { next };
            Some(granule)
        });
        around.take(budget).filter_map(move |granule| {
            let window = self.head(granule);
            let row = self.table.at(window);
            let offset = page.checked_sub(row.page).filter(|offset| *offset < 1 << row.order)?;
            let ours = row.volume == volume && self.place(window, offset).0 == granule;
            (ours && self.is_set(window, offset)).then_some((window, offset))
        })
    }

    /// Lets the next look at the page's bucket begin so many granules further on.
    pub(crate) fn turn_lenders(&mut self, volume: u16, page: u32, by: usize) {
        let bucket = self.lender_bucket(volume, page);
        for _ in 0..by {
            let at = *self.lenders.at(bucket);
            if at == NIL {
                return;
            }
            *self.lenders.at_mut(bucket) = self.table.at(at).next;
        }
    }
}
