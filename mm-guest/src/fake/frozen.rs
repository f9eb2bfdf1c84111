//! M1's side of freezing, for the fake machine: pages by content, what was asked of it, and what it is to refuse.

use std::cell::RefCell;
use std::rc::Rc;
use std::string::String;

use mm_proto::{CAPTURE_MAX, SnapshotInfo};

use crate::machine::{FreezeAnswer, FreezeStep};
use crate::page::VolumePage;

/// Snapshots as M1 has them: shared by the machines of one test.
#[derive(Clone, Default)]
pub(crate) struct Frozen(pub(crate) Rc<RefCell<FrozenPart>>);

/// What M1 knows.
#[derive(Default)]
pub(crate) struct FrozenPart {
    pub(crate) pages: Vec<[u8; 4096]>,
    /// Order a freeze of whoever asks next.
    pub(crate) ordered: bool,
    pub(crate) answer: Option<FreezeAnswer>,
    /// Steps in which a request is said to be under way still.
    pub(crate) slow: u32,
    /// Pages that there is room for.
    pub(crate) room: usize,
    /// Captures that succeed before one is refused, if not all.
    pub(crate) captures: Option<u32>,
    /// What was done, in words.
    pub(crate) steps: Vec<String>,
    pub(crate) kept: Vec<u32>,
    /// Heads of complete snapshots.
    pub(crate) heads: Vec<u32>,
    pub(crate) hot: mm_proto::HotPage,
    pub(crate) thawed: u32,
    /// The snapshot that the next machine begins with.
    pub(crate) snapshot: Option<SnapshotInfo>,
}

/// First page of the frozen part.
pub(super) const FIRST: u64 = mm_proto::FROZEN_FIRST;

impl FrozenPart {
    pub(crate) fn page(&self, page: VolumePage) -> Option<&[u8; 4096]> {
        self.pages.get(usize::try_from(page.0.checked_sub(FIRST)?).ok()?)
    }

    fn capture(&mut self, bytes: [u8; 4096]) -> u32 {
        let known = self.pages.iter().position(|page| *page == bytes);
        let index = known.unwrap_or_else(|| {
            self.pages.push(bytes);
            self.pages.len() - 1
        });
        FIRST as u32 + index as u32
    }

    fn step(&mut self, step: &FreezeStep<'_, ()>, contents: Vec<[u8; 4096]>) -> FreezeAnswer {
        self.steps.push(match step {
            FreezeStep::Begin(pages) => std::format!("begin {pages}"),
            FreezeStep::Capture(_) => std::format!("capture {}", contents.len()),
            FreezeStep::Keep(page, bitmap) => {
                self.kept.extend(bitmap.iter().map(|offset| *page as u32 + offset));
                std::format!("keep {}", bitmap.count())
            }
            FreezeStep::Commit(..) => "commit".into(),
            FreezeStep::Abort(reason) => std::format!("abort {reason:?}"),
        });
        match step {
            FreezeStep::Begin(pages) if *pages as usize > self.room => return FreezeAnswer::NoRoom,
            FreezeStep::Capture(_) => match &mut self.captures {
                Some(0) => return FreezeAnswer::Refused,
                Some(left) => *left -= 1,
                None => {}
            },
            FreezeStep::Commit(head, _) => self.heads.push(*head as u32),
            _ => {}
        }
        let mut numbers = [0; CAPTURE_MAX];
        for (number, bytes) in numbers.iter_mut().zip(contents) {
            *number = self.capture(bytes);
        }
        FreezeAnswer::Done(numbers)
    }

    /// Takes a step of any machine's.
    pub(crate) fn take<F>(&mut self, step: &FreezeStep<'_, F>, contents: Vec<[u8; 4096]>) {
        let plain: FreezeStep<'_, ()> = match step {
            FreezeStep::Begin(pages) => FreezeStep::Begin(*pages),
            FreezeStep::Capture(_) => FreezeStep::Capture(&[]),
            FreezeStep::Keep(page, bitmap) => FreezeStep::Keep(*page, *bitmap),
            FreezeStep::Commit(head, standstill) => FreezeStep::Commit(*head, *standstill),
            FreezeStep::Abort(reason) => FreezeStep::Abort(*reason),
        };
        assert!(self.answer.is_none(), "one step at a time");
        self.answer = Some(self.step(&plain, contents));
    }

    /// The answer, unless M1 is slow.
    pub(crate) fn take_answer(&mut self) -> Option<FreezeAnswer> {
        if self.slow > 0 {
            self.slow -= 1;
            return None;
        }
        self.answer.take()
    }
}
