//! Rendered pages, and who is being sent them.
//!
//! A page is rendered whole when it is asked for and never changes after that, so what a client reads is one moment
//! of M1 however slowly it reads. Snapshots lie next to each other in one buffer, each as long as its page. Requests
//! of one moment share one; so a crowd costs one rendering, and slow readers hold little.

use core::fmt::{self, Write};

use smoltcp::time::{Duration, Instant};

use crate::request::Page;
use crate::text::SliceWriter;

/// Snapshots at once.
const ENTRIES: usize = 16;

/// A snapshot that a connection is being sent. It is given back with [`Snapshots::release`], once.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotId(usize);

#[derive(Clone, Copy, Debug)]
struct Entry {
    page: Page,
    start: usize,
    len: usize,
    at: Instant,
    readers: usize,
    /// Others need the room: readers are to leave.
    revoked: bool,
}

/// Why there is no snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoSnapshot {
    /// There is no room of so many bytes now.
    NoRoom(usize),
    /// There will never be.
    TooLarge,
    /// The page could not be written.
    Failed,
}

pub(crate) struct Snapshots<'a> {
    bytes: &'a mut [u8],
    entries: [Option<Entry>; ENTRIES],
}

impl<'a> Snapshots<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, entries: [None; ENTRIES] }
    }

    /// The newest snapshot of a page that is not older than `age`, with one reader more.
    pub(crate) fn share(&mut self, page: Page, now: Instant, age: Duration) -> Option<SnapshotId> {
        let fresh = |entry: &Entry| entry.page == page && !entry.revoked && entry.at + age >= now;
        let (index, entry) = (self.entries.iter_mut().enumerate())
            .filter_map(|(index, entry)| Some((index, entry.as_mut().filter(|entry| fresh(entry))?)))
            .max_by_key(|(_, entry)| entry.at)?;
        entry.readers += 1;
        Some(SnapshotId(index))
    }

    /// Renders a page into free room, with one reader.
    pub(crate) fn render(
        &mut self,
        page: Page,
        now: Instant,
        mut draw: impl FnMut(&mut dyn Write) -> fmt::Result,
    ) -> Result<SnapshotId, NoSnapshot> {
        let mut needed = 0;
        for _ in 0..2 {
            let (start, end) = self.largest_gap();
            if let Some(index) =
                self.entries.iter().position(Option::is_none).filter(|_| end - start >= needed)
            {
                let mut writer = SliceWriter::new(&mut self.bytes[start..end]);
                draw(&mut writer).map_err(|fmt::Error| NoSnapshot::Failed)?;
                let len = writer.total();
                if len <= end - start {
                    self.entries[index] =
                        Some(Entry { page, start, len, at: now, readers: 1, revoked: false });
                    return Ok(SnapshotId(index));
                }
                needed = len;
            }
            self.drop_unread();
        }
        Err(if needed > self.bytes.len() { NoSnapshot::TooLarge } else { NoSnapshot::NoRoom(needed) })
    }

    /// The bytes of a snapshot.
    pub(crate) fn bytes(&self, id: SnapshotId) -> &[u8] {
        self.entries[id.0].map_or(&[], |entry| &self.bytes[entry.start..entry.start + entry.len])
    }

    /// Whether its reader is to leave.
    pub(crate) fn is_revoked(&self, id: SnapshotId) -> bool {
        self.entries[id.0].is_none_or(|entry| entry.revoked)
    }

    /// One reader less.
    pub(crate) fn release(&mut self, id: SnapshotId) {
        if let Some(entry) = self.entries[id.0].as_mut() {
            entry.readers = entry.readers.saturating_sub(1);
            if entry.revoked && entry.readers == 0 {
                self.entries[id.0] = None;
            }
        }
    }

    /// Whether so many bytes fit, given what nobody reads any more.
    pub(crate) fn has_room(&mut self, needed: usize) -> bool {
        self.drop_unread();
        let (start, end) = self.largest_gap();
        end - start >= needed && self.entries.iter().any(Option::is_none)
    }

    /// Asks the readers of the oldest snapshot to leave, if it is at least `age` old. Returns when the oldest will be
    /// old enough where it is not.
    pub(crate) fn revoke_oldest(&mut self, now: Instant, age: Duration) -> Result<(), Option<Instant>> {
        let oldest =
            self.entries.iter_mut().flatten().filter(|entry| !entry.revoked).min_by_key(|entry| entry.at);
        let oldest = oldest.ok_or(None)?;
        if oldest.at + age > now {
            return Err(Some(oldest.at + age));
        }
        oldest.revoked = true;
        Ok(())
    }

    fn drop_unread(&mut self) {
        for entry in &mut self.entries {
            if entry.is_some_and(|entry| entry.readers == 0) {
                *entry = None;
            }
        }
    }

    /// The longest stretch of the buffer that no snapshot lies in.
    fn largest_gap(&self) -> (usize, usize) {
        let mut best = (0, 0);
        let mut from = 0;
        // Each turn takes the next snapshot in the buffer's order; empty ones take no room.
        for _ in 0..=ENTRIES {
            let next = self.entries.iter().flatten().filter(|entry| entry.len > 0 && entry.start >= from);
            let next = next.min_by_key(|entry| entry.start);
            let end = next.map_or(self.bytes.len(), |entry| entry.start);
            if end - from > best.1 - best.0 {
                best = (from, end);
            }
            match next {
                Some(entry) => from = entry.start + entry.len,
                None => break,
            }
        }
        best
    }
}
