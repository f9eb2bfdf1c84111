//! Filling the tables from checkpoint blocks and journal records. Nothing is believed before it was checked.

use crate::Page;
use crate::bytes::{u32_at, u64_at};
use crate::crc::crc32c;
use crate::format::{Bad, JournalHeader, Kind, MOST_ZERO, OverlayEntry, Record, entry_at, records};
use crate::hidden::is_key;
use crate::overlays::{OverlayRow, State};
use crate::rows::{FREE, Map, Row};
use crate::store::Store;

impl Store<'_> {
    /// Takes the entries of a checkpoint block. Overlays are loaded before what belongs to them.
    pub(crate) fn load(&mut self, kind: Kind, page: u32, bytes: &Page) -> Result<(), Bad> {
        let first = page * kind.in_page();
        for at in 0..kind.in_page() {
            let entry = entry_at(bytes, kind, at);
            match kind {
                Kind::Overlays => self.load_overlay(first + at, entry)?,
                Kind::Zeroes => self.load_zero(first + at, entry)?,
                Kind::Rows => self.load_row(first + at, entry)?,
            }
        }
        Ok(())
    }

    fn load_overlay(&mut self, slot: u32, bytes: &[u8]) -> Result<(), Bad> {
        let Some(entry) = OverlayEntry::read(bytes)? else { return Ok(()) };
        if slot >= self.overlays.rows.len()
            || !self.overlays.is_id(entry.id)
            || self.overlays.slot(entry.id) != slot
        {
            return Err(Bad::Content);
        }
        let state = if entry.alive { State::Alive } else { State::Free };
        *self.overlays.rows.at_mut(slot) = OverlayRow { state, entry, ..OverlayRow::default() };
        Ok(())
    }

    fn load_zero(&mut self, index: u32, bytes: &[u8]) -> Result<(), Bad> {
        let [overlay, key] = [0, 4].map(|at| u32_at(bytes, at));
        if overlay == FREE || !self.overlays.exists(overlay) {
            return Ok(());
        }
        if index >= self.map.zeroes.len() || !is_key(key) || self.map.find_zero(overlay, key).is_some() {
            return Err(Bad::Content);
        }
        let row = self.map.zeroes.at_mut(index);
        (row.overlay, row.key, row.bits) = (overlay, key, u64_at(bytes, 8));
        self.map.hash(self.map.rows.len() + index);
        Ok(())
    }

    fn load_row(&mut self, row: u32, bytes: &[u8]) -> Result<(), Bad> {
        let [overlay, logical, crc] = [0, 4, 8].map(|at| u32_at(bytes, at));
        if overlay == FREE || !self.overlays.exists(overlay) {
            return Ok(());
        }
        let pages = self.overlays.rows.at(self.overlays.slot(overlay)).entry.pages;
        if row >= self.map.rows.len() || logical >= pages {
            return Err(Bad::Content);
        }
        // A block that was overwritten while the copy was taken may be in it twice. The journal says which counts.
        self.map.set(row, overlay, logical, crc);
        Ok(())
    }

    /// The records of a block, if all of them make sense.
    pub(crate) fn check_records<'p>(&self, page: &'p Page, header: &JournalHeader) -> Result<&'p [u8], Bad> {
        let all = records(page, header.bytes);
        let (mut rest, mut count) = (all, 0);
        while !rest.is_empty() {
            let (record, length) = Record::read(rest)?;
            rest = rest.get(length..).unwrap_or_default();
            count += 1;
            let sound = match record {
                Record::Map { overlay, disk, .. } => {
                    self.overlays.is_id(overlay) && self.geometry.row(disk).is_some()
                }
                Record::Zero { overlay, logical, count } => {
                    self.overlays.is_id(overlay)
                        && u64::from(logical % MOST_ZERO) + u64::from(count) <= u64::from(MOST_ZERO)
                }
                Record::Hide { overlay, .. } | Record::Delete { overlay } => self.overlays.is_id(overlay),
                Record::Create(entry) => entry.alive && self.overlays.is_id(entry.id),
            };
            if !sound {
                return Err(Bad::Content);
            }
        }
        if count == header.count { Ok(all) } else { Err(Bad::Content) }
    }

    /// Applies records that were checked.
    pub(crate) fn apply_all(&mut self, mut bytes: &[u8]) {
        while let Ok((record, length)) = Record::read(bytes) {
            bytes = bytes.get(length..).unwrap_or_default();
            self.apply(&record);
        }
    }

    /// Applies records from an offset on up to a `Map` of an overlay that is there; gives its offset, and the blocks that it
    /// and the records right after it name, where those follow one another.
    pub(crate) fn apply_until_data(
        &mut self,
        page: &Page,
        bytes: u32,
        mut offset: usize,
        run: u32,
    ) -> Option<(usize, u32, u32)> {
        let bytes = records(page, bytes);
        while let Ok((record, length)) = Record::read(bytes.get(offset..)?) {
            if let Some(first) = self.named(&record) {
                let (mut at, mut blocks) = (offset + length, 1);
                while blocks < run
                    && let Ok((next, length)) = Record::read(bytes.get(at..).unwrap_or_default())
                    && self.named(&next) == Some(first + blocks)
                {
                    at += length;
                    blocks += 1;
                }
                return Some((offset, first, blocks));
            }
            self.apply(&record);
            offset += length;
        }
        None
    }

    /// Applies `blocks` `Map` records from an offset on: those whose data is there, all where it could not be read. Gives the offset
    /// behind them, and how many were left out.
    pub(crate) fn apply_data(
        &mut self,
        page: &Page,
        bytes: u32,
        mut offset: usize,
        blocks: u32,
        data: Option<&[Page]>,
    ) -> (usize, u64) {
        let bytes = records(page, bytes);
        let mut lost = 0;
        for index in 0..blocks {
            let Ok((record, length)) = Record::read(bytes.get(offset..).unwrap_or_default()) else { break };
            offset += length;
            let Record::Map { crc, .. } = record else { break };
            let content = data.and_then(|data| data.get(index as usize));
            if content.is_none_or(|content| crc32c(content) == crc) {
                self.apply(&record);
            } else {
                lost += 1;
            }
        }
        (offset, lost)
    }

    /// The data block of a `Map` that is to be applied.
    fn named(&self, record: &Record) -> Option<u32> {
        match *record {
            Record::Map { overlay, disk, .. } if self.overlays.exists(overlay) => Some(disk),
            _ => None,
        }
    }

    fn apply(&mut self, record: &Record) {
        match *record {
            Record::Create(entry) => {
                let slot = self.overlays.slot(entry.id);
                // A copy that was taken later knows it, or one that had its row after it.
                if self.overlays.rows.at(slot).entry.id < entry.id {
                    *self.overlays.rows.at_mut(slot) =
                        OverlayRow { state: State::Alive, entry, ..OverlayRow::default() };
                }
            }
            Record::Delete { overlay } => {
                if self.overlays.exists(overlay) {
                    let slot = self.overlays.slot(overlay);
                    self.overlays.rows.at_mut(slot).state = State::Free;
                    self.sweep.deleting = 1;
                }
            }
            Record::Map { overlay, logical, disk, crc } => {
                if let (Some(pages), Some(row)) = (self.pages_of(overlay), self.geometry.row(disk))
                    && logical < pages
                {
                    self.map.set(row, overlay, logical, crc);
                }
            }
            Record::Zero { overlay, logical, count } => {
                self.hide_again(overlay, logical, count);
                if self.overlays.exists(overlay) {
                    for logical in logical..logical.saturating_add(count) {
                        if let Some(row) = self.map.find(overlay, logical) {
                            self.map.clear(row);
                        }
                    }
                }
            }
            Record::Hide { overlay, logical, count } => self.hide_again(overlay, logical, count),
        }
    }

    fn pages_of(&self, overlay: u32) -> Option<u32> {
        let row = self.overlays.rows.at(self.overlays.slot(overlay));
        self.overlays.exists(overlay).then_some(row.entry.pages)
    }

    fn hide_again(&mut self, overlay: u32, logical: u32, count: u32) {
        let Some(pages) = self.pages_of(overlay).filter(|pages| logical < *pages) else { return };
        let count = count.min(pages - logical);
        if self.map.hide(overlay, logical, count, pages).is_err() {
            // There was room when this was done first, so there is when what was deleted since is swept.
            self.sweep_zeroes();
            let _ = self.map.hide(overlay, logical, count, pages);
        }
    }

    fn sweep_zeroes(&mut self) {
        if core::mem::take(&mut self.sweep.deleting) == 0 {
            return;
        }
        for index in 0..self.map.zeroes.len() {
            let overlay = self.map.zeroes.at(index).overlay;
            if overlay != FREE && !self.overlays.exists(overlay) {
                self.map.drop_zero(index);
            }
        }
    }

    /// When all is applied: drops what is nobody's, and counts the rest.
    pub(crate) fn count_everything(&mut self) {
        self.sweep.deleting = 1;
        self.sweep_zeroes();
        for index in 0..self.map.rows.len() {
            let overlay = self.map.rows.at(index).overlay;
            if overlay == FREE {
                continue;
            }
            let slot = self.overlays.slot(overlay);
            if self.overlays.exists(overlay) {
                self.overlays.rows.at_mut(slot).mapped += 1;
            } else {
                self.map.clear(index);
            }
        }
        for index in 0..self.map.zeroes.len() {
            let overlay = self.map.zeroes.at(index).overlay;
            if overlay != FREE {
                let slot = self.overlays.slot(overlay);
                self.overlays.rows.at_mut(slot).hidden += 1;
            }
        }
        self.map.count();
    }

    /// Whether two overlays have one name, which no store does that this crate wrote.
    pub(crate) fn names_clash(&self) -> bool {
        let mut rows = self.overlays.alive();
        rows.any(|row| self.overlays.named(row.entry.name.as_str()).is_some_and(|id| id.0 != row.entry.id))
    }
}

impl Map<'_> {
    /// While loading: the row is this block's, and no other row is.
    fn set(&mut self, row: u32, overlay: u32, logical: u32, crc: u32) {
        self.clear(row);
        if let Some(old) = self.find(overlay, logical) {
            self.clear(old);
        }
        *self.rows.at_mut(row) = Row { overlay, logical, crc };
        self.hash(row);
    }

    /// While loading: the row is nobody's.
    fn clear(&mut self, row: u32) {
        if self.rows.at(row).overlay != FREE {
            self.unhash(row);
            *self.rows.at_mut(row) = Row::default();
        }
    }
}
