//! The page store: which frame holds which page of which volume, and which grant entries permit it.
//!
//! A frame is `Free`, `Reading` (a block read writes to it), `Dirty` (its owner writes to it) or `Resident`. A resident frame that no entry permits and no
//! request holds is on the *idle* list, the only place from which frames are taken again: so a frame that a client can
//! map is never written to. A frame knows how many entries permit it; which, is found by its page (see `lenders`).

use crate::buckets::{Line, bucket, bucket_mut, lines, place};
use crate::table::{NIL, Table, scramble};

/// What a frame does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum State {
    #[default]
    Free,
    Reading,
    Resident,
    /// The read failed; free as soon as everybody who waited has heard.
    Failed,
    /// Its owner writes to it: neither lent nor evicted.
    Dirty,
    /// It is being filled for a snapshot: found by no page yet.
    Filling,
}

/// What a page of M1's memory is used for: the closed set that metrics show, `metadata` apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Class {
    /// Holds nothing.
    #[default]
    Free,
    /// Holds (or is about to hold) a page of a volume that nobody maps.
    Clean,
    /// Mapped by at least one client.
    Shared,
    /// Part of a snapshot.
    Frozen,
    /// Part of an overlay.
    Dirty,
    /// Mapped only by clients that should have let go of it; or lost to a disk's backend that may still write there.
    StalePinned,
}

/// One frame's row: 24 bytes.
#[derive(Clone, Copy, Debug)]
pub struct FrameEntry {
    /// Page of the volume.
    pub(crate) page: u32,
    /// Next frame of the same hash bucket; of the free list while free.
    pub(crate) chain: u32,
    /// Idle: older neighbour. Permitted: by how many entries. Reading: last waiting request.
    pub(crate) first: u32,
    /// Idle: newer neighbour. Reading again alone: next such frame.
    pub(crate) second: u32,
    pub(crate) volume: u16,
    /// Requests that need this frame to stay.
    pub(crate) holds: u16,
    pub(crate) state: State,
    pub(crate) class: Class,
    /// Pass of the scan that last saw it mapped; 0 for none.
    pub(crate) pass: u8,
    pub(crate) flags: u8,
}

impl Default for FrameEntry {
    fn default() -> Self {
        Self {
            page: 0,
            chain: NIL,
            first: NIL,
            second: NIL,
            volume: 0,
            holds: 0,
            state: State::Free,
            class: Class::Free,
            pass: 0,
            flags: 0,
        }
    }
}

/// On the idle list.
pub(crate) const IDLE: u8 = 1;
/// Used since the hand last passed.
const USED: u8 = 2;
/// Has entries that permit it.
pub(crate) const PERMITTED: u8 = 4;
/// This pass of the scan saw a mapping of a client that may have one.
pub(crate) const SEEN_LIVE: u8 = 8;
/// Somebody may still write to it, for ever.
const LOST: u8 = 16;
/// Not to be kept once nothing needs it.
pub(crate) const FORGOTTEN: u8 = 32;
/// Read because the block service wants it, which has not seen it yet.
pub(crate) const WANTED: u8 = 64;
/// Part of a snapshot that is nowhere but here: never evicted.
pub(crate) const PINNED: u8 = 128;

/// Frames, and their hash.
pub(crate) struct Store<'a> {
    pub(crate) frames: Table<'a, FrameEntry>,
    buckets: Table<'a, Line>,
    seed: u64,
    free: u32,
    pub(crate) oldest: u32,
    pub(crate) newest: u32,
    /// Frames on the idle list.
    pub(crate) idle: u32,
    /// Frames that some entry permits, without those that are pinned: these can always be lent.
    pub(crate) permitted: u32,
    /// Pinned frames, and those of them that some entry permits.
    pub(crate) pinned: u32,
    pub(crate) pinned_permitted: u32,
    /// Frames that are kept at hand for snapshots that are being taken.
    pub(crate) promised: u32,
    /// Frames that are being read.
    pub(crate) reading: u32,
    /// Frames that will never be free again.
    pub(crate) lost: u32,
    /// Dirty frames of volumes that are only in memory.
    pub(crate) kept: u32,
    counts: [u32; 6],
}

impl<'a> Store<'a> {
    /// Everything free.
    pub(crate) fn new(frames: &'a mut [FrameEntry], buckets: &'a mut [u32], seed: u64) -> Self {
        let mut store = Self {
            frames: Table::new(frames),
            buckets: Table::new(lines(buckets)),
            seed,
            free: NIL,
            oldest: NIL,
            newest: NIL,
            idle: 0,
            permitted: 0,
            pinned: 0,
            pinned_permitted: 0,
            promised: 0,
            reading: 0,
            lost: 0,
            kept: 0,
            counts: [0; 6],
        };
        for line in 0..store.buckets.len() {
            *store.buckets.at_mut(line) = [NIL; 16];
        }
        for frame in (0..store.frames.len()).rev() {
            store.frames.at_mut(frame).chain = store.free;
            store.free = frame;
        }
        *count(&mut store.counts, Class::Free) = store.frames.len();
        store
    }

    pub(crate) fn count(&self, class: Class) -> u32 {
        self.counts.get(class as usize).copied().unwrap_or(0)
    }

    /// Frames that can be had at once, for whatever purpose.
    pub(crate) fn available(&self) -> u32 {
        self.count(Class::Free).saturating_add(self.idle)
    }

    /// Frames that can be had at once, and were not promised to a snapshot.
    pub(crate) fn at_hand(&self) -> u32 {
        self.available().saturating_sub(self.promised)
    }

    pub(crate) fn is_pinned(&self, frame: u32) -> bool {
        self.frames.at(frame).flags & PINNED != 0
    }

    /// The class of a frame that holds its page and that nobody maps.
    pub(crate) fn unmapped_class(&self, frame: u32) -> Class {
        if self.is_pinned(frame) { Class::Frozen } else { Class::Clean }
    }

    /// A taken frame is about to be filled for a snapshot.
    pub(crate) fn begin_fill(&mut self, frame: u32) {
        let class = self.frames.at(frame).class;
        *self.frames.at_mut(frame) =
            FrameEntry { state: State::Filling, flags: PINNED, class, ..FrameEntry::default() };
        self.pinned = self.pinned.saturating_add(1);
        self.set_class(frame, Class::Frozen);
    }

    /// The frame is filled: from now on it is found by this page.
    pub(crate) fn freeze(&mut self, frame: u32, volume: u16, page: u32) {
        self.name(frame, volume, page, State::Resident);
        self.frames.at_mut(frame).flags |= PINNED;
    }

    /// The frame need not stay. It is where it was: [`Self::settle`] it.
    pub(crate) fn unpin(&mut self, frame: u32) {
        let row = *self.frames.at(frame);
        if row.flags & PINNED == 0 {
            return;
        }
        self.frames.at_mut(frame).flags &= !PINNED;
        self.pinned = self.pinned.saturating_sub(1);
        if row.flags & PERMITTED != 0 {
            self.pinned_permitted = self.pinned_permitted.saturating_sub(1);
            self.permitted = self.permitted.saturating_add(1);
        }
        if row.class == Class::Frozen {
            self.set_class(frame, Class::Clean);
        }
    }

    pub(crate) fn set_class(&mut self, frame: u32, class: Class) {
        let row = self.frames.at_mut(frame);
        let before = core::mem::replace(&mut row.class, class);
        let from = count(&mut self.counts, before);
        *from = from.saturating_sub(1);
        let to = count(&mut self.counts, class);
        *to = to.saturating_add(1);
    }

    /// Sixteen neighbours share a line of buckets, since they are looked up together; their places in it are mixed too, so that a
    /// choice of pages such as every sixteenth gains nothing.
    fn hash(&self, volume: u16, page: u32) -> u64 {
        scramble(self.seed, u64::from(volume) << 32 | u64::from(page >> 4))
    }

    /// The line of buckets of a hash.
    fn line(&self, hash: u64) -> u32 {
        low(hash) & self.buckets.len().wrapping_sub(1)
    }

    fn bucket(&mut self, volume: u16, page: u32) -> &mut u32 {
        let hash = self.hash(volume, page);
        let line = self.line(hash);
        bucket_mut(self.buckets.at_mut(line), place(hash, page))
    }

    /// The frame that holds, or will hold, this page.
    pub(crate) fn find(&self, volume: u16, page: u32) -> Option<u32> {
        let hash = self.hash(volume, page);
        let first = bucket(self.buckets.at(self.line(hash)), place(hash, page));
        self.follow(first, volume, page)
    }

    /// The frame of this page in a chain that begins with this one.
    fn follow(&self, mut frame: u32, volume: u16, page: u32) -> Option<u32> {
        // A chain is no longer than the table.
        for _ in 0..self.frames.len() {
            if frame == NIL {
                return None;
            }
            let row = self.frames.at(frame);
            if row.page == page && row.volume == volume {
                return Some(frame);
            }
            frame = row.chain;
        }
        None
    }

    /// The frame that holds this page now.
    pub(crate) fn resident(&self, volume: u16, page: u32) -> Option<u32> {
        self.find(volume, page).filter(|frame| self.frames.at(*frame).state == State::Resident)
    }

    /// The frames that hold these pages now, as bits from the first page on, which are all among sixteen neighbours; and which
    /// of them there are.
    pub(crate) fn residents(&self, volume: u16, first: u32, wanted: u16) -> ([u32; 16], u16) {
        let hash = self.hash(volume, first);
        let line = self.buckets.at(self.line(hash));
        let mut frames = [NIL; 16];
        // One line has all buckets. No row has to wait for another, so the processor fetches them side by side.
        for (offset, frame) in (0..).zip(&mut frames) {
            if wanted >> offset & 1 == 1 {
                *frame = bucket(line, place(hash, first.saturating_add(offset)));
            }
        }
        let mut there = 0;
        for (offset, frame) in (0..).zip(&mut frames) {
            let found = self.follow(*frame, volume, first.saturating_add(offset));
            if let Some(found) = found.filter(|frame| self.frames.at(*frame).state == State::Resident) {
                *frame = found;
                there |= 1 << offset;
            }
        }
        (frames, there & wanted)
    }

    /// Takes a frame that nothing needs: a free one, else the idle page that was not used for longest. The second value
    /// says that a page was evicted.
    pub(crate) fn take(&mut self) -> Option<(u32, bool)> {
        if self.free != NIL {
            let frame = self.free;
            self.free = self.frames.at(frame).chain;
            return Some((frame, false));
        }
        // A used page gets a second round; after eight of them the next goes whatever it is.
        for _ in 0..8 {
            let frame = self.oldest;
            if frame == NIL || self.frames.at(frame).flags & USED == 0 {
                break;
            }
            self.idle_remove(frame);
            self.frames.at_mut(frame).flags &= !USED;
            self.idle_push(frame);
        }
        let frame = self.oldest;
        if frame == NIL {
            return None;
        }
        self.idle_remove(frame);
        self.unname(frame);
        Some((frame, true))
    }

    /// A taken frame is about to be read into, for this page.
    pub(crate) fn begin_read(&mut self, frame: u32, volume: u16, page: u32) {
        self.name(frame, volume, page, State::Reading);
        self.set_class(frame, Class::Clean);
        self.reading = self.reading.saturating_add(1);
    }

    /// From now on the taken frame is found by this page.
    pub(crate) fn name(&mut self, frame: u32, volume: u16, page: u32, state: State) {
        let chain = core::mem::replace(self.bucket(volume, page), frame);
        let class = self.frames.at(frame).class;
        *self.frames.at_mut(frame) =
            FrameEntry { page, chain, volume, state, class, ..FrameEntry::default() };
    }

    /// The read is done and good. Gives the last waiting request.
    pub(crate) fn end_read(&mut self, frame: u32) -> u32 {
        self.reading = self.reading.saturating_sub(1);
        let row = self.frames.at_mut(frame);
        let waiting = core::mem::replace(&mut row.first, NIL);
        row.state = State::Resident;
        row.second = NIL;
        self.settle(frame);
        waiting
    }

    /// The frame of a read that is about to fail is never to be used again.
    pub(crate) fn lose(&mut self, frame: u32) {
        self.frames.at_mut(frame).flags |= LOST;
        self.lost = self.lost.saturating_add(1);
        self.set_class(frame, Class::StalePinned);
    }

    /// The read failed: the frame is free once nobody holds it. Gives the last waiting request.
    pub(crate) fn fail_read(&mut self, frame: u32) -> u32 {
        self.reading = self.reading.saturating_sub(1);
        self.unname(frame);
        let row = self.frames.at_mut(frame);
        let waiting = core::mem::replace(&mut row.first, NIL);
        row.state = State::Failed;
        self.settle(frame);
        waiting
    }

    /// Takes the frame out of its hash bucket, if it is there: it is no longer found by its page.
    pub(crate) fn unname(&mut self, frame: u32) {
        let row = *self.frames.at(frame);
        let first = self.bucket(row.volume, row.page);
        let mut at = *first;
        if at == frame {
            *first = row.chain;
            return;
        }
        for _ in 0..self.frames.len() {
            if at == NIL {
                return;
            }
            let next = self.frames.at(at).chain;
            if next == frame {
                self.frames.at_mut(at).chain = row.chain;
                return;
            }
            at = next;
        }
    }

    /// Keeps the frame for a request. False when too many do.
    pub(crate) fn hold(&mut self, frame: u32) -> bool {
        if self.frames.at(frame).flags & IDLE != 0 {
            self.idle_remove(frame);
        }
        let row = self.frames.at_mut(frame);
        match row.holds.checked_add(1) {
            Some(holds) => {
                row.holds = holds;
                true
            }
            None => false,
        }
    }

    /// A request no longer needs the frame.
    pub(crate) fn release(&mut self, frame: u32) {
        let row = self.frames.at_mut(frame);
        row.holds = row.holds.saturating_sub(1);
        self.settle(frame);
    }

    pub(crate) fn touch(&mut self, frame: u32) {
        self.frames.at_mut(frame).flags |= USED;
    }

    /// Whether it was used since this was last asked.
    pub(crate) fn take_used(&mut self, frame: u32) -> bool {
        let row = self.frames.at_mut(frame);
        let used = row.flags & USED != 0;
        row.flags &= !USED;
        used
    }

    /// Puts a frame that nothing needs on the idle list, or on the free list where its read failed.
    pub(crate) fn settle(&mut self, frame: u32) {
        let row = *self.frames.at(frame);
        if row.holds != 0 {
            return;
        }
        match row.state {
            State::Resident if row.flags & (PERMITTED | IDLE | PINNED) != 0 => {}
            State::Resident if row.flags & FORGOTTEN == 0 => self.idle_push(frame),
            State::Resident => {
                self.unname(frame);
                self.set_free(frame);
            }
            State::Failed if row.flags & LOST == 0 => self.set_free(frame),
            _ => {}
        }
    }

    /// A frame that is found by no page, and that nothing needs, is free.
    pub(crate) fn set_free(&mut self, frame: u32) {
        let class = self.frames.at(frame).class;
        *self.frames.at_mut(frame) = FrameEntry { chain: self.free, class, ..FrameEntry::default() };
        self.free = frame;
        self.set_class(frame, Class::Free);
    }
}

fn count(counts: &mut [u32; 6], class: Class) -> &mut u32 {
    let [free, clean, shared, frozen, dirty, stale] = counts;
    match class {
        Class::Free => free,
        Class::Clean => clean,
        Class::Shared => shared,
        Class::Frozen => frozen,
        Class::Dirty => dirty,
        Class::StalePinned => stale,
    }
}

/// The low half.
pub(crate) fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}
