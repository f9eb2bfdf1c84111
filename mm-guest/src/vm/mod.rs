//! The program's memory: its mappings, what is present of them, faults, and the kernel's own access to it.

mod capture;
mod fault;
mod frozen;
mod hot;
mod map;
mod remap;
mod resident;
mod store;
#[cfg(test)]
mod tests;
mod user;
mod vma;

use core::ops::Range;

pub(crate) use capture::{Capture, Captured};
pub(crate) use fault::{Access, Fault};
pub(crate) use frozen::FrozenMap;
pub(crate) use hot::Hot;
pub(crate) use map::{MapRequest, Place};
pub(crate) use store::{FrozenStore, MAX_FILE, Store};
pub use user::HEAP_KEPT;
pub(crate) use vma::{Backing, NameId, Rights, StoreId, Vma, VmaSet};

pub(crate) use self::resident::Presence;
use self::resident::Resident;
use crate::errno::Errno;
use crate::fs::data::Data;
use crate::machine::{Machine, SharedPage};
use crate::page::{PAGE_SIZE, UserPage, VolumePage};

/// Highest page number of mappings that the kernel places: below the stack and its growth.
pub(crate) const MAP_TOP: u64 = (STACK_TOP - (128 << 20)) / PAGE_SIZE;
/// End of the stack.
pub(crate) const STACK_TOP: u64 = 0x7fff_ffff_e000;
/// Most bytes that the stack grows to (`RLIMIT_STACK`).
pub(crate) const STACK_LIMIT: u64 = 8 << 20;
/// Pages unmapped or protected in one batch.
const BATCH: usize = 64;

/// What happened, in numbers: the statistics line and the report to M1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FaultCounts {
    /// Faults of the program in all.
    pub total: u64,
    /// Volume faults served from a reference that was held already: M1 was not woken.
    pub local: u64,
    /// Volume faults for which M1 was asked.
    pub asked: u64,
    /// Shared pages mapped, fault-around included.
    pub mapped: u64,
    /// Volume pages copied into a private frame: written at first touch, or not lent.
    pub copied: u64,
    /// Copy-on-write breaks of mapped shared pages.
    pub cow: u64,
    /// Pages of zeroes.
    pub zero: u64,
    /// Faults that ended in a signal.
    pub refused: u64,
    /// Pages mapped ahead after a thaw, and how many of those were touched.
    pub ahead: u64,
    /// See `ahead`.
    pub ahead_used: u64,
    /// Pages that a freeze had not captured yet when they were written.
    pub preserved: u64,
}

/// Up to [`BATCH`] values to be worked on together.
struct Batch<T> {
    values: [T; BATCH],
    count: usize,
}

impl<T: Copy> Batch<T> {
    fn new(filler: T) -> Self {
        Self { values: [filler; BATCH], count: 0 }
    }

    fn is_full(&self) -> bool {
        self.count == BATCH
    }

    fn push(&mut self, value: T) {
        self.values[self.count] = value;
        self.count += 1;
    }

    fn taken(&self) -> &[T] {
        &self.values[..self.count]
    }

    fn clear(&mut self) {
        self.count = 0;
    }
}

/// The memory of the one program, over the machine that holds it.
pub(crate) struct Memory<M: Machine> {
    pub(crate) machine: M,
    pub(crate) vmas: VmaSet,
    resident: Resident,
    /// Contents of files in memory.
    pub(crate) store: Store<M::Frame>,
    /// `/data`, if there is a disk for it.
    pub(crate) data: Option<Data<M::Frame>>,
    pub(crate) counts: FaultCounts,
    /// Pages mapped around a fault, a power of two up to [`BATCH`]; 1 is none.
    pub(crate) fault_around: u64,
    /// First address of the heap, page-aligned by `exec`, and its current end.
    pub(crate) heap: Range<u64>,
    /// The last fault that found nothing to do, and how often in a row.
    spurious: (u64, u32),
    /// Where pages come from that are as they were in the snapshot that the program was thawed from.
    pub(crate) frozen: FrozenMap,
    /// What a freeze that is under way has still to capture.
    pub(crate) capture: Option<Capture<M::Frame>>,
    /// What is touched soon after a thaw.
    pub(crate) hot: Option<Hot>,
}

impl<M: Machine> Memory<M> {
    pub(crate) fn new(machine: M, fault_around: u64) -> Self {
        let store = Store::new(machine.frames().ceiling);
        Self {
            machine,
            vmas: VmaSet::default(),
            resident: Resident::default(),
            store,
            data: None,
            counts: FaultCounts::default(),
            fault_around: fault_around.clamp(1, BATCH as u64),
            heap: 0..0,
            spurious: (0, 0),
            frozen: FrozenMap::default(),
            capture: None,
            hot: None,
        }
    }

    /// Distinct pages of the volume that are mapped: a page that two mappings show counts once. `None` where there is no
    /// memory to count.
    pub(crate) fn distinct_shared(&self) -> Option<u64> {
        let mut pages = alloc::vec::Vec::new();
        pages.try_reserve_exact(self.resident.counts().1 as usize).ok()?;
        for vma in self.vmas.iter() {
            let mut at = vma.start;
            while let Some(page) = self.resident.next(at..vma.end) {
                at = page + 1;
                if self.resident.get(page) == Presence::Shared {
                    pages.extend(self.shared_page(vma, page).map(|shared| shared.volume));
                }
            }
        }
        pages.sort_unstable();
        pages.dedup();
        Some(pages.len() as u64)
    }

    /// Private pages present, and places where a shared page is mapped.
    pub(crate) fn resident(&self) -> (u64, u64) {
        let (private, shared) = self.resident.counts();
        (private + self.store.frames_held(), shared)
    }

    /// What is behind `page`.
    pub(crate) fn presence(&self, page: u64) -> Presence {
        self.resident.get(page)
    }

    /// Whether anything is present at `page`.
    pub(crate) fn is_present(&self, page: u64) -> bool {
        self.resident.get(page) != Presence::Absent
    }

    /// Forgets what is present in the range: private pages are freed, shared ones unmapped, pages of shared files go
    /// home to their file. The mappings stay, and are still those under which the pages were mapped.
    pub(crate) fn drop_pages(&mut self, range: Range<u64>) {
        let mut private = Batch::new(UserPage(0));
        let mut shared = Batch::new(SharedPage { page: UserPage(0), volume: VolumePage(0) });
        let mut from = range.start;
        loop {
            let next = self.resident.next(from..range.end);
            if private.is_full() || next.is_none() {
                self.machine.unmap(private.taken());
                private.clear();
            }
            if shared.is_full() || next.is_none() {
                self.machine.unmap_shared(shared.taken());
                shared.clear();
            }
            let Some(page) = next else { break };
            from = page + 1;
            if self.send_home(page) {
                continue;
            }
            let of = self.vmas.find(page).and_then(|vma| self.shared_page(vma, page));
            match (self.resident.get(page), of) {
                (Presence::Shared, Some(of)) => shared.push(of),
                _ if self.keep_for_capture(page) => {}
                _ => private.push(UserPage(page)),
            }
            self.resident.set(page, Presence::Absent);
        }
        self.resident.prune(range);
    }

    /// Takes a present page of a shared file out of the program's tables and back into the file; false for any other.
    fn send_home(&mut self, page: u64) -> bool {
        let Some(vma) = self.vmas.find(page) else { return false };
        let Backing::Stored { file, file_page, shared: true, .. } = vma.backing else { return false };
        let file_page = file_page + page - vma.start;
        if !self.store.is_at(file, file_page, UserPage(page)) {
            return false;
        }
        self.preserve_copy(page);
        let frame = self.machine.take(UserPage(page));
        self.resident.set(page, Presence::Absent);
        if let Some(frame) = self.store.come_home(file, file_page, frame) {
            self.machine.release(frame);
        }
        true
    }

    /// Unmaps every page that shows the run of the volume: M1 wants it back.
    pub(crate) fn drop_volume_run(&mut self, volume: VolumePage, count: u64) {
        let run = volume.0..volume.0.saturating_add(count);
        if run.start >= mm_proto::FROZEN_FIRST {
            return self.drop_frozen_run(run);
        }
        let mut at = 0;
        while let Some(vma) = self.vmas.at_or_above(at).copied() {
            at = vma.end;
            let Backing::Volume { volume: first, .. } = vma.backing else { continue };
            let low = run.start.max(first);
            let high = run.end.min(first + vma.pages());
            let mut page = vma.start + low.saturating_sub(first);
            let end = vma.start + high.saturating_sub(first);
            while low < high
                && let Some(found) = self.resident.next(page..end)
            {
                page = found + 1;
                if self.resident.get(found) == Presence::Shared && self.frozen.find(found).is_none() {
                    self.drop_pages(found..found + 1);
                }
            }
        }
    }

    /// The same for a run of the frozen part.
    fn drop_frozen_run(&mut self, run: Range<u64>) {
        let mut from = 0;
        // One after another, for dropping needs all of this; the runs themselves stay as they are.
        loop {
            let Some(range) = self.frozen.showing(run.clone()).find(|range| range.start >= from) else {
                return;
            };
            from = range.end;
            let mut page = range.start;
            while let Some(found) = self.resident.next(page..range.end) {
                page = found + 1;
                if self.resident.get(found) == Presence::Shared {
                    self.drop_pages(found..found + 1);
                }
            }
        }
    }

    /// Whether a mapping shows this file.
    pub(crate) fn shows(&self, file: StoreId) -> bool {
        self.vmas
            .iter()
            .any(|vma| matches!(vma.backing, Backing::Stored { file: shown, .. } if shown == file))
    }

    /// Whether a mapping shows this file of `/data`.
    pub(crate) fn shows_data(&self, file: ext3::Ino) -> bool {
        self.vmas.iter().any(|vma| matches!(vma.backing, Backing::Data { file: shown, .. } if shown == file))
    }

    /// Whether a mapping in the range shows a file in memory or of `/data`.
    pub(crate) fn shows_files(&self, address: u64, length: u64) -> bool {
        let Some(range) = crate::page::pages(crate::page::round_down(address), length) else { return false };
        self.vmas
            .overlapping(range)
            .any(|vma| matches!(vma.backing, Backing::Stored { .. } | Backing::Data { .. }))
    }

    /// Puts a page with these bytes where an absent page of a private mapping is, whatever its rights.
    pub(crate) fn place_bytes(&mut self, page: u64, bytes: &[u8]) -> Result<(), Errno> {
        let vma = *self.vmas.find(page).ok_or(Errno::FAULT)?;
        self.resident.prepare(page)?;
        let frame = self.machine.allocate().map_err(|_| Errno::NOMEM)?;
        self.machine.write_frame(&frame, 0, bytes);
        self.put_private(&vma, page, frame).map_err(|_| Errno::NOMEM)
    }

    /// Gives up everything: the program has ended.
    pub(crate) fn clear(&mut self) {
        let mut at = 0;
        while let Some(vma) = self.vmas.at_or_above(at).copied() {
            at = vma.end;
            self.drop_pages(vma.start..vma.end);
        }
        self.vmas = VmaSet::default();
        self.frozen = FrozenMap::default();
    }
}
