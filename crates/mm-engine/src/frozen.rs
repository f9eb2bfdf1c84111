//! The frozen part: one number space of pages that never change, and which snapshots each of them is in.
//!
//! A page is in up to 64 snapshots: a bit for each of them. That is a bitmap for each snapshot, turned round: the bits of sixteen
//! neighbouring pages are two lines of the cache, "in how many snapshots" needs no counter, and what a snapshot alone has is found
//! by looking at one word. A page that is in none is free. Pages are found by content too, within their group.

use crate::snapshots::SNAPSHOTS;
use crate::store::low;
use crate::table::{NIL, Table, scramble};

/// First page of the frozen part.
pub(crate) const FIRST: u32 = 1 << 31;
const _: () = assert!(FIRST as u64 == mm_proto::FROZEN_FIRST);
/// Pages with one digest that are compared, at most.
const ALIKE: usize = 16;
/// The page's bytes are on the store's disk.
const STORED: u32 = 1 << 31;

/// One frozen page's row: 8 bytes, and 8 for its snapshots.
#[derive(Clone, Copy, Debug)]
pub struct FrozenEntry {
    /// Next page of the same hash bucket; of a list while in no snapshot.
    chain: u32,
    /// 31 bits of the digest, and [`STORED`].
    digest: u32,
}

impl Default for FrozenEntry {
    fn default() -> Self {
        Self { chain: NIL, digest: 0 }
    }
}

/// A list through `chain`, first in, first out: numbers that were given back in order are given out in order.
#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    count: u32,
}

const EMPTY: List = List { head: NIL, tail: NIL, count: 0 };

/// The pages, by number from [`FIRST`] on.
pub(crate) struct Frozen<'a> {
    rows: Table<'a, FrozenEntry>,
    /// A bit for each snapshot that the page is in.
    members: Table<'a, u64>,
    buckets: Table<'a, u32>,
    seed: u64,
    free: List,
    /// In no snapshot, but somebody still maps them.
    leaving: List,
    /// In no snapshot, but still on the store's disk.
    unwanted: List,
    /// Pages that each snapshot alone has.
    unique: [u32; SNAPSHOTS],
    pages: [u32; SNAPSHOTS],
    /// Where a walk for pages of snapshots that go is.
    pub(crate) hand: u32,
}

impl<'a> Frozen<'a> {
    pub(crate) fn new(
        rows: &'a mut [FrozenEntry],
        members: &'a mut [u64],
        buckets: &'a mut [u32],
        seed: u64,
    ) -> Self {
        let mut frozen = Self {
            rows: Table::new(rows),
            members: Table::new(members),
            buckets: Table::new(buckets),
            seed: seed.rotate_left(32),
            free: EMPTY,
            leaving: EMPTY,
            unwanted: EMPTY,
            unique: [0; SNAPSHOTS],
            pages: [0; SNAPSHOTS],
            hand: 0,
        };
        for bucket in 0..frozen.buckets.len() {
            *frozen.buckets.at_mut(bucket) = NIL;
        }
        for index in 0..frozen.len() {
            push(&mut frozen.rows, &mut frozen.free, index);
        }
        frozen
    }

    /// Pages that there can be.
    pub(crate) fn len(&self) -> u32 {
        self.rows.len().min(self.members.len())
    }

    pub(crate) fn wild(&self) -> u32 {
        self.rows.wild() + self.members.wild() + self.buckets.wild()
    }

    /// Numbers that can be given out.
    pub(crate) fn free(&self) -> u32 {
        self.free.count
    }

    /// Pages that are in a snapshot.
    pub(crate) fn used(&self) -> u32 {
        let gone = [self.free, self.leaving, self.unwanted];
        gone.iter().fold(self.len(), |used, list| used.saturating_sub(list.count))
    }

    /// Numbers that wait for somebody to let go of their pages.
    pub(crate) fn leaving(&self) -> u32 {
        self.leaving.count
    }

    /// Pages of a snapshot, and those that it alone has.
    pub(crate) fn pages(&self, snapshot: u8) -> (u32, u32) {
        let at = usize::from(snapshot);
        (self.pages.get(at).copied().unwrap_or(0), self.unique.get(at).copied().unwrap_or(0))
    }

    /// The snapshots that a page is in, given by its number in the frozen part.
    pub(crate) fn members(&self, page: u32) -> u64 {
        page.checked_sub(FIRST).map_or(0, |index| *self.members.at(index))
    }

    pub(crate) fn is_in(&self, page: u32, snapshot: u8) -> bool {
        self.members(page) >> (snapshot & 63) & 1 == 1
    }

    /// Which of these sixteen neighbours, given by the first of them, are in the snapshot.
    pub(crate) fn among(&self, first: u32, snapshot: u8, wanted: u16) -> u16 {
        let there = |offset: &u32| self.is_in(first.saturating_add(*offset), snapshot);
        crate::lenders::ones(wanted).filter(there).fold(0, |bits, offset| bits | 1 << offset)
    }

    /// Whether the page's bytes are on the store's disk.
    pub(crate) fn is_stored(&self, page: u32) -> bool {
        page.checked_sub(FIRST).is_some_and(|index| self.rows.at(index).digest & STORED != 0)
    }

    /// The page's bytes are on the store's disk from now on.
    pub(crate) fn set_stored(&mut self, page: u32) {
        if let Some(index) = page.checked_sub(FIRST).filter(|index| *index < self.len()) {
            self.rows.at_mut(index).digest |= STORED;
        }
    }

    /// A page that was on the store's disk before M1 was there is in this snapshot. False where there is no such number.
    /// [`Self::end_restore`] has to follow before anything else is added.
    pub(crate) fn restore(&mut self, page: u32, snapshot: u8) -> bool {
        let Some(index) = page.checked_sub(FIRST).filter(|index| *index < self.len()) else { return false };
        if self.members(page) == 0 {
            // It is found by no content: nobody knows it before it is read.
            *self.rows.at_mut(index) = FrozenEntry { chain: NIL, digest: STORED };
        }
        self.join(page, snapshot);
        true
    }

    /// Numbers that nobody has are free.
    pub(crate) fn end_restore(&mut self) {
        (self.free, self.leaving, self.unwanted) = (EMPTY, EMPTY, EMPTY);
        for index in 0..self.len() {
            if *self.members.at(index) == 0 {
                push(&mut self.rows, &mut self.free, index);
            }
        }
    }

    /// A page that was on the store's disk is in no snapshot: it has to go from there first.
    pub(crate) fn give_up(&mut self, page: u32) {
        if let Some(index) = page.checked_sub(FIRST) {
            push(&mut self.rows, &mut self.unwanted, index);
        }
    }

    pub(crate) fn next_unwanted(&mut self) -> Option<u32> {
        pop(&mut self.rows, &mut self.unwanted).map(|index| FIRST.saturating_add(index))
    }

    /// What the page is to be found by: a digest of a frame's bytes, mixed with the group.
    pub(crate) fn key(&self, group: u16, digest: u64) -> u64 {
        scramble(self.seed ^ u64::from(group), digest)
    }

    fn bucket(&self, key: u64) -> u32 {
        low(key) & self.buckets.len().wrapping_sub(1)
    }

    /// Pages that may have the bytes that this key stands for.
    pub(crate) fn alike(&self, key: u64) -> impl Iterator<Item = u32> + '_ {
        let mut at = *self.buckets.at(self.bucket(key));
        let chain = core::iter::from_fn(move || {
            let index = (at != NIL).then_some(at)?;
            at = self.rows.at(index).chain;
            Some(index)
        });
        // A chain has few rows: whoever chooses bytes does not know the seed.
        chain
            .take(ALIKE * 4)
            .filter(move |index| self.rows.at(*index).digest & !STORED == digest_of(key))
            .take(ALIKE)
            .map(|index| FIRST.saturating_add(index))
    }

    /// A new page, found by this key, in this snapshot.
    pub(crate) fn add(&mut self, key: u64, snapshot: u8) -> Option<u32> {
        let index = pop(&mut self.rows, &mut self.free)?;
        let bucket = self.bucket(key);
        let chain = core::mem::replace(self.buckets.at_mut(bucket), index);
        *self.rows.at_mut(index) = FrozenEntry { chain, digest: digest_of(key) };
        let page = FIRST.saturating_add(index);
        self.join(page, snapshot);
        Some(page)
    }

    /// The page is in this snapshot too. False where it was.
    pub(crate) fn join(&mut self, page: u32, snapshot: u8) -> bool {
        let before = self.members(page);
        let bit = 1 << (snapshot & 63);
        let Some(index) = page.checked_sub(FIRST).filter(|_| before & bit == 0) else { return false };
        *self.members.at_mut(index) = before | bit;
        self.count(before, before | bit);
        true
    }

    /// The page is in none of these snapshots any more. True where it is in no snapshot now: it is found by its content no longer, and
    /// its number is given back with [`Self::give_back`].
    pub(crate) fn leave(&mut self, page: u32, snapshots: u64) -> bool {
        let before = self.members(page);
        let Some(index) = page.checked_sub(FIRST).filter(|_| before & snapshots != 0) else { return false };
        let after = before & !snapshots;
        *self.members.at_mut(index) = after;
        self.count(before, after);
        if after == 0 {
            self.unchain(index);
        }
        after == 0
    }

    fn count(&mut self, before: u64, after: u64) {
        let mut changed = before ^ after;
        while changed != 0 {
            let at = changed.trailing_zeros();
            changed &= changed - 1;
            if let Some(pages) = self.pages.get_mut(at as usize) {
                let is = after >> at & 1 == 1;
                *pages = if is { pages.saturating_add(1) } else { pages.saturating_sub(1) };
            }
        }
        for (mask, add) in [(before, false), (after, true)] {
            if mask.count_ones() == 1
                && let Some(unique) = self.unique.get_mut(mask.trailing_zeros() as usize)
            {
                *unique = if add { unique.saturating_add(1) } else { unique.saturating_sub(1) };
            }
        }
    }

    fn unchain(&mut self, index: u32) {
        let chain = self.rows.at(index).chain;
        let bucket = self.bucket_of(index);
        let mut at = *self.buckets.at(bucket);
        if at == index {
            *self.buckets.at_mut(bucket) = chain;
            return;
        }
        for _ in 0..self.rows.len() {
            if at == NIL {
                return;
            }
            let next = self.rows.at(at).chain;
            if next == index {
                self.rows.at_mut(at).chain = chain;
                return;
            }
            at = next;
        }
    }

    fn bucket_of(&self, index: u32) -> u32 {
        self.rows.at(index).digest & !STORED & self.buckets.len().wrapping_sub(1)
    }

    /// The number of a page that is in no snapshot: to be given out, or to wait until nobody maps it.
    pub(crate) fn give_back(&mut self, page: u32, is_mapped: bool) {
        let Some(index) = page.checked_sub(FIRST) else { return };
        let list = if is_mapped { &mut self.leaving } else { &mut self.free };
        push(&mut self.rows, list, index);
    }

    /// A page that waited until nobody maps it.
    pub(crate) fn next_leaving(&mut self) -> Option<u32> {
        pop(&mut self.rows, &mut self.leaving).map(|index| FIRST.saturating_add(index))
    }
}

/// The part of a key that a row keeps. The bucket is its lowest bits, so that a row knows its bucket.
fn digest_of(key: u64) -> u32 {
    low(key) & !STORED
}

fn push(rows: &mut Table<'_, FrozenEntry>, list: &mut List, index: u32) {
    *rows.at_mut(index) = FrozenEntry::default();
    let before = core::mem::replace(&mut list.tail, index);
    if before == NIL {
        list.head = index;
    } else {
        rows.at_mut(before).chain = index;
    }
    list.count = list.count.saturating_add(1);
}

fn pop(rows: &mut Table<'_, FrozenEntry>, list: &mut List) -> Option<u32> {
    let index = (list.head != NIL).then_some(list.head)?;
    list.head = rows.at(index).chain;
    if list.head == NIL {
        list.tail = NIL;
    }
    list.count = list.count.saturating_sub(1);
    rows.at_mut(index).chain = NIL;
    Some(index)
}
