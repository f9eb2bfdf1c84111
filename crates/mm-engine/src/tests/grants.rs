//! The grant table, as Xen has it.

use crate::*;

#[derive(Clone, Copy, Default)]
pub(super) struct Entry {
    pub(super) permit: Option<(ClientId, FrameId)>,
    /// Mappings, and of what they are. While there is one, the same client maps the same frame again whatever the entry
    /// says by now: `map_grant_ref` of Xen looks at the entry only for the first pin.
    pub(super) pins: u32,
    pub(super) pinned: Option<(ClientId, FrameId)>,
}

/// The grant table.
pub(super) struct GrantTable {
    pub(super) first: u32,
    pub(super) entries: Vec<Entry>,
}

impl GrantTable {
    fn at(&mut self, reference: u32) -> Option<&mut Entry> {
        self.entries.get_mut(reference.checked_sub(self.first)? as usize)
    }

    /// What GNTTABOP_map_grant_ref does.
    pub(super) fn map(&mut self, client: ClientId, reference: u32) -> Option<FrameId> {
        let entry = self.at(reference)?;
        if entry.pins == 0 {
            entry.pinned = Some(entry.permit.filter(|(owner, _)| *owner == client)?);
        }
        let (_, frame) = entry.pinned.filter(|(owner, _)| *owner == client)?;
        entry.pins += 1;
        Some(frame)
    }

    pub(super) fn unmap(&mut self, reference: u32) {
        let entry = self.at(reference).unwrap();
        entry.pins -= 1;
        if entry.pins == 0 {
            entry.pinned = None;
        }
    }
}

impl Grants for GrantTable {
    fn is_reading(&self, reference: Reference) -> bool {
        self.entries[(reference.0 - self.first) as usize].pins > 0
    }

    fn permit(&mut self, reference: Reference, client: ClientId, frame: FrameId) {
        let entry = self.at(reference.0).unwrap();
        assert!(entry.permit.is_none() && entry.pins == 0, "an entry in use was written");
        entry.permit = Some((client, frame));
    }

    fn try_revoke(&mut self, reference: Reference) -> Result<(), InUse> {
        let entry = self.at(reference.0).unwrap();
        if entry.pins > 0 {
            return Err(InUse);
        }
        entry.permit = None;
        Ok(())
    }
}
