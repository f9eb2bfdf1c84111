//! How a request is answered: a response is begun here, and sent in `connection.rs`.

use core::fmt::Write;

use super::{Connection, Phase};
use crate::request::{Method, Page, Refusal, Request};
use crate::response::{ResponseHead, Status};
use crate::server::Turn;
use crate::snapshot::NoSnapshot;
use crate::text::Bytes;

/// Bytes of a short body.
const SHORT_MAX: usize = 512;

const TEXT: &str = "text/plain; charset=utf-8";

impl Connection {
    /// Answers a whole request.
    pub(super) fn respond(&mut self, request: Request, turn: &mut Turn<'_, '_>) {
        self.request = Some(request);
        self.close = !request.keep_alive || turn.short;
        let verdict = request.verdict();
        match request.page.filter(|_| verdict == Status::Ok) {
            Some(Page::Health) => self.answer(Status::Ok, turn, |out| out.write_str("ok\n")),
            Some(Page::Ready) => {
                let status = if turn.pages.ready() { Status::Ok } else { Status::Unavailable };
                let mut text = Bytes::<SHORT_MAX>::EMPTY;
                let stats = *turn.stats;
                // What does not fit is cut.
                let _cut = turn.pages.render(Page::Ready, &stats, &mut text);
                self.answer(status, turn, |out| {
                    text.as_slice().utf8_chunks().try_for_each(|chunk| out.write_str(chunk.valid()))
                });
            }
            Some(page) => self.respond_with(page, request.method == Method::Head, turn),
            None => self.answer(verdict, turn, |out| {
                writeln!(out, "{}", verdict.line())?;
                out.write_str("This server has")?;
                Page::ALL.into_iter().try_for_each(|page| write!(out, " {}", page.path()))?;
                out.write_str(", to be read with GET or HEAD.\n")
            }),
        }
    }

    /// Answers with a page, if there is room for its snapshot.
    fn respond_with(&mut self, page: Page, head_only: bool, turn: &mut Turn<'_, '_>) {
        if head_only {
            match turn.measure(page) {
                Ok(length) => self.begin(Status::Ok, page.content_type(), length, turn),
                Err(_) => self.answer_failure("the page could not be written", turn),
            }
            return;
        }
        match turn.snapshot(page) {
            Ok(id) => {
                let length = turn.snapshots.bytes(id).len();
                self.begin(Status::Ok, page.content_type(), length, turn);
                (self.snapshot, self.snapshot_sent) = (Some(id), 0);
            }
            Err(NoSnapshot::NoRoom(needed)) => {
                if !matches!(self.phase, Phase::Waiting(..)) {
                    (self.since, self.deadline) = (turn.now, turn.now + turn.limits.wait);
                }
                self.phase = Phase::Waiting(needed, None);
            }
            Err(NoSnapshot::TooLarge) => {
                self.answer_failure("the page is larger than the buffer for pages", turn)
            }
            Err(NoSnapshot::Failed) => self.answer_failure("the page could not be written", turn),
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal, turn: &mut Turn<'_, '_>) {
        (self.request, self.close) = (None, true);
        self.answer(refusal.status, turn, |out| writeln!(out, "{}\n{}", refusal.status.line(), refusal.why));
    }

    fn answer_failure(&mut self, why: &'static str, turn: &mut Turn<'_, '_>) {
        log::warn!("http: {why}");
        self.answer(Status::InternalError, turn, |out| {
            writeln!(out, "{}\n{why}", Status::InternalError.line())
        });
    }

    /// Answers with a short text, which `fill` writes; HEAD gets its length alone.
    pub(super) fn answer(
        &mut self,
        status: Status,
        turn: &mut Turn<'_, '_>,
        fill: impl FnOnce(&mut Bytes<SHORT_MAX>) -> core::fmt::Result,
    ) {
        let mut text = Bytes::EMPTY;
        // What does not fit is cut; nothing that is written here is so long.
        let _cut = fill(&mut text);
        self.begin(status, TEXT, text.as_slice().len(), turn);
        if !self.request.is_some_and(|request| request.method == Method::Head) {
            let fits = text.as_slice().iter().all(|&byte| self.out.push(byte));
            debug_assert!(fits, "a head and a short body fit in OUT_MAX");
        }
    }

    /// Begins a response: writes its head.
    fn begin(&mut self, status: Status, content_type: &'static str, length: usize, turn: &mut Turn<'_, '_>) {
        let head = ResponseHead { status, date: turn.wall_clock, content_type, length, close: self.close };
        self.out.clear();
        self.out_sent = 0;
        let fits = head.write(&mut self.out).is_ok();
        debug_assert!(fits, "a head fits in OUT_MAX");
        turn.stats.count_response(status);
        (self.phase, self.since, self.deadline) = (Phase::Sending, turn.now, turn.now + turn.limits.response);
    }
}
