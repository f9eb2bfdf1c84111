//! Version 1 grants (`xen/common/grant_table.c`): `map_grant_ref`, `unmap_common`, `acquire_grant_for_copy`, `gnttab_copy`.

use std::sync::atomic::Ordering;

use xen_sys::grant::{
    CopyEnd, ENTRIES_PER_FRAME, GrantCopy, MapGrantRef, UnmapGrantRef, gntcopy, gntmap, gtf,
};
use xen_sys::{DomId, Errno, GrantStatus, Mfn, PAGE_SIZE};

use super::world::{Domain, World, XEN_FRAMES};

/// Mappings that one grant may have at once (`GNTPIN_hstr_mask` with its overflow bit).
const PINS: u32 = 128;

/// A grant that somebody maps: Xen goes by this, and not by the shared entry, until the last mapping is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    grantee: DomId,
    frame: Mfn,
    readers: u32,
    writers: u32,
}

/// A mapping that a domain made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    granter: DomId,
    reference: u32,
    frame: Mfn,
    address: u64,
    readonly: bool,
}

impl Mapping {
    /// Whether it is of this grant.
    #[cfg(test)]
    pub(super) fn is_of(&self, granter: DomId, reference: u32) -> bool {
        (self.granter, self.reference) == (granter, reference)
    }
}

impl Domain {
    /// The two words of an entry.
    fn grant_entry(&self, reference: u32) -> Option<(u32, u32)> {
        let (page, word) = self.grant_place(reference)?;
        Some((page.load(word), page.load(word + 1)))
    }

    fn grant_place(&self, reference: u32) -> Option<(&'static xen_ring::PageWords, usize)> {
        if reference >= self.grant_frames * ENTRIES_PER_FRAME {
            return None;
        }
        let page = &self.grant_area[(reference / ENTRIES_PER_FRAME) as usize];
        Some((page, (reference % ENTRIES_PER_FRAME) as usize * 2))
    }

    /// Shows in the entry how the grant is used.
    fn mark(&self, reference: u32, readers: bool, writers: bool) {
        let Some((page, word)) = self.grant_place(reference) else { return };
        let (reading, writing) = (u32::from(gtf::READING), u32::from(gtf::WRITING));
        let set = if readers || writers { reading } else { 0 } | if writers { writing } else { 0 };
        let header = page.word(word);
        header.fetch_or(set, Ordering::SeqCst);
        header.fetch_and(!((reading | writing) & !set), Ordering::SeqCst);
    }
}

impl World {
    pub(super) fn setup_table(&mut self, id: DomId, frames: u32) -> Result<Vec<Mfn>, Errno> {
        let domain = self.caller(id)?;
        if frames as usize > domain.grant_area.len() {
            return Err(Errno::INVAL);
        }
        domain.grant_frames = domain.grant_frames.max(frames);
        let first = XEN_FRAMES + u64::from(id.0) * 0x1_0000;
        Ok((0..u64::from(frames)).map(|index| Mfn(first + index)).collect())
    }

    /// `_set_status_v1` and `get_paged_frame`: checks an entry, and takes the frame that it names.
    fn check_entry(
        &self,
        granter: DomId,
        grantee: DomId,
        reference: u32,
        write: bool,
    ) -> Result<Mfn, GrantStatus> {
        let (header, frame) = self.domains[&granter].grant_entry(reference).ok_or(GrantStatus::BAD_GNTREF)?;
        let [f0, f1, d0, d1] = header.to_le_bytes();
        let (flags, dom) = (u16::from_le_bytes([f0, f1]), u16::from_le_bytes([d0, d1]));
        if flags & gtf::TYPE_MASK != gtf::PERMIT_ACCESS || dom != grantee.0 {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        if write && flags & gtf::READONLY != 0 {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let frame = Mfn(u64::from(frame));
        match self.frames.get(&frame) {
            // A frame of a dead domain can be had as long as somebody else keeps it.
            Some(info) if info.owner == granter && (info.owned || info.mapped != 0) => Ok(frame),
            _ => Err(GrantStatus::BAD_PAGE),
        }
    }

    pub(super) fn map(&mut self, id: DomId, op: &mut MapGrantRef) {
        op.status = match self.try_map(id, op) {
            Ok(()) => GrantStatus::OKAY,
            Err(status) => status,
        };
    }

    fn try_map(&mut self, id: DomId, op: &mut MapGrantRef) -> Result<(), GrantStatus> {
        if op.flags & gntmap::HOST_MAP == 0 {
            return Err(GrantStatus::BAD_GNTREF);
        }
        let granter = DomId(op.dom);
        let readonly = op.flags & gntmap::READONLY != 0;
        let Some(domain) = self.domains.get(&granter) else { return Err(GrantStatus::BAD_DOMAIN) };
        domain.grant_entry(op.reference).ok_or(GrantStatus::BAD_GNTREF)?;
        let active = match domain.active.get(&op.reference).copied() {
            Some(active) if active.grantee != id || active.readers + active.writers >= PINS => {
                return Err(GrantStatus::GENERAL_ERROR);
            }
            // The shared entry is looked at only for the first mapping, and the first that writes.
            Some(active) if readonly || active.writers != 0 => active,
            other => {
                let frame = self.check_entry(granter, id, op.reference, !readonly)?;
                other.unwrap_or(Active { grantee: id, frame, readers: 0, writers: 0 })
            }
        };
        if !op.host_addr.is_multiple_of(PAGE_SIZE as u64) || op.flags & gntmap::CONTAINS_PTE != 0 {
            return Err(GrantStatus::GENERAL_ERROR);
        }
        let info = self.frames.get_mut(&active.frame).ok_or(GrantStatus::BAD_PAGE)?;
        info.mapped += 1;
        let active = Active {
            readers: active.readers + u32::from(readonly),
            writers: active.writers + u32::from(!readonly),
            ..active
        };
        if let Some(domain) = self.domains.get_mut(&granter) {
            domain.active.insert(op.reference, active);
            domain.mark(op.reference, active.readers != 0, active.writers != 0);
        }
        self.overwrite(id, op.host_addr);
        let caller = self.domains.get_mut(&id).ok_or(GrantStatus::GENERAL_ERROR)?;
        let handle = caller.next_handle;
        caller.next_handle += 1;
        let mapping = Mapping {
            granter,
            reference: op.reference,
            frame: active.frame,
            address: op.host_addr,
            readonly,
        };
        caller.mappings.insert(handle, mapping);
        caller.entries.insert(op.host_addr, active.frame);
        op.handle = handle;
        op.dev_bus_addr = active.frame.address();
        Ok(())
    }

    /// Something else is about to be mapped at `address`: a grant mapping there can never be unmapped any more.
    pub(super) fn overwrite(&mut self, id: DomId, address: u64) {
        let Some(domain) = self.domains.get_mut(&id) else { return };
        let grants = domain.mappings.values().filter(|mapping| mapping.address == address).count();
        if domain.entries.remove(&address).is_some() {
            self.leaked += grants;
        }
    }

    pub(super) fn unmap(&mut self, id: DomId, op: &mut UnmapGrantRef) {
        let Some(domain) = self.domains.get(&id) else { return };
        op.status = match domain.mappings.get(&op.handle) {
            None => GrantStatus::BAD_HANDLE,
            Some(mapping) => {
                let entry = domain.entries.get(&mapping.address);
                if op.host_addr != mapping.address || entry != Some(&mapping.frame) {
                    GrantStatus::GENERAL_ERROR
                } else {
                    self.release_mapping(id, op.handle);
                    GrantStatus::OKAY
                }
            }
        };
    }

    /// Ends a mapping, with its pin and its hold on the frame.
    pub(super) fn release_mapping(&mut self, id: DomId, handle: u32) {
        let Some(domain) = self.domains.get_mut(&id) else { return };
        let Some(mapping) = domain.mappings.remove(&handle) else { return };
        domain.entries.remove(&mapping.address);
        if let Some(info) = self.frames.get_mut(&mapping.frame) {
            info.mapped -= 1;
        }
        if let Some(granter) = self.domains.get_mut(&mapping.granter)
            && let Some(active) = granter.active.get_mut(&mapping.reference)
        {
            if mapping.readonly {
                active.readers -= 1;
            } else {
                active.writers -= 1;
            }
            let now = *active;
            if now.readers + now.writers == 0 {
                granter.active.remove(&mapping.reference);
            }
            granter.mark(mapping.reference, now.readers != 0, now.writers != 0);
        }
        self.bury(mapping.frame);
    }

    pub(super) fn copy(&mut self, id: DomId, op: &mut GrantCopy) {
        op.status = match self.try_copy(id, op) {
            Ok(()) => GrantStatus::OKAY,
            Err(status) => status,
        };
    }

    fn try_copy(&self, id: DomId, op: &GrantCopy) -> Result<(), GrantStatus> {
        let ends = [(&op.source, gntcopy::SOURCE_GREF, false), (&op.dest, gntcopy::DEST_GREF, true)];
        let mut owners = [id; 2];
        for ((end, by_reference, _), owner) in ends.iter().zip(&mut owners) {
            if op.flags & by_reference == 0 && end.dom != DomId::SELF.0 {
                return Err(GrantStatus::PERMISSION_DENIED);
            }
            if end.dom != DomId::SELF.0 {
                *owner = DomId(end.dom);
            }
            if !self.domains.contains_key(owner) {
                return Err(GrantStatus::BAD_DOMAIN);
            }
        }
        let mut frames = [Mfn(0); 2];
        for (((end, by_reference, write), owner), frame) in ends.iter().zip(owners).zip(&mut frames) {
            if usize::from(end.offset) + usize::from(op.len) > PAGE_SIZE {
                return Err(GrantStatus::BAD_COPY_ARG);
            }
            *frame = if op.flags & by_reference != 0 {
                self.copy_frame(owner, id, end, *write)?
            } else {
                Mfn(end.ref_or_frame)
            };
            match self.frames.get(frame) {
                Some(info) if info.owner == owner => {}
                _ => return Err(GrantStatus::BAD_PAGE),
            }
        }
        let mut bytes = vec![0; usize::from(op.len)];
        let read = self.frames[&frames[0]].words.read(usize::from(op.source.offset), &mut bytes);
        let written = self.frames[&frames[1]].words.write(usize::from(op.dest.offset), &bytes);
        if read && written { Ok(()) } else { Err(GrantStatus::BAD_COPY_ARG) }
    }

    /// The frame behind a grant that is copied from or to.
    fn copy_frame(
        &self,
        granter: DomId,
        grantee: DomId,
        end: &CopyEnd,
        write: bool,
    ) -> Result<Mfn, GrantStatus> {
        let reference = u32::try_from(end.ref_or_frame).map_err(|_| GrantStatus::BAD_GNTREF)?;
        let domain = &self.domains[&granter];
        domain.grant_entry(reference).ok_or(GrantStatus::BAD_GNTREF)?;
        match domain.active.get(&reference) {
            Some(active) if active.grantee != grantee => Err(GrantStatus::GENERAL_ERROR),
            Some(active) if !write || active.writers != 0 => Ok(active.frame),
            _ => self.check_entry(granter, grantee, reference, write),
        }
    }
}
