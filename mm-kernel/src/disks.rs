//! M1's own disks: each configured volume's `blkfront`, the reads that are under way on it, and how it becomes a volume.

use mm_engine::{FrameId, Read};
use xen_drivers::blkfront::{
    BlkFront, Completion, Health, MAX_REQUESTS, MIN_POOL, Operation, PoolPage, SubmitError,
};
use xen_drivers::{Frame, Platform};
use xen_rt::BootMemory;

use crate::lending::Lending;
use crate::volumes::VolumeState;

/// Sectors of 512 bytes in a page.
const PAGE_SECTORS: u64 = 8;
/// Token of the read that identifies a volume.
const IDENTIFY: u64 = u64::MAX;
/// Pages of a disk's pool at most, and of all disks' together: each needs a grant reference, too.
const POOL: usize = 128;
const POOLS: usize = 1024;
/// How long reads wait for a disk whose backend has gone. Then they fail, until it is back: no program waits for ever.
const PATIENCE_NS: u64 = 10_000_000_000;

/// A disk and what is being read from it.
pub struct Disk {
    front: BlkFront,
    /// Reads under way; a token is an index here.
    reads: [Option<Read>; MAX_REQUESTS],
    /// Reads that did not go out yet.
    waiting: heapless::Deque<Read, MAX_REQUESTS>,
    /// For the first page, by which a backend is known.
    first: Frame,
    identified: Identified,
    /// Since when there is no backend, where there was one.
    away_since: Option<u64>,
    /// Frames that the backend kept: lost to the store.
    quarantined: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Identified {
    /// There is no backend, or a new one: it may have another disk behind it.
    No,
    Asked,
    /// It has what it should have.
    Done,
    /// Nothing is read from this backend.
    Refused,
    /// A backend has kept the first page.
    Never,
}

/// What came of a turn.
pub enum DiskEvent {
    /// A read of the engine's is over.
    Read(Read, Result<(), mm_engine::ReadFailed>),
    /// A read failed, and the backend may go on to write to its frames.
    Lost(Read),
    /// A backend is there: the volume's first page is in [`Disk::first_page`], and this is its length in pages. If that is
    /// another volume than before, [`Disk::refuse`] it.
    Identified(u64),
    /// The backend's disk is no volume.
    Unusable(VolumeState),
}

impl Disk {
    /// The disk `device/vbd/<devid>`.
    #[must_use]
    pub fn new(
        platform: Platform,
        devid: u32,
        ring: Frame,
        first: Frame,
        pool: &'static mut [PoolPage],
    ) -> Self {
        Self {
            front: BlkFront::new(platform, devid, ring, pool),
            reads: [const { None }; MAX_REQUESTS],
            waiting: heapless::Deque::new(),
            first,
            identified: Identified::No,
            away_since: None,
            quarantined: 0,
        }
    }

    /// The driver, for messages and events.
    pub fn front(&mut self) -> &mut BlkFront {
        &mut self.front
    }

    /// The volume's first page, once identified.
    #[must_use]
    pub fn first_page(&self) -> [u8; mm_proto::PAGE_SIZE] {
        let mut page = [0; mm_proto::PAGE_SIZE];
        let _ = self.first.words.read(0, &mut page);
        page
    }

    /// Frames that a backend which went away kept.
    #[must_use]
    pub fn quarantined(&self) -> u64 {
        self.quarantined
    }

    /// Whether reads fail now: the backend is gone for good, or for too long, or is another's.
    #[must_use]
    pub fn is_lost(&self, now_ns: u64) -> bool {
        self.front.health() == Health::Dead
            || matches!(self.identified, Identified::Refused | Identified::Never)
            || self.away_since.is_some_and(|since| now_ns.saturating_sub(since) >= PATIENCE_NS)
    }

    /// Whether a backend is connected, whatever is behind it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.front.health() == Health::Connected
    }

    /// What was refused is read after all: nothing is left of what was there before.
    pub fn adopt(&mut self) {
        if self.identified == Identified::Refused {
            (self.identified, self.away_since) = (Identified::Done, None);
        }
    }

    /// Reads nothing from this backend.
    pub fn refuse(&mut self) {
        self.identified = Identified::Refused;
    }

    /// Takes a read of the engine's. It goes out now or as soon as there is room; the engine never has more under way on one
    /// volume than a disk has slots (`Limits::reads`).
    ///
    /// # Errors
    /// The read, if there is no room even to wait: a bug of ours.
    pub fn read(&mut self, read: Read) -> Result<(), Read> {
        self.waiting.push_back(read)
    }

    /// Sends what is waiting, and yields what is over. `None` when there is nothing more now.
    pub fn turn(&mut self, lending: &Lending, now_ns: u64) -> Option<DiskEvent> {
        let connected = self.front.health() == Health::Connected;
        match self.identified {
            Identified::No if connected => {
                let pages = self.front.geometry().sectors / PAGE_SECTORS;
                if pages == 0 {
                    self.identified = Identified::Refused;
                    return Some(DiskEvent::Unusable(VolumeState::BadSize));
                }
                if self.front.submit(Operation::Read, 0, &[self.first], IDENTIFY).is_ok() {
                    self.identified = Identified::Asked;
                }
            }
            Identified::Asked | Identified::Done | Identified::Refused if !connected => {
                self.identified = Identified::No;
                self.away_since.get_or_insert(now_ns);
            }
            _ => {}
        }
        if let Some(failed) = self.send(lending, now_ns) {
            return Some(failed);
        }
        while let Some(completion) = self.front.next_completion() {
            if let Some(event) = self.completed(completion) {
                return Some(event);
            }
        }
        None
    }

    /// Submits what is waiting. Yields a read that cannot be done.
    fn send(&mut self, lending: &Lending, now_ns: u64) -> Option<DiskEvent> {
        if self.is_lost(now_ns) {
            // A new backend is asked who it is all the same.
            self.front.publish_requests();
            let read = self.waiting.pop_front();
            return read.map(|read| DiskEvent::Read(read, Err(mm_engine::ReadFailed)));
        }
        // The first request of a backend identifies it.
        while self.identified == Identified::Done
            && let Some(read) = self.waiting.front()
        {
            let Some(slot) = self.reads.iter().position(Option::is_none) else { break };
            let mut frames: heapless::Vec<Frame, { mm_engine::READ_RUN }> = heapless::Vec::new();
            for FrameId(frame) in &read.frames {
                if let Some(own) = lending.driver_frame(FrameId(*frame)) {
                    // As long as the read's own list.
                    let _ = frames.push(own);
                }
            }
            let sector = read.page.saturating_mul(PAGE_SECTORS);
            match self.front.submit(Operation::Read, sector, &frames, slot as u64) {
                Ok(()) => self.reads[slot] = self.waiting.pop_front(),
                // Later: a completion makes room, a new backend connects.
                Err(SubmitError::Full | SubmitError::NotConnected) => break,
                Err(error) => {
                    log::warn!("volume read of page {} fails: {error:?}", read.page);
                    let read = self.waiting.pop_front()?;
                    self.front.publish_requests();
                    return Some(DiskEvent::Read(read, Err(mm_engine::ReadFailed)));
                }
            }
        }
        self.front.publish_requests();
        None
    }

    fn completed(&mut self, completion: Completion) -> Option<DiskEvent> {
        let outcome = completion.outcome.map_err(|failure| {
            log::warn!("a read of a volume failed: {failure:?}");
            mm_engine::ReadFailed
        });
        if completion.token == IDENTIFY {
            if completion.quarantined {
                self.identified = Identified::Never;
                return Some(DiskEvent::Unusable(VolumeState::DiskGone));
            }
            // A backend that went away in the middle has not said anything.
            if self.identified != Identified::Asked || self.front.health() != Health::Connected {
                return None;
            }
            if outcome.is_err() {
                self.identified = Identified::Refused;
                return Some(DiskEvent::Unusable(VolumeState::Unreadable));
            }
            (self.identified, self.away_since) = (Identified::Done, None);
            return Some(DiskEvent::Identified(self.front.geometry().sectors / PAGE_SECTORS));
        }
        let slot = usize::try_from(completion.token).ok()?;
        let read = self.reads.get_mut(slot)?.take()?;
        if completion.quarantined {
            // The backend may still write there.
            self.quarantined += read.frames.len() as u64;
            log::error!("{} pages of the store are lost to a disk's backend", read.frames.len());
            return Some(DiskEvent::Lost(read));
        }
        Some(DiskEvent::Read(read, outcome))
    }
}

/// Pages for a disk whose backend keeps them: 512 KiB for each of `disks`, less where those are many or M1's memory is small, none where
/// it is full. Without them the backend maps and unmaps pages for every request.
pub(crate) fn disk_pool(memory: &mut BootMemory, disks: usize) -> &'static mut [PoolPage] {
    let count = (POOLS / disks.max(1)).min(POOL).min(memory.free_pages() / 64);
    // One that is too small would not be used.
    let count = if count < MIN_POOL { 0 } else { count };
    let pages = memory.pages(count).unwrap_or_default();
    let page = |index| PoolPage::new(Frame { words: &pages[index], mfn: xen_rt::mfn_of(&pages[index]) });
    memory.slice_with(pages.len(), page).unwrap_or_default()
}

/// The device number of a disk's name: `xvda` to `xvdp`, with a partition number or without
/// (`docs/man/xen-vbd-interface.7`), or the number itself.
#[must_use]
pub fn devid(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let rest = name.strip_prefix("xvd")?;
    let letter = rest.bytes().next().filter(u8::is_ascii_lowercase)?;
    let disk = u32::from(letter - b'a');
    let partition = match &rest[1..] {
        "" => 0,
        digits => digits.parse().ok().filter(|number| (1..16).contains(number))?,
    };
    (disk < 16).then_some(202 << 8 | disk << 4 | partition)
}

#[cfg(test)]
mod tests {
    use super::devid;

    #[test]
    fn disks_have_the_numbers_that_xl_gives_them() {
        assert_eq!(devid("xvda"), Some(51712));
        assert_eq!(devid("xvdb"), Some(51728));
        assert_eq!(devid("xvdp15"), Some(202 << 8 | 15 << 4 | 15));
        assert_eq!(devid("51744"), Some(51744));
        for wrong in ["", "xvd", "xvdq", "xvda0", "xvda16", "sda", "xvdA", "xvdä"] {
            assert_eq!(devid(wrong), None, "{wrong}");
        }
    }
}
