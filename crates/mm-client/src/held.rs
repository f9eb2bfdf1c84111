//! The windows that a client holds: found by page, and known by age.

use core::cell::Cell;

use mm_proto::Bitmap;

/// "Nothing" in a link.
const NIL: u32 = u32::MAX;
/// Orders of windows: 1 to 512 pages.
const ORDERS: usize = 10;

/// Row of the table of windows. 112 bytes; the caller provides as many as it wants to hold windows.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// First page of the volume.
    pub(crate) page: u64,
    /// Reference of the first page.
    pub(crate) reference: u32,
    /// Places where a page of it is mapped.
    pub(crate) mapped: u32,
    /// Which pages could be mapped when M1 last said so.
    pub(crate) held: Bitmap,
    pub(crate) order: u8,
    /// The last map failed, and none has gone well since.
    pub(crate) failed: bool,
    used: bool,
    /// First window of the bucket with this row's number.
    head: u32,
    /// Next window of the same bucket, or next free row.
    chain: u32,
    newer: u32,
    older: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            page: 0,
            reference: 0,
            mapped: 0,
            held: Bitmap::EMPTY,
            order: 0,
            failed: false,
            used: false,
            head: NIL,
            chain: NIL,
            newer: NIL,
            older: NIL,
        }
    }
}

impl Window {
    pub(crate) fn count(&self) -> u32 {
        1 << self.order
    }

    pub(crate) fn offset(&self, page: u64) -> Option<u32> {
        let offset = u32::try_from(page.checked_sub(self.page)?).ok()?;
        (offset < self.count()).then_some(offset)
    }

    /// Whether this is a window, and the page lies in it.
    fn covers(&self, page: u64) -> bool {
        self.used && self.offset(page).is_some()
    }
}

/// Whether a page can be mapped without asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// Map this reference. M1 may have cleared it since: then the map fails, and [`MapClient::map_failed`] says what to do.
    ///
    /// [`MapClient::map_failed`]: crate::MapClient::map_failed
    Have(u32),
    /// Ask for it.
    Missing,
}

/// The table of windows.
pub(crate) struct Held<'a> {
    rows: &'a mut [Window],
    spare: Window,
    free: u32,
    used: u32,
    newest: u32,
    oldest: u32,
    by_order: [u32; ORDERS],
    /// The row that was found last: one fault asks for the same window, and for its neighbours, several times.
    recent: Cell<u32>,
}

impl<'a> Held<'a> {
    pub(crate) fn new(rows: &'a mut [Window]) -> Self {
        let mut held = Self {
            rows,
            spare: Window::default(),
            free: NIL,
            used: 0,
            newest: NIL,
            oldest: NIL,
            by_order: [0; ORDERS],
            recent: Cell::new(NIL),
        };
        held.rows.fill(Window::default());
        for row in (0..held.capacity()).rev() {
            held.row_mut(row).chain = held.free;
            held.free = row;
        }
        held
    }

    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(NIL - 1).min(NIL - 1)
    }

    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    pub(crate) fn row(&self, row: u32) -> &Window {
        self.rows.get(row as usize).unwrap_or(&self.spare)
    }

    /// A row that is not there is a spare one, which is nobody's.
    pub(crate) fn row_mut(&mut self, row: u32) -> &mut Window {
        match self.rows.get_mut(row as usize) {
            Some(row) => row,
            None => {
                self.spare = Window::default();
                &mut self.spare
            }
        }
    }

    fn bucket(&self, order: u8, page: u64) -> u32 {
        // Fibonacci hashing, the high bits scaled to the table: which pages are asked for is the client's own affair.
        let key = (page >> order).wrapping_mul(16).wrapping_add(u64::from(order));
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        u32::try_from((hash * u64::from(self.capacity())) >> 32).unwrap_or(0)
    }

    /// The window around this page, with its row.
    pub(crate) fn find(&self, page: u64) -> Option<u32> {
        let recent = self.recent.get();
        if self.row(recent).covers(page) {
            return Some(recent);
        }
        for (order, windows) in (0..).zip(&self.by_order) {
            if *windows > 0
                && let Some(row) = self.find_in(order, page)
            {
                self.recent.set(row);
                return Some(row);
            }
        }
        None
    }

    fn find_in(&self, order: u8, page: u64) -> Option<u32> {
        let mut at = self.row(self.bucket(order, page)).head;
        for _ in 0..self.rows.len() {
            if at == NIL {
                break;
            }
            let row = self.row(at);
            if row.order == order && row.page == page >> order << order {
                return Some(at);
            }
            at = row.chain;
        }
        None
    }

    /// Whether a window overlaps this aligned range, whose pages are no window.
    pub(crate) fn overlaps(&self, page: u64, order: u8) -> bool {
        if self.find(page).is_some() {
            return true;
        }
        let end = page.saturating_add(1 << order);
        (0..order).zip(self.by_order).filter(|(_, windows)| *windows > 0).any(|(inner, _)| {
            (page..end).step_by(1usize << inner).any(|page| self.find_in(inner, page).is_some())
        })
    }

    /// Adds a window as the newest. None where the table is full.
    pub(crate) fn insert(&mut self, page: u64, reference: u32, order: u8, held: Bitmap) -> Option<u32> {
        let row = (self.free != NIL).then_some(self.free)?;
        self.free = self.row(row).chain;
        let bucket = self.bucket(order, page);
        let chain = self.row(bucket).head;
        let head = self.row(row).head;
        *self.row_mut(row) =
            Window { page, reference, held, order, head, chain, used: true, ..Window::default() };
        self.row_mut(bucket).head = row;
        self.link(row);
        self.used += 1;
        if let Some(windows) = self.by_order.get_mut(usize::from(order)) {
            *windows += 1;
        }
        Some(row)
    }

    pub(crate) fn remove(&mut self, row: u32) {
        let window = *self.row(row);
        if !window.used {
            return;
        }
        let bucket = self.bucket(window.order, window.page);
        if self.row(bucket).head == row {
            self.row_mut(bucket).head = window.chain;
        } else {
            let mut at = self.row(bucket).head;
            for _ in 0..self.rows.len() {
                let next = self.row(at).chain;
                if at == NIL || next == row {
                    break;
                }
                at = next;
            }
            self.row_mut(at).chain = window.chain;
        }
        self.unlink(row);
        // Not `window.head`: the bucket with this row's number may be the very one that was changed above.
        let head = self.row(row).head;
        *self.row_mut(row) = Window { head, chain: self.free, ..Window::default() };
        self.free = row;
        self.used = self.used.saturating_sub(1);
        if let Some(windows) = self.by_order.get_mut(usize::from(window.order)) {
            *windows = windows.saturating_sub(1);
        }
    }

    /// The window was of use just now.
    pub(crate) fn touch(&mut self, row: u32) {
        if self.newest != row {
            self.unlink(row);
            self.link(row);
        }
    }

    /// Rows from the oldest to the newest.
    pub(crate) fn by_age(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.oldest;
        core::iter::from_fn(move || {
            let row = (at != NIL).then_some(at)?;
            at = self.row(row).newer;
            Some(row)
        })
        .take(self.rows.len())
    }

    fn link(&mut self, row: u32) {
        let before = core::mem::replace(&mut self.newest, row);
        let window = self.row_mut(row);
        (window.older, window.newer) = (before, NIL);
        if before == NIL {
            self.oldest = row;
        } else {
            self.row_mut(before).newer = row;
        }
    }

    fn unlink(&mut self, row: u32) {
        let Window { older, newer, .. } = *self.row(row);
        if older == NIL {
            self.oldest = newer;
        } else {
            self.row_mut(older).newer = newer;
        }
        if newer == NIL {
            self.newest = older;
        } else {
            self.row_mut(newer).older = older;
        }
    }
}
