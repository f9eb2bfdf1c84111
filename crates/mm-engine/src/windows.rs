//! Windows: which run of references stands for which pages of which ring's volume.
//!
//! A window is an aligned power-of-two run of pages and an equally long, equally aligned run of references. References
//! are given out by a buddy allocator in *granules*, the smallest run (16, or the largest window where that is less), so one
//! row for each granule is all that a window costs. Windows of one ring never overlap.

use mm_proto::WINDOW_MAX;

use crate::store::low;
use crate::table::{NIL, Table, scramble};

/// Order of the largest window.
pub(crate) const MAX_ORDER: u8 = 9;
const _: () = assert!(1 << MAX_ORDER == WINDOW_MAX);
/// Order of the smallest run of references that is given out, where windows may be that large.
pub(crate) const GRANULE_ORDER: u8 = 4;
const _: () = assert!(1 << GRANULE_ORDER == mm_proto::WINDOW_FIRST);

/// What a granule is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Kind {
    /// Not the first of its block, or not there (yet).
    #[default]
    Body,
    /// First of a free block.
    Free,
    /// First of a window that its client may use.
    Live,
    /// First of a window that its client was asked to drop, and has not yet.
    Revoking,
    /// First of a window that its client should have dropped, but still maps.
    Stale,
}

/// One granule's row: half a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub struct WindowEntry {
    /// Next newer window of the ring; next of the free or stale list.
    pub(crate) newer: u32,
    /// Next older window of the ring; previous of the free or stale list.
    pub(crate) older: u32,
    pub(crate) chain: u32,
    /// First page of the volume; for a body, the first granule of its block.
    pub(crate) page: u32,
    /// Next and last of the ring of granules that permit the same pages; nothing where this one permits none.
    pub(crate) next: u32,
    pub(crate) last: u32,
    /// The ring; the client, once the window is stale.
    pub(crate) owner: u16,
    pub(crate) volume: u16,
    /// Bit for each entry of the granule that permits a frame now.
    pub(crate) bits: u16,
    /// Pages as a power of two; for a free block, its granules.
    pub(crate) order: u8,
    pub(crate) kind: Kind,
}

impl Default for WindowEntry {
    fn default() -> Self {
        Self {
            newer: NIL,
            older: NIL,
            chain: NIL,
            page: NIL,
            next: NIL,
            last: NIL,
            owner: 0,
            volume: 0,
            bits: 0,
            order: 0,
            kind: Kind::Body,
        }
    }
}

/// A doubly linked list of windows through `newer` and `older`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    pub(crate) newest: u32,
    pub(crate) oldest: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { newest: NIL, oldest: NIL }
    }
}

/// The windows of all rings, by granule.
pub(crate) struct Windows<'a> {
    pub(crate) table: Table<'a, WindowEntry>,
    buckets: Table<'a, u32>,
    /// Of each bucket, one granule of its ring.
    pub(crate) lenders: Table<'a, u32>,
    pub(crate) seed: u64,
    pub(crate) granule: u8,
    /// Granules that may be given out.
    ready: u32,
    free: [List; MAX_ORDER as usize + 1],
    /// Granules that are not given out.
    free_granules: u32,
}

impl<'a> Windows<'a> {
    /// No granule is ready yet. The number of buckets must be a power of two.
    pub(crate) fn new(
        table: &'a mut [WindowEntry],
        buckets: &'a mut [u32],
        lenders: &'a mut [u32],
        granule: u8,
        seed: u64,
    ) -> Self {
        let mut windows = Self {
            table: Table::new(table),
            buckets: Table::new(buckets),
            lenders: Table::new(lenders),
            seed,
            granule,
            ready: 0,
            free: [List::default(); MAX_ORDER as usize + 1],
            free_granules: 0,
        };
        for bucket in 0..windows.buckets.len() {
            *windows.buckets.at_mut(bucket) = NIL;
        }
        for bucket in 0..windows.lenders.len() {
            *windows.lenders.at_mut(bucket) = NIL;
        }
        windows
    }

    /// Lets references up to this count be given out; fewer than before changes nothing.
    pub(crate) fn extend(&mut self, references: u32) {
        let ready = (references >> self.granule).min(self.table.len());
        while self.ready < ready {
            let granule = self.ready;
            self.ready = granule.saturating_add(1);
            self.give_back(granule, 0);
        }
    }

    /// References that may be given out, and those of them that are not.
    pub(crate) fn references(&self) -> (u32, u32) {
        (self.ready << self.granule, self.free_granules << self.granule)
    }

    /// References that a window of this order takes.
    pub(crate) fn cost(&self, order: u8) -> u32 {
        1 << order.max(self.granule).min(MAX_ORDER)
    }

    /// Index of the first reference of a window.
    pub(crate) fn base(&self, window: u32) -> u32 {
        window << self.granule
    }

    /// The window that a reference belongs to.
    pub(crate) fn owner(&self, reference: u32) -> Option<u32> {
        let granule = reference >> self.granule;
        if granule >= self.ready {
            return None;
        }
        let row = self.table.at(granule);
        let head = if row.kind == Kind::Body { row.page } else { granule };
        let row = self.table.at(head);
        let offset = reference.checked_sub(self.base(head))?;
        let used = matches!(row.kind, Kind::Live | Kind::Revoking | Kind::Stale);
        (used && offset < 1 << row.order).then_some(head)
    }

    fn bucket(&self, ring: u16, order: u8, page: u32) -> u32 {
        let key = u64::from(ring) << 40 | u64::from(order) << 32 | u64::from(page >> order);
        low(scramble(self.seed, key)) & self.buckets.len().wrapping_sub(1)
    }

    /// The ring's window of this order around the page.
    pub(crate) fn find(&self, ring: u16, order: u8, page: u32) -> Option<u32> {
        let mut at = *self.buckets.at(self.bucket(ring, order, page));
        for _ in 0..self.table.len() {
            if at == NIL {
                return None;
            }
            let row = self.table.at(at);
            if row.owner == ring && row.order == order && row.page >> order == page >> order {
                return Some(at);
            }
            at = row.chain;
        }
        None
    }

    /// Makes a window, where a run of references is to be had. It is in no list yet.
    pub(crate) fn open(&mut self, entry: WindowEntry) -> Option<u32> {
        let window = self.allocate(entry.order.saturating_sub(self.granule))?;
        let page = entry.page >> entry.order << entry.order;
        let bucket = self.bucket(entry.owner, entry.order, page);
        let chain = core::mem::replace(self.buckets.at_mut(bucket), window);
        *self.table.at_mut(window) = WindowEntry { page, chain, kind: Kind::Live, ..entry };
        Some(window)
    }

    /// The window is no longer found by its page.
    pub(crate) fn hide(&mut self, window: u32) {
        let row = *self.table.at(window);
        let bucket = self.bucket(row.owner, row.order, row.page);
        let mut at = *self.buckets.at(bucket);
        if at == window {
            *self.buckets.at_mut(bucket) = row.chain;
            return;
        }
        for _ in 0..self.table.len() {
            if at == NIL {
                return;
            }
            let next = self.table.at(at).chain;
            if next == window {
                self.table.at_mut(at).chain = row.chain;
                return;
            }
            at = next;
        }
    }

    /// The references of a hidden window, in no list, may be given to anybody.
    pub(crate) fn close(&mut self, window: u32) {
        let order = self.table.at(window).order.saturating_sub(self.granule);
        *self.table.at_mut(window) = WindowEntry::default();
        self.give_back(window, order);
    }

    fn allocate(&mut self, order: u8) -> Option<u32> {
        let mut found = (order..=MAX_ORDER).find(|order| self.list(*order).newest != NIL)?;
        let block = self.list(found).newest;
        self.unlink_free(block, found);
        while found > order {
            found -= 1;
            self.push_free(block | 1 << found, found);
        }
        for granule in block..block.saturating_add(1 << order) {
            *self.table.at_mut(granule) = WindowEntry { page: block, ..WindowEntry::default() };
        }
        Some(block)
    }

    fn give_back(&mut self, mut block: u32, mut order: u8) {
        while order < MAX_ORDER.saturating_sub(self.granule) {
            let buddy = block ^ 1 << order;
            let row = self.table.at(buddy);
            if row.kind != Kind::Free || row.order != order {
                break;
            }
            self.unlink_free(buddy, order);
            block &= buddy;
            order += 1;
        }
        self.push_free(block, order);
    }

    fn list(&self, order: u8) -> List {
        self.free.get(usize::from(order)).copied().unwrap_or_default()
    }

    fn push_free(&mut self, block: u32, order: u8) {
        let Some(list) = self.free.get_mut(usize::from(order)) else { return };
        *self.table.at_mut(block) = WindowEntry { kind: Kind::Free, order, ..WindowEntry::default() };
        push(&mut self.table, list, block);
        self.free_granules = self.free_granules.saturating_add(1 << order);
    }

    fn unlink_free(&mut self, block: u32, order: u8) {
        let Some(list) = self.free.get_mut(usize::from(order)) else { return };
        unlink(&mut self.table, list, block);
        *self.table.at_mut(block) = WindowEntry::default();
        self.free_granules = self.free_granules.saturating_sub(1 << order);
    }
}

/// Adds a window as the list's newest.
pub(crate) fn push(table: &mut Table<'_, WindowEntry>, list: &mut List, window: u32) {
    let before = core::mem::replace(&mut list.newest, window);
    let row = table.at_mut(window);
    (row.older, row.newer) = (before, NIL);
    if before == NIL {
        list.oldest = window;
    } else {
        table.at_mut(before).newer = window;
    }
}

/// Takes a window out of the list that it is in.
pub(crate) fn unlink(table: &mut Table<'_, WindowEntry>, list: &mut List, window: u32) {
    let row = table.at_mut(window);
    let older = core::mem::replace(&mut row.older, NIL);
    let newer = core::mem::replace(&mut row.newer, NIL);
    if older == NIL {
        list.oldest = newer;
    } else {
        table.at_mut(older).newer = newer;
    }
    if newer == NIL {
        list.newest = older;
    } else {
        table.at_mut(newer).older = older;
    }
}
