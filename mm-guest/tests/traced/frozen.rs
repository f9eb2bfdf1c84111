//! The frozen part of an M1 that is not there: a file of pages, equal ones once, which all machines of a test share.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

use mm_guest::{FreezeAnswer, VolumePage};
use mm_proto::{CAPTURE_MAX, FROZEN_FIRST, HotPage, SnapshotInfo};

/// What M1 knows.
pub(crate) struct Part {
    pub(crate) file: File,
    pub(crate) pages: Vec<[u8; 4096]>,
    index: HashMap<[u8; 4096], u32>,
    /// Orders a freeze at this stop of the program, once.
    pub(crate) freeze_at: Option<u64>,
    /// Looks at the answer that find none, so that the program goes on meanwhile.
    pub(crate) slow: u32,
    left: u32,
    answer: Option<FreezeAnswer>,
    pub(crate) captured: u64,
    pub(crate) kept: u64,
    /// Heads of complete snapshots.
    pub(crate) heads: Vec<u32>,
    pub(crate) aborted: u32,
    pub(crate) hot: HotPage,
    pub(crate) thawed: u32,
}

/// Shared by all machines of a test.
#[derive(Clone)]
pub(crate) struct Frozen(Arc<Mutex<Part>>);

impl Frozen {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Part {
            file: tempfile::tempfile().unwrap(),
            pages: Vec::new(),
            index: HashMap::new(),
            freeze_at: None,
            slow: 0,
            left: 0,
            answer: None,
            captured: 0,
            kept: 0,
            heads: Vec::new(),
            aborted: 0,
            hot: HotPage::new(),
            thawed: 0,
        })))
    }

    pub(crate) fn part(&self) -> MutexGuard<'_, Part> {
        self.0.lock().unwrap()
    }

    /// What a machine is attached to that goes on from the last snapshot.
    pub(crate) fn last(&self) -> SnapshotInfo {
        let mut part = self.part();
        let head = *part.heads.last().expect("a snapshot");
        let mut page = [0; 4096];
        for (index, bytes) in page.chunks_exact_mut(4).enumerate() {
            bytes.copy_from_slice(&part.hot.word(index).to_le_bytes());
        }
        let hot = part.capture(&page);
        SnapshotInfo { head, hot, identity: [3; 16] }
    }
}

impl Part {
    /// Orders a freeze at this stop of the program; the answer to each step is only found when it was looked for so often.
    pub(crate) fn order(&mut self, stop: u64, slow: u32) {
        (self.freeze_at, self.slow) = (Some(stop), slow);
        (self.captured, self.kept) = (0, 0);
    }

    /// Complete snapshots, and freezes that were given up.
    pub(crate) fn outcome(&self) -> (usize, u32) {
        (self.heads.len(), self.aborted)
    }

    pub(crate) fn page(&self, page: VolumePage) -> Option<&[u8; 4096]> {
        self.pages.get(usize::try_from(page.0.checked_sub(FROZEN_FIRST)?).ok()?)
    }

    fn capture(&mut self, bytes: &[u8; 4096]) -> u32 {
        let next = self.pages.len() as u32;
        let index = *self.index.entry(*bytes).or_insert(next);
        if index == next {
            self.file.write_all_at(bytes, u64::from(index) * 4096).unwrap();
            self.pages.push(*bytes);
        }
        FROZEN_FIRST as u32 + index
    }

    pub(crate) fn captured(&mut self, contents: &[[u8; 4096]]) {
        self.captured += contents.len() as u64;
        let mut numbers = [0; CAPTURE_MAX];
        for (number, bytes) in numbers.iter_mut().zip(contents) {
            *number = self.capture(bytes);
        }
        self.answered(FreezeAnswer::Done(numbers));
    }

    pub(crate) fn answered(&mut self, answer: FreezeAnswer) {
        assert!(self.answer.replace(answer).is_none(), "one step at a time");
        self.left = self.slow;
    }

    pub(crate) fn answer(&mut self) -> Option<FreezeAnswer> {
        if self.left > 0 {
            self.left -= 1;
            return None;
        }
        self.answer.take()
    }

    pub(crate) fn answer_now(&mut self) -> FreezeAnswer {
        self.answer.take().expect("something was sent")
    }
}
