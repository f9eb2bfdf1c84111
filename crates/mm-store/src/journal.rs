//! The journal in memory: the block that is being filled, those that wait to be written, and which of them are durable.

use crate::Page;
use crate::bytes::{put_u32, u32_at};
use crate::format::{HEADER, JOURNAL_ROOM, JournalHeader, MOST_RECORD, Record, SMALL_RECORD};
use crate::geometry::Geometry;

/// Journal blocks being written at once.
const IN_FLIGHT: u64 = 64;
/// Where the header keeps the number of records and their bytes while a block waits.
const COUNT_AT: usize = 56;
const BYTES_AT: usize = 60;

/// Sequence numbers, in this order: `tail` ≤ `durable` + 1 ≤ `completed` + 1 ≤ `issue` ≤ `next`.
pub(crate) struct Journal<'a> {
    pages: &'a mut [Page],
    /// The block that is being filled.
    pub(crate) next: u64,
    /// The next to be written; those from here to before `next` wait, complete.
    pub(crate) issue: u64,
    /// Every block up to this one is written.
    pub(crate) completed: u64,
    /// Which of the 64 blocks after that are.
    window: u64,
    /// Every block up to this one is written, and a flush that began later is completed.
    pub(crate) durable: u64,
    /// The first that the checkpoint on the disk needs; those before can be written over.
    pub(crate) tail: u64,
    fill: usize,
    count: u32,
    /// Places that were given out: each becomes one `Map` record, for which there has to be room.
    pub(crate) outstanding: u32,
}

impl<'a> Journal<'a> {
    /// A journal whose next block is `next`; all before it is durable.
    pub(crate) fn new(pages: &'a mut [Page], next: u64) -> Self {
        let durable = next.saturating_sub(1);
        Self {
            pages,
            next,
            issue: next,
            completed: durable,
            window: 0,
            durable,
            tail: next,
            fill: 0,
            count: 0,
            outstanding: 0,
        }
    }

    /// The journal was replayed: its next block is `next`.
    pub(crate) fn restart(&mut self, next: u64) {
        let pages = core::mem::take(&mut self.pages);
        *self = Self::new(pages, next);
    }

    /// Whether a record of so many bytes can be appended now and one for each outstanding place later, whatever happens
    /// between: even if each of those takes a journal block for itself.
    pub(crate) fn admits(&self, bytes: usize, geometry: &Geometry) -> bool {
        let places = u64::from(self.outstanding);
        let blocks = self.next - self.tail + 2 + places;
        let unflushed = self.next - 1 - self.durable;
        // A record is not split: the end of a block may stay empty.
        let room = |bytes: usize| bytes.saturating_sub(MOST_RECORD - 1);
        let waiting = usize::try_from(self.next - self.issue).unwrap_or(usize::MAX);
        let free = self.pages.len().saturating_sub(1).saturating_sub(waiting);
        let staging = room(JOURNAL_ROOM - self.fill) + free * room(JOURNAL_ROOM);
        blocks <= u64::from(geometry.journal)
            && unflushed < u64::from(geometry.unflushed_most())
            && self.outstanding as usize * SMALL_RECORD + bytes <= staging
    }

    /// Appends a record that was admitted, and gives the sequence number of its block. None: it was not, and there is no room.
    pub(crate) fn append(&mut self, record: &Record) -> Option<u64> {
        let mut bytes = [0; MOST_RECORD];
        let length = record.write(&mut bytes);
        if self.fill + length > JOURNAL_ROOM {
            self.close();
        }
        if self.next - self.issue >= self.pages.len() as u64 {
            return None;
        }
        let fill = self.fill;
        let page = self.page(self.next)?;
        page.get_mut(HEADER + fill..)?.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
        self.fill += length;
        self.count += 1;
        Some(self.next)
    }

    /// The last block that has records, written or not.
    pub(crate) fn last(&self) -> u64 {
        if self.count > 0 { self.next } else { self.next - 1 }
    }

    /// Nothing more goes into the open block, if it has any.
    pub(crate) fn close(&mut self) {
        if self.count == 0 {
            return;
        }
        let (fill, count) = (self.fill, self.count);
        if let Some(page) = self.page(self.next) {
            let rest = page.get_mut(HEADER + fill..).unwrap_or_default();
            rest.fill(0);
            put_u32(page, COUNT_AT, count);
            put_u32(page, BYTES_AT, u32::try_from(fill).unwrap_or(0));
        }
        self.next += 1;
        self.fill = 0;
        self.count = 0;
    }

    /// Whether a complete block waits and may be written.
    pub(crate) fn can_issue(&self) -> bool {
        self.issue < self.next && self.issue - 1 - self.completed < IN_FLIGHT
    }

    /// The next block to be written, into `out`, and its sequence number.
    pub(crate) fn issue(&mut self, out: &mut Page, uuid: &[u8; 16], epoch: u64) -> u64 {
        let sequence = self.issue;
        if let Some(page) = self.page(sequence) {
            out.copy_from_slice(page);
        }
        let (count, bytes) = (u32_at(out, COUNT_AT), u32_at(out, BYTES_AT));
        JournalHeader { sequence, epoch, durable: self.durable, count, bytes }.seal(out, uuid);
        self.issue += 1;
        sequence
    }

    /// A block is written.
    pub(crate) fn written(&mut self, sequence: u64) {
        if let Some(ahead) = sequence.checked_sub(self.completed + 1).filter(|ahead| *ahead < IN_FLIGHT) {
            self.window |= 1 << ahead;
        }
        let done = self.window.trailing_ones();
        self.completed += u64::from(done);
        self.window = self.window.checked_shr(done).unwrap_or(0);
    }

    fn page(&mut self, sequence: u64) -> Option<&mut Page> {
        let slot = sequence % (self.pages.len().max(1) as u64);
        self.pages.get_mut(usize::try_from(slot).ok()?)
    }
}
