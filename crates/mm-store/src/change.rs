//! Overlays come and go; their blocks are discarded.

use crate::error::{CreateRefused, DeleteRefused, OpenRefused, WriteRefused};
use crate::format::{MOST_RECORD, MOST_ZERO, NO_QUOTA, OverlayEntry, Record, SMALL_RECORD, Text};
use crate::overlays::{OverlayId, OverlayRow, State};
use crate::store::Store;

/// The volume that an overlay lies over: it makes sense over no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// What tells this volume, and this version of it, from others.
    pub identity: [u8; 16],
    /// Its blocks, and so the overlay's.
    pub pages: u32,
}

/// How long an overlay is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lifetime {
    /// Until it is deleted.
    #[default]
    Persistent,
    /// Until it is deleted or the store is opened again. Nothing of it is journaled, so a flush promises nothing and need not be asked.
    Ephemeral,
}

impl Store<'_> {
    /// Makes an overlay, empty: it shows its base. It is there at once, and durable after the next flush.
    ///
    /// # Errors
    /// See [`CreateRefused`].
    pub fn create(
        &mut self,
        name: &str,
        base: Base,
        quota: Option<u32>,
        lifetime: Lifetime,
    ) -> Result<OverlayId, CreateRefused> {
        let text = Text::new(name).ok_or(CreateRefused::Name)?;
        if self.overlays.named(name).is_some() {
            return Err(CreateRefused::Exists);
        }
        if self.failed {
            return Err(CreateRefused::ReadOnly);
        }
        if !self.settled || !self.journal.admits(MOST_RECORD, &self.geometry) {
            return Err(CreateRefused::Busy);
        }
        let Some(id) = self.overlays.next_id() else {
            // One that was deleted will do, when that is durable.
            self.urgent = self.journal.last();
            return Err(if self.sweep.deleting > 0 { CreateRefused::Busy } else { CreateRefused::TooMany });
        };
        let Base { identity, pages } = base;
        let quota = quota.unwrap_or(NO_QUOTA);
        let entry = OverlayEntry { id, alive: true, base: identity, pages, quota, name: text };
        *self.overlays.rows.at_mut(self.overlays.slot(id)) =
            OverlayRow { state: State::Alive, entry, lifetime, ..OverlayRow::default() };
        if self.record(OverlayId(id), &Record::Create(entry)).is_none() {
            self.overlays.rows.at_mut(self.overlays.slot(id)).state = State::Free;
            return Err(CreateRefused::ReadOnly);
        }
        Ok(OverlayId(id))
    }

    /// The overlay of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<OverlayId> {
        self.overlays.named(name)
    }

    /// Takes an overlay for one client, until [`close`](Self::close).
    ///
    /// # Errors
    /// See [`OpenRefused`].
    pub fn open(&mut self, name: &str, base: Base) -> Result<OverlayId, OpenRefused> {
        let id = self.overlays.named(name).ok_or(OpenRefused::Unknown)?;
        let row = self.overlays.get_mut(id).ok_or(OpenRefused::Unknown)?;
        if row.open {
            return Err(OpenRefused::InUse);
        }
        if row.entry.base != base.identity || row.entry.pages != base.pages {
            return Err(OpenRefused::OtherBase);
        }
        row.open = true;
        Ok(id)
    }

    /// The client is gone.
    pub fn close(&mut self, overlay: OverlayId) {
        if let Some(row) = self.overlays.get_mut(overlay) {
            row.open = false;
        }
    }

    /// Deletes an overlay. Its name is free at once; its blocks are free when the deletion is durable and swept.
    ///
    /// # Errors
    /// See [`DeleteRefused`].
    pub fn delete(&mut self, overlay: OverlayId) -> Result<(), DeleteRefused> {
        let row = self.overlays.get(overlay).ok_or(DeleteRefused::Unknown)?;
        if row.open {
            return Err(DeleteRefused::InUse);
        }
        if self.failed {
            return Err(DeleteRefused::ReadOnly);
        }
        if !self.settled || !self.journal.admits(SMALL_RECORD, &self.geometry) {
            return Err(DeleteRefused::Busy);
        }
        let deletion = self.record(overlay, &Record::Delete { overlay: overlay.0 });
        let sequence = deletion.ok_or(DeleteRefused::ReadOnly)?;
        if let Some(row) = self.overlays.get_mut(overlay) {
            row.state = State::Deleting(sequence);
        }
        self.sweep.deleting += 1;
        self.urgent = self.urgent.max(sequence);
        self.finish_deletions();
        Ok(())
    }

    /// Makes blocks read as zeroes, and gives back what held them: for discards and for writes of zeroes. At most 4096 blocks at
    /// once, where anything is mapped: gives how many from `block` on are done, at least one. The caller goes on with the
    /// rest, and answers its client at the end. Writes under way to these blocks may come before or after.
    ///
    /// # Errors
    /// `Full` if there is no row to remember it in, with nothing done: the client gets an error, or the zeroes are written as data.
    pub fn zero(&mut self, overlay: OverlayId, block: u32, count: u32) -> Result<u32, WriteRefused> {
        let row = self.admit(overlay, block, count)?;
        let (mapped, pages) = (row.mapped, row.entry.pages);
        if !self.journal.admits(SMALL_RECORD, &self.geometry) {
            return Err(WriteRefused::Busy);
        }
        let done = if mapped == 0 { count } else { count.min(MOST_ZERO - block % MOST_ZERO) };
        let hidden = self.map.hide(overlay.0, block, done, pages).map_err(|_| self.no_rows())?;
        if let (Some(row), Some(hidden)) = (self.overlays.get_mut(overlay), hidden) {
            row.hidden += hidden;
        }
        if mapped == 0 {
            if hidden.is_some() {
                self.record(overlay, &Record::Hide { overlay: overlay.0, logical: block, count: done })
                    .ok_or(WriteRefused::ReadOnly)?;
            }
            return Ok(done);
        }
        let any = (block..block + done).any(|block| self.map.find(overlay.0, block).is_some());
        if any || hidden.is_some() {
            let record = Record::Zero { overlay: overlay.0, logical: block, count: done };
            let sequence = self.record(overlay, &record).ok_or(WriteRefused::ReadOnly)?;
            self.unmap(overlay, block, done, sequence);
        }
        Ok(done)
    }

    /// Takes the mappings of these blocks away.
    fn unmap(&mut self, overlay: OverlayId, block: u32, count: u32, sequence: u64) {
        let mut gone = 0;
        for block in block..block + count {
            if let Some(row) = self.map.find(overlay.0, block) {
                self.map.unhash(row);
                self.map.supersede(row, sequence, self.journal.durable);
                gone += 1;
            }
        }
        if let Some(row) = self.overlays.get_mut(overlay) {
            row.mapped = row.mapped.saturating_sub(gone);
        }
    }

    fn no_rows(&self) -> WriteRefused {
        let coming = self.sweep.left > 0 || self.sweep.deleting > 0;
        if coming { WriteRefused::Busy } else { WriteRefused::Full }
    }
}
