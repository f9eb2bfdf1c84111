//! `mremap`.

use super::vma::{Backing, Vma};
use super::{MAP_TOP, Memory, Presence};
use crate::errno::Errno;
use crate::machine::Machine;
use crate::page::{PAGE_SIZE, USER_START, UserPage, pages};

const MAYMOVE: u64 = 1;
const FIXED: u64 = 2;

impl<M: Machine> Memory<M> {
    /// `mremap`: gives the address of the mapping, which may have moved. Pages that the program has written move with
    /// it; shared ones are unmapped and come back with the next touch, for a grant's entry is never moved.
    pub(crate) fn remap(
        &mut self,
        old: u64,
        old_length: u64,
        new_length: u64,
        flags: u64,
        target: u64,
    ) -> Result<u64, Errno> {
        if flags & !(MAYMOVE | FIXED) != 0 || flags & (MAYMOVE | FIXED) == FIXED || new_length == 0 {
            return Err(Errno::INVAL);
        }
        if !old.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        let old_range = pages(old, old_length).ok_or(Errno::INVAL)?;
        let vma = *self.vmas.find(old_range.start).ok_or(Errno::FAULT)?;
        if vma.end < old_range.end {
            return Err(Errno::FAULT);
        }
        let new_pages = pages(0, new_length).ok_or(Errno::NOMEM)?.end;
        let old_pages = old_range.end - old_range.start;

        if flags & FIXED != 0 {
            let to = pages(target, new_length).ok_or(Errno::INVAL)?;
            if target < USER_START || (to.start < old_range.end && old_range.start < to.end) {
                return Err(Errno::INVAL);
            }
            self.unmap_range(to.clone())?;
            return self.relocate(vma.part(&old_range), to.start, new_pages);
        }
        if new_pages <= old_pages {
            if new_pages < old_pages {
                self.unmap_range(old_range.start + new_pages..old_range.end)?;
            }
            return Ok(old);
        }
        if new_pages - old_pages > self.machine.frames().ceiling
            && matches!(vma.backing, Backing::Anonymous)
            && vma.rights.write()
        {
            return Err(Errno::NOMEM);
        }
        let grown = old_range.end..old_range.start + new_pages;
        let fits =
            vma.end == old_range.end && pages(old, new_length).is_some() && self.vmas.is_free(grown.clone());
        if fits {
            let mut more = vma.tail(vma.end);
            more.end = grown.end;
            self.vmas.insert(more)?;
            return Ok(old);
        }
        if flags & MAYMOVE == 0 {
            return Err(Errno::NOMEM);
        }
        let to = self.vmas.gap_below(new_pages, USER_START / PAGE_SIZE, MAP_TOP).ok_or(Errno::NOMEM)?;
        self.relocate(vma.part(&old_range), to, new_pages)
    }

    /// Moves what `part` maps to the free pages from `to` on, `count` of them.
    fn relocate(&mut self, part: Vma, to: u64, count: u64) -> Result<u64, Errno> {
        self.vmas.reserve(3)?;
        self.frozen.reserve(self.frozen.count(part.start..part.end) + 3)?;
        let moved = Vma { start: to, end: to + count, ..part };
        self.vmas.insert(moved)?;
        let keep = part.pages().min(count);
        let mut from = part.start;
        let mut failed = None;
        while let Some(page) = self.resident.next(from..part.start + keep) {
            from = page + 1;
            if let Err(error) = self.move_page(&moved, page, to + page - part.start) {
                failed = Some((error, page));
                break;
            }
        }
        if let Some((error, stopped)) = failed {
            // Tables at the old place exist still, so moving back needs no memory.
            for page in part.start..stopped {
                let there = to + page - part.start;
                if self.is_present(there) {
                    self.move_page(&part, there, page)?;
                }
            }
            self.unmap_range(to..to + count)?;
            return Err(error);
        }
        self.drop_pages(part.start..part.end);
        self.frozen.relocate(part.start..part.start + keep, to);
        self.frozen.remove(part.start..part.end);
        self.vmas.remove(part.start..part.end)?;
        Ok(to * PAGE_SIZE)
    }

    fn move_page(&mut self, vma: &Vma, from: u64, to: u64) -> Result<(), Errno> {
        let stored = matches!(vma.backing, Backing::Stored { shared: true, .. });
        if stored || self.resident.get(from) != Presence::Private {
            // The file or the volume still has it.
            self.drop_pages(from..from + 1);
            return Ok(());
        }
        self.resident.prepare(to)?;
        self.preserve_copy(from);
        let frame = self.machine.take(UserPage(from)).ok_or(Errno::FAULT)?;
        self.resident.set(from, Presence::Absent);

        match self.machine.map_private(UserPage(to), frame, vma.rights.prot()) {
            Ok(()) => {
                self.resident.set(to, Presence::Private);
                Ok(())
            }
            Err(frame) => {
                let back = self.resident.prepare(from).is_ok();
                match self.machine.map_private(UserPage(from), frame, vma.rights.prot()) {
                    Ok(()) if back => self.resident.set(from, Presence::Private),
                    Ok(()) => self.machine.unmap(&[UserPage(from)]),
                    Err(frame) => self.machine.release(frame),
                }
                Err(Errno::NOMEM)
            }
        }
    }
}
