//! The table of overlays.

use crate::change::Lifetime;
use crate::format::{NO_QUOTA, OverlayEntry};
use crate::table::Table;

/// An overlay's number: its row in the table, plus the table's length for each overlay that had the row before. It is never
/// given out again, so that a mapping of an overlay that is gone is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OverlayId(pub u32);

/// What an overlay's row is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum State {
    /// Nothing; the number is the last that was used.
    #[default]
    Free,
    Alive,
    /// It is gone when the journal block of this sequence number is durable.
    Deleting(u64),
}

/// One overlay's row.
#[derive(Clone, Copy, Debug, Default)]
pub struct OverlayRow {
    pub(crate) state: State,
    pub(crate) entry: OverlayEntry,
    pub(crate) lifetime: Lifetime,
    pub(crate) open: bool,
    /// Logical blocks that are mapped.
    pub(crate) mapped: u32,
    /// Writes under way to logical blocks that were not mapped when they began.
    pub(crate) charged: u32,
    /// Zero rows.
    pub(crate) hidden: u32,
    pub(crate) rotten: u64,
}

/// All of them.
pub(crate) struct Overlays<'a> {
    pub(crate) rows: Table<'a, OverlayRow>,
}

impl Overlays<'_> {
    /// The row that this number belongs to, whoever has it now.
    pub(crate) fn slot(&self, id: u32) -> u32 {
        id % self.rows.len().max(1)
    }

    /// Whether mappings with this number are somebody's: its overlay is there, or its deletion is not durable.
    pub(crate) fn exists(&self, id: u32) -> bool {
        let row = self.rows.at(self.slot(id));
        row.entry.id == id && row.state != State::Free
    }

    /// Whether a checkpoint has to keep this overlay's mappings.
    pub(crate) fn persists(&self, id: u32) -> bool {
        self.exists(id) && self.rows.at(self.slot(id)).lifetime == Lifetime::Persistent
    }

    /// The row of an overlay that is there and not being deleted.
    pub(crate) fn get(&self, id: OverlayId) -> Option<&OverlayRow> {
        let row = self.rows.at(self.slot(id.0));
        (row.entry.id == id.0 && row.state == State::Alive).then_some(row)
    }

    pub(crate) fn get_mut(&mut self, id: OverlayId) -> Option<&mut OverlayRow> {
        self.get(id)?;
        Some(self.rows.at_mut(self.slot(id.0)))
    }

    /// Which overlay has this name.
    pub(crate) fn named(&self, name: &str) -> Option<OverlayId> {
        self.alive().find(|row| row.entry.name.as_str() == name).map(|row| OverlayId(row.entry.id))
    }

    /// Those that are there and not being deleted.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &OverlayRow> {
        (0..self.rows.len()).map(|slot| self.rows.at(slot)).filter(|row| row.state == State::Alive)
    }

    /// A free row's next number.
    pub(crate) fn next_id(&self) -> Option<u32> {
        let rows = self.rows.len();
        (0..rows).filter(|slot| self.rows.at(*slot).state == State::Free).find_map(|slot| {
            let last = self.rows.at(slot).entry.id;
            let id = if last == 0 { rows.checked_add(slot) } else { last.checked_add(rows) }?;
            // The largest numbers say what a row does.
            (id < u32::MAX - 1).then_some(id)
        })
    }

    /// Whether a number that was read can be an overlay's of this table.
    pub(crate) fn is_id(&self, id: u32) -> bool {
        id >= self.rows.len() && id < u32::MAX - 1
    }

    /// Rows up to the last that was ever used.
    pub(crate) fn end(&self) -> u32 {
        (0..self.rows.len()).rev().find(|slot| self.rows.at(*slot).entry.id != 0).map_or(0, |slot| slot + 1)
    }
}

impl OverlayRow {
    /// Blocks that may still be mapped under the quota.
    pub(crate) fn room(&self) -> u32 {
        if self.entry.quota == NO_QUOTA {
            return u32::MAX;
        }
        self.entry.quota.saturating_sub(self.mapped).saturating_sub(self.charged)
    }
}
