//! A fault of the program: first decided, then done.

use super::resident::Presence;
use super::vma::{Backing, StoreId, Vma};
use super::{FaultCounts, Memory, STACK_LIMIT, STACK_TOP};
use crate::errno::Errno;
use crate::machine::{Lent, Machine, SharedMap, SharedPage, VolumeError};
use crate::page::{PAGE_SIZE, USER_END, UserPage, VolumePage};

/// How the program touched memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// A fault that the program has to be told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nothing is mapped there: SIGSEGV, `SEGV_MAPERR`.
    NotMapped,
    /// The mapping does not allow it: SIGSEGV, `SEGV_ACCERR`.
    Forbidden,
    /// The file ends before this page: SIGBUS, `BUS_ADRERR`.
    BeyondEnd,
    /// The page cannot be read from the volume, or M1 is gone: SIGBUS, `BUS_OBJERR`.
    Volume(VolumeError),
    /// The page cannot be read from the disk behind `/data`: SIGBUS, `BUS_OBJERR`.
    Disk,
    /// No frame is left: SIGBUS, `BUS_ADRERR`.
    NoMemory,
}

/// What to do about a fault. Data only: tests read it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// Map this page of the volume from a reference.
    MapShared(VolumePage),
    /// Copy this page of the volume into a frame: it is written at first touch.
    CopyIn(VolumePage),
    /// Give it a page of zeroes.
    Zero,
    /// Give it a frame with what the shared page holds, in its place.
    CopyOnWrite,
    /// Show this page of a file in memory, itself or a copy.
    Stored { file: StoreId, page: u64, shared: bool },
    /// A freeze has not captured it yet: what it was stays for that, and the program goes on in a new frame.
    Preserve,
    /// Give it a copy of this page of a file of `/data`.
    Data { file: ext3::Ino, page: u64 },
    /// The entry allows it already, or lagged behind the mapping: set it again.
    Again,
    /// Tell the program.
    Refuse(Fault),
}

/// Decides a fault at `page`, which lies in `vma` if in any, and whose content is frozen if `frozen` says where; `awaited` says that a
/// freeze has not captured it yet.
pub(crate) fn decide(
    vma: Option<&Vma>,
    page: u64,
    now: Presence,
    frozen: Option<VolumePage>,
    awaited: bool,
    access: Access,
) -> Decision {
    let Some(vma) = vma else { return Decision::Refuse(Fault::NotMapped) };
    let allowed = match access {
        Access::Read => vma.rights.read(),
        Access::Write => vma.rights.write(),
        Access::Fetch => vma.rights.exec(),
    };
    if !allowed {
        return Decision::Refuse(Fault::Forbidden);
    }
    match (now, vma.backing) {
        (Presence::Shared, _) if access == Access::Write => Decision::CopyOnWrite,
        (Presence::Private, _) if awaited && access == Access::Write => Decision::Preserve,
        (Presence::Shared | Presence::Private, _) => Decision::Again,
        (Presence::Absent, backing) if frozen.is_some() && !backing.is_shared_file() => {
            let frozen = frozen.unwrap_or(VolumePage(0));
            if access == Access::Write { Decision::CopyIn(frozen) } else { Decision::MapShared(frozen) }
        }
        (Presence::Absent, Backing::Anonymous) => Decision::Zero,
        (Presence::Absent, Backing::Volume { volume, valid, .. }) => {
            let index = page - vma.start;
            if index >= valid {
                Decision::Refuse(Fault::BeyondEnd)
            } else if access == Access::Write {
                Decision::CopyIn(VolumePage(volume + index))
            } else {
                Decision::MapShared(VolumePage(volume + index))
            }
        }
        (Presence::Absent, Backing::Stored { file, file_page, shared, .. }) => {
            Decision::Stored { file, page: file_page + page - vma.start, shared }
        }
        (Presence::Absent, Backing::Data { file, file_page, .. }) => {
            Decision::Data { file, page: file_page + page - vma.start }
        }
    }
}

impl<M: Machine> Memory<M> {
    /// What a shared page in this mapping shows.
    pub(super) fn shared_page(&self, vma: &Vma, page: u64) -> Option<SharedPage> {
        let volume = match (self.frozen.find(page), vma.backing) {
            (Some(frozen), _) => frozen,
            (None, Backing::Volume { volume, .. }) => VolumePage(volume + page - vma.start),
            (None, _) => return None,
        };
        Some(SharedPage { page: UserPage(page), volume })
    }

    /// The pages around one that show the pages around what it shows.
    fn extent(&self, vma: &Vma, page: u64) -> core::ops::Range<u64> {
        let end = match vma.backing {
            Backing::Volume { valid, .. } if self.frozen.find(page).is_none() => {
                vma.end.min(vma.start.saturating_add(valid))
            }
            _ => vma.end,
        };
        if self.frozen.is_empty() {
            return vma.start..end;
        }
        let extent = self.frozen.extent(page);
        extent.start.max(vma.start)..extent.end.min(end)
    }

    /// Serves a fault of the program, or of the kernel on its behalf.
    pub(crate) fn fault(&mut self, address: u64, access: Access) -> Result<(), Fault> {
        let mut served = self.serve(address, access);
        if served == Err(Fault::NoMemory) && self.shrink_data() {
            served = self.serve(address, access);
        }
        let FaultCounts { total, refused, .. } = &mut self.counts;
        *total += 1;
        *refused += u64::from(served.is_err());
        served
    }

    fn serve(&mut self, address: u64, access: Access) -> Result<(), Fault> {
        if address >= USER_END {
            return Err(Fault::NotMapped);
        }
        let page = address / PAGE_SIZE;
        let mut vma = self.vmas.find(page).copied();
        if vma.is_none() && self.grow_stack(page) {
            vma = self.vmas.find(page).copied();
        }
        let now = self.resident.get(page);
        let (frozen, awaited) = (self.frozen.find(page), self.is_awaited(page));
        let decision = decide(vma.as_ref(), page, now, frozen, awaited, access);
        let Some(vma) = vma else { return Err(Fault::NotMapped) };
        if decision != Decision::Again {
            self.spurious = (0, 0);
            self.resident.prepare(page).map_err(|_| Fault::NoMemory)?;
        }
        match decision {
            Decision::Refuse(fault) => Err(fault),
            Decision::MapShared(volume) => self.map_shared(&vma, page, volume),
            Decision::CopyIn(volume) => self.copy_in(&vma, page, volume),
            Decision::Zero => {
                let frame = self.machine.allocate().map_err(|_| Fault::NoMemory)?;
                self.counts.zero += 1;
                self.put_private(&vma, page, frame)
            }
            Decision::CopyOnWrite => self.break_shared(&vma, page),
            Decision::Preserve => self.preserve(&vma, page),
            Decision::Stored { file, page: file_page, shared } => {
                self.show_stored(&vma, page, file, file_page, shared)
            }
            Decision::Data { file, page: file_page } => self.show_data(&vma, page, file, file_page),
            Decision::Again => self.set_again(&vma, page, now),
        }
    }

    /// Lets the stack reach down to `page`, where that is just below it and within its limit.
    fn grow_stack(&mut self, page: u64) -> bool {
        let near = self.vmas.at_or_above(page).is_some_and(|above| above.grows_down);
        let grows = near && page >= (STACK_TOP - STACK_LIMIT) / PAGE_SIZE;
        if grows {
            self.vmas.grow_down(page);
        }
        grows
    }

    /// An entry that should allow what faulted: set what the mapping says. The same fault over and over would be a
    /// mistake of this kernel, and ends the program rather than hang.
    fn set_again(&mut self, vma: &Vma, page: u64, now: Presence) -> Result<(), Fault> {
        let (last, times) = self.spurious;
        self.spurious = (page, if last == page { times + 1 } else { 1 });
        if self.spurious.1 > 64 {
            return Err(Fault::Forbidden);
        }
        match now {
            Presence::Shared => self.drop_pages(page..page + 1),
            _ => {
                let prot = self.prot_now(page, vma.rights);
                self.machine.protect(&[UserPage(page)], prot);
            }
        }
        Ok(())
    }

    pub(super) fn put_private(&mut self, vma: &Vma, page: u64, frame: M::Frame) -> Result<(), Fault> {
        match self.machine.map_private(UserPage(page), frame, vma.rights.prot()) {
            Ok(()) => {
                self.resident.set(page, Presence::Private);
                Ok(())
            }
            Err(frame) => {
                self.machine.release(frame);
                Err(Fault::NoMemory)
            }
        }
    }

    /// Maps a page of the volume where M1 lends it, with neighbours that cost no request; else copies it.
    fn map_shared(&mut self, vma: &Vma, page: u64, volume: VolumePage) -> Result<(), Fault> {
        let extent = self.extent(vma, page);
        // A map that fails drops the reference, so the second turn asks M1 afresh.
        for turn in 0..3 {
            let wanted = u32::try_from(extent.end - page).unwrap_or(u32::MAX);
            let lent = self.machine.lend(volume, wanted);
            match lent {
                _ if turn > 0 => {}
                Ok(Lent::Held) => self.counts.local += 1,
                _ => self.counts.asked += 1,
            }
            if lent.map_err(Fault::Volume)? == Lent::CopyOnly {
                break;
            }
            if self.map_around(vma, page, volume, &extent) {
                self.note_hot(volume);
                return Ok(());
            }
        }
        self.copy_in(vma, page, volume)
    }

    /// Maps `page` and those around it that are absent and held, in one batch; tells whether `page` itself succeeded.
    fn map_around(
        &mut self,
        vma: &Vma,
        page: u64,
        volume: VolumePage,
        extent: &core::ops::Range<u64>,
    ) -> bool {
        let block = page & !(self.fault_around - 1);
        let base = page & !63;
        let low = block.max(extent.start) - base;
        let high = (block + self.fault_around).min(extent.end) - base;
        let within = u64::MAX >> (64 - (high - low)) << low;
        let around = within & self.resident.absent_around(page) & !(1 << (page - base));
        let want = SharedMap { page: UserPage(page), volume, exec: vma.rights.exec() };
        let done = self.machine.map_shared(want, around);
        self.resident.set_shared_around(page, done);
        self.counts.mapped += u64::from(done.count_ones());
        done >> (page - base) & 1 == 1
    }

    fn copy_in(&mut self, vma: &Vma, page: u64, volume: VolumePage) -> Result<(), Fault> {
        let frame = self.machine.allocate_unfilled().map_err(|_| Fault::NoMemory)?;
        let frame = match self.machine.copy_volume(volume, frame) {
            Ok(frame) => frame,
            Err((frame, error)) => {
                frame.into_iter().for_each(|frame| self.machine.release(frame));
                return Err(match error {
                    VolumeError::OutOfFrames => Fault::NoMemory,
                    error => Fault::Volume(error),
                });
            }
        };
        self.counts.copied += 1;
        self.note_hot(volume);
        self.put_private(vma, page, frame)
    }

    /// The program writes to a page that it shares: from now on it has its own.
    fn break_shared(&mut self, vma: &Vma, page: u64) -> Result<(), Fault> {
        let shared = self.shared_page(vma, page).ok_or(Fault::NotMapped)?;
        let frame = self.machine.allocate_unfilled().map_err(|_| Fault::NoMemory)?;
        self.machine.copy_page(shared.page, &frame);
        match self.machine.replace_shared(shared, frame, vma.rights.prot()) {
            Ok(()) => {
                self.resident.set(page, Presence::Private);
                self.counts.cow += 1;
                Ok(())
            }
            Err(frame) => {
                self.resident.set(page, Presence::Absent);
                self.machine.release(frame);
                Err(Fault::NoMemory)
            }
        }
    }

    fn show_data(&mut self, vma: &Vma, page: u64, file: ext3::Ino, file_page: u64) -> Result<(), Fault> {
        let mut bytes = [0; 4096];
        let read = self.with_data(|fs, disk| fs.read(disk, file, file_page * PAGE_SIZE, &mut bytes));
        match read {
            Ok(0) => return Err(Fault::BeyondEnd),
            Ok(_) => {}
            Err(Errno::NOMEM) => return Err(Fault::NoMemory),
            Err(_) => return Err(Fault::Disk),
        }
        let frame = self.machine.allocate_unfilled().map_err(|_| Fault::NoMemory)?;
        self.machine.write_frame(&frame, 0, &bytes);
        self.counts.copied += 1;
        self.put_private(vma, page, frame)
    }

    fn show_stored(
        &mut self,
        vma: &Vma,
        page: u64,
        file: StoreId,
        file_page: u64,
        shared: bool,
    ) -> Result<(), Fault> {
        if file_page * PAGE_SIZE >= self.store.size(file) {
            return Err(Fault::BeyondEnd);
        }
        if !shared {
            let frame = self.machine.allocate_unfilled().map_err(|_| Fault::NoMemory)?;
            let mut bytes = [0; 4096];
            self.store.read(&mut self.machine, file, file_page * PAGE_SIZE, &mut bytes);
            self.machine.write_frame(&frame, 0, &bytes);
            self.counts.copied += 1;
            return self.put_private(vma, page, frame);
        }
        self.store.fill(&mut self.machine, file, file_page).map_err(|_: Errno| Fault::NoMemory)?;
        self.preserve_stored(file, file_page..file_page + 1);
        // A page that is mapped elsewhere moves here; the other place faults for it again.
        let frame = match self.store.mapped_at(file, file_page) {
            Some(there) => {
                self.preserve_copy(there.0);
                self.resident.set(there.0, Presence::Absent);
                let frame = self.machine.take(there);
                if let Some(lost) = self.store.come_home(file, file_page, frame) {
                    self.machine.release(lost);
                }
                self.store.lend(file, file_page, UserPage(page))
            }
            None => self.store.lend(file, file_page, UserPage(page)),
        };
        let Some(frame) = frame else { return Err(Fault::NoMemory) };
        match self.machine.map_private(UserPage(page), frame, vma.rights.prot()) {
            Ok(()) => {
                self.resident.set(page, Presence::Private);
                Ok(())
            }
            Err(frame) => {
                if let Some(lost) = self.store.come_home(file, file_page, Some(frame)) {
                    self.machine.release(lost);
                }
                Err(Fault::NoMemory)
            }
        }
    }
}
