//! `mmap`, `munmap`, `mprotect`, `brk`, `madvise` and `mincore` on the set of mappings.

use core::ops::Range;

use super::vma::{Backing, Rights, Vma};
use super::{Batch, MAP_TOP, Memory, Presence};
use crate::errno::Errno;
use crate::machine::Machine;
use crate::page::{PAGE_SIZE, USER_END, USER_START, UserPage, pages, round_up};

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// There if free, else where the kernel likes.
    Near,
    /// There, in the place of what is there (`MAP_FIXED`).
    Exactly,
    /// There, or not at all (`MAP_FIXED_NOREPLACE`).
    IfFree,
}

/// A mapping to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MapRequest {
    pub(crate) address: u64,
    /// Bytes, not zero.
    pub(crate) length: u64,
    pub(crate) place: Place,
    pub(crate) rights: Rights,
    pub(crate) shared: bool,
    pub(crate) grows_down: bool,
    /// Not charged against memory (`MAP_NORESERVE`).
    pub(crate) uncharged: bool,
    pub(crate) backing: Backing,
}

impl MapRequest {
    /// Private zeroes, where the kernel likes.
    pub(crate) fn anonymous(length: u64, rights: Rights) -> Self {
        Self {
            address: 0,
            length,
            place: Place::Near,
            rights,
            shared: false,
            grows_down: false,
            uncharged: false,
            backing: Backing::Anonymous,
        }
    }

    /// The same at this address, replacing what is there.
    pub(crate) fn at(self, address: u64) -> Self {
        Self { address, place: Place::Exactly, ..self }
    }
}

impl<M: Machine> Memory<M> {
    /// Makes a mapping; gives its address.
    pub(crate) fn map(&mut self, request: &MapRequest) -> Result<u64, Errno> {
        if request.length == 0 {
            return Err(Errno::INVAL);
        }
        let writable = request.rights.write() && matches!(request.backing, Backing::Anonymous);
        if writable && !request.uncharged && request.length / PAGE_SIZE > self.machine.frames().ceiling {
            // Linux's heuristic: what can never fit is refused at once.
            return Err(Errno::NOMEM);
        }
        let range = self.place(request.address, request.length, request.place)?;
        if request.place == Place::Exactly {
            self.unmap_range(range.clone())?;
        }
        self.vmas.insert(Vma {
            start: range.start,
            end: range.end,
            rights: request.rights,
            shared: request.shared,
            grows_down: request.grows_down,
            wiped: false,
            backing: request.backing,
        })?;
        Ok(range.start * PAGE_SIZE)
    }

    /// Chooses where `length` bytes go.
    fn place(&self, address: u64, length: u64, place: Place) -> Result<Range<u64>, Errno> {
        if place == Place::Near {
            let near = pages(round_up(address), length).filter(|range| {
                address != 0 && range.start * PAGE_SIZE >= USER_START && self.vmas.is_free(range.clone())
            });
            if let Some(range) = near {
                return Ok(range);
            }
            let count = round_up(length) / PAGE_SIZE;
            let start = self.vmas.gap_below(count, USER_START / PAGE_SIZE, MAP_TOP).ok_or(Errno::NOMEM)?;
            return Ok(start..start + count);
        }
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        let range = pages(address, length).ok_or(Errno::NOMEM)?;
        if address < USER_START {
            return Err(Errno::PERM);
        }
        if place == Place::IfFree && !self.vmas.is_free(range.clone()) {
            return Err(Errno::EXIST);
        }
        Ok(range)
    }

    /// `munmap`. What is not mapped in the range is no error.
    pub(crate) fn unmap(&mut self, address: u64, length: u64) -> Result<(), Errno> {
        let range = pages(address, length).ok_or(Errno::INVAL)?;
        self.unmap_range(range)
    }

    pub(super) fn unmap_range(&mut self, range: Range<u64>) -> Result<(), Errno> {
        if self.vmas.is_free(range.clone()) {
            return Ok(());
        }
        self.vmas.reserve(2)?;
        self.frozen.reserve(1)?;
        self.drop_pages(range.clone());
        self.frozen.remove(range.clone());
        self.vmas.remove(range)
    }

    /// `mprotect`.
    pub(crate) fn protect(&mut self, address: u64, length: u64, rights: Rights) -> Result<(), Errno> {
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        if length == 0 {
            return Ok(());
        }
        let range = pages(address, length).ok_or(Errno::NOMEM)?;
        if !self.vmas.covers(range.clone()) {
            return Err(Errno::NOMEM);
        }
        // The volume is never writable, and files of `/data` not by a mapping, so a shared mapping of them does not become so.
        let refused = |vma: &Vma| {
            rights.write()
                && vma.shared
                && matches!(vma.backing, Backing::Volume { .. } | Backing::Data { .. })
        };
        if self.vmas.overlapping(range.clone()).any(refused) {
            return Err(Errno::ACCES);
        }
        self.vmas.reserve(2)?;
        self.drop_unlike(range.clone(), rights);
        self.vmas.change(range.clone(), |vma| vma.rights = rights)?;
        self.protect_private(range, rights);
        Ok(())
    }

    /// Unmaps shared pages whose entries would have to change, under the mappings' old rights. They come back with the
    /// next touch.
    fn drop_unlike(&mut self, range: Range<u64>, rights: Rights) {
        let mut at = range.start;
        while at < range.end
            && let Some(vma) = self.vmas.find(at).copied()
        {
            let part = vma.part(&(at..range.end));
            at = part.end;
            let mut from = part.start;
            let unlike = rights.none() || rights.exec() != vma.rights.exec();
            while unlike && let Some(page) = self.resident.next(from..part.end) {
                from = page + 1;
                if self.resident.get(page) == Presence::Shared {
                    self.drop_pages(page..page + 1);
                }
            }
        }
    }

    /// Gives present private pages the new rights.
    fn protect_private(&mut self, range: Range<u64>, rights: Rights) {
        let mut private = Batch::new(UserPage(0));
        let mut from = range.start;
        while let Some(page) = self.resident.next(from..range.end) {
            from = page + 1;
            if rights.none() && self.send_home(page) {
                continue; // reads of the file must still find it
            }
            if self.is_awaited(page) && self.resident.get(page) == Presence::Private {
                let prot = self.prot_now(page, rights);
                self.machine.protect(&[UserPage(page)], prot);
                continue;
            }
            if self.resident.get(page) == Presence::Private {
                private.push(UserPage(page));
            }
            if private.is_full() {
                self.machine.protect(private.taken(), rights.prot());
                private.clear();
            }
        }
        self.machine.protect(private.taken(), rights.prot());
    }

    /// `brk`: gives the end of the heap, moved if it could be.
    pub(crate) fn set_break(&mut self, wanted: u64) -> u64 {
        let (start, end) = (self.heap.start, self.heap.end);
        if wanted < start || wanted >= USER_END {
            return end;
        }
        let (old, new) = (round_up(end), round_up(wanted));
        let moved = if new > old {
            let request = MapRequest {
                address: old,
                place: Place::IfFree,
                ..MapRequest::anonymous(new - old, Rights::READ_WRITE)
            };
            self.map(&request).is_ok()
        } else if new < old {
            self.unmap(new, old - new).is_ok()
        } else {
            true
        };
        if moved {
            self.heap.end = wanted;
        }
        self.heap.end
    }

    /// `madvise`.
    pub(crate) fn advise(&mut self, address: u64, length: u64, advice: u64) -> Result<(), Errno> {
        const DONTNEED: u64 = 4;
        const REMOVE: u64 = 9;
        const WIPEONFORK: u64 = 18;
        const KEEPONFORK: u64 = 19;
        const POPULATE_READ: u64 = 22;
        const POPULATE_WRITE: u64 = 23;
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        // NORMAL, RANDOM, SEQUENTIAL, WILLNEED, FREE, DONTFORK, DOFORK, DONTDUMP, DODUMP, COLD, PAGEOUT: hints, kept.
        let known = matches!(advice, 0..=3 | 8 | 10 | 11 | 16 | 17 | 20 | 21);
        let does =
            matches!(advice, DONTNEED | REMOVE | WIPEONFORK | KEEPONFORK | POPULATE_READ | POPULATE_WRITE);
        if !known && !does {
            return Err(Errno::INVAL);
        }
        if length == 0 {
            return Ok(());
        }
        let range = pages(address, length).ok_or(Errno::NOMEM)?;
        let covered = self.vmas.covers(range.clone());
        match advice {
            DONTNEED => {
                self.frozen.reserve(1)?;
                self.drop_pages(range.clone());
                self.frozen.remove(range);
            }
            WIPEONFORK | KEEPONFORK => {
                let wiped = advice == WIPEONFORK;
                // As in Linux: only for private memory of no file.
                let own = |vma: &Vma| !vma.shared && vma.backing == Backing::Anonymous;
                if wiped && !self.vmas.overlapping(range.clone()).all(own) {
                    return Err(Errno::INVAL);
                }
                self.vmas.change(range, |vma| vma.wiped = wiped)?;
            }
            REMOVE => {
                let mut at = range.start;
                while at < range.end
                    && let Some(vma) = self.vmas.find(at).copied()
                {
                    let part = vma.part(&(at..range.end));
                    let Backing::Stored { file, file_page, shared: true, .. } = part.backing else {
                        return Err(Errno::INVAL);
                    };
                    self.punch_store(file, file_page * PAGE_SIZE, (file_page + part.pages()) * PAGE_SIZE)?;
                    at = part.end;
                }
            }
            POPULATE_READ | POPULATE_WRITE => self.populate(range),
            _ => {}
        }
        if covered { Ok(()) } else { Err(Errno::NOMEM) }
    }

    /// Whether all of the range is mapped: what `msync`, `mlock` and `mincore` want to know.
    pub(crate) fn is_mapped(&self, address: u64, length: u64) -> Result<Range<u64>, Errno> {
        if !address.is_multiple_of(PAGE_SIZE) {
            return Err(Errno::INVAL);
        }
        let first = address / PAGE_SIZE;
        if length == 0 {
            return Ok(first..first);
        }
        let range = pages(address, length).ok_or(Errno::NOMEM)?;
        if self.vmas.covers(range.clone()) { Ok(range) } else { Err(Errno::NOMEM) }
    }
}
