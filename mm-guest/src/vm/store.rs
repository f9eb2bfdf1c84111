//! Contents of files that live in memory: pages of a file, each a frame, a hole, or at the moment mapped in the program.
//!
//! A frame belongs to one place. A page of a file that the program has mapped with `MAP_SHARED` therefore lives at its
//! address there, where reads and writes of the file find it, and comes home when it is unmapped.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::vma::StoreId;
use crate::errno::Errno;
use crate::machine::Machine;
use crate::page::{PAGE_SIZE, UserPage, VolumePage};

/// Largest file: far above any memory, far below overflow.
pub(crate) const MAX_FILE: u64 = 1 << 43;

enum Slot<F> {
    Frame(F),
    Mapped(UserPage),
    /// As it was in the snapshot that the program was thawed from.
    Frozen(u32),
}

/// A file of a snapshot: its size, and its pages that are no holes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenContent {
    pub(crate) size: u64,
    pub(crate) pages: Vec<(u64, u32)>,
}

/// All files of a snapshot.
pub(crate) type FrozenStore = Vec<Option<FrozenContent>>;

struct Content<F> {
    /// Never leaves the domain (`memfd_secret`).
    secret: bool,
    size: u64,
    /// Pages that exist, ascending by number; what is missing reads as zeroes.
    pages: Vec<(u64, Slot<F>)>,
}

/// All contents.
pub(crate) struct Store<F> {
    files: Vec<Option<Content<F>>>,
    frames: u64,
    /// Frames that files may hold.
    limit: u64,
}

impl<F> Store<F> {
    /// No files. Together they may hold half of `ceiling` frames, the domain's memory, as in Linux' tmpfs: a program that has
    /// filled them can still say so.
    pub(crate) fn new(ceiling: u64) -> Self {
        Self { files: Vec::new(), frames: 0, limit: ceiling / 2 }
    }

    /// Frames that files may hold together.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Frames that files hold, those mapped in the program not counted.
    pub(crate) fn frames_held(&self) -> u64 {
        self.frames
    }

    pub(crate) fn create(&mut self) -> Result<StoreId, Errno> {
        let content = Content { secret: false, size: 0, pages: Vec::new() };
        let index = match self.files.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.files.try_reserve(1)?;
                self.files.push(None);
                self.files.len() - 1
            }
        };
        self.files[index] = Some(content);
        Ok(StoreId(u32::try_from(index).map_err(|_| Errno::NFILE)?))
    }

    /// Marks a file whose content never leaves the domain.
    pub(crate) fn keep_secret(&mut self, file: StoreId) {
        if let Some(Some(content)) = self.files.get_mut(file.0 as usize) {
            content.secret = true;
        }
    }

    /// Whether the file is one of those.
    pub(crate) fn is_secret(&self, file: StoreId) -> bool {
        self.content(file).is_some_and(|content| content.secret)
    }

    /// Whether there is such a file.
    pub(crate) fn has_secret(&self) -> bool {
        self.files.iter().flatten().any(|content| content.secret)
    }

    /// Every page that is a frame here.
    pub(super) fn frames(&self) -> impl Iterator<Item = (StoreId, u64)> {
        self.slots_of_all()
            .filter(|(.., slot)| matches!(slot, Slot::Frame(_)))
            .map(|(file, page, _)| (file, page))
    }

    /// Every page that is as it was in the snapshot.
    pub(crate) fn frozen(&self) -> impl Iterator<Item = u32> {
        self.slots_of_all().filter_map(|(.., slot)| match slot {
            Slot::Frozen(page) => Some(*page),
            _ => None,
        })
    }

    fn slots_of_all(&self) -> impl Iterator<Item = (StoreId, u64, &Slot<F>)> {
        let files = self.files.iter().enumerate();
        let files = files.filter_map(|(index, content)| Some((StoreId(index as u32), content.as_ref()?)));
        files.flat_map(|(file, content)| content.pages.iter().map(move |(page, slot)| (file, *page, slot)))
    }

    /// The frame of a page.
    pub(super) fn frame(&self, file: StoreId, page: u64) -> Option<&F> {
        match self.slot(file, page) {
            Some(Slot::Frame(frame)) => Some(frame),
            _ => None,
        }
    }

    /// All files, where `frozen` says what the page of a file that is here, or mapped in the program, has become.
    pub(crate) fn freeze(
        &self,
        mut frozen: impl FnMut(StoreId, u64, Option<UserPage>) -> Option<u32>,
    ) -> Result<FrozenStore, Errno> {
        let mut files = Vec::new();
        files.try_reserve_exact(self.files.len())?;
        for (index, content) in self.files.iter().enumerate() {
            let Some(content) = content else {
                files.push(None);
                continue;
            };
            let mut pages = Vec::new();
            pages.try_reserve_exact(content.pages.len())?;
            for (page, slot) in &content.pages {
                let place = match slot {
                    Slot::Frozen(frozen) => {
                        pages.push((*page, *frozen));
                        continue;
                    }
                    Slot::Mapped(at) => Some(*at),
                    Slot::Frame(_) => None,
                };
                let frozen = frozen(StoreId(index as u32), *page, place);
                pages.push((*page, frozen.ok_or(Errno::IO)?));
            }
            files.push(Some(FrozenContent { size: content.size, pages }));
        }
        Ok(files)
    }

    /// Files as a snapshot has them. `None` where they are not what [`Store::freeze`] gives.
    pub(crate) fn thaw(&mut self, files: FrozenStore) -> Option<()> {
        for content in files {
            let content = match content {
                Some(FrozenContent { size, pages }) => {
                    let ascending = pages.windows(2).all(|pair| pair[0].0 < pair[1].0);
                    let frozen = |page: u32| u64::from(page) >= mm_proto::FROZEN_FIRST;
                    if !ascending || size > MAX_FILE || !pages.iter().all(|(_, page)| frozen(*page)) {
                        return None;
                    }
                    let pages = pages.into_iter().map(|(page, frozen)| (page, Slot::Frozen(frozen)));
                    Some(Content { secret: false, size, pages: pages.collect() })
                }
                None => None,
            };
            self.files.push(content);
        }
        Some(())
    }

    fn content(&self, file: StoreId) -> Option<&Content<F>> {
        self.files.get(file.0 as usize)?.as_ref()
    }

    fn slots(&mut self, file: StoreId) -> Option<&mut Vec<(u64, Slot<F>)>> {
        Some(&mut self.files.get_mut(file.0 as usize)?.as_mut()?.pages)
    }

    fn slot(&self, file: StoreId, page: u64) -> Option<&Slot<F>> {
        let pages = &self.content(file)?.pages;
        let index = pages.binary_search_by_key(&page, |(number, _)| *number).ok()?;
        Some(&pages[index].1)
    }

    /// Bytes of the file; zero for one that is gone.
    pub(crate) fn size(&self, file: StoreId) -> u64 {
        self.content(file).map_or(0, |content| content.size)
    }

    /// Pages that the file takes.
    pub(crate) fn pages_of(&self, file: StoreId) -> u64 {
        self.content(file).map_or(0, |content| content.pages.len() as u64)
    }

    /// The first page at or after `page` that is no hole.
    pub(crate) fn next_page(&self, file: StoreId, page: u64) -> Option<u64> {
        let pages = &self.content(file)?.pages;
        pages.get(pages.partition_point(|(number, _)| *number < page)).map(|(number, _)| *number)
    }

    /// Whether the page lives at this address of the program now.
    pub(super) fn is_at(&self, file: StoreId, page: u64, at: UserPage) -> bool {
        matches!(self.slot(file, page), Some(Slot::Mapped(there)) if *there == at)
    }

    /// Where the page is mapped in the program, if it is.
    pub(super) fn mapped_at(&self, file: StoreId, page: u64) -> Option<UserPage> {
        match self.slot(file, page) {
            Some(Slot::Mapped(at)) => Some(*at),
            _ => None,
        }
    }

    /// Puts the frame of a page back; gives it to the caller where the file no longer has that page.
    #[must_use]
    pub(super) fn come_home(&mut self, file: StoreId, page: u64, frame: Option<F>) -> Option<F> {
        let Some(frame) = frame else {
            self.forget(file, page);
            return None;
        };
        let Some(slots) = self.slots(file) else { return Some(frame) };
        let Ok(index) = slots.binary_search_by_key(&page, |(number, _)| *number) else { return Some(frame) };
        slots[index].1 = Slot::Frame(frame);
        self.frames += 1;
        None
    }

    fn forget(&mut self, file: StoreId, page: u64) {
        if let Some(slots) = self.slots(file)
            && let Ok(index) = slots.binary_search_by_key(&page, |(number, _)| *number)
        {
            slots.remove(index);
        }
    }

    /// Takes the frame of a page to map it at `at`, and marks the page as living there. `None` for a hole.
    pub(super) fn lend(&mut self, file: StoreId, page: u64, at: UserPage) -> Option<F> {
        let slots = self.slots(file)?;
        let index = slots.binary_search_by_key(&page, |(number, _)| *number).ok()?;
        match core::mem::replace(&mut slots[index].1, Slot::Mapped(at)) {
            Slot::Frame(frame) => {
                self.frames -= 1;
                Some(frame)
            }
            Slot::Mapped(_) | Slot::Frozen(_) => None,
        }
    }

    /// Adds a page of zeroes where a hole is.
    fn add(&mut self, file: StoreId, page: u64, frame: F) -> Result<(), (F, Errno)> {
        let Some(slots) = self.slots(file) else { return Err((frame, Errno::IO)) };
        match slots.binary_search_by_key(&page, |(number, _)| *number) {
            Ok(_) => return Err((frame, Errno::EXIST)),
            Err(index) => {
                if slots.try_reserve(1).is_err() {
                    return Err((frame, Errno::NOMEM));
                }
                slots.insert(index, (page, Slot::Frame(frame)));
            }
        }
        self.frames += 1;
        Ok(())
    }

    /// Makes sure that the page exists.
    pub(crate) fn fill<M: Machine<Frame = F>>(
        &mut self,
        machine: &mut M,
        file: StoreId,
        page: u64,
    ) -> Result<(), Errno> {
        let frozen = match self.slot(file, page) {
            Some(Slot::Frozen(frozen)) => Some(*frozen),
            Some(_) => return Ok(()),
            None => None,
        };
        if let Some(frozen) = frozen {
            return self.bring(machine, file, page, frozen);
        }
        if self.frames >= self.limit {
            return Err(Errno::NOSPC);
        }
        let frame = machine.allocate().map_err(|_| Errno::NOSPC)?;
        self.add(file, page, frame).map_err(|(frame, error)| {
            machine.release(frame);
            error
        })
    }

    /// Gives a page that is as it was in the snapshot a frame here.
    fn bring<M: Machine<Frame = F>>(
        &mut self,
        machine: &mut M,
        file: StoreId,
        page: u64,
        frozen: u32,
    ) -> Result<(), Errno> {
        let frame = machine.allocate_unfilled().map_err(|_| Errno::NOSPC)?;
        match machine.copy_volume(VolumePage(frozen.into()), frame) {
            Ok(frame) => {
                let slots = self.slots(file).ok_or(Errno::IO)?;
                let index =
                    slots.binary_search_by_key(&page, |(number, _)| *number).map_err(|_| Errno::IO)?;
                slots[index].1 = Slot::Frame(frame);
                self.frames += 1;
                Ok(())
            }
            Err((frame, _)) => {
                frame.into_iter().for_each(|frame| machine.release(frame));
                Err(Errno::IO)
            }
        }
    }

    /// Reads at most up to the file's end; gives the bytes read.
    pub(crate) fn read<M: Machine<Frame = F>>(
        &self,
        machine: &mut M,
        file: StoreId,
        offset: u64,
        to: &mut [u8],
    ) -> usize {
        let mut done = 0;
        let end = self.size(file);
        while done < to.len() && offset + (done as u64) < end {
            let at = offset + done as u64;
            let (page, within) = (at / PAGE_SIZE, (at % PAGE_SIZE) as usize);
            let length = (to.len() - done).min(4096 - within).min((end - at) as usize);
            let part = &mut to[done..done + length];
            match self.slot(file, page) {
                Some(Slot::Frame(frame)) => machine.read_frame(frame, within, part),
                Some(Slot::Mapped(there)) => {
                    if machine.read_user(there.address() + within as u64, part).is_err() {
                        part.fill(0);
                    }
                }
                Some(Slot::Frozen(page)) => {
                    // What M1 cannot give any more ends the read where it is.
                    if machine.read_volume(VolumePage((*page).into()), within, part).is_err() {
                        return done;
                    }
                }
                None => part.fill(0),
            }
            done += length;
        }
        done
    }

    /// Writes within one page, which exists, and extends the file to what was written.
    fn write_page<M: Machine<Frame = F>>(
        &mut self,
        machine: &mut M,
        file: StoreId,
        at: u64,
        from: &[u8],
    ) -> Result<(), Errno> {
        let (page, within) = (at / PAGE_SIZE, (at % PAGE_SIZE) as usize);
        match self.slot(file, page) {
            Some(Slot::Frame(frame)) => machine.write_frame(frame, within, from),
            _ => return Err(Errno::IO),
        }
        if let Some(Some(content)) = self.files.get_mut(file.0 as usize) {
            content.size = content.size.max(at + from.len() as u64);
        }
        Ok(())
    }

    fn drop_from(&mut self, file: StoreId, first: u64, end: u64, mut release: impl FnMut(F)) {
        let Some(slots) = self.slots(file) else { return };
        let low = slots.partition_point(|(number, _)| *number < first);
        let high = slots.partition_point(|(number, _)| *number < end);
        let mut freed = 0;
        for (_, slot) in slots.drain(low..high) {
            if let Slot::Frame(frame) = slot {
                release(frame);
                freed += 1;
            }
        }
        self.frames -= freed;
    }
}

impl<M: Machine> super::Memory<M> {
    /// Brings home every mapped page of the file in the range of file pages.
    fn recall(&mut self, file: StoreId, first: u64, end: u64) {
        let mut page = first;
        while let Some(found) = self.store.next_page(file, page).filter(|found| *found < end) {
            page = found + 1;
            if let Some(at) = self.store.mapped_at(file, found) {
                self.send_home(at.0);
            }
        }
    }

    /// Writes to a file in memory; gives the bytes written, fewer where memory ran out.
    pub(crate) fn write_store(&mut self, file: StoreId, offset: u64, from: &[u8]) -> Result<usize, Errno> {
        if offset.saturating_add(from.len() as u64) > MAX_FILE {
            return Err(Errno::FBIG);
        }
        let mut done = 0;
        while done < from.len() {
            let at = offset + done as u64;
            let length = (from.len() - done).min(4096 - (at % PAGE_SIZE) as usize);
            let page = at / PAGE_SIZE;
            self.recall(file, page, page + 1);
            self.preserve_stored(file, page..page + 1);
            let written = self.store.fill(&mut self.machine, file, page).and_then(|()| {
                self.store.write_page(&mut self.machine, file, at, &from[done..done + length])
            });
            match written {
                Ok(()) => done += length,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Sets a file's length; what was beyond a shorter one reads as zeroes if it grows again.
    pub(crate) fn truncate_store(&mut self, file: StoreId, size: u64) -> Result<(), Errno> {
        if size > MAX_FILE {
            return Err(Errno::FBIG);
        }
        let old = self.store.size(file);
        if size < old {
            self.punch_store(file, size, u64::MAX)?;
        }
        if let Some(Some(content)) = self.store.files.get_mut(file.0 as usize) {
            content.size = size;
        }
        Ok(())
    }

    /// Makes the bytes from `start` to `end` zero and frees whole pages among them. The length stays.
    ///
    /// # Errors
    /// No memory for a page of which only a part goes.
    pub(crate) fn punch_store(&mut self, file: StoreId, start: u64, end: u64) -> Result<(), Errno> {
        let (first, last) = (start.div_ceil(PAGE_SIZE), end / PAGE_SIZE);
        self.recall(file, start / PAGE_SIZE, end.div_ceil(PAGE_SIZE));
        self.preserve_stored(file, start / PAGE_SIZE..end.div_ceil(PAGE_SIZE));
        for page in [start / PAGE_SIZE, end / PAGE_SIZE] {
            // One that only a part of is cut off.
            if matches!(self.store.slot(file, page), Some(Slot::Frozen(_))) {
                self.store.fill(&mut self.machine, file, page)?;
            }
        }
        // Private copies of what is cut off stay; shared ones were recalled.
        let machine = &mut self.machine;
        if first < last {
            self.store.drop_from(file, first, last, |frame| machine.release(frame));
        }
        for (from, to) in [(start, end.min(first * PAGE_SIZE)), (start.max(last * PAGE_SIZE), end)] {
            let within = (from % PAGE_SIZE) as usize;
            if from < to
                && to - from < PAGE_SIZE
                && let Some(Slot::Frame(frame)) = self.store.slot(file, from / PAGE_SIZE)
            {
                machine.write_frame(frame, within, &[0; 4096][..(to - from) as usize]);
            }
        }
        Ok(())
    }

    /// Frees a file that has no name and no user left.
    pub(crate) fn delete_store(&mut self, file: StoreId) {
        self.recall(file, 0, u64::MAX);
        self.preserve_stored(file, 0..u64::MAX);
        let machine = &mut self.machine;
        self.store.drop_from(file, 0, u64::MAX, |frame| machine.release(frame));
        if let Some(content) = self.store.files.get_mut(file.0 as usize) {
            *content = None;
        }
    }
}
