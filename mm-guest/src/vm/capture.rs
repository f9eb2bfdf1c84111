//! What a freeze has still to bring to M1, and how the program goes on meanwhile.
//!
//! At the snapshot's instant every private page is made read-only and noted here. M1 then copies them a few at a time. Where the
//! program writes to one that was not copied yet, it goes on in a new frame with the same content, and the old one waits here
//! for its turn. So the program stands still only as long as noting takes.

use alloc::vec::Vec;
use core::ops::Range;

use mm_proto::{AbortReason, CAPTURE_MAX};

use super::fault::Fault;
use super::resident::Presence;
use super::{Memory, Rights, StoreId, Vma};
use crate::errno::Errno;
use crate::machine::{FreezeAnswer, FreezeStep, Machine, Prot, Source};
use crate::page::UserPage;

/// Where a page is that belongs to the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    /// At an address of the program's.
    Page(u64),
    /// In a file in memory.
    Stored(StoreId, u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waits,
    /// M1 may be copying it.
    Sent,
    /// It is this page of the frozen part.
    Done(u32),
}

struct Entry<F> {
    place: Place,
    state: State,
    /// Its frame, where that is not at its place any more.
    kept: Option<F>,
}

/// Pages of a snapshot, in the order of their places.
pub(crate) struct Capture<F> {
    entries: Vec<Entry<F>>,
    /// Entries before this one were sent.
    next: usize,
    /// Entries of the request that is under way.
    sent: Range<usize>,
    /// It came to nothing.
    failed: Option<AbortReason>,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Captured {
    /// M1 has not answered yet.
    Waiting,
    /// Everything is there.
    All,
    /// The freeze is to be given up for this reason.
    Failed(AbortReason),
}

impl<F> Capture<F> {
    fn find(&self, place: Place) -> Option<usize> {
        self.entries.binary_search_by_key(&place, |entry| entry.place).ok()
    }

    /// Whether what is at the place now has still to be captured.
    fn awaits(&self, place: Place) -> Option<usize> {
        self.find(place).filter(|index| {
            if self.failed.is_some() {
                return false;
            }
            let entry = &self.entries[*index];
            !matches!(entry.state, State::Done(_)) && entry.kept.is_none()
        })
    }

    fn done(&self, place: Place) -> Option<u32> {
        match self.entries[self.find(place)?].state {
            State::Done(frozen) => Some(frozen),
            _ => None,
        }
    }

    /// The page of the frozen part that a page of the program has become.
    pub(crate) fn page(&self, page: u64) -> Option<u32> {
        self.done(Place::Page(page))
    }

    /// The same for a page of a file in memory.
    pub(crate) fn stored(&self, file: StoreId, page: u64) -> Option<u32> {
        self.done(Place::Stored(file, page))
    }

    /// Pages of the program, ascending, with what each has become.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (u64, u32)> {
        self.entries.iter().filter_map(|entry| match (entry.place, entry.state) {
            (Place::Page(page), State::Done(frozen)) => Some((page, frozen)),
            _ => None,
        })
    }
}

impl<M: Machine> Memory<M> {
    /// The snapshot's instant: notes every page that belongs to it, and has the program write to none of them.
    pub(crate) fn begin_capture(&mut self) -> Result<u64, Errno> {
        let (private, _) = self.resident();
        let mut entries = Vec::new();
        entries.try_reserve_exact(private as usize)?;
        let mut at = 0;
        while let Some(vma) = self.vmas.at_or_above(at) {
            at = vma.end;
            let mut from = vma.start;
            while let Some(page) = self.resident.next(from..vma.end).filter(|_| !vma.wiped) {
                from = page + 1;
                if self.resident.get(page) == Presence::Private {
                    entries.push(Entry { place: Place::Page(page), state: State::Waits, kept: None });
                }
            }
        }
        let programs = entries.len();
        let stored = self.store.frames().map(|(file, page)| Place::Stored(file, page));
        entries.extend(stored.map(|place| Entry { place, state: State::Waits, kept: None }));
        let mut pages = entries[..programs].iter().filter_map(|entry| match entry.place {
            Place::Page(page) => Some(UserPage(page)),
            Place::Stored(..) => None,
        });
        self.machine.write_protect(&mut pages);
        let count = entries.len() as u64;
        self.capture = Some(Capture { entries, next: 0, sent: 0..0, failed: None });
        Ok(count)
    }

    /// Whether this page of the program has still to be captured, and must not be written where it is.
    pub(super) fn is_awaited(&self, page: u64) -> bool {
        self.capture.as_ref().is_some_and(|capture| capture.awaits(Place::Page(page)).is_some())
    }

    /// What a present private page lets the program do now, where its mapping says this.
    pub(super) fn prot_now(&self, page: u64, rights: Rights) -> Prot {
        if self.is_awaited(page) {
            Rights::new(!rights.none(), false, rights.exec()).prot()
        } else {
            rights.prot()
        }
    }

    /// A page that is awaited is written: the program goes on in a new frame.
    pub(super) fn preserve(&mut self, vma: &Vma, page: u64) -> Result<(), Fault> {
        self.counts.preserved += 1;
        let Ok(fresh) = self.machine.allocate_unfilled() else {
            // Then M1 has to be waited for.
            self.finish_capture();
            self.machine.protect(&[UserPage(page)], self.prot_now(page, vma.rights));
            return if self.is_awaited(page) { Err(Fault::NoMemory) } else { Ok(()) };
        };
        self.machine.copy_page(UserPage(page), &fresh);
        self.keep_for_capture(page);
        self.resident.set(page, Presence::Absent);
        self.put_private(vma, page, fresh)
    }

    /// Takes the frame of an awaited page out of the program's tables, for the freeze. False for any other page.
    pub(super) fn keep_for_capture(&mut self, page: u64) -> bool {
        let Some(capture) = &mut self.capture else { return false };
        let Some(index) = capture.awaits(Place::Page(page)) else { return false };
        capture.entries[index].kept = self.machine.take(UserPage(page));
        true
    }

    /// The frame of an awaited page is about to be somewhere else, and may be written there: the freeze gets a copy.
    pub(super) fn preserve_copy(&mut self, page: u64) {
        if !self.is_awaited(page) {
            return;
        }
        if self.settle(Place::Page(page)) {
            return;
        }
        match self.machine.allocate_unfilled() {
            Ok(copy) => {
                self.machine.copy_page(UserPage(page), &copy);
                self.keep(Place::Page(page), copy);
            }
            Err(_) => self.finish_capture(),
        }
    }

    /// Pages of a file in memory are about to change or go: the freeze gets copies of those that it awaits.
    pub(super) fn preserve_stored(&mut self, file: StoreId, pages: Range<u64>) {
        let Some(capture) = &self.capture else { return };
        let low = capture.entries.partition_point(|entry| entry.place < Place::Stored(file, pages.start));
        let high = capture.entries.partition_point(|entry| entry.place < Place::Stored(file, pages.end));
        for index in low..high {
            let Some(capture) = &self.capture else { return };
            let Some(Entry { place: Place::Stored(_, page), .. }) = capture.entries.get(index) else {
                return;
            };
            let page = *page;
            if capture.awaits(Place::Stored(file, page)).is_none() || self.settle(Place::Stored(file, page)) {
                continue;
            }
            let Ok(copy) = self.machine.allocate_unfilled() else { return self.finish_capture() };
            let mut bytes = [0; 4096];
            if let Some(frame) = self.store.frame(file, page) {
                self.machine.read_frame(frame, 0, &mut bytes);
            }
            self.machine.write_frame(&copy, 0, &bytes);
            self.keep(Place::Stored(file, page), copy);
        }
    }

    fn keep(&mut self, place: Place, copy: M::Frame) {
        let entry = self.capture.as_mut().and_then(|capture| {
            let index = capture.awaits(place)?;
            capture.entries.get_mut(index)
        });
        match entry {
            Some(entry) => entry.kept = Some(copy),
            None => self.machine.release(copy),
        }
    }

    /// Where M1 may be copying what is at this place just now, waits until it has. True where nothing more is to be done.
    fn settle(&mut self, place: Place) -> bool {
        let sent = self.capture.as_ref().and_then(|capture| {
            let index = capture.find(place)?;
            (capture.entries[index].state == State::Sent).then_some(())
        });
        if sent.is_some() {
            let answer = self.machine.freeze_await();
            self.take_captured(answer);
        }
        sent.is_some()
    }

    /// Takes M1's answer, if it is here, and sends what is next.
    pub(crate) fn capture_turn(&mut self) -> Captured {
        let Some(capture) = &self.capture else { return Captured::All };
        if !capture.sent.is_empty() {
            let Some(answer) = self.machine.freeze_answer() else { return Captured::Waiting };
            self.take_captured(answer);
        }
        if let Some(reason) = self.capture.as_ref().and_then(|capture| capture.failed) {
            return Captured::Failed(reason);
        }
        if self.send_capture() { Captured::Waiting } else { Captured::All }
    }

    /// Sends what is next. False where everything was sent.
    fn send_capture(&mut self) -> bool {
        let Some(capture) = &mut self.capture else { return false };
        let first = capture.next;
        let last = (first + CAPTURE_MAX).min(capture.entries.len());
        if first == last {
            return false;
        }
        let mut sources: [Source<'_, M::Frame>; CAPTURE_MAX] =
            [const { Source::Mapped(UserPage(0)) }; CAPTURE_MAX];
        for (source, entry) in sources.iter_mut().zip(&capture.entries[first..last]) {
            *source = match (&entry.kept, entry.place) {
                (Some(frame), _) => Source::Frame(frame),
                (None, Place::Page(page)) => Source::Mapped(UserPage(page)),
                (None, Place::Stored(file, page)) => match self.store.frame(file, page) {
                    Some(frame) => Source::Frame(frame),
                    // Not possible: it would have been kept.
                    None => return false,
                },
            };
        }
        self.machine.freeze_send(FreezeStep::Capture(&sources[..last - first]));
        for entry in &mut capture.entries[first..last] {
            entry.state = State::Sent;
        }
        (capture.next, capture.sent) = (last, first..last);
        true
    }

    fn take_captured(&mut self, answer: FreezeAnswer) {
        let Some(capture) = &mut self.capture else { return };
        let sent = core::mem::take(&mut capture.sent);
        let frozen = |page: &u32| u64::from(*page) >= mm_proto::FROZEN_FIRST;
        match answer {
            FreezeAnswer::Done(pages) if pages[..sent.len()].iter().all(frozen) => {
                for (entry, page) in capture.entries[sent].iter_mut().zip(pages) {
                    entry.state = State::Done(page);
                    if let Some(frame) = entry.kept.take() {
                        self.machine.release(frame);
                    }
                }
            }
            _ => capture.failed = Some(AbortReason::Refused),
        }
    }

    /// Waits until everything is captured, because there is no memory to go on without. Afterwards nothing is awaited, if
    /// only because it failed.
    fn finish_capture(&mut self) {
        loop {
            let Some(capture) = &self.capture else { return };
            if !capture.sent.is_empty() {
                let answer = self.machine.freeze_await();
                self.take_captured(answer);
            }
            let failed = self.capture.as_ref().is_none_or(|capture| capture.failed.is_some());
            if failed || !self.send_capture() {
                return;
            }
        }
    }

    /// Forgets the freeze: pages that it kept are freed, and those that the program may not write are so no longer.
    pub(crate) fn drop_capture(&mut self) {
        if self.capture.as_ref().is_some_and(|capture| !capture.sent.is_empty()) {
            let answer = self.machine.freeze_await();
            self.take_captured(answer);
        }
        let Some(capture) = self.capture.take() else { return };
        for entry in capture.entries {
            if let Some(frame) = entry.kept {
                self.machine.release(frame);
            }
        }
        // Those that are read-only still are found to be so by a fault each (`Decision::Again`).
    }
}
