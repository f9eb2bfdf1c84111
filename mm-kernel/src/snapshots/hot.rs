//! What clones touch first: gathered from what they say, and written into a page of the snapshot when they have said it.

use mm_engine::SnapshotId;
use mm_proto::{Bitmap, HotPage};

/// Snapshots whose clones are listened to at a time.
const GATHERED: usize = 4;
/// What is gathered is written when nothing more has come for so long.
const QUIET_NS: u64 = 1_000_000_000;

struct Gathered {
    snapshot: SnapshotId,
    pages: HotPage,
    /// Something was added that is not written.
    news: bool,
    /// When something came last.
    last: u64,
}

/// What is being gathered.
pub(crate) struct Hot {
    gathered: heapless::Vec<Gathered, GATHERED>,
}

impl Hot {
    pub(crate) const fn new() -> Self {
        Self { gathered: heapless::Vec::new() }
    }

    /// A clone has touched these pages early.
    pub(crate) fn add(&mut self, snapshot: SnapshotId, page: u32, bitmap: &Bitmap, now: u64) {
        let known = self.gathered.iter().position(|one| one.snapshot == snapshot);
        if known.is_none() && self.gathered.is_full() {
            // The one that was quiet for longest gives way, with what it has: it is advice.
            let oldest = (0..self.gathered.len()).min_by_key(|at| self.gathered[*at].last);
            self.gathered.swap_remove(oldest.unwrap_or(0));
        }
        if known.is_none() {
            let one = Gathered { snapshot, pages: HotPage::new(), news: false, last: now };
            // There is room now.
            let _ = self.gathered.push(one);
        }
        if let Some(one) = self.gathered.iter_mut().find(|one| one.snapshot == snapshot) {
            one.news |= one.pages.add(page, bitmap);
            one.last = now;
        }
    }

    /// What is to be written now.
    pub(crate) fn due(&self, now: u64) -> impl Iterator<Item = (SnapshotId, &HotPage)> {
        let due = move |one: &&Gathered| one.news && now.saturating_sub(one.last) >= QUIET_NS;
        self.gathered.iter().filter(due).map(|one| (one.snapshot, &one.pages))
    }

    /// It is written.
    pub(crate) fn written(&mut self, snapshot: SnapshotId) {
        for one in self.gathered.iter_mut().filter(|one| one.snapshot == snapshot) {
            one.news = false;
        }
    }

    pub(crate) fn forget(&mut self, snapshot: SnapshotId) {
        self.gathered.retain(|one| one.snapshot != snapshot);
    }
}
